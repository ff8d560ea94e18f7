"""
Experiments with controls and intervals, one command each. Every arm is a run of train.py with some flags changed, for
every seed; its folder runs/NAME-PRESET.WEIGHTS-STEPS-ARM-SEED is kept, so a second call goes on where the first was
stopped, and one with more seeds keeps those that are there.

    python experiments.py learns                        # self-play against five controls, 3 seeds
    python experiments.py ablations --arms azr "n = 4"  # some arms only
    python experiments.py learns --steps 10 --seeds 1   # a quick look; it takes the place of results/learns.*

Written to results/, anew after every run, so that there is something to look at from the start: NAME.json (every
curve, every gain with its interval), NAME.md (the table) and NAME.png.

What counts is held-out pass@1 at T = 1 and greedy accuracy, each the mean over task types and depths 1 to 3 (depth 4 is
told apart), on the nano preset's file. A gain is the difference to the model before training, on the same tasks. Its
95% interval adds two sources: the spread over seeds (Student's t) and the sampling of tasks (clustered by program:
tasks of one program are not independent). Arms are compared with AZR in the same way, over the seeds that both have.
"""
import argparse
import hashlib
import json
import math
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import suite as benchmarks
import eval as evaluation
from tools import export as interop
import runfolder as record
from benchmarks import stats
import tasks
import train
from executor import Executor
from model import encode, load_policy, logprobs, save_policy

HERE = Path(__file__).resolve().parent.parent
sys.path.append(str(HERE / "nano"))
import make  # noqa: E402

# Student's t, 97.5%, by degrees of freedom: seeds - 1.
STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
DEPTHS = (1, 2, 3)       # of the headline; 4 is rare in the warm start and reported apart
SAMPLED, SAMPLED_START = 2, 4  # answers to each held-out task at T = 1, after and before training
PASS_TASKS, PASS_N = 180, 64  # tasks and answers for pass@k
CURVE_TASKS = 300        # held-out tasks of a learning curve's points, which an arm pays for while it trains

# Arms: flags of train.py beside the preset's. GRAMMAR becomes a file of tasks, drawn for each seed.
SUPERVISED = ["supervise, see below"]
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


# ----------------------------------------------------------------------------------------------------------------
# Running arms

@lru_cache
def subject(preset: str) -> str:
    """The preset with a digest of its weights and its held-out file: with others, kept runs are of no use."""
    chosen = train.PRESETS[preset]
    files = [*sorted(Path(chosen["model"]).glob("*.safetensors")), Path(chosen["heldout_tasks"])]
    return f"{preset}.{hashlib.sha256(''.join(map(benchmarks.digest, files)).encode()).hexdigest()[:6]}"


def run_name(args, arm: str, seed: int | str) -> str:
    """Of runs that may be compared: another number of steps is another schedule of the learning rate."""
    return f"{args.name}-{subject(args.preset)}-{args.steps}-{re.sub('[^a-z0-9.]+', '_', arm.lower())}-{seed}"


def scores_by_seed(args, arm: str) -> dict[int, dict]:
    """Of the arm's runs that have scores, also beyond --seeds."""
    start = run_name(args, arm, "")
    ends = [folder.name.removeprefix(start) for folder in Path("runs").glob(start + "*")]
    return {seed: scores for seed in sorted(int(end) for end in ends if end.isdigit())
            if (scores := scores_of(Path("runs") / f"{start}{seed}", args.limit))}


def commands(args, arm: str, seed: int) -> list[list[str]]:
    """What is left to do for the arm's run: train (or go on), then score."""
    name, flags = run_name(args, arm, seed), EXPERIMENTS[args.name][arm]
    folder, left = Path("runs") / name, []
    flags = [str(grammar_file(args, seed)) if flag == "GRAMMAR" else flag for flag in flags]
    if flags == SUPERVISED and not (folder / "checkpoint").exists():
        left.append(["experiments.py", args.name, "--supervise", str(folder), "--seed", str(seed),
                     "--like", f"runs/{run_name(args, 'azr', seed)}"])
    elif flags != SUPERVISED and (step := last_step(folder)) < args.steps:
        if step >= 0:
            left.append(["train.py", "--resume", str(folder), "--steps", str(args.steps)])
        else:
            shutil.rmtree(folder, ignore_errors=True)  # stopped before its first checkpoint
            left.append(["train.py", "--preset", args.preset, "--name", name, "--seed", str(seed), "--steps",
                         str(args.steps), "--eval_every", str(args.eval_every), "--eval_samples", "1", "--eval_limit",
                         str(min(CURVE_TASKS, args.limit)), "--workers", "1", "--keep_samples", "2", *flags])
    if left or not scores_of(folder, args.limit):
        left.append(score_command(args, folder))
    return left


def last_step(folder: Path) -> int:
    found = train.find_checkpoint(folder)
    return json.loads((found / "state.json").read_text())["step"] if found else -1


def scores_of(folder: Path, limit: int) -> dict | None:
    """What `score` wrote, if it did so on as many tasks."""
    try:
        found = json.loads((folder / "scores.json").read_text())
    except OSError:
        return None
    return found if found["limit"] == limit else None


def score_command(args, folder: Path) -> list[str]:
    return ["experiments.py", args.name, "--score", str(folder), "--limit", str(args.limit), "--preset", args.preset]


def start_folder(args) -> Path:
    return Path("runs") / f"start-{subject(args.preset)}"


def run_arm(args, arm: str, seed: int) -> None:
    run_commands(args, commands(args, arm, seed), Path("runs") / f"{run_name(args, arm, seed)}.log")


def run_commands(args, commands: list[list[str]], log: Path) -> None:
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    for command in commands:
        with open(log, "a") as output:
            done = subprocess.run([sys.executable, HERE / command[0], *command[1:]], stdout=output, stderr=output,
                                  env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        if done.returncode:
            raise SystemExit(f"experiments.py: {' '.join(command)} failed; its output is in {log}")


def grammar_file(args, seed: int) -> Path:
    return Path("runs") / f"grammar-{subject(args.preset)}-{args.steps}-{seed}.jsonl"


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
    cfg = train.Config(**json.loads((like / "config.json").read_text()))
    lines = [json.loads(line) for line in open(like / "metrics.jsonl")]
    budgets = [line["tokens_trained"] for line in lines if "tokens_trained" in line]
    policy = load_policy(cfg.model, cfg.device, cfg.lora_rank, cfg.lora_alpha, seed=seed, norms=cfg.norm_lr > 0)
    optimizer, rng = train.make_optimizer(cfg, policy), random.Random(f"more warm start {seed}")
    folder.mkdir(parents=True, exist_ok=True)
    metrics = []
    for step, budget in enumerate(budgets, 1):
        rows, made = [], 0
        while made < budget:
            prompt, response = make.draw_text(rng)
            rows.append((encode(policy, prompt), encode(policy, response) + [policy.tokenizer.eos_token_id]))
            made += len(rows[-1][1])
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        loss = 0.0
        for part in (rows[i:i + 32] for i in range(0, len(rows), 32)):
            lost = -logprobs(policy, part)[0].sum() / made
            lost.backward()
            loss += lost.item()
        torch.nn.utils.clip_grad_norm_(policy.trained(), cfg.grad_clip)
        train.set_rate(optimizer, cfg, step)
        optimizer.step()
        optimizer.zero_grad()
        metrics.append({"step": step, "loss": loss, "tokens_trained": made, "tokens_generated": 0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (folder / "config.json").write_text(json.dumps(vars(cfg) | {"name": folder.name, "seed": seed}))
    part = folder / "checkpoint.part"
    save_policy(policy, part / "policy")
    (part / "checksums.json").write_text(json.dumps(train.checksums(part)))
    part.rename(folder / "checkpoint")


def score(folder: Path, preset: str, limit: int) -> None:
    """scores.json of a run, or of the preset's model as it starts if the folder holds no run: solved tasks, one number
    a held-out task, greedily and of SAMPLED answers at T = 1, and solved of PASS_N answers to the first PASS_TASKS."""
    cfg, trained = train.Config(**train.PRESETS[preset]), (folder / "checkpoint").exists()
    with Executor(1) as executor:
        policy = interop.load_run(folder)[0] if trained else load_policy(cfg.model)
        heldout = tasks.load_tasks(cfg.heldout_tasks, executor)[:limit]
        style = tasks.Style(cfg.prompt, cfg.n_inputs)

        def solved(some: list, **how) -> list[int]:
            return evaluation.score(policy, executor, style, some, cfg.max_new_tokens, slots=cfg.slots, **how).correct
        n = SAMPLED if trained else SAMPLED_START
        found = {"limit": limit, "commit": record.commit(), "greedy": solved(heldout),
                 "sampled": solved(heldout, n=n, temperature=1.0, seed=1)}
        if folder.name.startswith("start-") or "-azr-" in folder.name:
            found["pass"] = solved(heldout[:PASS_TASKS], n=PASS_N, temperature=1.0, seed=2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(found))


# ----------------------------------------------------------------------------------------------------------------
# Figures

def cells_of(heldout: list[dict], depths: tuple) -> dict[tuple, list[int]]:
    """(type, depth): indices of its tasks."""
    cells = defaultdict(list)
    for i, task in enumerate(heldout):
        depth = task["program"].count("\n") - 1
        if depth in depths:
            cells[task["type"], depth].append(i)
    return cells


def average(values: list[float], cells: dict) -> float:
    """The mean over cells of the mean over a cell's tasks."""
    return statistics.mean(statistics.mean(values[i] for i in cell) for cell in cells.values())


def half_width(differences_S: list[list[float]], heldout: list[dict], cells: dict) -> float:
    """Half of the 95% interval of `average` of the differences, one list of them (by task) a seed: seeds and tasks are
    drawn independently, so their variances add. Tasks: each program's residuals are summed before they are squared.
    The chance in one answer is in both parts, so the interval is a little too wide."""
    seeds, residual = len(differences_S), defaultdict(float)
    mean_I = [statistics.mean(column) for column in zip(*differences_S)]
    for cell in cells.values():
        middle = statistics.mean(mean_I[i] for i in cell)
        for i in cell:  # a program may be in several cells
            residual[heldout[i]["program"]] += (mean_I[i] - middle) / len(cell) / len(cells)
    variance = sum(part * part for part in residual.values())
    spread = 0.0
    if seeds > 1:
        of_seed = [average(differences, cells) for differences in differences_S]
        spread = STUDENT[min(seeds - 1, max(STUDENT))] * statistics.stdev(of_seed) / math.sqrt(seeds)
    return math.sqrt(spread ** 2 + 1.96 ** 2 * variance)


def figures(args) -> dict:
    """Everything that is there so far, for the JSON file."""
    cfg = train.Config(**train.PRESETS[args.preset])
    heldout = [json.loads(line) for line in open(cfg.heldout_tasks)][:args.limit]
    start = scores_of(start_folder(args), args.limit)
    found = {"experiment": args.name, "preset": args.preset, "steps": args.steps, "limit": args.limit,
             "commits": [start["commit"]], "machine": f"{os.cpu_count()} x {platform.machine()}", "arms": {}}
    measures = {"T1": ("sampled", SAMPLED, DEPTHS), "greedy": ("greedy", 1, DEPTHS),
                "T1 depth 4": ("sampled", SAMPLED, (4,)), "greedy depth 4": ("greedy", 1, (4,))}
    measures |= {f"T1 {name}": ("sampled", SAMPLED, DEPTHS, name) for name in make.TYPES}
    cells_by = {name: {cell: some for cell, some in cells_of(heldout, depths).items() if not only or cell[0] in only}
                for name, (_, _, depths, *only) in measures.items()}
    against = {}  # measure: AZR's rates by task, by seed
    for arm in EXPERIMENTS[args.name]:
        scores = scores_by_seed(args, arm)
        if not scores:
            continue
        found["commits"] = sorted({*found["commits"], *(score["commit"] for score in scores.values())})
        entry = found["arms"][arm] = {"flags": EXPERIMENTS[args.name][arm], "seeds": list(scores), "measures": {}}
        for name, (key, n, *_) in measures.items():
            cells = cells_by[name]
            rates = {seed: [value / n for value in scores[seed][key]] for seed in scores}
            before = [value / (SAMPLED_START if key == "sampled" else 1) for value in start[key]]
            gains = [[after - was for after, was in zip(rates[seed], before)] for seed in scores]
            entry["measures"][name] = {
                "before": 100 * average(before, cells), "after": [100 * average(rates[seed], cells) for seed in rates],
                "gain": 100 * statistics.mean(average(gain, cells) for gain in gains),
                "interval": 100 * half_width(gains, heldout, cells)}
            if arm == "azr":
                against[name] = rates
            elif both := [seed for seed in rates if seed in against.get(name, {})]:
                lead = [[a - b for a, b in zip(against[name][seed], rates[seed])] for seed in both]
                entry["measures"][name] |= {
                    "azr_ahead_seeds": both, "azr_ahead": 100 * statistics.mean(average(one, cells) for one in lead),
                    "azr_ahead_interval": 100 * half_width(lead, heldout, cells)}
        metrics = [[json.loads(line) for line in open(Path("runs") / run_name(args, arm, seed) / "metrics.jsonl")]
                   for seed in scores]
        entry["tokens"], entry["curves"] = list(map(tokens_of, metrics)), list(map(curves, metrics))
        if all("pass" in score for score in scores.values()):
            entry["pass_at_k"] = [pass_curve(score["pass"]) for score in scores.values()]
    found["pass_at_k_before"] = pass_curve(start["pass"])
    found["seeds"] = max((len(entry["seeds"]) for entry in found["arms"].values()), default=0)
    return found


def pass_curve(solved: list[int]) -> dict[int, float]:
    return {k: 100 * statistics.mean(stats.pass_at_k(PASS_N, c, k) for c in solved)
            for k in (1, 2, 4, 8, 16, 32, 64)}


def tokens_of(lines: list[dict]) -> dict:
    return {key: sum(line.get(key, 0) for line in lines) for key in ("tokens_generated", "tokens_trained")}


def curves(lines: list[dict]) -> dict:
    """By step: held-out accuracy where it was measured, and what became of the proposals."""
    found = defaultdict(list)
    for line in lines:
        for key, name in (("heldout", "greedy"), ("heldout_sampled", "T1")):
            if key in line:
                rates = [rate for cell, rate in line[key].items() if int(cell.split("/")[1]) in DEPTHS]
                found[name].append((line["step"], round(100 * statistics.mean(rates), 2)))
        for key in ("depth", "valid", "solve_rate", "learnability", "distinct"):
            values = [line[f"{key}/{type}"] for type in tasks.TYPES if line.get(f"{key}/{type}") is not None]
            if values:
                found[key].append((line["step"], round(statistics.mean(values), 3)))
    return found


def table(found: dict) -> str:
    lines = [f"`python experiments.py {found['experiment']} --steps {found['steps']} --seeds {found['seeds']}"
             f" --limit {found['limit']}`, commit {', '.join(found['commits'])}, {found['machine']}. Held-out pass@1 in"
             " percent, mean over types and depths 1 to 3; gains in points over the model before training; 95%"
             " intervals over seeds and tasks; of one seed over tasks alone, in brackets. AZR ahead: over the seeds"
             " that both have.", "",
             "| arm | seeds | T = 1 before | after | gain | greedy gain | depth 4, T = 1 | AZR ahead at T = 1 |"
             " AZR ahead, greedy | million tokens generated / trained |", "|---" * 10 + "|"]
    for arm, entry in found["arms"].items():
        m = entry["measures"]

        def gain(name: str, key: str = "gain", width: str = "interval") -> str:
            if key not in m[name]:
                return "-"
            text = f"{m[name][key]:+.1f} ± {m[name][width]:.1f}"
            seeds = entry["seeds"] if key == "gain" else m[name]["azr_ahead_seeds"]
            return f"({text})" if len(seeds) == 1 else text
        generated, trained = (statistics.mean(run[f"tokens_{what}"] for run in entry["tokens"]) / 1e6
                              for what in ("generated", "trained"))
        after = statistics.mean(m["T1"]["after"])
        cells = [arm, len(entry["seeds"]), f"{m['T1']['before']:.1f}", f"{after:.1f}", gain("T1"), gain("greedy"),
                 gain("T1 depth 4"), *(gain(name, "azr_ahead", "azr_ahead_interval") for name in ("T1", "greedy")),
                 f"{generated:.2f} / {trained:.2f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    if any("pass_at_k" in entry for entry in found["arms"].values()):
        before = found["pass_at_k_before"]
        lines += ["", f"Of {PASS_N} answers to the first {PASS_TASKS} tasks, all depths:", "",
                  "| pass@k | " + " | ".join(map(str, before)) + " |", "|---" * (1 + len(before)) + "|",
                  "| before | " + " | ".join(f"{rate:.1f}" for rate in before.values()) + " |"]
        for arm, entry in found["arms"].items():
            if "pass_at_k" in entry:
                means = [statistics.mean(curve[k] for curve in entry["pass_at_k"]) for k in before]
                lines.append(f"| {arm} | " + " | ".join(f"{rate:.1f}" for rate in means) + " |")
    return "\n".join(lines) + "\n"


def plot(found: dict, path: Path) -> None:
    """Left: learning curves at T = 1, their means thick. Right: gains with their intervals."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 4 + 0.15 * len(found["arms"])), layout="constrained")
    for number, (arm, entry) in enumerate(found["arms"].items()):
        color = pyplot.cm.tab20(number % 20)
        if seeds := [curve["T1"] for curve in entry["curves"] if curve.get("T1")]:
            for curve in seeds:
                left.plot(*zip(*curve), color=color, lw=0.7, alpha=0.4)
            means = [(at[0][0], statistics.mean(rate for _, rate in at)) for at in zip(*seeds)]
            left.plot(*zip(*means), color=color, lw=2, label=arm)
        for shift, name, fill in ((-0.17, "T1", color), (0.17, "greedy", "none")):
            m = entry["measures"][name]
            right.barh(number + shift, m["gain"], 0.32, xerr=m["interval"], color=fill, edgecolor=color, capsize=2)
    left.set(xlabel="step", ylabel="held-out pass@1 at T = 1, %",
             title="mean over types, depths 1 to 3; thin: one seed")
    left.legend(fontsize=7)
    right.axvline(0, color="black", lw=0.8)
    right.set(yticks=range(len(found["arms"])), yticklabels=list(found["arms"]), xlabel="gain, points",
              title="filled: T = 1, open: greedy; 95% over seeds and tasks")
    right.invert_yaxis()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write(args) -> None:
    found = figures(args)
    if not found["arms"]:
        return
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / f"{args.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (results / f"{args.name}.md").write_text(table(found))
    plot(found, results / f"{args.name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... for every arm")
    parser.add_argument("--steps", type=int, default=30, help="training steps of an arm")
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument("--preset", default="nano", choices=[name for name, preset in train.PRESETS.items()
                                                             if "heldout_tasks" in preset])
    parser.add_argument("--eval_every", type=int, default=10, help="steps between points of the curves")
    parser.add_argument("--limit", type=int, default=2400, help="held-out tasks: the first of the file")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="arms that run at once")
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)      # what the arms' processes are asked to do
    parser.add_argument("--supervise", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--like", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.score:
        return score(args.score, args.preset, args.limit)
    if args.supervise:
        return supervise(args.supervise, args.like, args.seed)
    unknown = set(args.arms or []) - set(EXPERIMENTS[args.name])
    if unknown or args.seeds < 1:
        parser.error(f"no arm called {', '.join(unknown)}; choose from: {', '.join(EXPERIMENTS[args.name])}" if unknown
                     else "--seeds must be at least 1")
    if args.limit < 12:
        parser.error(f"--limit {args.limit}: at least 12, one task of each type and depth")
    arms = [arm for arm in EXPERIMENTS[args.name] if arm in (args.arms or EXPERIMENTS[args.name])]
    like = [Path("runs") / run_name(args, "azr", seed) for seed in range(args.seeds)]
    if any(EXPERIMENTS[args.name][arm] == SUPERVISED for arm in arms) and "azr" not in arms and \
            any(last_step(folder) < args.steps for folder in like):
        parser.error("the supervised arm takes its number of tokens from azr's runs: add azr to --arms")
    Path("runs").mkdir(exist_ok=True)
    batch = train.PRESETS[args.preset].get("batch_size", train.Config.batch_size)
    for seed in range(args.seeds):
        if any("GRAMMAR" in EXPERIMENTS[args.name][arm] for arm in arms) and not grammar_file(args, seed).exists():
            write_task_file(grammar_file(args, seed), batch * args.steps, seed)
    before = [] if scores_of(start_folder(args), args.limit) else [score_command(args, start_folder(args))]
    work = [(arm, seed) for seed in range(args.seeds) for arm in arms]
    with ThreadPoolExecutor(args.jobs) as pool, tqdm(total=len(work), unit="run") as bar:
        first = pool.submit(run_commands, args, before, start_folder(args).with_suffix(".log"))
        # The supervised arm takes its number of tokens from AZR's run, so it comes after those.
        for late in (False, True):
            running = [pool.submit(run_arm, args, arm, seed) for arm, seed in work
                       if (EXPERIMENTS[args.name][arm] == SUPERVISED) == late]
            try:
                for future in as_completed(running):
                    first.result(), future.result()
                    bar.update()
                    write(args)
            except BaseException:  # Ctrl-C, or an arm that failed: start no more
                pool.shutdown(cancel_futures=True)
                raise
    print((HERE / "results" / f"{args.name}.md").read_text())


if __name__ == "__main__":
    main()
