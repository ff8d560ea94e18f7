"""
The report's first section, in words and tables: what went wrong or looks so, held-out results, time, machine, options,
and runs side by side.
"""
import html
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np

import tasks
from config import Config
from report.curves import star_keys
from report.read import ROLES, History

QUIET = {"preset", "name", "resume", "device", "workers"}  # options that tell nothing of what a run does


def esc(value) -> str:
    return html.escape(str(value), quote=True)


def rows_table(caption: str, head: list, rows: list[list]) -> str:
    """An HTML table of texts; the first cell of a row names it."""
    cells = [(row[0], "".join(f"<td>{esc(cell)}</td>" for cell in row[1:])) for row in rows]
    body = "".join(f"<tr><th scope=row>{esc(first)}</th>{others}</tr>" for first, others in cells)
    return (f"<div class=scroll tabindex=0 role=region aria-label=\"{esc(caption)}\"><table><caption>{esc(caption)}"
            f"</caption><thead><tr>{''.join(f'<th scope=col>{esc(name)}</th>' for name in head)}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>")


# ----------------------------------------------------------------------------------------------------------------
# Warnings

def tenth(run: History, key: str, last: bool = True) -> float | None:
    """The mean over the last (or first) tenth of the steps, at least three."""
    values = [v for v in run.series.get(key, ([], []))[1] if v is not None]
    count = max(3, len(values) // 10)
    return float(np.mean(values[-count:] if last else values[:count])) if values else None


def troubles(run: History) -> list[str]:
    """What went wrong or looks so, in plain words; nothing if nothing did."""
    told = []
    for name in tasks.TYPES:
        if f"solve_rate/{name}" in run.series:
            told += troubles_of_type(run, name)
            for role in ROLES:
                told += troubles_of_responses(run, role, name)
    worst = max((v for v in run.series.get("kl_sampler_trainer", ([], []))[1] if v is not None), default=0)
    if worst > 0.01:
        told.append(f"Mismatch: sampler and trainer differ by a KL of up to {worst:.3g} nats a token.")
    for key, words in (("infra_failures", "results lost to failures of the executor"),
                       ("skipped_updates", "updates skipped, for lack of rows or a gradient that was not finite")):
        if total := sum(v or 0 for v in run.series.get(key, ([], []))[1]):
            told.append(f"{total:,.0f} {words}.")
    return told


def troubles_of_type(run: History, name: str) -> list[str]:
    told = []
    if (new := tenth(run, f"new_program/{name}")) is not None and new < 0.25:
        told.append(f"Collapse: of the last {name} proposals only {new:.0%} bring a new program.")
    if (learn := tenth(run, f"learnability/{name}")) is not None and learn < 0.03:
        told.append(f"Nothing left to learn: {name} tasks are lately solved always or never (mean learnability"
                    f" {learn:.2f}).")
    if (valid := tenth(run, f"valid/{name}")) is not None and valid < 0.1:
        reasons = star_keys([run], f"gate/{name}/*")
        why = f"; mostly: {reasons[0][0]}" if reasons else ""
        told.append(f"Empty gate: lately {valid:.0%} of {name} proposals are valid{why}.")
    return told


def troubles_of_responses(run: History, role: str, name: str) -> list[str]:
    told, who = [], f"{'proposals' if role == 'propose' else 'answers'} ({name})"
    now, was = tenth(run, f"entropy/{role}/{name}"), tenth(run, f"entropy/{role}/{name}", last=False)
    if now is not None and was and now < 0.15 * was:
        told.append(f"Entropy collapse: that of {who} fell from {was:.2f} to {now:.2f} nats a token.")
    if now is not None and was and now > 3 * was + 0.5:
        told.append(f"Entropy grows: that of {who} rose from {was:.2f} to {now:.2f} nats a token.")
    if (clipped := tenth(run, f"cut_off/{role}/{name}")) is not None and clipped > 0.2:
        told.append(f"Clipped responses: {clipped:.0%} of the last {who} reached --max_new_tokens.")
    if (zero := tenth(run, f"zero_advantage/{role}/{name}")) is not None and zero > 0.8:
        told.append(f"Little to learn from: {zero:.0%} of the last {who} have no advantage.")
    return told


# ----------------------------------------------------------------------------------------------------------------
# One run

def heldout_tables(run: History) -> dict[str, list[list[str]]]:
    """{caption: rows, the head first} of heldout.md, whose other lines are captions; rows over all depths are first."""
    path, tables, caption = run.folder / "heldout.md", {}, "Held-out accuracy"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        if line.startswith("|"):
            tables.setdefault(caption, []).append([cell.strip() for cell in line.strip("|").split("|")])
        elif line.strip():
            caption = re.sub(r"\S*/", "", line.strip().rstrip(":"))  # of a path the last piece
    return {caption: [rows[0], *sorted(rows[2:], key=lambda row: row[1:2] != ["all"])]
            for caption, rows in tables.items() if len(rows) > 2}


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


def overview(run: History) -> str:
    config, total, notes = run.config, Counter(), troubles(run)
    for line in run.metrics:
        total.update({k: v for k, v in line.items() if k.startswith(("seconds/", "tokens_generated", "tokens_trained"))
                      and isinstance(v, (int, float))})
    out = [f"<h3>{esc(run.name)}</h3><p>Step {run.last_step} of {esc(config.steps)}, preset {esc(config.preset)},"
           f" seed {esc(config.seed)}, model {esc(Path(config.model).name)}.</p>"]
    out.append("<ul class=warnings>" + "".join(f"<li>{esc(line)}</li>" for line in notes) + "</ul>" if notes else
               "<p class=fine>No warnings: no collapse, no entropy loss, few clipped responses, a filled gate,"
               " sampler and trainer agree.</p>")
    held = "".join(rows_table(caption, head, rows) for caption, (head, *rows) in heldout_tables(run).items())
    out.append(f"<div class=three>{held}</div>" if held else
               "<p>Held-out accuracy before and after is measured when the run ends.</p>")
    changed = differences(run)
    spent = [[key.removeprefix("seconds/"), f"{value:,.0f} s"] for key, value in total.items() if "seconds" in key]
    spent += [[key.replace("_", " "), f"{value:,.0f}"] for key, value in total.items() if "tokens" in key]
    where = [[key, value] for key, value in run.machine.items() if value is not None] or [["not recorded", "-"]]
    out.append("<div class=three>" + rows_table("Time and tokens by phase", ["what", "total"], spent)
               + rows_table("Machine and commit", ["what", "value"], where)
               + (rows_table(f"Options{' that differ from the preset' if run.preset else ''}",
                             ["option", "here", "preset"], changed)
                  if changed else "<p>All options as in the preset.</p>") + "</div>")
    return "".join(out)


# ----------------------------------------------------------------------------------------------------------------
# Runs side by side

def comparison(runs: list[History]) -> str:
    """What differs between runs, and their results; nothing for one run."""
    if len(runs) < 2:
        return ""
    names = [run.name for run in runs]
    rows = [[f"--{f.name}", *values] for f in fields(Config) if f.name not in QUIET
            and len(set(map(str, values := [getattr(run.config, f.name) for run in runs]))) > 1]
    out = rows_table("Options in which the runs differ", ["option", *names], rows) if rows else ""
    tables_of = list(map(heldout_tables, runs))
    for caption in dict.fromkeys(caption for tables in tables_of for caption in tables):
        totals = [{row[0]: dict(zip(head, row)) for row in rows if row[1:2] == ["all"]}
                  for head, *rows in (tables.get(caption, [[]]) for tables in tables_of)]  # one a run: {type: cells}
        out += rows_table(f"{caption}, before and after", ["type", *names], [
            [name, *(" to ".join(map(rows.get(name, {}).get, ("before", "after"), "--")) for rows in totals)]
            for name in dict.fromkeys(name for rows in totals for name in rows)])
    return f"<h3>Side by side</h3>{out}"
