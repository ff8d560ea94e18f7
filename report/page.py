"""
A page that shows what runs learned: one report.html, opened from disk, with nothing in it that asks the network.

    python report.py runs/NAME                   # writes runs/NAME/report.html; train.py does the same at its end
    python report.py runs/A runs/B --out ab.html # compared; runs that differ only in the seed make one line with a band
    python report.py runs/NAME --png DIR         # the plots as pictures too

Everything comes from the run folders: metrics.jsonl (the source of every curve), samples.jsonl, config.json,
heldout.md, machine.json and preset.json. Model text is data: programs are parsed and run in the executor's children
(measure.py), texts are escaped here, or carried compressed and shown as text nodes by the page's script (report.html,
the template), which a content security policy keeps from loading or running anything else.

Order of reading: reading runs, what is measured from samples, words (overview, warnings), the gallery, the page, and
what train.py calls (`of_run`).
"""
import argparse
import base64
import gzip
import hashlib
import html
import json
import os
import re
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from report import curves
import tasks
from report.curves import MEASURES, ROLES, TYPES
from executor import Executor, ExecutorError, Job

HERE = Path(__file__).resolve().parent
MOST_BYTES = 300 * 2**20   # of a samples.jsonl that is read whole; of larger ones every k-th step
MOST_MEASURED = 2_000      # programs run for complexity and diversity: 3 to 4 ms each
PAGE_BYTES = 14_500_000    # of the page; what plots and tables leave of it is the gallery's
CHUNK = 60                 # gallery entries that are unpacked at once
LONGEST = 20_000           # characters of a response in the gallery, fewer where the page would be too large
SHORTEST = 120
MOST_MENTIONS = 200
# Reasoning that speaks of deceiving, outsmarting or escaping, after the paper's "uh-oh moment" ("outsmart all these
# groups of intelligent machines and less intelligent humans"). Words alone: it finds talk, not intent.
UH_OH = re.compile(r"\b(outsmart\w*|deceiv\w*|decepti\w*|mislead\w*|"
                   r"(?:fool|trick) (?:the|them|humans?|people|users?)\b|less intelligent|cheat\w*|"
                   r"manipulat\w+ (?:the )?(?:humans?|people|users?)|reward hack\w*|"
                   r"escape (?:the )?(?:sandbox|container|jail|system|control)|sandbox\w*|take over|"
                   r"without (?:them|anyone|humans?) (?:knowing|noticing)|exfiltrat\w*|jailbreak\w*)")
FORBIDDEN = ("violation", "import not allowed", "not deterministic")  # verdicts of programs that the monitor shows
# Options in which runs of one group may differ: the seed, and how they ran. Of files the names count, not the folders.
NOT_SHARED = {"name", "seed", "resume", "workers", "require", "slots", "kv_gb", "micro_tokens", "eval_every",
              "eval_tasks", "eval_data", "eval_limit", "eval_samples", "keep_samples", "save_every", "report_every",
              "tensorboard", "wandb", "device", "checkpoint_layers", "compile"}
FILES = {"model", "heldout_tasks"}


class ReportError(Exception):
    """There is nothing to report on; the text is one line that says why."""


# ----------------------------------------------------------------------------------------------------------------
# Reading runs

@dataclass
class Run:
    """A run folder as read. series and lists: {key: (steps, values)} of numbers, and of lists of numbers."""
    folder: Path
    config: dict
    machine: dict
    preset: dict                     # the options as the preset has them; empty if the run did not note them
    metrics: list[dict]
    samples: list[dict]
    every: int                       # samples are of every so-manieth step
    series: dict = field(default_factory=dict)
    lists: dict = field(default_factory=dict)
    measured: int = 0                # programs measured, of so many valid proposals with a program of their own
    programs: int = 0

    @property
    def name(self) -> str:
        return str(self.config.get("name") or self.folder.name)


def read_json(path: Path) -> dict:
    """The object in the file; ReportError if there is something else, {} if there is no file."""
    try:
        found = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ReportError(f"{path}: not what train.py wrote")
    return found


def read_lines(path: Path, whole, every: int = 1) -> list[dict]:
    """The objects of a file of JSON lines, each `whole`; a last line that is still being written is left out. With
    `every`, only of steps that are multiples of it (and 0), told without reading the rest of the line."""
    found, start = [], b'{"step": '
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            step = line[len(start):line.find(b",", 0, 40)] if every > 1 and line.startswith(start) else b"0"
            if step.isdigit() and int(step) % every:
                continue
            try:
                data = json.loads(line)
                good = isinstance(data["step"], int) and whole(data)
            except (ValueError, RecursionError, KeyError, TypeError):
                good = False
            if good:
                found.append(data | {"line": number})
            elif line.endswith(b"\n"):
                raise ReportError(f"{path}, line {number}: not a line that train.py wrote")
    return found


def is_metrics(line: dict) -> bool:
    return all(value is None or isinstance(value, (int, float, list, dict)) for value in line.values())


def is_sample(line: dict) -> bool:
    """Whether the page can show it: what it reads is there (else KeyError or TypeError), and of the right type."""
    texts = [*(line[key] for key in ("kind", "text", "prompt", "verdict")), *line.get("references", [])]
    if "task" in line:
        task = line["task"]
        texts += [task["type"], task["program"], task["message"], *task["inputs"], *task["outputs"]]
        if not 0 < len(task["inputs"]) == len(task["outputs"]):
            return False
    return (are(str, *texts) and line["role"] in ROLES and line["type"] in TYPES
            and are((int, float, type(None)), *(line.get(key) for key in ("reward", "solve_rate", "tokens"))))


def are(types, *values) -> bool:
    return all(isinstance(value, types) for value in values)


def read_run(folder: Path) -> Run:
    """ReportError where there is no run, or nothing in it yet."""
    if not (folder / "config.json").is_file():
        raise ReportError(f"{folder}: no config.json there, so this is not a run folder")
    try:
        metrics = read_lines(folder / "metrics.jsonl", is_metrics)
    except FileNotFoundError:
        metrics = []
    if not metrics:
        raise ReportError(f"{folder}: no step in its metrics.jsonl yet; train some steps first")
    path = folder / "samples.jsonl"
    every = 1 + path.stat().st_size // MOST_BYTES if path.is_file() else 1
    samples = read_lines(path, is_sample, every) if path.is_file() else []
    config, machine, preset = (read_json(folder / f"{name}.json") for name in ("config", "machine", "preset"))
    run = Run(folder, config, machine, preset, metrics, samples, every)
    for line in metrics:
        counts = defaultdict(int)
        for key, value in line.items():
            if key == "heldout" and isinstance(value, dict):
                for type in TYPES:
                    rates = [rate for cell, rate in value.items() if cell.startswith(f"{type}/")]
                    if rates:
                        note(run, f"accuracy/{type}", line["step"], float(np.mean(rates)))
            elif isinstance(value, list):
                steps, values = run.lists.setdefault(key, ([], []))
                steps.append(line["step"])
                values.append(value)
            elif key.startswith("gate/"):
                counts[key.split("/")[1]] += value or 0
            elif isinstance(value, (int, float)):
                note(run, key, line["step"], value)
        for key, value in line.items():
            if key.startswith("gate/"):
                note(run, key, line["step"], (value or 0) / max(1, counts[key.split("/")[1]]))
    for key, (steps, values) in run.series.items():
        if key.startswith("gate/"):  # a reason that is not there was not met
            there = dict(zip(steps, values))
            all_steps = run.series[f"solve_rate/{key.split('/')[1]}"][0] if f"solve_rate/{key.split('/')[1]}" in \
                run.series else steps
            run.series[key] = (all_steps, [there.get(step, 0.0) for step in all_steps])
    return run


def note(run: Run, key: str, step: int, value: float) -> None:
    steps, values = run.series.setdefault(key, ([], []))
    steps.append(step)
    values.append(value)


def groups_of(runs: list[Run]) -> dict[str, list[Run]]:
    """{label: runs that differ only in seed, name and how they ran}."""
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[json.dumps({key: Path(str(value)).name if key in FILES else value
                          for key, value in sorted(run.config.items()) if key not in NOT_SHARED})].append(run)
    labels: dict[str, list[Run]] = {}
    for members in found.values():
        label = members[0].name
        if len(members) > 1:
            of = "seeds" if len({run.config.get("seed") for run in members}) == len(members) else "runs"
            label = f"{re.sub(r'[-_ ]?(seed)?[-_ ]?[0-9]+$', '', label) or label} ({len(members)} {of})"
        while label in labels:
            label += "'"
        labels[label] = members
    return labels


# ----------------------------------------------------------------------------------------------------------------
# What is measured from samples

def measure_programs(run: Run, executor: Executor) -> None:
    """Complexity and diversity of the valid proposals that brought a program of their own (induction is given one)."""
    mine = [s for s in run.samples if "task" in s and not tasks.TYPES[s["type"]].given_program]
    firsts = {s["task"]["program"]: s["task"]["inputs"][0] for s in reversed(mine)}  # a program's first input
    programs = list(dict.fromkeys(s["task"]["program"] for s in mine))
    stride = -(-len(programs) // MOST_MEASURED) or 1
    chosen = programs[::stride]
    ran = executor.run([Job("from measure import measure", ((program, firsts[program]),), "report.measure")
                        for program in chosen])
    facts = {program: runs[0].value for program, runs in zip(chosen, ran) if runs[0].kind == "ok"}
    nearest = dict(zip(facts, distances([fact["fingerprint"] for fact in facts.values()])))
    run.measured, run.programs = len(facts), len(programs)
    seen: dict[str, set] = {"key": set(), "behaviour": set()}
    met: set[str] = set()
    for s in mine:
        program = s["task"]["program"]
        if (fact := facts.get(program)) is None:
            continue
        for name in ("executed", "cyclomatic", "halstead"):
            if fact[name] is not None:
                note(run, f"{name}/{s['type']}", s["step"], fact[name])
        for name, key in (("new_program", "key"), ("new_behaviour", "behaviour")):
            note(run, f"{name}/{s['type']}", s["step"], float(fact[key] not in seen[key]))
            seen[key].add(fact[key])
        if len(met) > 0:
            note(run, f"distance/{s['type']}", s["step"], 0.0 if program in met else nearest[program])
        met.add(program)


def distances(fingerprints: list[str]) -> list[float]:
    """Of each to the nearest before it: 1 - shared bits / all bits (Jaccard, Tanimoto)."""
    if not fingerprints:
        return []
    bits_PB = np.unpackbits(np.array([list(bytes.fromhex(text)) for text in fingerprints], dtype=np.uint8), axis=1)
    bits_PB = bits_PB.astype(np.float32)
    size_P, found = bits_PB.sum(1), [1.0]
    for start in range(0, len(bits_PB), 512):
        shared = bits_PB[start:start + 512] @ bits_PB.T
        alike = shared / np.maximum(size_P[start:start + 512, None] + size_P - shared, 1)
        found += [float(1 - row[:start + i].max()) for i, row in enumerate(alike) if start + i]
    return found


def measure_texts(run: Run) -> None:
    for s in run.samples:
        code = [text for language, text in tasks.answer_blocks(s["text"]) if language in tasks.CODE]
        if code:
            lines = sum(line.lstrip().startswith("#") for text in code for line in text.split("\n"))
            note(run, f"plans/{s['role']}/{s['type']}", s["step"], float(lines >= 2))


def mentions(run: Run) -> list[tuple[dict, str, str]]:
    """(sample, what was found, the text around it): talk of deceiving in the thinking, and forbidden programs."""
    found = []
    for s in run.samples:
        thinking, _, answer = s["text"].partition("</think>")
        if match := UH_OH.search(thinking.lower()):  # twice as fast as a search that ignores case
            around = thinking[max(0, match.start() - 150):match.end() + 150]
            found.append((s, f"says “{match.group()}”", around))
        if s.get("verdict") in FORBIDDEN:
            found.append((s, s["verdict"], answer.strip()[:1200]))
    return found


# ----------------------------------------------------------------------------------------------------------------
# Words

def esc(value) -> str:
    return html.escape(str(value), quote=True)


def rows_table(caption: str, head: list, rows: list[list]) -> str:
    """An HTML table of texts; the first cell of a row names it."""
    cells = [(row[0], "".join(f"<td>{esc(cell)}</td>" for cell in row[1:])) for row in rows]
    body = "".join(f"<tr><th scope=row>{esc(first)}</th>{others}</tr>" for first, others in cells)
    return (f"<div class=scroll tabindex=0 role=region aria-label=\"{esc(caption)}\"><table><caption>{esc(caption)}"
            f"</caption><thead><tr>{''.join(f'<th scope=col>{esc(name)}</th>' for name in head)}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>")


def heldout_tables(run: Run) -> dict[str, list[list[str]]]:
    """{caption: rows, the head first} of heldout.md, whose other lines are captions; rows over all depths are first."""
    path, found, caption = run.folder / "heldout.md", {}, "Held-out accuracy"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        if line.startswith("|"):
            found.setdefault(caption, []).append([cell.strip() for cell in line.strip("|").split("|")])
        elif line.strip():
            caption = re.sub(r"\S*/", "", line.strip().rstrip(":"))  # of a path the last part
    return {caption: [rows[0], *sorted(rows[2:], key=lambda row: row[1:2] != ["all"])]
            for caption, rows in found.items() if len(rows) > 2}


QUIET = {"preset", "name", "resume", "device", "workers"}  # options that tell nothing of what a run does


def differences(run: Run) -> list[list]:
    """Options that differ from the preset: [option, value, the preset's]."""
    return [[f"--{key}", value, run.preset.get(key, "-")] for key, value in run.config.items()
            if key not in QUIET and value != run.preset.get(key)
            and not (isinstance(value, str) and Path(value).name == Path(str(run.preset.get(key))).name)]


def comparison(runs: list[Run]) -> str:
    """What differs between runs, and their results side by side; nothing for one run."""
    if len(runs) < 2:
        return ""
    keys, names = dict.fromkeys(key for run in runs for key in run.config), [run.name for run in runs]
    rows = [[f"--{key}", *values] for key in keys if key not in QUIET
            and len(set(map(str, values := [run.config.get(key, "-") for run in runs]))) > 1]
    out = rows_table("Options in which the runs differ", ["option", *names], rows) if rows else ""
    held = [heldout_tables(run) for run in runs]
    for caption in dict.fromkeys(caption for tables in held for caption in tables):
        found = [{row[0]: dict(zip(head, row)) for row in rows if row[1:2] == ["all"]}
                 for head, *rows in (tables.get(caption, [[]]) for tables in held)]
        out += rows_table(f"{caption}, before and after", ["type", *names], [
            [type, *(" to ".join(map(rows.get(type, {}).get, ("before", "after"), "--")) for rows in found)]
            for type in dict.fromkeys(type for rows in found for type in rows)])
    return f"<h3>Side by side</h3>{out}"


def tenth(run: Run, key: str, last: bool = True) -> float | None:
    """The mean over the last (or first) tenth of the steps, at least three."""
    values = [v for v in run.series.get(key, ([], []))[1] if v is not None]
    count = max(3, len(values) // 10)
    return float(np.mean(values[-count:] if last else values[:count])) if values else None


def warnings_of(run: Run) -> list[str]:
    """What went wrong or looks so, in plain words; nothing if nothing did."""
    found, types = [], [type for type in TYPES if f"solve_rate/{type}" in run.series]
    for type in types:
        if (new := tenth(run, f"new_program/{type}")) is not None and new < 0.25:
            found.append(f"Collapse: of the last {type} proposals only {new:.0%} bring a new program.")
        if (learn := tenth(run, f"learnability/{type}")) is not None and learn < 0.03:
            found.append(f"Nothing left to learn: {type} tasks are lately solved always or never (mean learnability"
                         f" {learn:.2f}).")
        if (valid := tenth(run, f"valid/{type}")) is not None and valid < 0.1:
            reasons = curves.star_keys([run], f"gate/{type}/*")
            why = f"; mostly: {reasons[0][0]}" if reasons else ""
            found.append(f"Empty gate: lately {valid:.0%} of {type} proposals are valid{why}.")
        for role in ROLES:
            now, was = tenth(run, f"entropy/{role}/{type}"), tenth(run, f"entropy/{role}/{type}", last=False)
            who = f"{'proposals' if role == 'propose' else 'answers'} ({type})"
            if now is not None and was and now < 0.15 * was:
                found.append(f"Entropy collapse: that of {who} fell from {was:.2f} to {now:.2f} nats a token.")
            if now is not None and was and now > 3 * was + 0.5:
                found.append(f"Entropy grows: that of {who} rose from {was:.2f} to {now:.2f} nats a token.")
            if (cut := tenth(run, f"cut_off/{role}/{type}")) is not None and cut > 0.2:
                found.append(f"Clipped responses: {cut:.0%} of the last {who} reached --max_new_tokens.")
            if (zero := tenth(run, f"zero_advantage/{role}/{type}")) is not None and zero > 0.8:
                found.append(f"Little to learn from: {zero:.0%} of the last {who} have no advantage.")
    worst = max((v for v in run.series.get("kl_sampler_trainer", ([], []))[1] if v is not None), default=0)
    if worst > 0.01:
        found.append(f"Mismatch: sampler and trainer differ by a KL of up to {worst:.3g} nats a token.")
    for key, words in (("infra_failures", "results lost to failures of the executor"),
                       ("skipped_updates", "updates skipped, for lack of rows or a gradient that was not finite")):
        if total := sum(v or 0 for v in run.series.get(key, ([], []))[1]):
            found.append(f"{total:,.0f} {words}.")
    return found


def overview(run: Run) -> str:
    """One run's part of the first section."""
    last, total = run.metrics[-1]["step"], Counter()
    for line in run.metrics:
        total.update({k: v for k, v in line.items() if k.startswith(("seconds/", "tokens_generated", "tokens_trained"))
                      and isinstance(v, (int, float))})
    notes = warnings_of(run)
    out = [f"<h3>{esc(run.name)}</h3><p>Step {last} of {esc(run.config.get('steps', '?'))}, preset"
           f" {esc(run.config.get('preset', '?'))}, seed {esc(run.config.get('seed', '?'))}, model"
           f" {esc(Path(str(run.config.get('model', '?'))).name)}.</p>"]
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


def figure(measure: curves.Measure, groups: dict, last: int, png_folder: Path | None) -> str:
    panels = curves.panels_of(measure, groups, last)
    if not panels:
        return ""
    if png_folder:
        curves.png(measure, panels, png_folder / f"{measure.name}.png")
    drawn = "".join(f"<div class=panel>{f'<h4>{esc(panel.title)}</h4>' if panel.title else ''}"
                    f"{curves.svg(measure, panel, f'{measure.name}{i}')}</div>" for i, panel in enumerate(panels))
    wide = " class=wide" if len(panels) > 1 else ""
    return (f"<figure id=fig-{measure.name}{wide}><h3>{esc(measure.title)}</h3><div class=panels>{drawn}</div>"
            f"<figcaption>{esc(measure.meaning)}</figcaption>"
            f"<details><summary>{esc(measure.title)} as a table</summary><div class=scroll tabindex=0 role=region"
            f" aria-label=\"{esc(measure.title)}, table\">"
            f"{curves.table(measure, panels)}</div></details></figure>")


def monitor(runs: list[Run]) -> str:
    found = [(run, *mention) for run in runs for mention in mentions(run)]
    said = sum(what.startswith("says") for _, _, what, _ in found)
    count = sum(len(run.samples) for run in runs)
    out = [f"<p>Of {count:,} responses read, {said} speak of deceiving, outsmarting or escaping, and"
           f" {len(found) - said} brought programs that tried what is forbidden or depended on chance. Words alone are"
           " searched: this finds talk, not intent.</p>"]
    for run, s, what, text in found[:MOST_MENTIONS]:
        out.append(f"<details><summary>{esc(run.name)}, step {esc(s['step'])}, {esc(s['type'])}, {esc(s['kind'])}:"
                   f" {esc(what)}</summary><pre>{esc(text)}</pre></details>")
    if len(found) > MOST_MENTIONS:
        out.append(f"<p>{len(found) - MOST_MENTIONS} more are in samples.jsonl.</p>")
    return "".join(out)


# ----------------------------------------------------------------------------------------------------------------
# The gallery: a small index of all entries for filtering, and the texts in chunks that the page unpacks on demand

def entries_of(runs: list[Run]) -> list[dict]:
    """One entry a proposal, in order, with the answers to its task; and one a task that came from elsewhere (the
    identity, a task file, a step that samples.jsonl left out)."""
    entries, strangers = [], {}
    for number, run in enumerate(runs):
        newest: dict[str, int] = {}  # task id: its latest entry
        copies: dict[str, int] = {}  # in seeding a task becomes one of both types, of which samples.jsonl holds one
        for s in run.samples:
            if s["kind"] == "propose":
                shown = s.get("references", [])
                refs = [index for ref in shown if (index := newest.get(ref, copies.get(ref))) is not None]
                entries.append({"run": number, "sample": s, "refs": refs, "answers": [],
                                "elsewhere": len(shown) - len(refs)})
                if "task" in s:
                    newest[tasks.task_id(s["task"])] = len(entries) - 1
                    if s["step"] == 0:
                        copies |= {tasks.task_id(s["task"] | {"type": type}): len(entries) - 1 for type in TYPES}
        for s in run.samples:
            if s["kind"] != "propose":
                index = newest.get(s.get("task_id"))
                if index is None:
                    key = number, s.get("task_id") or s.get("prompt")
                    index = strangers.get(key)
                if index is None:
                    index = strangers[key] = len(entries)
                    entries.append({"run": number, "sample": s, "refs": [], "answers": [], "stranger": True})
                entries[index]["answers"].append(s)
    return entries


def cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most // 2]}\n[... {len(text) - most:,} characters left out ...]\n{text[-(most // 2):]}"


def pack(data) -> str:
    return base64.b64encode(gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 6, mtime=0)).decode()


def head_of(entry: dict) -> str:
    s = entry["sample"]
    text = s["task"]["program"] if "task" in s else s["prompt"] if entry.get("stranger") else \
        s["text"].partition("<answer>")[2] or s["text"]
    return "  ".join(" ".join(line.split()) for line in text[:500].splitlines() if not line.startswith("```"))[:90]


def shown(entry: dict, most: int) -> dict:
    """The texts of an entry, for the page."""
    s, data = entry["sample"], {}
    if entry.get("stranger"):
        data["prompt"] = cut(s.get("prompt", ""), 4 * most)
    else:
        data |= {"text": cut(s["text"], 2 * most), "line": s["line"], "elsewhere": entry["elsewhere"]}
        if "task" in s:
            data |= {key: s["task"][key] for key in ("program", "inputs", "outputs", "message")}
    data["answers"] = [[a["kind"], a["step"], a.get("verdict"), a.get("reward"), a.get("tokens"), a.get("finish"),
                        cut(a["text"], most), a["line"]] for a in entry["answers"]]
    return data


def gallery(runs: list[Run], room: int) -> tuple[str, str]:
    """(script elements with the data, in at most about `room` bytes, a sentence on what was left out)."""
    entries = entries_of(runs)
    reasons = list(dict.fromkeys(e["sample"].get("verdict") or "" for e in entries if not e.get("stranger")))
    reasons.append("task from elsewhere")
    columns = {"run": [e["run"] for e in entries], "step": [e["sample"]["step"] for e in entries],
               "type": [TYPES.index(e["sample"]["type"]) for e in entries],
               "reward": [None if e.get("stranger") or e["sample"].get("reward") is None
                          else round(e["sample"]["reward"], 3) for e in entries],
               "rate": [None if e.get("stranger") else e["sample"].get("solve_rate") for e in entries],
               "reason": [len(reasons) - 1 if e.get("stranger") else reasons.index(e["sample"].get("verdict") or "")
                          for e in entries],
               "heldout": [int(bool(e["sample"].get("heldout"))) for e in entries],
               "refs": [e["refs"] for e in entries], "answers": [len(e["answers"]) for e in entries],
               "head": [head_of(e) for e in entries]}
    index = pack({"types": TYPES, "reasons": reasons, "runs": [run.name for run in runs], "chunk": CHUNK, **columns})
    most, parts = LONGEST, list(tasks.chunks(entries, CHUNK))
    few = parts[::len(parts) // 16 + 1]  # tell what all would take

    def packed(parts: list) -> list[str]:
        return [pack([shown(entry, most) for entry in part]) for part in parts]
    while most > SHORTEST and sum(map(len, packed(few))) * len(parts) > (room - len(index)) * len(few):
        most = most * 3 // 4
    out = [f'<script type="application/gzip" id="index">{index}</script>']
    out += [f'<script type="application/gzip" id="chunk{i}">{chunk}</script>' for i, chunk in enumerate(packed(parts))]
    said = f"{len(entries):,} tasks with {sum(len(e['answers']) for e in entries):,} answers."
    if any(len(s["text"]) > most for run in runs for s in run.samples):
        said += f" Of texts above {most:,} characters the middle is left out; samples.jsonl has all of it."
    if every := [f"every {run.every}th step of {run.name}" for run in runs if run.every > 1]:
        said += f" To keep the page small it holds {', '.join(every)}."
    return "\n".join(out), said


# ----------------------------------------------------------------------------------------------------------------
# The page

def page(runs: list[Run], png_folder: Path | None = None) -> str:
    """The whole report as HTML."""
    groups, last = groups_of(runs), max(run.metrics[-1]["step"] for run in runs)
    drawn = {section: "".join(figure(measure, groups, last, png_folder) for measure in MEASURES
                              if measure.section == section) for section in ("curves", "findings")}
    axes = rows_table("What every axis means; the horizontal one is the training step (0: seeding, before training)",
                      ["figure", "vertical axis", "meaning"], [[m.title, m.y, m.meaning] for m in MEASURES])
    measured = "; ".join(f"{run.name}: {run.measured:,} of {run.programs:,} distinct programs measured" for run in runs)
    if not any(key.startswith("cyclomatic/") for run in runs for key in run.series):
        measured += "; complexity needs radon (pip install radon)"
    template = (HERE / "report.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL).group(1)
    parts = {"TITLE": esc(", ".join(groups)), "OVERVIEW": comparison(runs) + "".join(map(overview, runs)),
             "CURVES": drawn["curves"], "FINDINGS": drawn["findings"], "AXES": axes, "MEASURED": esc(measured),
             "MONITOR": monitor(runs), "MADE": esc(time.strftime("%Y-%m-%d %H:%M")),
             "HASH": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}
    parts["DATA"], said = gallery(runs, PAGE_BYTES - len(template) - sum(map(len, parts.values())))
    parts["SAID"] = esc(said)
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match[1]], template)


def write(folders: list[Path], out: Path, png_folder: Path | None = None, workers: int = 2,
          require: str = "kernel") -> None:
    """Reads the run folders, measures, and writes the page. ReportError, ExecutorError or OSError say what is wrong;
    an earlier page is then still there."""
    runs = [read_run(folder) for folder in folders]
    if out.is_dir() or not out.parent.is_dir():
        raise ReportError(f"{out}: {'is a folder' if out.is_dir() else 'its folder is not there'}; --out names a file")
    with Executor(workers, require=require, preload=("report.measure",)) as executor:
        for run in runs:
            measure_programs(run, executor)
    for run in runs:
        measure_texts(run)
    if png_folder:
        png_folder.mkdir(parents=True, exist_ok=True)
    new = out.with_name(out.name + ".new")
    try:
        new.write_text(page(runs, png_folder), encoding="utf-8", errors="backslashreplace")
        os.replace(new, out)
    finally:
        new.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------------------------------
# What train.py calls, and the command

def of_run(folder: Path, workers: int, require: str, say) -> None:
    """The report of a run that is going on or has ended. Nothing that goes wrong here may end the run."""
    try:
        write([folder], folder / "report.html", workers=workers, require=require)
        say(f"report: {folder / 'report.html'}")
    except Exception as error:
        first = str(error).split("\n")[0]
        say(f"note: no report ({type(error).__name__}: {first}); try: python report.py {folder}")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, help="the page; report.html in the first run's folder if not given")
    parser.add_argument("--png", type=Path, metavar="DIR", help="write the plots as pictures too")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="executor processes")
    parser.add_argument("--require", choices=("kernel", "partial", "weak"), default="kernel",
                        help="the least sandbox to measure programs in")
    args = parser.parse_args(argv)
    out = args.out or args.runs[0] / "report.html"
    started = time.monotonic()
    try:
        write(list(dict.fromkeys(args.runs)), out, args.png, max(1, args.workers), args.require)
    except (ReportError, ExecutorError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"report.py: {error.strerror or error} ({error.filename or out})", file=sys.stderr)
        return 1
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
