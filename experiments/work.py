"""
What arms need beside train.py, a process each: the supervised control, pools of tasks, and the scores of a run.

    python -m experiments.work supervise runs/NAME --like runs/OTHER --seed 0
    python -m experiments.work pool FILE --kind late --count 320 --seed 0 --run runs/OTHER
    python -m experiments.work score runs/NAME --preset nano --limit 4200
    python -m experiments.work cruxeval OUT/runs/NAME      # of takeoff.py
"""
import command
command.starting(__name__)
import json
import random
import sys
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

import runfolder
import tasks
import train
from benchmarks import selfplay
from command import Parser, whole
from config import PRESETS, Config, UserError, read_config
from executor import Executor
from experiments.arms import PASS_ARMS, PASS_N, PASS_TASKS, POOLS, SAMPLED, SAMPLED_START, slug
from model import encode, load_policy, logprobs, save_policy
from nano import make
from tools.export import load_run


def grammar_tasks(type: str, wishes: list[list[str | None]], rng: random.Random) -> list[tasks.Task]:
    """A fresh task of nano's grammar, not a held-out one, for each list of families of its statements."""
    return [make.draw_example("solve", type, some, rng, heldout_behaviours())[0] for some in wishes]


def even_wishes(rng: random.Random) -> list[str | None]:
    """One statement is of a family, all families alike, also that which no proposal of the warm start has."""
    wishes = [None] * make.pick(make.DEPTHS, rng)
    wishes[rng.randrange(len(wishes))] = rng.choice(list(make.FAMILIES))
    return wishes


def wishes_like(task: tasks.Task, rng: random.Random) -> list[str | None]:
    """Of as many statements as the task's program has, with the same families."""
    depth = min(max(task.depth, 1), 4)
    families = sorted(make.families_in(task.program))[:depth]
    return rng.sample([*families, *[None] * (depth - len(families))], depth)


@lru_cache
def heldout_behaviours() -> frozenset:
    return frozenset(make.behaviours(runfolder.read_lines(Path(PRESETS["nano"]["heldout_tasks"]))))


def proposed(folder: Path, type: str, first: float, last: float) -> list[tasks.Task]:
    """What a run proposed and trained on in this part of its steps, from `first` to `last` of 1; every task once."""
    state = json.loads((runfolder.find_checkpoint(folder) / "state.json").read_text())
    found = {task.id: task for task in tasks.Buffers.from_json(state["buffers"]).train[type]
             if first * state["step"] < task.step <= last * state["step"]}
    return list(found.values())


def write_pool(path: Path, kind: str, count: int, seed: int, runs: list[Path]) -> None:
    """`count` tasks of each type for --propose_from; UserError where a run has fewer."""
    rng, lines = random.Random(f"pool {kind} {seed}"), []
    for name in make.TYPES:
        match kind:
            case "grammar":
                chosen = grammar_tasks(name, [make.draw_wishes(make.pick(make.DEPTHS, rng), rng, "propose")
                                             for _ in range(count)], rng)
            case "even":
                chosen = grammar_tasks(name, [even_wishes(rng) for _ in range(count)], rng)
            case "matched":  # to what self-play proposes late: its depths and families, and nothing else of it
                late = proposed(runs[0], name, 2 / 3, 1)
                chosen = grammar_tasks(name, [wishes_like(rng.choice(late), rng) for _ in range(count)], rng)
            case _:
                found = proposed(runs[0], name, *{"early": (0, 1 / 3), "late": (2 / 3, 1), "frozen": (0, 1)}[kind])
                if len(found) < count:
                    raise UserError(f"{runs[0]} has {len(found)} {name} tasks for the pool {kind}, and {count} are"
                                    " needed: more --steps")
                chosen = rng.sample(found, count)
        lines += [json.dumps(tasks.task_to_json(task)) for task in chosen]
    path.parent.mkdir(exist_ok=True)
    runfolder.write_file(path, "\n".join(lines) + "\n")


def supervise(folder: Path, like: Path, seed: int) -> None:
    """More warm start: the adapter trained with the warm start's loss on fresh careful examples of its grammar, whose
    form is right and whose programs do something, as many steps
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
            prompt, response = make.draw_text(rng, heldout_behaviours(), careful=True)
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
    a held-out task, greedily and of SAMPLED answers at T = 1, and solved of PASS_N answers to the first PASS_TASKS. Of
    the start also `free`: what it solves without training, as `selfplay.zero_token` says; of a run what it proposed."""
    config, trained = Config(**PRESETS[preset]), (folder / "checkpoint").exists()
    with Executor(1) as executor:
        policy = load_run(folder)[0] if trained else load_policy(config.model)
        run = train.Training(config, folder, policy, None, executor, train.make_style(config, policy), tasks.Buffers(1))
        heldout = tasks.load_tasks(config.heldout_tasks, executor)[:limit]
        greedy = selfplay.examine_in(run, heldout, leniently=not trained)
        sampled = selfplay.examine(policy, executor, run.style, heldout, config.max_new_tokens,
                                   SAMPLED if trained else SAMPLED_START, 1.0, seed=1, slots=config.slots)
        scores = {"limit": limit, "commit": runfolder.commit(), "greedy": greedy.correct, "sampled": sampled.correct}
        if trained:
            scores["proposed"] = proposals_of(folder)
        else:
            how, free = selfplay.zero_token(run, heldout, greedy)
            scores |= {"free": free.correct, "free_how": how}
        if not trained or any(f"-{slug(arm)}-" in folder.name for arm in PASS_ARMS):
            scores["pass"] = selfplay.examine(policy, executor, run.style, heldout[:PASS_TASKS], config.max_new_tokens,
                                              PASS_N, 1.0, seed=2, slots=config.slots).correct
    folder.mkdir(parents=True, exist_ok=True)
    runfolder.write_file(folder / "scores.json", json.dumps(scores))


def proposals_of(folder: Path, parts: int = 6) -> list[dict]:
    """Of the tasks that a run proposed itself, by sixths of its steps: how many, the share of programs that hold each
    family of nano's grammar, and of programs that return their argument, mean depth, distinct programs."""
    told = []
    for part in range(parts):
        some = [task for name in ("deduction", "abduction") for task in proposed(folder, name, part / parts,
                                                                                (part + 1) / parts)]
        if some:
            families = Counter(family for task in some for family in make.families_in(task.program))
            told.append({"tasks": len(some), "families": {family: families[family] / len(some)
                                                          for family in make.FAMILIES},
                         "dull": sum(task.depth == 0 for task in some) / len(some),
                         "depth": sum(task.depth for task in some) / len(some),
                         "distinct": len({task.key for task in some}) / len(some)})
    return told


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
    pooling = commands.add_parser("pool")
    pooling.add_argument("file", type=Path)
    pooling.add_argument("--kind", choices=[name.lower() for name in sorted(POOLS)], required=True)
    pooling.add_argument("--count", type=whole(1), required=True)
    pooling.add_argument("--seed", type=whole(-2**62, 2**62), required=True)
    pooling.add_argument("--run", type=Path, nargs="*", default=[])
    scoring = commands.add_parser("score")
    scoring.add_argument("folder", type=Path)
    scoring.add_argument("--preset", choices=PRESETS, required=True)
    scoring.add_argument("--limit", type=whole(1), required=True)
    cruxeval = commands.add_parser("cruxeval")
    cruxeval.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    if args.command == "supervise":
        supervise(args.folder, args.like, args.seed)
    elif args.command == "pool":
        write_pool(args.file, args.kind, args.count, args.seed, args.run)
    elif args.command == "cruxeval":
        score_cruxeval(args.folder)
    else:
        score_run(args.folder, args.preset, args.limit)


if __name__ == "__main__":
    sys.exit(command.run("experiments.work", main, sys.argv[1:]))
