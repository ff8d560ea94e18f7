"""
Why the reward does not rise: what a model makes of both roles and all types before any training, and what to try.

For prompts as they are and with a worked example, at T = 1 and 0.7: how many responses have the form, how many
proposals pass the gate and why others do not, how many answers are right (strict: with the form; lenient: the value
alone), and the share of tasks that are solved sometimes but not always, from which alone there is something to learn.
Then how fast it is, and the flags that it would train with. The last line is all of it as one JSON object.
"""
import argparse
import json
import resource
import shlex
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import tasks
import train
from benchmarks import lenient
from benchmarks.stats import pass_at_k
from command import Parser, UserError, whole
from config import Config, parse, proposer_learns
from executor import Executor
from model import ModelError
from runfolder import WaitLine, say
from tasks import TYPES, Task
from train import Row, Training

MOST_SHOWN = 800  # characters of a response that failed
EASY = 0.8  # the share of right answers from which on more of them find nothing to learn from

WORDS = {  # reasons of tasks.py, where they do not speak for themselves
    "wrong": "the value is not the right one", "no answer": "the answer holds no block of the kind that is asked for",
    "answer not a literal": "what stands in the answer is no Python literal",
    "copy": "the program is one of those shown in the prompt", "error": "the program raises an exception",
    "timeout": "the program takes too long", "no arguments": "the input block is empty",
    "inputs repeat": "the hidden inputs are the shown ones again"}


def form_fault(row: Row) -> str:
    """Where the form think, answer was left."""
    steps = (("</think>", "the thinking never ends"), ("<answer>", "no answer part follows the thinking"),
             ("</answer>", "the answer part never ends"))
    fault = next((told for tag, told in steps if tag not in row.text), "text stands between thinking and answer")
    return fault + (", up to --max_new_tokens" if row.sample.finish == "length" else "")


def reason_of(row: Row) -> str:
    reason = WORDS.get(row.verdict, row.verdict)
    return reason if row.well_formed else form_fault(row)


# ----------------------------------------------------------------------------------------------------------------
# Measuring a setting, through the same functions as a step of training

def setting(run: Training, example: bool, temperature: float) -> Training:
    return replace(run, cfg=replace(run.cfg, example=example, temperature=temperature),
                   style=replace(run.style, example=example))


def timed(run: Training, rows_of) -> tuple[list[Row], float]:
    """(the rows that `rows_of` asks for in a rollout, sampled and judged; seconds)"""
    begun, rollout = time.perf_counter(), train.open_rollout(run)
    rows = rows_of(rollout)
    for _ in train.judged(run, rollout, rows):
        pass
    return rows, time.perf_counter() - begun


def proposals(run: Training, rollout) -> list[Row]:
    rows = [row for name in run.cfg.types for row in train.propose(run, TYPES[name])]
    train.sample_proposals(run, rollout, rows)
    return rows


def answers(run: Training, rollout, chosen: list[Task]) -> list[Row]:
    return [row for number, task in enumerate(chosen)
            for row in train.ask(run, rollout, task, "probe", f"task {number}", run.cfg.n_probes)]


def cell(run: Training, role: str, type: str, rows: list[Row], good: list[bool]) -> dict:
    """What both roles have, of rows that are good (valid, right) or failed; shares in [0, 1]."""
    bad = [row for row, passed in zip(rows, good) if not passed]
    failed = {reason_of(row): row.text for row in bad}
    return {"example": run.cfg.example, "temperature": run.cfg.temperature, "role": role, "type": type, "n": len(rows),
            "formed": share(row.well_formed for row in rows), "tokens": share(len(row.sample.ids) for row in rows),
            "truncated": share(row.sample.finish == "length" for row in rows),
            "reasons": dict(Counter(map(reason_of, bad)).most_common()),
            "failed": [{"reason": reason, "text": text[:MOST_SHOWN]} for reason, text in list(failed.items())[:2]]}


def share(values) -> float:
    values = list(values)
    return round(sum(values) / len(values), 4) if values else 0.0


def proposal_cells(run: Training, rows: list[Row]) -> list[dict]:
    cells = []
    for name in run.cfg.types:
        mine = [row for row in rows if row.type == name]
        valid = [row.task is not None for row in mine]
        cells.append(cell(run, "propose", name, mine, valid) | {"valid": share(valid)})
    return cells


def answer_cells(run: Training, rows: list[Row]) -> list[dict]:
    n, cells = run.cfg.n_probes, []
    meant = lenient.verify([(row.task, row.text) for row in rows], run.executor)
    for name in run.cfg.types:
        mine = [row for row in rows if row.type == name]
        right = [row.well_formed and row.verdict == "correct" for row in mine]
        anyhow = [leniently for row, leniently in zip(rows, meant) if row.type == name]
        solved = [sum(right[i:i + n]) for i in range(0, len(right), n)]
        cells.append(cell(run, "solve", name, mine, right) | {
            "pass1": share(right), f"pass{n}": share(pass_at_k(n, c, n) for c in solved),
            "lenient": share(map(max, right, anyhow)),
            "tasks": len(solved), "mixed": share(0 < c < n for c in solved), "never": share(c == 0 for c in solved)})
    return cells


def choose_tasks(run: Training, count: int, rows: list[Row]) -> list[Task]:
    """`count` of each type: the seed tasks, or else the identity's and what the proposals have, whatever their form."""
    if not run.cfg.seed_tasks:
        drafts = [(TYPES[row.type], row.text, next(iter(row.references), None)) for row in rows]
        gated = tasks.gate(drafts, run.executor, 0, run.cfg.n_inputs, strict_format=False)
        valid = [(row, result.task) for row, result in zip(rows, gated) if result.task and train.fits(run, result.task)]
        for row, task in valid:
            refused = run.cfg.refuse_copies and train.is_copy(row, task)
            if not refused and task.id not in {other.id for other in run.buffers.train[task.type]}:
                run.buffers.add(task)
    pools = [run.buffers.train[name] for name in run.cfg.types]
    return [task for pool in pools for task in run.rng("doctor").sample(pool, min(count, len(pool)))]


def update_seconds(run: Training, rows: list[Row]) -> float:
    """Of one row of training on the first of these; the first update on CUDA compiles and is not counted."""
    rows = rows[:64 if run.policy.device.type == "cuda" else 8]
    for number, row in enumerate(rows):
        row.advantage = (-1.0) ** number
    for _ in range(2 if run.policy.device.type == "cuda" else 1):
        begun = time.perf_counter()
        train.update(run, rows)
        if run.policy.device.type == "cuda":
            torch.cuda.synchronize()
    return (time.perf_counter() - begun) / len(rows)


# ----------------------------------------------------------------------------------------------------------------
# The advice

def summary(cells: list[dict], n: int) -> dict:
    """Means over types of what a setting's cells show."""
    of = {role: [cell for cell in cells if cell["role"] == role] for role in ("propose", "solve")}
    told = {f"formed_{role}": share(cell["formed"] for cell in of[role]) for role in of}
    told |= {"formed": share(told.values()), "valid": share(cell["valid"] for cell in of["propose"])}
    keys = ("pass1", "lenient", f"pass{n}", "mixed", "never")
    told |= {key: share(cell[key] for cell in of["solve"]) for key in keys}
    return told | {"truncated": share(cell["truncated"] for cell in cells)}


def advice(cfg: Config, setting: dict, shown: dict, copies: bool) -> list[tuple[list[str], str]]:
    """(flags, why) of what should differ from the run that was asked for; no flags where none helps."""
    rules = [
        (setting["example"] and not cfg.example, ["--example"], "a worked example shows the form"),
        (cfg.example and not setting["example"], ["--no_example"], "the worked example shows nothing new"),
        (setting["temperature"] != cfg.temperature, ["--temperature", str(setting["temperature"])],
         "it keeps the form better, and still differs from answer to answer"),
        (copies and not cfg.refuse_copies, ["--refuse_copies"], "proposals copy what they are shown"),
        (shown["truncated"] > 0.2, ["--max_new_tokens", str(2 * cfg.max_new_tokens)], "many responses are cut off"),
        (shown["valid"] < 0.5 and cfg.invalid_reward == -1, ["--invalid_reward", "-0.5"],
         "few proposals are valid: the form alone must be worth something"),
        (shown["valid"] < 0.5 and cfg.solve_tasks != "probes", ["--solve_tasks", "probes"],
         "the solver learns from earlier tasks while proposals fail"),
        (shown["never"] > 0.5 and cfg.learnability == "paper",
         ["--learnability", "graded", "--references_from", "mixed"],
         "most tasks are never solved: easier ones must be worth more"),
        (shown["mixed"] < 0.2 and shown["pass1"] < EASY and cfg.n_probes < 16, ["--n_probes", str(2 * cfg.n_probes)],
         "few tasks are solved sometimes: more answers find more of them"),
        (shown["mixed"] < 0.2 and shown["pass1"] >= EASY, [], "the tasks are too easy for it")]
    return [(flags, why) for holds, flags, why in rules if holds]


def table(cells: list[dict], n: int) -> str:
    def percent(cell: dict, key: str) -> str:
        return f"{100 * cell[key]:.0f}" if key in cell else "-"
    keys = ("formed", "valid", "pass1", "lenient", f"pass{n}", "mixed", "truncated")
    head = ["prompt", "T", "role", "type", "n", *keys, "tokens", "what fails, most often"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for cell in cells:
        reasons = "; ".join(f"{count} {reason}" for reason, count in list(cell["reasons"].items())[:3])
        words = ["example" if cell["example"] else "as is", cell["temperature"], cell["role"], cell["type"], cell["n"],
                 *(percent(cell, key) for key in keys), round(cell["tokens"]), reasons]
        lines.append(f"| {' | '.join(map(str, words))} |")
    return "\n".join(lines)


def speed_of(run: Training, cfg: Config, rows: list[Row], propose_s: float, right: list[Row], solve_s: float) -> dict:
    """Of a step as `cfg` has it, from the seconds that these responses took."""
    proposing = cfg.batch_size * len(cfg.types)
    solving = proposing * (cfg.n_probes + (cfg.solve_tasks != "probes"))
    trained = (proposing if proposer_learns(cfg) else 0,
               solving if cfg.solve_tasks == "probes" else proposing)  # other probes only measure
    update_s = [update_seconds(run, some) for some in (rows, right)]
    memory = torch.cuda.max_memory_allocated() / 2**30 if run.policy.device.type == "cuda" else \
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"tokens_per_second": round(sum(len(row.sample.ids) for row in rows + right) / (propose_s + solve_s), 1),
            "memory_gb": round(memory, 2), "responses": proposing + solving,
            "step_seconds": round(proposing * propose_s / len(rows) + solving * solve_s / len(right)
                                  + sum(count * seconds for count, seconds in zip(trained, update_s)), 1)}


# ----------------------------------------------------------------------------------------------------------------
# The command

def without(given: list[str], flags: list[str]) -> list[str]:
    """The options given, but for those that `flags` has, with their values."""
    kept, dropped = [], False
    for word in given:
        if word.startswith("--"):
            dropped = any(word.split("=")[0].replace("-", "_") == flag.replace("-", "_") for flag in flags)
        kept += [] if dropped else [word]
    return kept


def doctor(cfg: Config, sizes: argparse.Namespace, given: list[str], executor: Executor, folder: Path) -> None:
    measured = replace(cfg, batch_size=sizes.proposals, n_probes=sizes.answers, refuse_copies=True, eval_every=0,
                       heldout_fraction=0.0, propose_from="policy", heldout_tasks=None, resume=None)
    run, _ = train.start(measured, folder, executor)
    for task in train.fitting_tasks(run, cfg.seed_tasks) if cfg.seed_tasks else ():
        run.buffers.add(task)
    for type in TYPES.values():
        if not run.buffers.train[type.name]:
            run.buffers.add(tasks.identity_task(type, cfg.n_inputs))
    runs = [setting(run, example, temperature) for example in (False, True)[:1 if cfg.prompt == "compact" else 2]
            for temperature in (1.0, 0.7)]
    asked, solved = [], []
    for one in runs:
        asked.append(timed(one, lambda rollout: proposals(one, rollout)))
        say(f"proposals: {len(asked)} of {len(runs)} settings, {asked[-1][1]:.0f} s")
    chosen = choose_tasks(run, sizes.tasks, [row for rows, _ in asked for row in rows])
    for one in runs:
        solved.append(timed(one, lambda rollout: answers(one, rollout, chosen)))
        say(f"answers: {len(solved)} of {len(runs)} settings, {solved[-1][1]:.0f} s")
    cells = [proposal_cells(one, rows) + answer_cells(one, right)
             for one, (rows, _), (right, _) in zip(runs, asked, solved)]
    shown = [summary(some, sizes.answers) for some in cells]
    # Without form, validity and differing answers nothing teaches; of settings alike the first, the paper's, is kept.
    best = max(range(len(runs)), key=lambda i: round(sum(shown[i][key] for key in ("formed", "valid", "mixed")), 1))
    everything = [cell for some in cells for cell in some]
    say(f"\n{table(everything, sizes.answers)}\n")
    for one in cells[best]:
        for failed in one["failed"]:
            say(f"--- {one['role']} {one['type']}: {failed['reason']}\n{failed['text']}\n")
    speed = speed_of(runs[best], cfg, *asked[best], *solved[best])
    say(f"{speed['tokens_per_second']:,.0f} tokens/s, {speed['memory_gb']:.1f} GB at most, about"
        f" {speed['step_seconds']:.0f} s for a step of {speed['responses']} responses")
    told = advice(cfg, cells[best][0], shown[best], any(row.verdict == "copy" for row in asked[best][0]))
    for flags, why in told:
        say(f"{' '.join(flags)}: {why}" if flags else why)
    flags = [flag for flags, _ in told for flag in flags]
    command = shlex.join(["python", "train.py", *without(given, flags), *flags])
    say(f"\n{command}\n")
    settings = [{"example": one.cfg.example, "temperature": one.cfg.temperature} | means
                for one, means in zip(runs, shown)]
    say(json.dumps({"model": cfg.model, "best": settings[best] | {"flags": flags, "command": command}, "speed": speed,
                    "settings": settings, "cells": everything}))


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools doctor", description=__doc__.strip(),
                    epilog="All other options are those of train.py: --model, --seed_tasks ...")
    parser.add_argument("--tasks", type=whole(1, 2**16), default=8, help="tasks of each type to solve, in each setting")
    parser.add_argument("--answers", type=whole(1, 2**12), default=8, help="answers to each of them")
    parser.add_argument("--proposals", type=whole(1, 2**16), default=32, help="proposals of each type, in each setting")
    sizes, given = parser.parse_known_args(argv)
    cfg, first_line = parse(given)
    if cfg.resume:
        raise UserError("the doctor looks at a model before training: give --model instead of --resume")
    say(first_line)
    with (Executor(cfg.workers, cfg.cpu_seconds, cfg.memory_mb, cfg.require, seed=cfg.seed) as executor,
          TemporaryDirectory() as folder):
        executor.tell = WaitLine()
        try:
            doctor(cfg, sizes, given, executor, Path(folder))
        except ModelError as error:
            raise UserError(str(error)) from error
