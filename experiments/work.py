"""
What arms need beside train.py, a process each: the supervised control, and the scores of a run.

    python -m experiments.work supervise runs/NAME --like runs/OTHER --seed 0
    python -m experiments.work score runs/NAME --preset nano --limit 2400
    python -m experiments.work cruxeval OUT/runs/NAME      # of takeoff.py
"""
import command
command.starting(__name__)
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import torch

import runfolder
import tasks
import train
from benchmarks import selfplay
from command import Parser, whole
from config import PRESETS, Config, read_config
from executor import Executor
from experiments.arms import PASS_N, PASS_TASKS, SAMPLED, SAMPLED_START
from model import encode, load_policy, logprobs, save_policy
from nano import make
from tools.export import load_run


def write_task_file(path: Path, count: int, seed: int) -> None:
    """`count` tasks of each type from the warm start's own grammar, none held out: as in its second stage, but for the
    dull ones."""
    rng, lines = random.Random(f"grammar tasks {seed}"), []
    for name in make.TYPES:
        for _ in range(count):
            task = make.draw_example("solve", name, make.pick(make.LATE_DEPTHS, rng), rng)[0]
            lines.append(json.dumps(tasks.task_to_json(task)))
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def supervise(folder: Path, like: Path, seed: int) -> None:
    """More warm start: the adapter trained with the warm start's loss on fresh examples of its grammar, as many steps
    and response tokens a step as the run `like` was given, with its optimizer and learning rate. A favour: every token
    here has a gradient, while in RL a task that all probes solve has none."""
    config, lines = read_config(like), runfolder.read_lines(like / "metrics.jsonl")
    budgets = [line["tokens_trained"] for line in lines if "tokens_trained" in line]
    policy = load_policy(config.model, config.device, config.lora_rank, config.lora_alpha, seed=seed,
                         norms=config.norm_lr > 0)
    optimizer, rng = train.make_optimizer(config, policy), random.Random(f"more warm start {seed}")
    metrics = []
    for step, budget in enumerate(budgets, 1):
        rows, drawn = [], 0
        while drawn < budget:
            prompt, response = make.draw_text(rng)
            rows.append((encode(policy, prompt), encode(policy, response) + [policy.tokenizer.eos_token_id]))
            drawn += len(rows[-1][1])
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        loss = 0.0
        for batch in tasks.chunks(rows, 32):
            batch_loss = -logprobs(policy, batch)[0].sum() / drawn
            batch_loss.backward()
            loss += batch_loss.item()
        torch.nn.utils.clip_grad_norm_(policy.trained(), config.grad_clip)
        train.set_rate(optimizer, config, step)
        optimizer.step()
        optimizer.zero_grad()
        metrics.append({"step": step, "loss": loss, "tokens_trained": drawn, "tokens_generated": 0})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (folder / "config.json").write_text(json.dumps(vars(config) | {"name": folder.name, "seed": seed}))
    unfinished = folder / "checkpoint.part"
    save_policy(policy, unfinished / "policy")
    (unfinished / "checksums.json").write_text(json.dumps(runfolder.checksums(unfinished)))
    unfinished.rename(folder / "checkpoint")


def score_run(folder: Path, preset: str, limit: int) -> None:
    """scores.json of a run, or of the preset's model as it starts if the folder holds no run: solved tasks, one number
    a held-out task, greedily and of SAMPLED answers at T = 1, and solved of PASS_N answers to the first PASS_TASKS."""
    config, trained = Config(**PRESETS[preset]), (folder / "checkpoint").exists()
    with Executor(1) as executor:
        policy = load_run(folder)[0] if trained else load_policy(config.model)
        heldout = tasks.load_tasks(config.heldout_tasks, executor)[:limit]
        style = tasks.Style(config.prompt, config.n_inputs)

        def solved(some: list, **how) -> list[int]:
            return selfplay.examine(policy, executor, style, some, config.max_new_tokens, slots=config.slots,
                                    **how).correct
        n = SAMPLED if trained else SAMPLED_START
        scores = {"limit": limit, "commit": runfolder.commit(), "greedy": solved(heldout),
                  "sampled": solved(heldout, n=n, temperature=1.0, seed=1)}
        if folder.name.startswith("start-") or "-azr-" in folder.name:
            scores["pass"] = solved(heldout[:PASS_TASKS], n=PASS_N, temperature=1.0, seed=2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(scores))


def score_cruxeval(folder: Path) -> None:
    """cruxeval.json of a run of takeoff.py: greedy answers to its cruxeval.jsonl; cruxeval-before.json of the model
    before training, which its arms share."""
    out = folder.parent.parent
    config = read_config(folder)
    with Executor(config.workers, require=config.require) as executor:
        policy, _ = load_run(folder, config.device, train.DTYPES[config.dtype])
        run = train.Training(config, folder, policy, None, executor, train.make_style(config, policy), tasks.Buffers(1))
        asked = tasks.load_tasks(str(out / "cruxeval.jsonl"), executor)

        def write(run, path: Path) -> None:
            scores = selfplay.examine_in(run, asked, leniently=True)
            runfolder.write_file(path, json.dumps({"strict": scores.correct, "lenient": scores.lenient}) + "\n")
        write(run, folder / "cruxeval.json")
        if not (before := out / "cruxeval-before.json").exists():
            with train.starting_policy(run) as start:
                write(replace(run, policy=start), before)


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m experiments.work", description=__doc__.strip().split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    supervising = commands.add_parser("supervise")
    supervising.add_argument("folder", type=Path)
    supervising.add_argument("--like", type=Path, required=True)
    supervising.add_argument("--seed", type=whole(-2**62, 2**62), required=True)
    scoring = commands.add_parser("score")
    scoring.add_argument("folder", type=Path)
    scoring.add_argument("--preset", choices=PRESETS, required=True)
    scoring.add_argument("--limit", type=whole(1), required=True)
    cruxeval = commands.add_parser("cruxeval")
    cruxeval.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    if args.command == "supervise":
        supervise(args.folder, args.like, args.seed)
    elif args.command == "cruxeval":
        score_cruxeval(args.folder)
    else:
        score_run(args.folder, args.preset, args.limit)


if __name__ == "__main__":
    sys.exit(command.run("experiments.work", main, sys.argv[1:]))
