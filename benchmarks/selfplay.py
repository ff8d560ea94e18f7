"""
Held-out self-play tasks: how many of them the policy solves, by task type and depth, while it trains (train.py) and
as tables (train.py, summary.py). Nothing here loads the tables of benchmarks, unless --eval_tasks names some.
"""
import hashlib
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from numpy import average
from tqdm import tqdm

import runfolder
import tasks
from config import Config, UserError
from executor import Executor
from model import Policy, decode, encode, forward, head_logits, pad
from sampler import generate
from tasks import TYPES, Buffers, Style, Task

DEEPEST = 5  # deeper programs share a row of the table


@dataclass
class Scores:
    """How many of its n answers solved each task, in order; `lenient`: whatever their form, where that was asked."""
    tasks: list[Task]
    correct: list[int]
    n: int = 1
    lenient: list[int] | None = None

    def rates(self) -> dict[str, float]:
        """"type/depth" -> accuracy, for metrics.jsonl."""
        return {f"{type}/{depth}": sum(self.correct[i] for i in mine) / len(mine) / self.n
                for (type, depth), mine in cells(self.tasks).items()}


def cells(some: list[Task]) -> dict[tuple[str, int], list[int]]:
    """(type, depth) -> numbers of its tasks, types in the paper's order."""
    numbers = defaultdict(list)
    for i, task in enumerate(some):
        numbers[task.type, min(task.depth, DEEPEST)].append(i)
    return {cell: numbers[cell] for cell in sorted(numbers, key=lambda cell: (list(TYPES).index(cell[0]), cell[1]))}


def spread(some: list[Task], count: int) -> list[Task]:
    """`count` of the tasks, the same ones each time: types and depths in turn, and within each the order that the
    tasks' hashes have. All of them where count is 0 or large enough."""
    if not 0 < count < len(some):
        return some
    turns = [(turn, some[i].id, i) for mine in cells(some).values()
             for turn, i in enumerate(sorted(mine, key=lambda i: some[i].id))]
    return [some[i] for i in sorted(i for _, _, i in sorted(turns)[:count])]


def to_ids(policy: Policy, style: Style, prompt: str) -> list[int]:
    return encode(policy, prompt, chat=style.name == "chat")


def examine(policy: Policy, executor: Executor, style: Style, heldout: list[Task], max_new_tokens: int,
            n: int = 1, temperature: float = 0.0, seed: int = 0, leniently: bool = False, not_first: str = "",
            **sampling) -> Scores:
    """n answers to each task, judged; greedy ones if not told otherwise. An answer counts if it is correct and
    well-formed (`leniently`: and whatever its form, apart); a task whose prompt does not fit into the model counts as
    never solved. No answer begins as `not_first` does: its first token is the likeliest of the others. `sampling` goes
    to `generate`: slots, kv_gb."""
    prompts = [to_ids(policy, style, tasks.solve_prompt(style, task)) for task in heldout]
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) + max_new_tokens <= policy.max_length]
    begun = [[] for _ in prompts]
    if not_first:
        others = other_tokens(policy, [prompts[i] for i in fits], encode(policy, not_first)[0])
        for i, token in zip(fits, others):
            begun[i] = [token]
        max_new_tokens -= 1
    with tqdm(desc=f"evaluate {len(heldout)}", unit="tok", leave=False, position=1, disable=None) as bar:
        samples = generate(policy, [prompts[i] + begun[i] for i in fits], n, max_new_tokens, temperature, seed,
                           progress=lambda made: bar.update(made - bar.n), stops=style.stops, **sampling)
    asked = [i for i in fits for _ in range(n)]
    texts = [decode(policy, begun[i] + sample.ids) for i, answers in zip(fits, samples) for sample in answers]
    answers, correct, anyhow = [(heldout[i], text) for i, text in zip(asked, texts)], [0] * len(heldout), None
    strict = [verdict.correct and verdict.well_formed for verdict in tasks.verify(answers, executor)]
    for i, right in zip(asked, strict):
        correct[i] += right
    if leniently:
        from benchmarks import lenient
        anyhow = [0] * len(heldout)
        for i, right, meant in zip(asked, strict, lenient.verify(answers, executor)):
            anyhow[i] += right or meant
    return Scores(heldout, correct, n, anyhow)


@torch.no_grad()
def other_tokens(policy: Policy, prompts: list[list[int]], forbidden: int) -> list[int]:
    """The likeliest token after each prompt but for this one."""
    policy, chosen = replace(policy, compile=False), []  # nothing else would use what is compiled for this
    for some in tasks.chunks(prompts, 8):
        hidden_BTD = forward(policy, *pad(some, policy.device))
        logits_BV = head_logits(policy, hidden_BTD[range(len(some)), [len(prompt) - 1 for prompt in some]])
        logits_BV[:, forbidden] = -torch.inf
        chosen += logits_BV.argmax(-1).tolist()
    return chosen


def own_heldout(policy: Policy, executor: Executor, style: Style, buffers: Buffers, limit: int, max_new_tokens: int,
                seed: int, **sampling) -> list[Task]:
    """The run's own held-out tasks, the newest `limit` per type. Proposers that are given a program only ever see
    trained ones, so their tasks on held-out programs are asked of `policy` here, where nothing is trained on; give the
    starting policy, so that the trained one does not choose its own examination."""
    chosen = [task for name in TYPES for task in buffers.heldout[name][max(0, len(buffers.heldout[name]) - limit):]]
    programs = list({task.key: task for task in chosen if TYPES[task.type].gives_programs}.values())
    asked = [(type, task) for type in TYPES.values() if type.given_program for task in programs]
    prompts = [to_ids(policy, style, tasks.propose_prompt(style, type, [task])) for type, task in asked]
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) + max_new_tokens <= policy.max_length]
    samples = generate(policy, [prompts[i] for i in fits], 1, max_new_tokens, seed=seed, stops=style.stops, **sampling)
    proposals = [(asked[i][0], decode(policy, sample.ids), asked[i][1]) for i, [sample] in zip(fits, samples)]
    gated = tasks.gate(proposals, executor, n_inputs=style.n_inputs, markers=style.markers)
    return chosen + [result.task for result in gated if result.task]


def groups(some: list[Task]) -> dict[tuple[str, str], list[int]]:
    """(type, depth) -> numbers of the tasks of each row of a table: a row for each type and one for all; where the file
    names groups, one for each, with its name in the place of a depth; and one for each type and depth."""
    of_cells = cells(some)
    totals = {type: [i for cell, mine in of_cells.items() if cell[0] == type for i in mine]
              for type in dict.fromkeys(type for type, _ in of_cells)}
    if len(totals) > 1:
        totals["mean"] = list(range(len(some)))
    every = list(totals)[-1:]  # the mean, or the only type
    return {(type, "all"): mine for type, mine in totals.items()} | {
        (type, name): [i for i in totals[type] if some[i].group == name]
        for type in every for name in group_names(task.group for task in some)
    } | {(type, f"{depth}+" if depth == DEEPEST else str(depth)): mine for (type, depth), mine in of_cells.items()}


def group_names(groups: Iterable[str]) -> list[str]:
    """Each once, in the order of the numbers in them; "" is none."""
    return sorted(set(groups) - {""},
                  key=lambda name: ([float(number) for number in re.findall(r"\d+(?:\.\d+)?", name)], name))


def estimates(before: Scores | None, after: Scores, mine: list[int]) -> list[tuple[float, float, float]]:
    """(share, low, high) after training of these tasks' answers that are right; with `before` that one's first, and
    last (change, low, high). Of several types the mean over types. 95% intervals, clustered by program: tasks share
    them."""
    from benchmarks import stats
    clusters, types = [after.tasks[i].key or after.tasks[i].program for i in mine], [after.tasks[i].type for i in mine]
    count = Counter(types)
    weights = [1 / count[type] for type in types] if len(count) > 1 else None
    sides = [[scores.correct[i] / scores.n for i in mine] for scores in (before, after) if scores]
    told = [(float(average(side, weights=weights)), *stats.interval(side, clusters, weights)) for side in sides]
    if before:
        pairs = list(zip(*sides))
        told.append((told[1][0] - told[0][0], *stats.change_interval(pairs, clusters, weights)))
    return told


def accuracy_table(before: Scores | None, after: Scores, free: Scores | None = None) -> str:
    """Markdown: accuracy in percent, change in points; all columns are of the same tasks. `free`: of the model before
    training too, as `zero_token` has them. The ends of a change have a decimal, as its verdict is read from them: [0.3,
    4.9] is none that holds 0, and [0, 5] would be."""
    measured = ["before", *["without training"] * bool(free), "after", "change"] if before else ["accuracy"]
    columns = ["type", "depth", "tasks", *measured]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for (type, depth), mine in groups(after.tasks).items():
        found, told = estimates(before, after, mine), []
        if free:
            found.insert(1, estimates(None, free, mine)[0])
        for column, (value, *ends) in zip(measured, found):
            sign, digits = ("+", 1) if column == "change" else ("", None)
            low, high = (round(100 * end, digits) + 0 for end in ends)  # + 0: no -0.0
            told.append(f"{100 * value:{sign}.1f} [{low}, {high}]")
        lines.append(f"| {' | '.join([type, depth, str(len(mine)), *told])} |")
    return "\n".join(lines) + "\n"


def changes(before: Scores, after: Scores) -> dict[str, tuple[float, float, float]]:
    """By type, and of their mean: what stats.verdict puts into words."""
    return {type: estimates(before, after, mine)[-1] for (type, depth), mine in groups(after.tasks).items()
            if depth == "all"}


# ----------------------------------------------------------------------------------------------------------------
# What a run of train.py (its Training) evaluates: every --eval_every steps, and at its end

def examine_in(run, heldout: list[Task], n: int = 1, temperature: float = 0.0, leniently: bool = False,
               not_first: str = "") -> Scores:
    return examine(run.policy, run.executor, run.style, heldout, run.cfg.max_new_tokens, n, temperature, run.cfg.seed,
                   leniently, not_first, slots=run.cfg.slots, kv_gb=run.kv_gb)


def evaluations(run, log: runfolder.Log) -> dict:
    """What --eval_every asks for, by its names in metrics.jsonl. Each task's answers go to evaluations.jsonl."""
    cfg, scores, begun = run.cfg, {}, time.monotonic()
    heldout = spread(run.heldout_file[:cfg.eval_limit], cfg.curve_limit)
    passes = {"heldout": (1, 0.0), "heldout_sampled": (cfg.eval_samples, cfg.temperature)}
    passes = {name: how for name, how in passes.items() if how[0]}
    if heldout:
        first = examined_at(run, heldout, min(read_evaluations(run.folder), default=0))
        examined = {name: examine_in(run, heldout, *how, leniently=True) for name, how in passes.items()}
        scores |= {name: result.rates() for name, result in examined.items()}
        scores |= by_type(first, examined["heldout"])
        told = {name: {"n": result.n, "strict": result.correct, "lenient": result.lenient}
                for name, result in examined.items()}
        log.evaluation({"step": run.step, "tasks": hash_of_tasks(heldout)} | told)
    if run.benchmarks:
        from benchmarks import stages
        with stages.scorer(cfg.workers, cfg.require) as executor:
            scores["eval"] = stages.rates(run.policy, run.benchmarks, stages.Sampling(
                "chat" if cfg.prompt == "chat" else "azr", max_new_tokens=cfg.max_new_tokens, slots=cfg.slots,
                kv_gb=run.kv_gb, example=run.style.example, stop_at_answer=bool(run.style.stops)), executor)
    run.eval_seconds = time.monotonic() - begun
    return scores


def by_type(first: Scores | None, now: Scores) -> dict[str, dict[str, list[float]]]:
    """For metrics.jsonl: (share, low, high) of each type and of their mean, also by the groups that the file names, and
    how far it is from the first evaluation, which is told on the screen too."""
    rows = groups(now.tasks)
    totals = {type: mine for (type, depth), mine in rows.items() if depth == "all"}
    scores = {"heldout_by_type": {type: estimates(None, now, mine)[0] for type, mine in totals.items()}}
    if names := group_names(task.group for task in now.tasks):
        every = list(totals)[-1]  # the mean, or the only type
        scores["heldout_by_group"] = {name: estimates(None, now, rows[every, name])[0] for name in names}
    if first:
        from benchmarks.stats import verdict
        scores["heldout_change"] = changes(first, now)
        runfolder.say(f"{len(now.tasks)} held-out tasks, since the first evaluation: "
                      f"{verdict(scores['heldout_change'])}")
    return scores


def read_evaluations(folder: Path) -> dict[int, dict]:
    """By step, what `evaluations` wrote of it: {"heldout": {"n", "strict", "lenient"}, perhaps "heldout_sampled"}."""
    path = folder / "evaluations.jsonl"
    return {line["step"]: line for line in runfolder.read_lines(path)} if path.exists() else {}


def examined_at(run, heldout: list[Task], step: int) -> Scores | None:
    """Greedy answers to these tasks, if they were asked for at this step already."""
    line = read_evaluations(run.folder).get(step)
    same = line and line.get("tasks") == hash_of_tasks(heldout)  # not of another --heldout_tasks or --eval_limit
    return Scores(heldout, line["heldout"]["strict"], lenient=line["heldout"]["lenient"]) if same else None


def zero_token(run, heldout: list[Task], before: Scores) -> tuple[str, Scores]:
    """(how, greedy answers) of the run's policy, which is the one before training, where one token or a kinder judge
    does what training might be praised for: answers that may not end their thinking at once, or whose form is forgiven.
    Whichever solves most."""
    thinking = examine_in(run, heldout, leniently=True, not_first="</think>")
    ways = {"as it is": before.correct, "with its form forgiven": before.lenient,
            "not allowed to begin with </think>": thinking.correct,
            "not allowed to begin with </think>, with its form forgiven": thinking.lenient}
    how = max(ways, key=lambda name: sum(ways[name]))
    return how, Scores(heldout, ways[how])


def hash_of_tasks(some: list[Task]) -> str:
    return hashlib.sha256("".join(task.id for task in some).encode()).hexdigest()[:16]


def benchmarks_of(cfg: Config, executor: Executor, say: Callable[[str], None]) -> list:
    """What --eval_tasks names; UserError."""
    from benchmarks import stages  # with the benchmarks' tables, which nothing else here needs
    try:
        works, left_out = stages.prepare(stages.names_of(",".join(cfg.eval_tasks)),
                                         cfg.eval_data and Path(cfg.eval_data), executor,
                                         Style(cfg.prompt, example=cfg.example), cfg.eval_limit, note=say)
        if left_out:
            raise ValueError(left_out[0])
        return works
    except (stages.DataError, ValueError) as error:
        raise UserError(f"--eval_tasks: {str(error).removeprefix('--tasks ')}") from error


def before_and_after(run, starting_policy: AbstractContextManager, say: Callable[[str], None]) -> str:
    """Two tables of held-out accuracy, of the starting policy and the run's own: on the held-out file, which other runs
    share, and on what this run set aside."""
    from benchmarks.stats import verdict
    cfg, text = run.cfg, ""
    with starting_policy as policy:
        own = own_heldout(policy, run.executor, run.style, run.buffers, cfg.eval_limit, cfg.max_new_tokens, cfg.seed,
                          slots=cfg.slots, kv_gb=run.kv_gb)
        sets = {f"Held-out tasks of {cfg.heldout_tasks}": run.heldout_file[:cfg.eval_limit],
                "Tasks of this run's own held-out programs": own}
        say(f"evaluating on {sum(map(len, sets.values()))} held-out tasks, before and after")
        start = replace(run, policy=policy)
        before = {title: examined_at(run, heldout, 0) or examine_in(start, heldout, leniently=cfg.zero_token)
                  for title, heldout in sets.items() if heldout}
        free = {title: zero_token(start, sets[title], scores) for title, scores in before.items() if cfg.zero_token}
    for title, heldout in sets.items():
        if heldout:
            after = examined_at(run, heldout, run.step) or examine_in(run, heldout)
            how, best = free.get(title, ("", None))
            told = (f"Without training: greedy answers of the model before training, {how}: the best of four ways to"
                    " ask it.\n\n") if how else ""
            text += (f"{title}, after {run.step} steps:\n\n{verdict(changes(before[title], after))}.\n\n{told}"
                     f"{accuracy_table(before[title], after, best)}\n")
    return text or "No held-out tasks: give --heldout_tasks, or train longer so that some are set aside.\n"
