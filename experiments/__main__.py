"""The command: python -m experiments learns|ablations|takeoff ..."""
import command
command.starting(__name__)
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

import experiments
from command import Parser, whole
from config import PRESETS, Config
from experiments import takeoff
from experiments.arms import (EXPERIMENTS, SUPERVISED, Plan, commands_left, grammar_file, last_step, run_commands,
                              run_folder, score_command, scores_of, start_folder)
from experiments.results import write_results
from experiments.work import write_task_file
from nano import make
from sandbox import host


def parse_plan(argv: list[str]) -> Plan:
    parser = Parser(prog="python -m experiments", description=experiments.__doc__.strip().split("\n\n")[0],
                    epilog="\n".join(textwrap.fill(f"Arms of {name}: {', '.join(map(repr, arms))}", 118)
                                     for name, arms in EXPERIMENTS.items())
                    + "\n`python -m experiments takeoff --help` tells of one with a real model and its own options.")
    parser.add_argument("name", choices=EXPERIMENTS, help="self-play against controls; or with one thing changed")
    parser.add_argument("--seeds", type=whole(1, 1000), default=3, help="seeds 0, 1, ... for every arm")
    parser.add_argument("--steps", type=whole(1), default=30, help="training steps of an arm")
    parser.add_argument("--arms", nargs="+", help="only these, each in quotes; all if not given")
    parser.add_argument("--preset", default="nano", choices=[name for name, preset in PRESETS.items()
                                                             if "heldout_tasks" in preset],
                        help="the model and its sizes")
    parser.add_argument("--eval_every", type=whole(0), default=10, help="steps between points of the curves")
    parser.add_argument("--limit", type=whole(1), default=2400, help="held-out tasks: the first of the file")
    parser.add_argument("--jobs", type=whole(1, 1024), default=host.cores(), help="arms that run at once")
    parser.add_argument("--publish", action="store_true", help="write the results to results/, not to runs/")
    args = parser.parse_args(argv)
    arms, cells = EXPERIMENTS[args.name], len(make.TYPES) * len(make.DEPTHS)
    if unknown := set(args.arms or []) - set(arms):
        parser.error(f"no arm called {', '.join(unknown)}; choose from: {', '.join(arms)}")
    if args.limit < cells:
        parser.error(f"--limit {args.limit}: at least {cells}, one task of each type and depth")
    plan = Plan(**vars(args) | {"arms": tuple(arm for arm in arms if arm in (args.arms or arms))})
    if any(arms[arm] == SUPERVISED for arm in plan.arms) and "azr" not in plan.arms and \
            any(last_step(run_folder(plan, "azr", seed)) < plan.steps for seed in range(plan.seeds)):
        parser.error("the supervised arm takes its number of tokens from azr's runs: add azr to --arms")
    return plan


def run_arm(plan: Plan, arm: str, seed: int) -> None:
    run_commands(plan, commands_left(plan, arm, seed), run_folder(plan, arm, seed))


def run_plan(plan: Plan) -> None:
    arms, batch = EXPERIMENTS[plan.name], PRESETS[plan.preset].get("batch_size", Config.batch_size)
    Path("runs").mkdir(exist_ok=True)
    for seed in range(plan.seeds):
        if any("GRAMMAR" in arms[arm] for arm in plan.arms) and not grammar_file(plan, seed).exists():
            write_task_file(grammar_file(plan, seed), batch * plan.steps, seed)
    start = start_folder(plan)
    before = [] if scores_of(start, plan.limit) else [score_command(plan, start)]
    work = [(arm, seed) for seed in range(plan.seeds) for arm in plan.arms]
    with ThreadPoolExecutor(plan.jobs) as pool, tqdm(total=len(work), unit="run") as bar:
        first = pool.submit(run_commands, plan, before, start)
        # The supervised arm takes its number of tokens from AZR's run, so it comes after those.
        for late in (False, True):
            running = [pool.submit(run_arm, plan, arm, seed) for arm, seed in work
                       if (arms[arm] == SUPERVISED) == late]
            try:
                for ended in as_completed(running):
                    first.result(), ended.result()
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
