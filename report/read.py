"""
Reading runs: `read_history` makes a History of a run folder, `group` puts those together that differ only in their
seed. No model text is parsed here.
"""
import json
import re
from collections import defaultdict
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

import runfolder
import tasks
from config import Config, UserError, read_config

MOST_BYTES = 300 * 2**20   # of a samples.jsonl that is read whole; of larger ones every k-th step
ROLES = ("propose", "solve")


@dataclass
class History:
    """What a run folder holds. series and lists: {key: (steps, values)} of numbers, and of lists of numbers; the keys
    are those of metrics.jsonl, and findings.py adds its own."""
    folder: Path
    config: Config
    preset: Config | None            # the options as the preset has them; None if the run did not note them
    machine: dict
    metrics: list[dict]
    samples: list[dict]              # the lines of samples.jsonl, each with its number as "line"
    every: int = 1                   # only samples of steps that are multiples of it were read, see MOST_BYTES
    series: dict = field(default_factory=dict)
    lists: dict = field(default_factory=dict)
    programs: int = 0                # distinct programs that valid proposals brought with them
    measured: int = 0                # how many of them findings.py could measure

    @property
    def name(self) -> str:
        return str(self.config.name or self.folder.name)

    @property
    def last_step(self) -> int:
        return self.metrics[-1]["step"]


def add_point(history: History, key: str, step: int, value: float) -> None:
    steps, values = history.series.setdefault(key, ([], []))
    steps.append(step)
    values.append(value)


def types_of(histories: list[History]) -> list[str]:
    """The task types that there are samples of, in the order of tasks.TYPES."""
    met = {sample["type"] for history in histories for sample in history.samples}
    return [name for name in tasks.TYPES if name in met]


def read_history(folder: Path) -> History:
    """UserError where there is no run, or nothing in it yet."""
    config = read_config(folder)
    preset = read_config(folder, "preset.json") if (folder / "preset.json").exists() else None
    metrics, samples_file = runfolder.read_metrics(folder), folder / "samples.jsonl"
    if not metrics:
        raise UserError(f"{folder}: no step in its metrics.jsonl yet; train some steps first")
    every = 1 + samples_file.stat().st_size // MOST_BYTES if samples_file.exists() else 1
    samples = read_samples(samples_file, every) if samples_file.exists() else []
    history = History(folder, config, preset, read_machine(folder / "machine.json"), metrics, samples, every)
    note_metrics(history)
    note_gate_shares(history)
    return history


def read_machine(path: Path) -> dict:
    try:
        machine = json.loads(path.read_bytes()) if path.exists() else {}
    except (ValueError, RecursionError):
        machine = None
    if not isinstance(machine, dict):
        raise UserError(f"{path}: not what train.py wrote")
    return machine


def read_samples(path: Path, every: int) -> list[dict]:
    samples = []
    for number, sample in enumerate(runfolder.read_lines(path, every), 1):
        if sample is not None:
            try:
                right = type(sample["step"]) is int and is_sample(sample)
            except (KeyError, TypeError):
                right = False
            if not right:
                raise UserError(f"{path}, line {number}: not a line that train.py wrote")
            samples.append(sample | {"line": number})
    return samples


def is_sample(line: dict) -> bool:
    """Whether the page can show it: what it reads is there (else KeyError or TypeError), and of the right type."""
    texts = [*(line[key] for key in ("kind", "text", "prompt", "verdict")), *line.get("references", [])]
    numbers = [line.get(key) for key in ("reward", "solve_rate", "tokens")]
    if "task" in line:
        task = line["task"]
        texts += [task["type"], task["program"], task["message"], *task["inputs"], *task["outputs"]]
        if not 0 < len(task["inputs"]) == len(task["outputs"]):
            return False
    return (all(isinstance(text, str) for text in texts) and line["role"] in ROLES and line["type"] in tasks.TYPES
            and all(isinstance(number, (int, float, type(None))) for number in numbers))


def note_metrics(history: History) -> None:
    """Series of all that a step's line has, but for its counts of gate reasons."""
    for line in history.metrics:
        for key, value in line.items():
            if key == "heldout" and isinstance(value, dict):
                note_heldout(history, line)
            elif isinstance(value, list):
                steps, values = history.lists.setdefault(key, ([], []))
                steps.append(line["step"])
                values.append(value)
            elif isinstance(value, (int, float)) and not key.startswith("gate/"):
                add_point(history, key, line["step"], value)


def note_heldout(history: History, line: dict) -> None:
    """Accuracy by type with its interval, or as the mean over depths where an earlier version noted no more."""
    for name in tasks.TYPES:
        rates = [rate for cell, rate in line["heldout"].items() if cell.startswith(f"{name}/")]
        told = (line.get("heldout_by_type") or {}).get(name) or ([float(np.mean(rates))] if rates else [])
        for key, value in zip(("accuracy", "low/accuracy", "high/accuracy"), told):
            add_point(history, f"{key}/{name}", line["step"], value)
    for name, told in (line.get("heldout_by_group") or {}).items():
        add_point(history, f"of_group/{name}", line["step"], told[0])


def note_gate_shares(history: History) -> None:
    """Of a step's proposals of a type, the share that met each reason. A line only has the reasons that were met."""
    reasons: dict[str, dict] = defaultdict(dict)  # type: its keys gate/TYPE/REASON, in order
    for line in history.metrics:
        for key in line:
            if key.startswith("gate/"):
                reasons[key.split("/")[1]][key] = None
    for line in history.metrics:
        for keys in reasons.values():
            counts = [line.get(key) or 0 for key in keys]
            for key, count in zip(keys, counts):
                if sum(counts):
                    add_point(history, key, line["step"], count / sum(counts))


def group(histories: list[History]) -> dict[str, list[History]]:
    """{label: runs of one experiment}: they differ only in options that are a run's own, such as name and seed. Of
    files the names count, not the folders."""
    alike: dict[str, list[History]] = defaultdict(list)
    for history in histories:
        options = {f.name: getattr(history.config, f.name) for f in fields(Config) if not f.metadata["per_run"]}
        alike[json.dumps({name: Path(value).name if isinstance(value, str) else value
                          for name, value in options.items()})].append(history)
    labels: dict[str, list[History]] = {}
    for members in alike.values():
        label = members[0].name
        if len(members) > 1:
            of = "seeds" if len({member.config.seed for member in members}) == len(members) else "runs"
            label = f"{re.sub(r'[-_ ]?(seed)?[-_ ]?[0-9]+$', '', label) or label} ({len(members)} {of})"
        while label in labels:
            label += "'"
        labels[label] = members
    return labels
