"""
The arms of the experiments, where their runs lie, and the commands that such a run still needs.
"""
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import runfolder
from config import PRESETS, Config, UserError
from sandbox import host

HERE = Path(__file__).resolve().parent.parent
NANO = PRESETS["nano"]
SAMPLED, SAMPLED_START = 1, 2  # answers to each held-out task at T = 1, after and before training
PART = 10                # steps of a run whose proposals are counted together
PASS_TASKS, PASS_N = 210, 64   # tasks and answers for pass@k
LETTERS, LONGER_EACH = (4, 6, 8, 10, 12, 14, 16), 10  # lengths of strings, tasks of each statement and length

# Arms: flags of train.py beside the preset's. In the place of a word in capitals a file of tasks is made, by work.py.
SUPERVISED = ["supervise, see work.py"]
LEARNS = {
    "self-play": [],
    "solver only": ["--train_propose", "False"],       # proposals of the current policy, without their gradient
    "frozen proposer": ["--propose_from", "start"],
    "grammar": ["--propose_from", "GRAMMAR"],          # the warm start's own tasks, fresh ones, none dull
    "grammar, families alike": ["--propose_from", "EVEN"],  # a statement of every task is of one: an upper bound
    "random solver reward": ["--control", "random"],
    "more warm start": SUPERVISED,                     # on careful text alone
}
# Fresh solvers on as many tasks of four pools, made from self-play's and the frozen proposer's runs of the same seed.
# Without induction, whose tasks are on programs of all steps so far.
SWAP = {name: ["--types", "deduction", "abduction", "--propose_from", name.upper()]
        for name in ("early", "late", "frozen", "matched")}
# What might make the proposer matter more; "solver only" shows whether it does.
TRIALS = {
    "self-play": [],
    "solver only": LEARNS["solver only"],
    "mixed references": ["--references_from", "mixed"],
    "copies refused": ["--refuse_copies", "True"],  # of programs that the prompt showed
    "graded learnability": ["--learnability", "graded"],
    "lambda 1": ["--solve_weight", "0.125"],  # as the paper's: all probes of a proposal weigh as much as it does
    "lambda 8": ["--solve_weight", "1"],  # a proposal has eight probes: its row is a ninth of all
    "n = 4, B = 64": ["--n_probes", "4", "--batch_size", "64", "--solve_weight", "1"],  # as many probes
}
PAPER = ["--solve_tasks", "this", "--solve_weight", "1"]  # as many answers as proposals
LENGTH = {"self-play": [], "paper: fresh answers, six baselines": PAPER}
PASS_ARMS = ("solver only", *LENGTH)  # pass@k is taken of these, and of the model before training
ABLATIONS = {
    "self-play": [],
    "paper: fresh answers, six baselines": PAPER,
    "deduction only": ["--types", "deduction"],
    "no induction": ["--types", "deduction", "abduction"],
    "no references": ["--references", "0"],
    "solver only": LEARNS["solver only"],
    "paper, one baseline": [*PAPER, "--advantage", "reinforce++"],
    "probes, six baselines": ["--advantage", "trr++"],
    "extremes -0.5": ["--extreme_reward", "-0.5"],
    "n = 4": ["--n_probes", "4", "--solve_weight", "1"],
    "n = 16": ["--n_probes", "16", "--solve_weight", "0.25"],
    "n = 4, B = 64": TRIALS["n = 4, B = 64"],
    "paper, last step's tasks": ["--solve_tasks", "previous", "--solve_weight", "1"],
    "rank 1": ["--lora_rank", "1", "--lora_alpha", "2"],
    "rank 4": ["--lora_rank", "4", "--lora_alpha", "8"],
    "all weights": ["--lora_rank", "0", "--lr", "3e-4"],
    "lambda 1": TRIALS["lambda 1"],
    "lambda 8": TRIALS["lambda 8"],
}
EXPERIMENTS = {"learns": LEARNS, "swap": SWAP, "trials": TRIALS, "length": LENGTH, "ablations": ABLATIONS}
# Arms whose runs an arm is made from, by its flags' last word. `supervise` takes its number of tokens from self-play's.
RUNS = ("self-play", "frozen proposer")
NEEDS = {SUPERVISED[0]: RUNS[:1], "EARLY": RUNS, "LATE": RUNS, "FROZEN": RUNS, "MATCHED": RUNS}
POOLS = {"GRAMMAR", "EVEN", "EARLY", "LATE", "FROZEN", "MATCHED"}


@dataclass(frozen=True)
class Plan:
    """What the command was asked for."""
    name: str            # of the experiment
    seeds: int
    steps: int
    arms: tuple[str, ...]
    model: str           # folder with nano's weights and heldout.jsonl, by nano/make.py
    eval_every: int      # steps between points of the curves
    limit: int           # held-out tasks: the first of the file
    jobs: int            # arms that run at once
    publish: bool = False  # results go to results/


# ----------------------------------------------------------------------------------------------------------------
# Folders. Their names hold all that must be the same where runs are compared.

def heldout_file(model: str) -> Path:
    return Path(model, Path(NANO["heldout_tasks"]).name)


@lru_cache
def subject(model: str, flags: tuple[str, ...] = ()) -> str:
    """nano with a digest of the preset's options, the model's weights and held-out file, and of an arm's flags: with
    others, kept runs are of no use."""
    files = [*sorted(Path(model).glob("*.safetensors")), heldout_file(model)]
    options = {name: value for name, value in NANO.items() if name not in ("model", "heldout_tasks")}
    text = json.dumps([options, flags, *map(runfolder.sha256_of, files)], default=str)
    return f"nano.{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def run_folder(plan: Plan, arm: str, seed: int | str) -> Path:
    """Another number of steps is another run: the learning rate has another schedule. Experiments share their runs."""
    return Path("runs") / f"arm-{subject(plan.model, tuple(flags_of(arm)))}-{plan.steps}-{slug(arm)}-{seed}"


def slug(arm: str) -> str:
    return re.sub("[^a-z0-9.]+", "_", arm.lower())


def start_folder(plan: Plan) -> Path:
    """Where the scores of the model before training lie."""
    return Path("runs") / f"start-{subject(plan.model)}"


def pool_file(plan: Plan, pool: str, seed: int) -> Path:
    return Path("runs") / f"pool-{subject(plan.model)}-{plan.steps}-{pool.lower()}-{seed}.jsonl"


def flags_of(arm: str) -> list[str]:
    """Of every experiment's arms: a name means the same in all of them."""
    return next(arms[arm] for arms in EXPERIMENTS.values() if arm in arms)


def needs(arm: str) -> tuple[str, ...]:
    """Arms whose runs this one's are made from."""
    return NEEDS.get((flags_of(arm) or [""])[-1], ())


def scores_of(folder: Path, limit: int) -> dict | None:
    """What work.score_run wrote, if it did so on as many tasks."""
    try:
        scores = json.loads((folder / "scores.json").read_text())
    except OSError:
        return None
    return scores if scores["limit"] == limit else None


def scores_by_seed(plan: Plan, arm: str) -> dict[int, dict]:
    """Of the arm's runs that have scores, also beyond --seeds."""
    start = run_folder(plan, arm, "").name
    ends = [folder.name.removeprefix(start) for folder in Path("runs").glob(start + "*")]
    return {seed: scores for seed in sorted(int(end) for end in ends if end.isdigit())
            if (scores := scores_of(run_folder(plan, arm, seed), plan.limit))}


def last_step(folder: Path) -> int:
    checkpoint = runfolder.find_checkpoint(folder)
    return json.loads((checkpoint / "state.json").read_text())["step"] if checkpoint else -1


# ----------------------------------------------------------------------------------------------------------------
# Commands

def commands_left(plan: Plan, arm: str, seed: int) -> list[list[str]]:
    """What is left to do for the arm's run: train (or go on), then score."""
    folder, flags, left = run_folder(plan, arm, seed), flags_of(arm), []
    if flags == SUPERVISED:
        if not (folder / "checkpoint").exists():
            left.append(["-m", "experiments.work", "supervise", str(folder), "--like",
                         str(run_folder(plan, "self-play", seed)), "--seed", str(seed)])
    elif (step := last_step(folder)) < plan.steps:
        if step >= 0:
            left.append([str(HERE / "train.py"), "--resume", str(folder), "--steps", str(plan.steps)])
        else:
            shutil.rmtree(folder, ignore_errors=True)  # stopped before its first checkpoint
            if flags and (pool := flags[-1]) in POOLS:
                flags = [*flags[:-1], str(pool_file(plan, pool, seed))]
                if not pool_file(plan, pool, seed).exists():
                    left.append(pool_command(plan, pool, seed))
            kept = max(Config.buffer_size, (plan.steps + 4) * NANO["batch_size"])
            left.append([str(HERE / "train.py"), "--preset", "nano", "--model", plan.model, "--heldout_tasks",
                         str(heldout_file(plan.model)), "--name", folder.name, "--seed", str(seed), "--steps",
                         str(plan.steps), "--eval_every", str(plan.eval_every), "--eval_samples", "1", "--eval_limit",
                         str(min(NANO["curve_limit"], plan.limit)), "--zero_token", "False", "--workers", "1",
                         "--keep_samples", "2", "--buffer_size", str(kept), *flags])
    if left or not scores_of(folder, plan.limit):
        left.append(score_command(plan, folder))
    return left


def pool_command(plan: Plan, pool: str, seed: int) -> list[str]:
    """Fresh tasks for every step; of the pools that come from runs at most a third of that, and equally many."""
    count = NANO["batch_size"] * plan.steps
    count = max(1, count // 3) if NEEDS.get(pool) else count
    sources = [str(run_folder(plan, arm, seed)) for arm in NEEDS.get(pool, ())]
    return ["-m", "experiments.work", "pool", str(pool_file(plan, pool, seed)), "--kind", pool.lower(), "--count",
            str(count), "--seed", str(seed), *(["--run", *sources] if sources else [])]


def score_command(plan: Plan, folder: Path) -> list[str]:
    return ["-m", "experiments.work", "score", str(folder), "--model", plan.model, "--limit", str(plan.limit)]


def run_commands(plan: Plan, commands: list[list[str]], folder: Path, cwd: Path | None = None) -> None:
    """One after the other; UserError for the first that fails. Their output goes to a log beside the folder."""
    log = folder.with_name(folder.name + ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]  # for -m from whatever folder this is called in
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, host.cores() // plan.jobs)),
                                "PYTHONPATH": os.pathsep.join(paths)}
    for command in commands:
        with open(log, "a") as output:
            ended = subprocess.run([sys.executable, *command], stdout=output, stderr=output, env=environment, cwd=cwd)
        if ended.returncode:
            raise UserError(f"{' '.join(command)} failed; its output is in {log}")
