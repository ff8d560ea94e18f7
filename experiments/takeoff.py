"""
Whether a real model takes off: self-play against four controls, from one start and compared at equal generated tokens.

    python -m experiments takeoff --model DIR --seed_tasks FILE --heldout FILE --steps 100 --jobs 3
    python -m experiments takeoff --model DIR ... --arms selfplay,solver --budget_s 200 --data FOLDER
    python -m experiments takeoff --dry               # all of it with nano in tiny shapes, in a minute or two

Everything is in the folder --out: a run of train.py for each arm (which a second call goes on with), heldout.jsonl,
and, written anew while the arms run, takeoff.json, takeoff.md, takeoff.png and responses.md. All other options go to
train.py: --preset, --example, --n_probes ... With --data, CRUXEval's 800 functions are asked before and after too, for
outputs and for inputs, in the prompts of the training. Intervals are of 95%, over tasks, clustered by program: of one
run and one seed, so that they do not hold what another seed would do.
"""
import argparse
import json
import os
import random
import shutil
import statistics
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path

import command
import config
import runfolder
import tasks
from benchmarks import selfplay, stats, suite
from command import Parser, UserError, real, whole
from executor import Executor
from experiments.arms import HERE, last_step, run_commands
from experiments.plots import load_pyplot
from experiments.work import write_pool
from sandbox import host
from sandbox.values import printable

SEEDS = "SEEDS"  # in an arm's flags: the file of --seed_tasks
ARMS = {
    "selfplay": ["--seed_tasks", SEEDS],
    "identity": [],                                                    # self-play from the identity alone
    "solver": ["--seed_tasks", SEEDS, "--propose_from", SEEDS],        # no proposals: answers to the seed tasks
    "coin": ["--seed_tasks", SEEDS, "--control", "random"],            # a coin in place of verdicts
    "form": ["--seed_tasks", SEEDS, "--control", "form"],              # the form is rewarded, nothing else
}
DRY = ["--preset", "nano", "--batch_size", "3", "--n_probes", "3", "--seed_factor", "1", "--max_new_tokens", "80"]
MEASURES = {"greedy strict": ("heldout", "strict"), "greedy lenient": ("heldout", "lenient"),
            "T1 strict": ("heldout_sampled", "strict"), "T1 lenient": ("heldout_sampled", "lenient"),
            "pass@n strict": ("heldout_sampled", "strict"), "pass@n lenient": ("heldout_sampled", "lenient")}
WATCHED = ("bad_format/propose", "bad_format/solve", "valid", "distinct", "mixed", "solve_rate", "learnability",
           "length/propose", "length/solve", "entropy/propose", "entropy/solve", "cut_off/solve")
ENDS = 5  # steps that the table's first and last are means of
NEAR = 0.1  # an evaluation stands for a number of tokens that is within this share of its own


@dataclass(frozen=True)
class Plan:
    """What the command was asked for; all paths are absolute."""
    out: Path
    arms: tuple[str, ...]
    steps: int
    tokens: int
    budget_s: float
    eval_every: int
    samples: int
    jobs: int
    seed_tasks: str | None
    heldout: str
    limit: int
    data: str | None
    flags: tuple[str, ...]  # of train.py, for all arms


def parse_plan(argv: list[str]) -> tuple[argparse.Namespace, Plan]:
    parser = Parser(prog="python -m experiments takeoff", description=__doc__.strip())
    parser.add_argument("--model", help="a folder or a hub name")
    parser.add_argument("--seed_tasks", help="a task file to start from and, for the solver, to train on")
    parser.add_argument("--heldout", default=str(HERE / "nano" / "heldout.jsonl"), help="a task file to measure on")
    parser.add_argument("--limit", type=whole(1), default=240, help="tasks of it, as many of each type as there are")
    parser.add_argument("--samples", type=whole(1, 2**12), default=8, help="answers to each at T = 1, beside a greedy"
                        " one")
    parser.add_argument("--steps", type=whole(1), help="training steps of an arm; 100 without --tokens")
    parser.add_argument("--tokens", type=whole(0, 10**15), default=0, help="generated tokens at which every arm ends")
    parser.add_argument("--budget_s", type=real(0), default=0, help="seconds for an arm with evaluations; 0: no end")
    parser.add_argument("--eval_every", type=whole(1), default=25, help="steps between evaluations")
    parser.add_argument("--arms", default=",".join(ARMS), help="only these, with commas")
    parser.add_argument("--jobs", type=whole(1, 1024), default=1, help="arms that run side by side")
    parser.add_argument("--data", help="the folder with CRUXEval's file, as eval.py's --data")
    parser.add_argument("--out", type=Path, help="runs/takeoff-MODEL if not given")
    parser.add_argument("--dry", action="store_true", help="tiny shapes, two steps, to see that everything works")
    parser.add_argument("--report", action="store_true", help="only write what has come so far")
    parser.add_argument("--publish", action="store_true", help="write takeoff.json, .md and .png to results/ too")
    args, flags = parser.parse_known_args(argv)
    args.arms, args.steps = tuple(args.arms.split(",")), args.steps or (10**6 if args.tokens else 100)
    if unknown := set(args.arms) - set(ARMS):
        parser.error(f"no arm called {', '.join(sorted(unknown))}; choose from {','.join(ARMS)}")
    if args.dry:
        args.steps, args.eval_every, args.limit, args.samples, args.jobs = 2, 1, 12, 2, host.cores()
        flags = [*DRY, *flags]
    elif not args.model:
        parser.error("--model is missing")
    args.out = (args.out or Path("runs") / f"takeoff-{'dry' if args.dry else Path(args.model).name}").resolve()
    flags = ["--model", args.model, *flags] if args.model else flags
    known = {name: getattr(args, name) for name in Plan.__dataclass_fields__ if name != "flags"}
    known |= {name: absolute(known[name]) for name in ("seed_tasks", "heldout", "data") if known[name]}
    return args, Plan(**known, flags=tuple(map(absolute, flags)))


def absolute(word: str) -> str:
    """Runs are made in --out: paths must hold there too."""
    path = Path(word).expanduser()
    return str(path.resolve()) if os.sep in word and path.exists() else word


# ----------------------------------------------------------------------------------------------------------------
# What the arms share

def prepare(plan: Plan, dry: bool) -> None:
    """The folder with the tasks to measure on; UserError if it was made for something else, or where an arm's options
    cannot work. plan.json comes last: until it is there the rest is made anew."""
    plan.out.mkdir(parents=True, exist_ok=True)
    asked = {name: value for name, value in json.loads(json.dumps(asdict(plan), default=str)).items()
             if name not in ("out", "arms", "steps", "tokens", "budget_s", "jobs")}
    kept = plan.out / "plan.json"
    begun = kept.exists()
    if begun and json.loads(kept.read_text()) != asked:
        raise UserError(f"{plan.out} was made with other options ({kept}); choose another --out, or remove it")
    if not begun or not (plan.out / "heldout.jsonl").exists():
        rows = runfolder.read_lines(Path(plan.heldout))
        write_rows(plan.out / "heldout.jsonl", draw_evenly(rows, plan.limit))
    if plan.data and not (begun and (plan.out / "cruxeval.jsonl").exists()):
        write_rows(plan.out / "cruxeval.jsonl", draw_evenly(cruxeval_rows(plan.data), plan.limit if dry else None))
    for arm in plan.arms:
        config.parse(arm_flags(plan, arm))
    runfolder.write_file(kept, json.dumps(asked, indent=1) + "\n")


def write_rows(path: Path, rows: list[dict]) -> None:
    runfolder.write_file(path, "".join(json.dumps(row) + "\n" for row in rows))


def draw_evenly(rows: list[dict], limit: int | None) -> list[dict]:
    """At most `limit` rows, drawn from all types in turn."""
    of_type: dict[str, list[dict]] = {}
    for row in random.Random(0).sample(rows, len(rows)):
        of_type.setdefault(row["type"], []).append(row)
    turns = zip_longest(*of_type.values())
    return [row for turn in turns for row in turn if row][:limit]


def cruxeval_rows(data: str) -> list[dict]:
    """CRUXEval-O as deduction tasks and -I as abduction tasks, without those whose values are no literals."""
    benchmark = suite.BENCHMARKS["cruxeval_o"]
    items, _, _ = suite.load(benchmark, suite.paths_of(benchmark, Path(data), Path(data))[0])
    with Executor(host.cores(), require="weak") as executor:
        texts = [pair for item in items for pair in (("parse_arguments", item.row["input"]),
                                                     ("parse_literal", item.row["output"]))]
        read = tasks.read(texts, executor)
    kept = [item.row for item, *pair in zip(items, read[::2], read[1::2]) if all(one.kind == "ok" for one in pair)]
    return [{"type": type, "program": row["code"], "inputs": [row["input"]], "outputs": [row["output"]]}
            for type in ("deduction", "abduction") for row in kept]


# ----------------------------------------------------------------------------------------------------------------
# Running

def arm_flags(plan: Plan, arm: str) -> list[str]:
    if SEEDS in ARMS[arm] and not plan.seed_tasks:
        raise UserError(f"the arm {arm} needs --seed_tasks")
    return ["--name", arm, "--heldout_tasks", str(plan.out / "heldout.jsonl"), "--heldout_fraction", "0",
            "--eval_samples", str(plan.samples), "--workers", str(max(1, host.cores() // plan.jobs)),
            *(plan.seed_tasks if flag == SEEDS else flag for flag in ARMS[arm]), *plan.flags, *when(plan)]


def when(plan: Plan) -> list[str]:
    """What may be another on --resume."""
    return ["--steps", str(plan.steps), "--budget_tokens", str(plan.tokens), "--budget_s", str(plan.budget_s),
            "--eval_every", str(plan.eval_every), "--curve_limit", "0"]


def commands_left(plan: Plan, arm: str) -> list[list[str]]:
    """An arm has ended when heldout.md is younger than its checkpoint, with all steps made or its budget used. Whether
    its seconds were used stands nowhere, so with --budget_s they count as used."""
    folder, left = plan.out / "runs" / arm, []
    state, table = folder / "checkpoint" / "state.json", folder / "heldout.md"
    ended = state.exists() and table.exists() and table.stat().st_mtime >= state.stat().st_mtime
    wanting = last_step(folder) < plan.steps and (not plan.tokens or runfolder.tokens_made(folder) < plan.tokens)
    if not ended or wanting and not plan.budget_s:
        if last_step(folder) >= 0:
            left.append([str(HERE / "train.py"), "--resume", str(folder), *when(plan)])
        else:
            shutil.rmtree(folder, ignore_errors=True)  # stopped before its first checkpoint
            left.append([str(HERE / "train.py"), *arm_flags(plan, arm)])
    if plan.data and (left or not (folder / "cruxeval.json").exists()):
        left.append(["-m", "experiments.work", "cruxeval", str(folder)])
    return left


def run_arms(plan: Plan) -> None:
    with ThreadPoolExecutor(plan.jobs) as pool:
        running = {pool.submit(run_commands, plan, commands_left(plan, arm), plan.out / "runs" / arm, plan.out)
                   for arm in plan.arms}
        try:
            while running:
                ended, running = wait(running, timeout=30)
                for one in ended:
                    one.result()
                write_results(plan)
        except BaseException:  # Ctrl-C, or an arm that failed: start no more
            pool.shutdown(cancel_futures=True)
            raise


# ----------------------------------------------------------------------------------------------------------------
# Results

def values_of(measure: str, result: dict) -> list[float]:
    """One number in [0, 1] a task."""
    n, solved = result["n"], result[MEASURES[measure][1]]
    return [stats.pass_at_k(n, c, n) if measure.startswith("pass") else c / n for c in solved]


def arm_results(plan: Plan, arm: str, clusters: list[str]) -> dict | None:
    """Curves of an arm, its evaluations with their intervals; None if there is nothing yet."""
    folder = plan.out / "runs" / arm
    evaluated = selfplay.read_evaluations(folder)
    if not evaluated:
        return None
    lines = [line for line in runfolder.read_lines(folder / "metrics.jsonl") if "tokens_generated" in line]
    tokens, told = {0: 0}, []
    for line in lines:
        tokens[line["step"]] = tokens[line["step"] - 1] + line["tokens_generated"]
    for step in sorted(step for step in evaluated if step in tokens):
        told.append({"step": step, "tokens": tokens[step], "measures": {}})
        for measure, (kind, _) in MEASURES.items():
            if kind in evaluated[step]:
                now, was = (values_of(measure, evaluated[at][kind]) for at in (step, min(evaluated)))
                told[-1]["measures"][measure] = {
                    "mean": statistics.mean(now), "interval": stats.interval(now, clusters),
                    "change": statistics.mean(now) - statistics.mean(was),
                    "change_interval": stats.change_interval(list(zip(was, now)), clusters)}
    curves = {key: [(line["step"], value) for line in lines if (value := over_types(line, key)) is not None]
              for key in WATCHED}
    seconds = sum(value for line in lines for key, value in line.items() if key.startswith("seconds/"))
    return {"flags": ARMS[arm], "steps": len(lines), "tokens": tokens[max(tokens)], "seconds": seconds,
            "evaluations": told, "curves": curves,
            "cruxeval": cruxeval_results(plan.out, folder)}


def over_types(line: dict, key: str) -> float | None:
    return runfolder.mean(line.get(f"{key}/{type}") for type in tasks.TYPES)


def cruxeval_results(out: Path, folder: Path) -> dict:
    """{"O strict": [before, after, low and high of the change], ...}"""
    files = (out / "cruxeval-before.json", folder / "cruxeval.json")
    if not all(file.exists() for file in files):
        return {}
    before, after = (json.loads(file.read_text()) for file in files)
    rows, told = runfolder.read_lines(out / "cruxeval.jsonl"), {}
    for name, type in (("O", "deduction"), ("I", "abduction")):
        mine = [i for i, row in enumerate(rows) if row["type"] == type]
        for form in ("strict", "lenient"):
            pairs = [(float(before[form][i]), float(after[form][i])) for i in mine]
            told[f"{name} {form}"] = [*(statistics.mean(side) for side in zip(*pairs)),
                                      *stats.change_interval(pairs, [rows[i]["program"] for i in mine])]
    return told


def write_results(plan: Plan) -> str:
    rows = runfolder.read_lines(plan.out / "heldout.jsonl")
    clusters = [row["program"] for row in rows]
    arms = {arm: result for arm in ARMS if (result := arm_results(plan, arm, clusters))}
    if not arms:
        return "nothing was evaluated yet"
    equal = min(arm["tokens"] for arm in arms.values())
    for arm in arms.values():  # that all arms have had
        arm["at_equal_tokens"] = nearest_evaluation(arm["evaluations"], equal)
    everything = {"plan": without_folders(plan), "commit": runfolder.commit(), "heldout": len(rows),
                  "programs": len(set(clusters)), "equal_tokens": equal, "arms": arms}
    text = results_table(everything)
    runfolder.write_file(plan.out / "takeoff.json", json.dumps(everything, indent=1, default=str) + "\n")
    runfolder.write_file(plan.out / "takeoff.md", text)
    runfolder.write_file(plan.out / "responses.md", "".join(responses_of(plan, arm) for arm in arms))
    plot(everything, plan.out / "takeoff.png")
    return text


def nearest_evaluation(evaluations: list[dict], tokens: int) -> int | None:
    """Its index; None if it is too far from these tokens to be compared."""
    far = [abs(one["tokens"] - tokens) for one in evaluations]
    return far.index(min(far)) if min(far) <= NEAR * tokens else None


def without_folders(plan: Plan) -> dict:
    """The plan as it is published: of paths their names alone."""
    def bare(value):
        if isinstance(value, tuple):
            return [bare(word) for word in value]
        return Path(value).name if isinstance(value, (str, Path)) and Path(value).is_absolute() else value
    return {name: bare(value) for name, value in asdict(plan).items()}


def results_table(everything: dict) -> str:
    plan, arms, names = everything["plan"], everything["arms"], list(MEASURES)
    lines = [f"{everything['heldout']} held-out tasks of {everything['programs']} programs, pass@n with n ="
             f" {plan['samples']}; percent before -> after, change in points [95%]. Flags of all arms: `"
             f"{' '.join(plan['flags'])}`; commit {everything['commit']}; one seed."]
    for title, chosen in (("At the end of each arm", {arm: -1 for arm in arms}),
                          (f"At about {everything['equal_tokens']:,} generated tokens",
                           {arm: result["at_equal_tokens"] for arm, result in arms.items()})):
        lines += titled_table(title, ["steps", "tokens", *names], {
            arm: evaluation_cells(None if chosen[arm] is None else result["evaluations"][chosen[arm]])
            for arm, result in arms.items()})
    lines += titled_table(f"Training, the first {ENDS} steps -> the last {ENDS}", WATCHED, {
        arm: [both_ends(result["curves"][key]) for key in WATCHED] for arm, result in arms.items()})
    if crux := {arm: result["cruxeval"] for arm, result in arms.items() if result["cruxeval"]}:
        lines += titled_table("CRUXEval, greedily", next(iter(crux.values())), {
            arm: [change_in_words(*numbers) for numbers in told.values()] for arm, told in crux.items()})
    return "\n".join(lines) + "\n"


def titled_table(title: str, columns, rows: dict[str, list]) -> list[str]:
    """A titled table with a row an arm."""
    return ["", f"{title}:", "", f"| arm | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|",
            *(f"| {arm} | {' | '.join(map(str, cells))} |" for arm, cells in rows.items())]


def evaluation_cells(evaluation: dict | None) -> list[str]:
    if evaluation is None:
        return ["- (no evaluation near)"] * (2 + len(MEASURES))
    return [str(evaluation["step"]), f"{evaluation['tokens']:,}",
            *(in_words(evaluation["measures"].get(name)) for name in MEASURES)]


def change_in_words(was: float, now: float, low: float, high: float) -> str:
    return f"{100 * was:.1f} -> {100 * now:.1f} ({100 * (now - was):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}])"


def in_words(measure: dict | None) -> str:
    return "-" if measure is None else change_in_words(measure["mean"] - measure["change"], measure["mean"],
                                                       *measure["change_interval"])


def both_ends(curve: list[tuple]) -> str:
    ends = [statistics.mean(value for _, value in part) for part in (curve[:ENDS], curve[-ENDS:]) if part]
    return " -> ".join(f"{end:.3g}" for end in ends) or "-"


def responses_of(plan: Plan, arm: str, count: int = 5) -> str:
    """Proposals and answers of an arm's first step and of its last one, to read."""
    rows = runfolder.read_lines(plan.out / "runs" / arm / "samples.jsonl")
    steps = sorted({row["step"] for row in rows if row["step"]})
    text = f"# {arm}\n"
    for step in dict.fromkeys(steps[:1] + steps[-1:]):
        for role in ("propose", "solve"):
            mine = [row for row in rows if (row["step"], row["role"]) == (step, role) and row["text"]]
            for row in mine[::max(1, len(mine) // count)][:count]:
                shown = printable(row["text"]).replace("~~~", "~ ~ ~")
                text += (f"\n## step {step}, {role} {row['type']}: {row['verdict']}, reward {row['reward']},"
                         f" {row['tokens']} tokens\n\n~~~\n{shown}\n~~~\n")
    return text


def plot(everything: dict, path: Path) -> None:
    if not (pyplot := load_pyplot()):
        return
    titles = {"T1 strict": "held-out, T = 1, percent right", "T1 lenient": "the same, whatever the form",
              "bad_format/propose": "proposals without the form", "bad_format/solve": "answers without the form",
              "valid": "valid proposals", "mixed": "new tasks solved sometimes, not always",
              "length/solve": "tokens of an answer", "entropy/solve": "entropy of answers, nats a token"}
    figure, axes = pyplot.subplots(4, 2, figsize=(8.4, 10), layout="constrained")  # a README's width
    for axis, (name, title) in zip(axes.flat, titles.items()):
        for number, (arm, result) in enumerate(everything["arms"].items()):
            look = {"color": f"C{number}", "ls": ("-", "--", "-.", ":")[number % 4], "label": arm}
            if name in WATCHED:
                points = result["curves"][name]
                if points:
                    axis.plot(*zip(*points), lw=1.3, **look)
            elif points := [(one["tokens"] / 1e6, *(100 * x for x in (m["mean"], *m["interval"]))) for one in
                            result["evaluations"] if (m := one["measures"].get(name))]:
                tokens, means, low, high = zip(*points)
                axis.plot(tokens, means, marker="o", **look)
                axis.fill_between(tokens, low, high, color=look["color"], alpha=0.1)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step" if name in WATCHED else "million generated tokens; bands: 95% over tasks", fontsize=9)
        axis.set_ylim(bottom=0)
    axes.flat[0].legend(frameon=False)
    figure.savefig(path, dpi=200)
    pyplot.close(figure)


# ----------------------------------------------------------------------------------------------------------------
# The command

def main(argv: list[str]) -> int:
    return command.run("experiments", work, argv)


def work(argv: list[str]) -> None:
    args, plan = parse_plan(argv)
    if args.dry and not args.report:
        if plan.out.exists() and not (plan.out / "plan.json").exists():
            raise UserError(f"{plan.out} is there and not of an earlier takeoff: --dry would remove it; choose another"
                            " --out")
        shutil.rmtree(plan.out, ignore_errors=True)
        if not plan.seed_tasks:
            plan = replace(plan, seed_tasks=str(plan.out / "seeds.jsonl"))
            plan.out.mkdir(parents=True)
            write_pool(Path(plan.seed_tasks), "grammar", 4, 0, [])
    if not args.report:
        prepare(plan, args.dry)
        run_arms(plan)
    if not (plan.out / "plan.json").exists():
        raise UserError(f"{plan.out} holds nothing yet")
    print(write_results(plan))
    for name in ("takeoff.json", "takeoff.md", "takeoff.png") if args.publish else ():
        if (plan.out / name).exists():
            shutil.copy(plan.out / name, HERE / "results" / name)
