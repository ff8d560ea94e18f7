"""The command: python -m experiments learns|swap|trials|length|ablations|takeoff ..."""
import command
command.starting(__name__)
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

import experiments
import runfolder
from command import Parser, whole
from experiments import results, takeoff
from experiments.arms import (EXPERIMENTS, NANO, Plan, commands_left, heldout_file, needs, run_commands, run_folder,
                              score_command, scores_of, start_folder)
from experiments.results import write_results
from sandbox import host


def parse_plan(argv: list[str]) -> Plan:
    parser = Parser(prog="python -m experiments", description=experiments.__doc__.strip().split("\n\n")[0],
                    epilog="\n".join(textwrap.fill(f"Arms of {name}: {', '.join(map(repr, arms))}", 118)
                                     for name, arms in EXPERIMENTS.items())
                    + "\n`python -m experiments takeoff --help` tells of one with a real model and its own options.")
    parser.add_argument("name", choices=EXPERIMENTS, help="which arms: see the end of this help")
    parser.add_argument("--seeds", type=whole(1, 1000), default=3, help="seeds 0, 1, ... for every arm")
    parser.add_argument("--steps", type=whole(1), default=NANO["steps"], help="training steps of an arm")
    parser.add_argument("--arms", nargs="+", help="only these, each in quotes; all if not given")
    parser.add_argument("--model", default=NANO["model"], help="another nano, made by nano/make.py: its folder")
    parser.add_argument("--eval_every", type=whole(0), default=10, help="steps between points of the curves")
    parser.add_argument("--limit", type=whole(1), default=NANO["eval_limit"],
                        help="held-out tasks: the first of the file")
    parser.add_argument("--jobs", type=whole(1, 1024), default=host.cores(), help="arms that run at once")
    parser.add_argument("--publish", action="store_true", help="write the results to results/, not to runs/")
    args = parser.parse_args(argv)
    arms = EXPERIMENTS[args.name]
    if unknown := set(args.arms or []) - set(arms):
        parser.error(f"no arm called {', '.join(unknown)}; choose from: {', '.join(arms)}")
    if Path(args.model).resolve() == Path(NANO["model"]).resolve():
        args.model = NANO["model"]
    if not heldout_file(args.model).is_file() or not any(Path(args.model).glob("*.safetensors")):
        parser.error(f"--model {args.model}: no heldout.jsonl or no weights; nano/make.py --out makes such a folder")
    heldout = runfolder.read_lines(heldout_file(args.model))[:args.limit]
    if any(len(cell) < 2 for cell in results.cells_of(heldout).values()):
        parser.error("--limit: a type, group and depth has fewer than two tasks, which give no interval; more of them")
    if args.name == "swap" and args.steps < 3:
        parser.error("--steps must be at least 3: pools come from thirds of a run")
    return Plan(**vars(args) | {"arms": tuple(arm for arm in arms if arm in (args.arms or arms))})


def run_arm(plan: Plan, arm: str, seed: int) -> None:
    run_commands(plan, commands_left(plan, arm, seed), run_folder(plan, arm, seed))


def run_plan(plan: Plan) -> None:
    """All arms that are asked for, and first those whose runs they are made from."""
    Path("runs").mkdir(exist_ok=True)
    start = start_folder(plan)
    before = [] if scores_of(start, plan.limit) else [score_command(plan, start)]
    sources = list(dict.fromkeys(source for arm in plan.arms for source in needs(arm)))
    first = [arm for arm in dict.fromkeys([*sources, *plan.arms]) if not needs(arm)]
    stages = [[(arm, seed) for seed in range(plan.seeds) for arm in arms]
              for arms in (first, [arm for arm in plan.arms if needs(arm)])]
    with ThreadPoolExecutor(plan.jobs) as pool, tqdm(total=sum(map(len, stages)), unit="run") as bar:
        starting = pool.submit(run_commands, plan, before, start)
        for some in stages:
            running = [pool.submit(run_arm, plan, arm, seed) for arm, seed in some]
            try:
                for ended in as_completed(running):
                    starting.result(), ended.result()
                    bar.update()
                    write_results(plan)
            except BaseException:  # Ctrl-C, or an arm that failed: start no more
                pool.shutdown(cancel_futures=True)
                raise


def main(argv: list[str]) -> int:
    if argv[:1] == ["takeoff"]:  # of a real model, with options of its own
        return takeoff.main(argv[1:])
    return command.run("experiments", work, argv)


def work(argv: list[str]) -> None:
    plan = parse_plan(argv)
    run_plan(plan)
    print(write_results(plan))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
