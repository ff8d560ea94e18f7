"""
What a reader sees of a run first: what came of it, in words; what went wrong or looks so; and two tasks that it
proposed, an early and a late one.
"""
import html
import math
import re
from pathlib import Path

import numpy as np

import tasks
from benchmarks.stats import verdict
from report.curves import star_keys
from report.read import ROLES, History
from runfolder import heldout_warning
from sandbox.values import printable

NUMBER = r"([-+]?\d+(?:\.\d+)?)"
CELL = re.compile(rf"{NUMBER}(?: \[{NUMBER}, {NUMBER}\])?")  # of heldout.md: 19.8 [15, 25]
MOST_WARNINGS = 3     # that are seen at once
LINES, WIDTH = 8, 60  # of an example's program; of its input and output: characters


def esc(value) -> str:
    return html.escape(printable(str(value)), quote=True)


def whole(value) -> str:
    """Escaped; an interval stays on one line."""
    return re.sub(r"\[[^][]{,40}\]", r"<span class=whole>\g<0></span>", esc(value))


# ----------------------------------------------------------------------------------------------------------------
# What came of it

def heldout_tables(run: History) -> dict[str, list[list[str]]]:
    """{caption: rows, the head first} of heldout.md, whose lines that end in a colon are captions; rows over all depths
    are first, types in the paper's order."""
    path, tables, caption = run.folder / "heldout.md", {}, "Held-out accuracy"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        if line.startswith("|"):
            tables.setdefault(caption, []).append([cell.strip() for cell in line.strip("|").split("|")])
        elif line.strip().endswith(":"):
            caption = re.sub(r"\S*/", "", line.strip().rstrip(":"))  # of a path the last piece
    order = [*tasks.TYPES, "mean"]

    def place(row: list[str]) -> tuple:
        return row[1:2] != ["all"], order.index(row[0]) if row[0] in order else len(order), row[1:2]
    return {caption: [rows[0], *sorted(rows[2:], key=place)] for caption, rows in tables.items() if len(rows) > 2}


def changes_in(table: list[list[str]]) -> dict[str, tuple[float, float, float, float]]:
    """{type: (before, after, low and high of the change)}, shares, of a table of heldout.md. Earlier versions gave a
    change no interval: it is made of the two columns' as if these were of different tasks, which is wider."""
    changes = {}
    for row in table[1:]:
        cells = dict(zip(table[0], row))
        was, now, by = (CELL.fullmatch(cells.get(name, "")) for name in ("before", "after", "change"))
        if cells.get("depth") == "all" and was and now:
            (a, low_a, high_a), (b, low_b, high_b) = ([float(x or side[1]) for x in side.groups()]
                                                      for side in (was, now))
            ends = (b - a - math.hypot(b - low_b, high_a - a), b - a + math.hypot(high_b - b, a - low_a))
            ends = (float(by[2]), float(by[3])) if by and by[2] else ends
            changes[row[0]] = tuple(value / 100 for value in (a, b, *ends))
    if len(changes) > 1 and "mean" not in changes:
        was, now, low, high = np.array(list(changes.values())).T
        by, count = (now - was).mean(), len(was)
        changes["mean"] = (was.mean(), now.mean(), by - np.hypot.reduce(now - was - low) / count,
                           by + np.hypot.reduce(high - (now - was)) / count)
    return changes


def newest(run: History) -> tuple[str, dict[str, tuple[float, float, float, float]]]:
    """(what they are about, changes as of `changes_in`): of the first table of a run's end, or of its newest evaluation
    if that is later."""
    tables = heldout_tables(run)
    evaluations = [line for line in run.metrics if isinstance(line.get("heldout_change"), dict)]
    caption, changes = next(((caption, found) for caption, table in tables.items() if (found := changes_in(table))),
                            ("", {}))
    ended = re.search(r", after (\d+) steps$", caption)
    if not evaluations or changes and not (ended and int(ended[1]) < evaluations[-1]["step"]):
        count = sum(int(row[2]) for row in tables.get(caption, [])[1:]
                    if row[1:2] == ["all"] and row[0] != "mean" and row[2].isdigit())
        return f"on {count:,} held-out tasks", changes
    line, changes = evaluations[-1], {}
    for name, change in line["heldout_change"].items():
        now = (line.get("heldout_by_type") or {}).get(name)
        if all(isinstance(some, list) and len(some) == 3 for some in (change, now)):
            changes[name] = (now[0] - change[0], now[0], *change[1:])
    return f"on held-out tasks up to step {line['step']}", changes


def outcome(run: History) -> tuple[str, str]:
    """(the verdict, what it is about)"""
    about, changes = newest(run)
    if changes:
        return (verdict({name: (now - was, low, high) for name, (was, now, low, high) in changes.items()}),
                f"In points, {about}, with 95% intervals")
    curves = {name: run.series[f"accuracy/{name}"][1] for name in tasks.TYPES if f"accuracy/{name}" in run.series}
    if any(len(values) > 1 for values in curves.values()):
        ends = (f"{name} {100 * values[0]:.0f}% to {100 * values[-1]:.0f}%" for name, values in curves.items())
        return "; ".join(ends), "Held-out accuracy, first and last evaluation; an earlier version noted no intervals"
    return "Not measured yet", "Held-out accuracy is measured when the run ends, and every --eval_every steps"


def headline(run: History) -> str:
    config = run.config
    words, about = outcome(run)
    head, colon, rest = words.partition(": ")
    parts = [f"<span class={'bad' if ' worse' in part else 'soft' if ' no change' in part else 'good'}>{whole(part)}"
             "</span>" for part in rest.split("; ") if part]
    return (f"<p class=verdict><strong>{esc(head + colon)}</strong>{'; '.join(parts)}.</p>"
            f"<p class=fine>{esc(about)}. Step {run.last_step} of {esc(config.steps)}, preset {esc(config.preset)},"
            f" seed {esc(config.seed)}, model {esc(Path(config.model).name)}.</p>")


# ----------------------------------------------------------------------------------------------------------------
# Warnings

def tenth(run: History, key: str, last: bool = True) -> float | None:
    """The mean over the last (or first) tenth of the steps, at least three."""
    values = [v for v in run.series.get(key, ([], []))[1] if v is not None]
    count = max(3, len(values) // 10)
    return float(np.mean(values[-count:] if last else values[:count])) if values else None


def troubles(run: History) -> list[str]:
    """What went wrong or looks so, in plain words; nothing if nothing did."""
    told = troubles_of_heldout(run)
    for name in tasks.TYPES:
        if f"solve_rate/{name}" in run.series:
            told += troubles_of_type(run, name)
            for role in ROLES:
                told += troubles_of_responses(run, role, name)
    worst = max((v for v in run.series.get("kl_sampler_trainer", ([], []))[1] if v is not None), default=0)
    if worst > 0.01:
        told.append("Mismatch: the probabilities that tokens were drawn with are not those that the update computes"
                    f" (KL up to {worst:.3g} nats a token).")
    for key, words in (("infra_failures", "results lost to failures of the executor"),
                       ("skipped_updates", "updates skipped, for lack of rows or a gradient that was not finite")):
        if total := sum(v or 0 for v in run.series.get(key, ([], []))[1]):
            told.append(f"{total:,.0f} {words}.")
    return told


def troubles_of_heldout(run: History) -> list[str]:
    """Accuracy that fell: in what the verdict is about, in other tables, or from the best evaluation to the last."""
    about, changes = newest(run)
    told = {name: f"{line.capitalize()}, {about}." for name, values in changes.items()
            if (line := heldout_warning(name, *values))}
    for caption, table in heldout_tables(run).items():
        for name, (was, now, low, high) in changes_in(table).items():
            if name not in told and high < 0:  # a run's own held-out tasks are few: one answer can be half
                told[name] = f"{heldout_warning(name, was, now, low, high).capitalize()} ({caption})."
    for name in tasks.TYPES:
        steps, values = run.series.get(f"accuracy/{name}", ([], []))
        best = max(values[:-1], default=0)
        if name not in told and (line := heldout_warning(name, best, values[-1]) if values else ""):
            told[name] = f"{line.capitalize()}, from step {steps[values.index(best)]} to {steps[-1]}."
    return list(told.values())


def troubles_of_type(run: History, name: str) -> list[str]:
    told = []
    if (new := tenth(run, f"new_program/{name}")) is not None and new < 0.25:
        told.append(f"Repetition: of the last {name} proposals only {new:.0%} bring a new program.")
    if (learn := tenth(run, f"learnability/{name}")) is not None and learn < 0.03:
        told.append(f"Nothing left to learn: {name} tasks are lately solved always or never (mean reward for it"
                    f" {learn:.2f}).")
    if (valid := tenth(run, f"valid/{name}")) is not None and valid < 0.1:
        reasons = star_keys([run], f"gate/{name}/*")
        why = f"; what most fail: {reasons[0][0]}" if reasons else ""
        told.append(f"Few valid proposals: lately {valid:.0%} of {name} proposals pass the checks{why}.")
    return told


def troubles_of_responses(run: History, role: str, name: str) -> list[str]:
    told, who = [], f"{'proposals' if role == 'propose' else 'answers'} ({name})"
    now, was = tenth(run, f"entropy/{role}/{name}"), tenth(run, f"entropy/{role}/{name}", last=False)
    if now is not None and was and now < 0.15 * was:
        told.append(f"Variety lost: the entropy of {who} fell from {was:.2f} to {now:.2f} nats a token; they become all"
                    " alike.")
    if now is not None and was and now > 3 * was + 0.5:
        told.append(f"Noise: the entropy of {who} rose from {was:.2f} to {now:.2f} nats a token.")
    if (clipped := tenth(run, f"cut_off/{role}/{name}")) is not None and clipped > 0.2:
        told.append(f"Cut off: {clipped:.0%} of the last {who} reached --max_new_tokens.")
    if (zero := tenth(run, f"zero_advantage/{role}/{name}")) is not None and zero > 0.8:
        told.append(f"Little to learn from: {zero:.0%} of the last {who} earned what all others of their group did.")
    return told


def warnings(run: History) -> str:
    notes = troubles(run)
    if notes:
        first, others = (f"<ul class=warnings>{''.join(f'<li>{esc(line)}</li>' for line in some)}</ul>" if some else ""
                         for some in (notes[:MOST_WARNINGS], notes[MOST_WARNINGS:]))
        return first + (f"<details><summary>{len(notes) - MOST_WARNINGS} more</summary>{others}</details>"
                        if others else "")
    measured = any(len(run.series.get(f"accuracy/{name}", ([],))[0]) > 1 for name in tasks.TYPES) or heldout_tables(run)
    held = "held-out accuracy did not fall beyond chance" if measured else "held-out accuracy was not measured"
    return (f"<details class=fine><summary>No warnings</summary>Looked at: {held}; proposals stay varied and pass the"
            " checks; few responses are cut off; sampling and training agree.</details>")


# ----------------------------------------------------------------------------------------------------------------
# Two tasks

def examples(run: History) -> list[dict]:
    """Samples of the first and of the last step with valid proposals of the first type that brings programs: of each
    step the one whose program has the middle length. Seeding counts only if there is nothing else."""
    mine = [s for s in run.samples if "task" in s and s["kind"] == "propose" and not s.get("heldout")]
    mine = [s for s in mine if s["step"]] or mine
    own = [s for s in mine if not tasks.TYPES[s["type"]].given_program] or mine
    name = next((name for name in tasks.TYPES if any(s["type"] == name for s in own)), None)
    own = [s for s in own if s["type"] == name]
    ends = sorted({s["step"] for s in own})
    chosen = []
    for step in ends[:1] + ends[1:][-1:]:
        of_step = sorted((s for s in own if s["step"] == step), key=lambda s: len(s["task"]["program"]))
        chosen.append(of_step[len(of_step) // 2])
    return chosen


def example_cards(run: History, number_of: dict[int, int]) -> str:
    """`number_of`: a sample's line to its number in the gallery."""
    cards = []
    for when, s in zip(("Early", "Late"), examples(run)):
        whole_program = s["task"]["program"].strip("\n")
        program = "\n".join(whole_program.split("\n")[:LINES])[:LINES * WIDTH]
        program += "\n..." if len(program) < len(whole_program) else ""
        rate = s.get("solve_rate")
        solved = "" if rate is None else f", solved {round(rate * run.config.n_probes)} of {run.config.n_probes} times"
        shown = [(word, text if len(text) <= WIDTH else text[:WIDTH] + "...")
                 for word, text in (("input", s["task"]["inputs"][0]), ("output", s["task"]["outputs"][0]))]
        cards.append(
            f"<div class=card><h3>{when}: step {esc(s['step'])}{esc(solved)}</h3><pre class=python>{esc(program)}</pre>"
            + "".join(f"<p class=value>{word} <code>{esc(text)}</code></p>" for word, text in shown)
            + f"<button type=button data-task={number_of[s['line']]}>Answers to it</button></div>")
    kind = f"{esc(examples(run)[0]['type'])} " if cards else ""
    return (f"<div class=tasks><h3 class=fine>Two of its {kind}tasks, each of the middle length of its step</h3>"
            f"{''.join(cards)}</div>") if cards else ""
