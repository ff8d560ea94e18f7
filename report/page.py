"""
The report as a page: the sections put into the template report.html, and what train.py calls (`of_run`).
"""
import base64
import hashlib
import re
import time
from pathlib import Path

import runfolder
import tasks
from config import UserError
from executor import Executor
from report import curves
from report.curves import MEASURES, Measure
from report.findings import MOST_MEASURED, measure_programs, measure_texts, mentions
from report.gallery import entries_of, gallery
from report.headline import esc
from report.overview import comparison, overview, rows_table
from report.read import History, group, read_history, types_of
from sandbox.values import printable

HERE = Path(__file__).resolve().parent
PAGE_BYTES = 14_500_000    # of the page; what plots and tables leave of it is the gallery's
MOST_MENTIONS = 200


def of_run(folder: Path, workers: int, require: str, say) -> None:
    """The report of a run that is going on or has ended. Nothing that goes wrong here may end the run."""
    try:
        write_page([folder], folder / "report.html", workers=workers, require=require)
        say(f"report: {folder / 'report.html'}")
    except Exception as error:
        first = str(error).split("\n")[0]
        say(f"note: no report ({type(error).__name__}: {first}); try: python -m report {folder}")


def write_page(folders: list[Path], out: Path, png_folder: Path | None = None, workers: int = 2,
                 require: str = "kernel") -> None:
    """Reads the run folders, measures, and writes the page. UserError, ExecutorError or OSError say what is wrong;
    an earlier page is then still there."""
    runs = [read_history(folder) for folder in folders]
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"{out}: {'is a folder' if out.is_dir() else 'its folder is not there'}; --out names a file")
    with Executor(workers, require=require, preload=("report.measure",)) as executor:
        for run in runs:
            measure_programs(run, executor)
    for run in runs:
        measure_texts(run)
    if png_folder:
        png_folder.mkdir(parents=True, exist_ok=True)
    text = page(runs, png_folder)
    runfolder.write_file(out, text)


def page(runs: list[History], png_folder: Path | None = None) -> str:
    """The whole report as HTML."""
    groups, last = group(runs), max(run.last_step for run in runs)
    few = [run.config.curve_limit for run in runs if run.config.curve_limit]
    curve = "".join(figure(measure, groups, last, png_folder, f" At most {few[0]} of the table's tasks." if few else "")
                    for measure in MEASURES if measure.section == "first")
    drawn = {section: "".join(figure(measure, groups, last, png_folder) for measure in MEASURES
                              if measure.section == section) for section in ("curves", "findings")}
    axes = rows_table("What every axis means; the horizontal one is the training step (0: seeding, before training)",
                      ["figure", "vertical axis", "meaning"], [[m.title, m.y, m.meaning] for m in MEASURES])
    template = (HERE / "report.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL).group(1)
    sections = {"TITLE": esc(", ".join(groups)), "OVERVIEW": overviews(runs, curve),
                "CURVES": drawn["curves"], "FINDINGS": drawn["findings"], "AXES": axes,
                "MEASURED": esc(what_is_measured(runs)), "MONITOR": monitor(runs),
                "MADE": esc(time.strftime("%Y-%m-%d %H:%M")),
                "HASH": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}
    data, said = gallery(runs, PAGE_BYTES - len(template) - sum(map(len, sections.values())))
    sections |= {"DATA": data, "SAID": esc(said)}
    return printable(re.sub(r"\{\{([A-Z]+)\}\}", lambda match: sections[match[1]], template))


def overviews(runs: list[History], curve: str) -> str:
    """The headline and tables of each run; of several also how they compare, and one curve for all."""
    number_of: list[dict[int, int]] = [{} for _ in runs]
    for number, entry in enumerate(entries_of(runs)):
        number_of[entry["run"]].setdefault(entry["sample"].get("line"), number)
    if len(runs) == 1:
        return overview(runs[0], number_of[0], curve)
    return comparison(runs) + curve + "".join(overview(run, numbers, title=run.name)
                                              for run, numbers in zip(runs, number_of))


def figure(measure: Measure, groups: dict[str, list[History]], last: int, png_folder: Path | None,
           note: str = "") -> str:
    panels = curves.panels_of(measure, groups, last)
    if not panels:
        return ""
    if png_folder:
        curves.png(measure, panels, png_folder / f"{measure.name}.png")
    drawn = "".join(f"<div class=panel>{f'<h4>{esc(panel.title)}</h4>' if panel.title else ''}"
                    f"{curves.svg(measure, panel, f'{measure.name}{i}')}</div>" for i, panel in enumerate(panels))
    wide = " class=wide" if len(panels) > 1 else ""
    return (f"<figure id=fig-{measure.name}{wide}><h3>{esc(measure.title)}</h3><div class=panels>{drawn}</div>"
            f"<figcaption>{esc(measure.meaning + note)}</figcaption>"
            f"<details><summary>{esc(measure.title)} as a table</summary><div class=scroll tabindex=0 role=region"
            f" aria-label=\"{esc(measure.title)}, table\">"
            f"{curves.numbers_table(measure, panels)}</div></details></figure>")


def what_is_measured(runs: list[History]) -> str:
    """What stands above the findings: of how many programs, and of which task types."""
    counts = "; ".join(f"{run.name}: {run.measured:,} of {run.programs:,} distinct programs measured" for run in runs)
    if not any(key.startswith("cyclomatic/") for run in runs for key in run.series):
        counts += "; complexity needs radon (pip install radon)"
    if any(run.programs > MOST_MEASURED for run in runs):
        counts += "; what is new is compared with the measured ones only, so there is less of it than it seems"
    left_out = [name for name in types_of(runs) if tasks.TYPES[name].given_program]
    why = f" Not {' and '.join(left_out)}: there the proposer is given its program." if left_out else ""
    return f"{counts}.{why}"


def monitor(runs: list[History]) -> str:
    noticed = [(run, *mention) for run in runs for mention in mentions(run)]
    talk = sum(what.startswith("says") for _, _, what, _ in noticed)
    count = sum(len(run.samples) for run in runs)
    out = [f"<p>Of {count:,} responses read, {talk} speak of deceiving, outsmarting or escaping, and"
           f" {len(noticed) - talk} brought programs that tried what is forbidden or depended on chance. Words alone"
           " are searched: this finds talk, not intent.</p>"]
    for run, s, what, text in noticed[:MOST_MENTIONS]:
        out.append(f"<details><summary>{esc(run.name)}, step {esc(s['step'])}, {esc(s['type'])}, {esc(s['kind'])}:"
                   f" {esc(what)}</summary><pre>{esc(text)}</pre></details>")
    if len(noticed) > MOST_MENTIONS:
        out.append(f"<p>{len(noticed) - MOST_MENTIONS} more are in samples.jsonl.</p>")
    return "".join(out)
