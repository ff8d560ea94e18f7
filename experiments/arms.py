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
from config import PRESETS, UserError
from sandbox import host

HERE = Path(__file__).resolve().parent.parent
CURVE_TASKS = 300        # held-out tasks of a learning curve's points, which an arm pays for while it trains
SAMPLED, SAMPLED_START = 2, 4  # answers to each held-out task at T = 1, after and before training
PASS_TASKS, PASS_N = 180, 64   # tasks and answers for pass@k

# Arms: flags of train.py beside the preset's. GRAMMAR becomes a file of tasks, drawn for each seed.
SUPERVISED = ["supervise, see work.py"]
LEARNS = {
    "azr": [],
    "grammar tasks": ["--propose_from", "GRAMMAR"],     # plain RL on tasks of the warm start's grammar, no dull ones
    "frozen proposer": ["--propose_from", "start"],
    "shuffled proposer reward": ["--control", "shuffled"],
    "random solver reward": ["--control", "random"],
    "more warm start": SUPERVISED,
}
PAPER = ["--solve_tasks", "this"]
ABLATIONS = {
    "azr": [],
    "paper: fresh answers, six baselines": PAPER,
    "deduction only": ["--types", "deduction"],
    "no induction": ["--types", "deduction", "abduction"],
    "no references": ["--references", "0"],
    "solver only": ["--train_propose", "False"],
    "paper, one baseline": [*PAPER, "--advantage", "reinforce++"],
    "probes, six baselines": ["--advantage", "trr++"],
    "extremes -0.5": ["--extreme_reward", "-0.5"],
    "n = 4": ["--n_probes", "4"],
    "n = 16": ["--n_probes", "16"],
    "n = 4, B = 64": ["--n_probes", "4", "--batch_size", "64"],  # as many probes, of twice the proposals
    "paper, last step's tasks": ["--solve_tasks", "previous"],
    "rank 1": ["--lora_rank", "1", "--lora_alpha", "2"],
    "rank 4": ["--lora_rank", "4", "--lora_alpha", "8"],
    "all weights": ["--lora_rank", "0", "--lr", "3e-4"],
    "lambda 0.3": ["--solve_weight", "0.3"],
    "lambda 3": ["--solve_weight", "3"],
}
EXPERIMENTS = {"learns": LEARNS, "ablations": ABLATIONS}


@dataclass(frozen=True)
class Plan:
    """What the command was asked for."""
    name: str            # of the experiment
    seeds: int
    steps: int
    arms: tuple[str, ...]
    preset: str
    eval_every: int      # steps between points of the curves
    limit: int           # held-out tasks: the first of the file
    jobs: int            # arms that run at once
    publish: bool = False  # results go to results/


# ----------------------------------------------------------------------------------------------------------------
# Folders. Their names hold all that must be the same where runs are compared.

@lru_cache
def subject(preset: str) -> str:
    """The preset with a digest of its weights and its held-out file: with others, kept runs are of no use."""
    chosen = PRESETS[preset]
    files = [*sorted(Path(chosen["model"]).glob("*.safetensors")), Path(chosen["heldout_tasks"])]
    return f"{preset}.{hashlib.sha256(''.join(map(runfolder.sha256_of, files)).encode()).hexdigest()[:6]}"


def run_folder(plan: Plan, arm: str, seed: int | str) -> Path:
    """Another number of steps is another run: the learning rate has another schedule."""
    slug = re.sub("[^a-z0-9.]+", "_", arm.lower())
    return Path("runs") / f"{plan.name}-{subject(plan.preset)}-{plan.steps}-{slug}-{seed}"


def start_folder(plan: Plan) -> Path:
    """Where the scores of the model before training lie."""
    return Path("runs") / f"start-{subject(plan.preset)}"


def grammar_file(plan: Plan, seed: int) -> Path:
    return Path("runs") / f"grammar-{subject(plan.preset)}-{plan.steps}-{seed}.jsonl"


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
    folder, flags, left = run_folder(plan, arm, seed), EXPERIMENTS[plan.name][arm], []
    if flags == SUPERVISED:
        if not (folder / "checkpoint").exists():
            left.append(["-m", "experiments.work", "supervise", str(folder), "--like",
                         str(run_folder(plan, "azr", seed)), "--seed", str(seed)])
    elif (step := last_step(folder)) < plan.steps:
        if step >= 0:
            left.append([str(HERE / "train.py"), "--resume", str(folder), "--steps", str(plan.steps)])
        else:
            shutil.rmtree(folder, ignore_errors=True)  # stopped before its first checkpoint
            flags = [str(grammar_file(plan, seed)) if flag == "GRAMMAR" else flag for flag in flags]
            left.append([str(HERE / "train.py"), "--preset", plan.preset, "--name", folder.name, "--seed", str(seed),
                         "--steps", str(plan.steps), "--eval_every", str(plan.eval_every), "--eval_samples", "1",
                         "--eval_limit", str(min(CURVE_TASKS, plan.limit)), "--workers", "1", "--keep_samples", "2",
                         *flags])
    if left or not scores_of(folder, plan.limit):
        left.append(score_command(plan, folder))
    return left


def score_command(plan: Plan, folder: Path) -> list[str]:
    return ["-m", "experiments.work", "score", str(folder), "--preset", plan.preset, "--limit", str(plan.limit)]


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
