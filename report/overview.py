"""
The report's first section: the headline of each run, then tables: held-out results, time, machine, options, and runs
side by side.
"""
from collections import Counter
from dataclasses import fields
from pathlib import Path

from config import Config
from report.headline import esc, example_cards, headline, heldout_tables, outcome, warnings, whole
from report.read import History

QUIET = {"preset", "name", "resume", "device", "workers"}  # options that tell nothing of what a run does


def rows_table(caption: str, head: list, rows: list[list]) -> str:
    """An HTML table of texts; the first cell of a row names it."""
    cells = [(row[0], "".join(f"<td>{whole(cell)}</td>" for cell in row[1:])) for row in rows]
    body = "".join(f"<tr><th scope=row>{esc(first)}</th>{others}</tr>" for first, others in cells)
    return (f"<div class=scroll tabindex=0 role=region aria-label=\"{esc(caption)}\"><table><caption>{esc(caption)}"
            f"</caption><thead><tr>{''.join(f'<th scope=col>{esc(name)}</th>' for name in head)}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>")


# ----------------------------------------------------------------------------------------------------------------
# One run

def differences(run: History) -> list[list]:
    """Options that differ from the preset: [option, value, the preset's]; all where the preset was not noted. Of paths
    the last pieces are compared."""
    rows = []
    for name, value in vars(run.config).items():
        usual = getattr(run.preset, name) if run.preset else "-"
        same_path = isinstance(value, str) and Path(value).name == Path(str(usual)).name
        if name not in QUIET and value != usual and not same_path:
            rows.append([f"--{name}", value, usual])
    return rows


def overview(run: History, number_of: dict[int, int], curve: str = "", title: str = "") -> str:
    """`number_of`: a sample's line to its number in the gallery; `curve`: the figure of held-out accuracy."""
    total = Counter()
    for line in run.metrics:
        total.update({k: v for k, v in line.items() if k.startswith(("seconds/", "tokens_generated", "tokens_trained"))
                      and isinstance(v, (int, float))})
    out = [f"<h3>{esc(title)}</h3>" if title else "",
           f"<div class='{'first' if curve else 'first alone'}'><div class=said>{headline(run)}{warnings(run)}</div>",
           f"{curve}{example_cards(run, number_of)}</div>", results(run)]
    changed = differences(run)
    spent = [[key.removeprefix("seconds/"), f"{value:,.0f} s"] for key, value in total.items() if "seconds" in key]
    spent += [[key.replace("_", " "), f"{value:,.0f}"] for key, value in total.items() if "tokens" in key]
    where = [[key, value] for key, value in run.machine.items() if value is not None] or [["not recorded", "-"]]
    out.append("<div class=three>" + rows_table("Time and tokens by phase", ["what", "total"], spent)
               + rows_table("Machine and commit", ["what", "value"], where)
               + rows_table(f"Options{' that differ from the preset' if run.preset else ''}",
                            ["option", "here", "preset"], changed or [["none", "-", "-"]]) + "</div>")
    return "".join(out)


def results(run: History) -> str:
    """The tables of held-out accuracy: task types at once, their depths on demand."""
    out = []
    for caption, (head, *rows) in heldout_tables(run).items():
        of_types = [row for row in rows if row[1:2] == ["all"]]
        by_depth = [row for row in rows if row[1:2] != ["all"]]
        short = [[*row[:1], *row[2:]] for row in of_types]
        table = rows_table(caption, [*head[:1], *head[2:]], short) if short else ""
        if by_depth:
            table += ("<details><summary>By depth: the number of a program's statements</summary>"
                      f"{rows_table(f'{caption}, by depth', head, by_depth)}</details>")
        out.append(f"<div>{table}</div>")
    if not out:
        return "<p>Tables of held-out accuracy, before and after, are made when the run ends.</p>"
    return (f"<div class=three>{''.join(out)}</div><p class=fine>Percent of tasks solved, greedily; changes in points;"
            " in brackets 95% intervals; no change: the interval holds 0. Tasks that share a program are solved or"
            " failed together, so intervals count programs. Without training: what the model before training solves if"
            " its thinking may not end at once, or if the form of its answers is forgiven, whichever helps it most; a"
            " gain that one token or a kinder judge gives is none of training's.</p>")


# ----------------------------------------------------------------------------------------------------------------
# Runs side by side

def comparison(runs: list[History]) -> str:
    """What differs between runs, and their results; nothing for one run."""
    if len(runs) < 2:
        return ""
    names = [run.name for run in runs]
    def shown(value):  # of a file its name
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
    rows = [[f"--{f.name}", *map(shown, values)] for f in fields(Config) if f.name not in QUIET
            and len(set(map(str, values := [getattr(run.config, f.name) for run in runs]))) > 1]
    rows_of = [[run.name, outcome(run)[0]] for run in runs]
    out = rows_table("What came of them", ["run", "held-out accuracy, in points, with 95% intervals"], rows_of)
    out += rows_table("Options in which the runs differ", ["option", *names], rows) if rows else ""
    tables_of = list(map(heldout_tables, runs))
    for caption in dict.fromkeys(caption for tables in tables_of for caption in tables):
        totals = [{row[0]: dict(zip(head, row)) for row in rows if row[1:2] == ["all"]}
                  for head, *rows in (tables.get(caption, [[]]) for tables in tables_of)]  # one a run: {type: cells}
        out += rows_table(f"{caption}, before and after", ["type", *names], [
            [name, *(" to ".join(map(rows.get(name, {}).get, ("before", "after"), "--"))
                     + (f", {by}" if "[" in (by := rows.get(name, {}).get("change", "")) else "") for rows in totals)]
            for name in dict.fromkeys(name for rows in totals for name in rows)])
    return f"<h3>Side by side</h3>{out}"
