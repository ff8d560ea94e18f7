"""
What arms need beside train.py, a process each: the supervised control, pools of tasks, and the scores of a run.

    python -m experiments.work supervise runs/NAME --like runs/OTHER --seed 0
    python -m experiments.work pool FILE --kind late --count 320 --seed 0 --run runs/OTHER
    python -m experiments.work score runs/NAME --model nano --limit 2520
    python -m experiments.work cruxeval OUT/runs/NAME      # of takeoff.py
"""
import command
command.starting(__name__)
import fcntl
import json
import math
import random
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

import runfolder
import tasks
import train
from benchmarks import selfplay
from command import Parser, whole
from config import Config, UserError, read_config
from executor import Executor, Job
from experiments.arms import (LETTERS, LONGER_EACH, NANO, PART, PASS_ARMS, PASS_N, PASS_TASKS, POOLS, SAMPLED,
                              SAMPLED_START, heldout_file, slug)
from model import encode, load_policy, logprobs, save_policy
from nano import make
from tools.export import load_run


def grammar_tasks(type: str, wishes: list[list[str | None]], rng: random.Random) -> list[tasks.Task]:
    """A task of nano's grammar, on no held-out program, for each list of families of its statements; no task twice,
    unless fifty draws bring nothing new."""
    chosen, seen = [], set()
    for some in wishes:
        drawn = (make.draw_task(type, some, rng)[0] for _ in range(50))
        task = next((task for task in drawn if task.id not in seen), None) or make.draw_task(type, some, rng)[0]
        chosen.append(task)
        seen.add(task.id)
    return chosen


def even_wishes(rng: random.Random) -> list[str | None]:
    """One statement is of a family, all families alike."""
    wishes = [None] * make.pick(make.DEPTHS, rng)
    wishes[rng.randrange(len(wishes))] = rng.choice(list(make.FAMILIES))
    return wishes


def wishes_like(task: tasks.Task, rng: random.Random) -> list[str | None]:
    """Of as many statements as the task's program has, four at most, with the same families."""
    families = [family for line in task.program.split("\n") for family in sorted(make.families_in(line))]
    wishes = [*families, *[None] * (task.depth - len(families))][:4]
    return rng.sample(wishes, len(wishes))


def proposed(folder: Path) -> tuple[int, dict[str, list[tasks.Task]]]:
    """A run's number of steps, and by type what it proposed and trained on."""
    state = json.loads((runfolder.find_checkpoint(folder) / "state.json").read_text())
    return state["step"], {name: [task for task in some if task.step]
                           for name, some in tasks.Buffers.from_json(state["buffers"]).train.items()}


def pools_of(steps: int, ours: list[tasks.Task], frozen: list[tasks.Task]) -> dict[str, list[tasks.Task]]:
    """{pool: its tasks, none twice} of what self-play's run proposed in its steps, and the frozen proposer's."""
    pools = {"early": [task for task in ours if task.step <= steps / 3], "frozen": frozen,
             "late": [task for task in ours if task.step > 2 * steps / 3]}
    return {pool: list({task.id: task for task in some}.values()) for pool, some in pools.items()}


def write_pool(path: Path, kind: str, count: int, seed: int, runs: list[Path]) -> None:
    """`count` tasks of each type for --propose_from. Those that come from runs are without induction, none twice, and
    as many as the least of these pools has if that is fewer; UserError if it has none."""
    lines, sources = [], list(map(proposed, runs))
    for name in ("deduction", "abduction") if runs else make.TYPES:
        rng = random.Random(f"pool {'late' if kind == 'matched' else kind} {name} {seed}")
        if runs:
            pools = pools_of(sources[0][0], *(of_run[name] for _, of_run in sources))
            if not (count := min(count, *map(len, pools.values()))):
                raise UserError(f"{' or '.join(map(str, runs))} has no valid {name} task for a pool: more --steps")
            chosen = rng.sample(pools["late" if kind == "matched" else kind], count)
            if kind == "matched":  # task for task: the depth and the families of the pool `late`, nothing else of it
                chosen = grammar_tasks(name, [wishes_like(task, rng) for task in chosen], rng)
        else:
            chosen = grammar_tasks(name, [even_wishes(rng) if kind == "even" else
                                          make.draw_wishes(make.pick(make.DEPTHS, rng), rng, "propose")
                                          for _ in range(count)], rng)
        lines += [json.dumps(tasks.task_to_json(task)) for task in chosen]
    path.parent.mkdir(exist_ok=True)
    runfolder.write_file(path, "\n".join(lines) + "\n")


def supervise(folder: Path, like: Path, seed: int) -> None:
    """More warm start: the adapter trained with the warm start's loss on fresh examples of its grammar whose form is
    right and whose programs do something, for as many steps and response tokens a step as the run `like` had, with its
    optimizer and learning rate. Families are as often wrong as in the warm start, so this shows what more steps and the
    form alone give, and cannot gain where a family has to be unlearned."""
    config, lines = read_config(like), runfolder.read_lines(like / "metrics.jsonl")
    budgets = [line["tokens_trained"] for line in lines if "tokens_trained" in line]
    policy = load_policy(config.model, config.device, config.lora_rank, config.lora_alpha, seed=seed,
                         norms=config.norm_lr > 0)
    optimizer, rng = train.make_optimizer(config, policy), random.Random(f"more warm start {seed}")
    heldout = runfolder.read_lines(Path(config.heldout_tasks))
    told = {line["family"]: float(line["group"].removeprefix("dose ").rstrip("%"))
            for line in heldout if line["family"]}
    doses = {family: told[family] for family in make.FAMILIES}  # in the order in which they are drawn
    metrics = []
    for step, budget in enumerate(budgets, 1):
        rows, drawn = [], 0
        while drawn < budget:
            prompt, response = make.draw_text(rng, doses=doses, careful=True)
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


def longer_tasks(executor: Executor) -> list[tasks.Task]:
    """Deduction on longer strings than the first training's inputs, which have six letters at most, and values, ten:
    for each of LETTERS LONGER_EACH tasks of every statement of the grammar from a string to a string, alone in its
    program."""
    rng = random.Random("longer")
    jobs = [Job(make.make_program([make.fill(template, rng)]), (("".join(rng.choices(make.LETTERS, k=letters)),),))
            for letters in LETTERS for template in make.EXPRESSIONS["str", "str"] * LONGER_EACH]
    return [tasks.Task("deduction", job.program, job.inputs, (run.value,), depth=1)
            for job, [run] in zip(jobs, executor.run(jobs))]


def by_length(solved: list[int]) -> list[list[float]]:
    """For each of LETTERS the percent of longer_tasks that some answer solves: of all, and of those that reverse."""
    of_letters = tasks.chunks(solved, len(solved) // len(LETTERS))
    number, count = make.EXPRESSIONS["str", "str"].index("x[::-1]"), len(make.EXPRESSIONS["str", "str"])
    return [[100 * sum(right > 0 for right in rights) / len(rights) for rights in (some, some[number::count])]
            for some in of_letters]


def score_run(folder: Path, model: str, limit: int) -> None:
    """scores.json of a run, or of the nano in `model` as it starts if the folder holds no run: solved tasks, one number
    a held-out task, greedily and of SAMPLED answers at T = 1, and solved of PASS_N answers to the first PASS_TASKS. Of
    the start also `free`: what it solves without training, as `selfplay.zero_token` says; of a run what it proposed.
    `longer`: by_length of longer_tasks, greedily; of the start also of PASS_N answers, `longer_pass`."""
    config = Config(**NANO | {"model": model, "heldout_tasks": str(heldout_file(model))})
    trained = (folder / "checkpoint").exists()
    with Executor(1) as executor:
        policy = load_run(folder)[0] if trained else load_policy(config.model)
        run = train.Training(config, folder, policy, None, executor, train.make_style(config, policy), tasks.Buffers(1))
        heldout = tasks.load_tasks(config.heldout_tasks, executor)[:limit]
        greedy = selfplay.examine_in(run, heldout, leniently=not trained)
        sampled = selfplay.examine(policy, executor, run.style, heldout, config.max_new_tokens,
                                   SAMPLED if trained else SAMPLED_START, 1.0, seed=1, slots=config.slots)
        scores = {"limit": limit, "commit": runfolder.commit(), "greedy": greedy.correct, "sampled": sampled.correct}
        longer = longer_tasks(executor)
        scores["longer"] = by_length(selfplay.examine_in(run, longer).correct)
        if (folder / "checkpoint" / "state.json").exists():  # the supervised control has none
            proposes = read_config(folder).propose_from in ("policy", "start")
            scores["proposed"] = proposals_of(folder, executor) if proposes else []
        if not trained:
            how, free = selfplay.zero_token(run, heldout, greedy)
            more = selfplay.examine(policy, executor, run.style, longer, config.max_new_tokens, PASS_N, 1.0, seed=3,
                                    slots=config.slots)
            scores |= {"free": free.correct, "free_how": how, "longer_pass": by_length(more.correct)}
        if not trained or any(f"-{slug(arm)}-" in folder.name for arm in PASS_ARMS):
            scores["pass"] = selfplay.examine(policy, executor, run.style, heldout[:PASS_TASKS], config.max_new_tokens,
                                              PASS_N, 1.0, seed=2, slots=config.slots).correct
    folder.mkdir(parents=True, exist_ok=True)
    runfolder.write_file(folder / "scores.json", json.dumps(scores))


def proposals_of(folder: Path, executor: Executor) -> list[dict]:
    """Of the valid tasks that a run proposed itself, for each PART of its steps in which there are any: how many, the
    share of programs that hold each family of nano's grammar, `any` of them, and of those that return their argument,
    mean depth, distinct programs and `behaviours`; `form`: of the commonest program but for its numbers and letters."""
    told, dull = [], tasks.identity_task(tasks.TYPES["deduction"]).key
    last, of_type = proposed(folder)
    ours = [task for name in ("deduction", "abduction") for task in of_type[name]]
    behaviour = behaviours_of({task.program for task in ours}, executor)
    for part in range(math.ceil(last / PART)):
        if some := [task for task in ours if part * PART < task.step <= (part + 1) * PART]:
            held = [make.families_in(task.program) for task in some]
            families = Counter(family for of_program in held for family in of_program)
            forms = Counter(form_of(task.program) for task in some)
            told.append({"part": part, "tasks": len(some),
                         "families": {family: families[family] / len(some) for family in make.FAMILIES},
                         "any": sum(map(bool, held)) / len(some),
                         "dull": sum(task.key == dull for task in some) / len(some),
                         "depth": sum(task.depth for task in some) / len(some),
                         "distinct": len({task.key for task in some}) / len(some),
                         "behaviours": len({behaviour[task.program] for task in some}) / len(some),
                         "form": max(forms.values()) / len(some)})
    return told


def form_of(program: str) -> str:
    """The program but for its numbers and texts: what is left where a proposer writes one program over and over. As it
    stands: other names or spaces make another form."""
    return re.sub(r"'[^'\n]*'|\"[^\"\n]*\"|\d+", "", program)


def behaviours_of(programs: set[str], executor: Executor) -> dict[str, tuple]:
    """What each program does to 16 values of each kind that nano's grammar has, always the same ones."""
    rng = random.Random("behaviours")
    inputs = tuple((make.draw_value(kind, rng),) for kind in ("int", "list", "str") for _ in range(16))
    jobs = [Job(program, inputs) for program in sorted(programs)]
    return {job.program: tuple(repr(outcome.value) if outcome.kind == "ok" else outcome.kind for outcome in outcomes)
            for job, outcomes in zip(jobs, executor.run(jobs))}


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
        before = out / "cruxeval-before.json"
        with open(out / "cruxeval.lock", "w") as lock:  # arms that end together: one asks, the others wait for it
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not before.exists():
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
    scoring.add_argument("--model", required=True)
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
        score_run(args.folder, args.model, args.limit)


if __name__ == "__main__":
    sys.exit(command.run("experiments.work", main, sys.argv[1:]))
