"""
How good a model is, before against after: the paper's benchmarks and held-out self-play tasks.

    python eval.py                                                       # nano on nano/heldout.jsonl
    python eval.py --model DIR --tasks code,reason --data DATA --out before
    python eval.py --model DIR --adapter runs/NAME/checkpoint/policy --tasks code,reason --data DATA --out after
    python eval.py --compare before after

Three stages write into the folder --out, and each can be run alone and again: responses (samples.jsonl, which a rerun
completes), verdicts (verdicts.jsonl, made without the model), and the table (summary.json, summary.md). benchmarks.py
has the tasks, stats.py the statistics. Order of reading: self-play in training (`score`, `table`), what is to be
done (`Work`), the stages, `compare`, `selfcheck`, the command line.
"""
import argparse
import hashlib
import json
import math
import os
import platform
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks import suite as benchmarks
from benchmarks import stats
import tasks
from benchmarks.suite import BENCHMARKS, GROUPS, DataError, Item, Kind, Prompt, Verdict, cut
from executor import LEVELS, Executor, ExecutorError, Job
from benchmarks.selfplay import Scores, table
from model import ModelError, Policy, decode, encode, load_policy
from sampler import add, advance, idle, start_rollout, stop_rows
from benchmarks.stats import wilson
from tasks import TYPES, Buffers, Style, Task

HERE = Path(__file__).resolve().parent
STOP_STEPS = 8  # decode steps between two searches for a prompt's stops in what was made so far
CURVE = (1, 2, 4, 8, 16, 32, 64)  # k of pass@k
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "absolute-zero"


# ---------------------------------------------------------------------------------------------------------------------
# What is to be done

@dataclass(frozen=True)
class Work:
    """One task with its items. `facts` goes into the summary: files with sha256, count, version."""
    name: str
    title: str
    kind: Kind
    items: list[Item]
    facts: dict
    max_new_tokens: int
    averaged: int = 0


def names_of(text: str) -> list[str]:
    """`code,aime24,runs/NAME` -> names of benchmarks and paths, each once; ValueError."""
    names = [name for part in filter(None, text.split(",")) for name in GROUPS.get(part, [part])]
    if not names:
        raise ValueError("--tasks names no task")
    for name in names:
        if name not in BENCHMARKS and not Path(name).exists():
            raise ValueError(f"--tasks {name}: no such task or file; tasks: {', '.join(BENCHMARKS)}; groups:"
                             f" {', '.join(GROUPS)}")
    return list(dict.fromkeys(names))


def prepare(names: list[str], data: Path | None, executor: Executor, style: Style, limit: int | None = None,
            window: tuple[str, str] = ("", "9999"), note=print) -> list[Work]:
    """The tasks with their items. Raises DataError and ValueError; what could be done differently goes to `note`."""
    works = []
    for name in names:
        if name in BENCHMARKS:
            benchmark = BENCHMARKS[name]
            if benchmark.kind is benchmarks.FORMULAS and not benchmarks.has_math_verify():
                note(f"{benchmark.title} is skipped: it needs pip install 'math-verify[antlr4_13_2]'")
                continue
            items, files, warnings = benchmarks.load(benchmark, benchmarks.paths_of(benchmark, data, CACHE))
            for warning in warnings:
                note(f"note: {warning}")
            items = benchmarks.in_window(items, *window)[:limit]
            facts = {"files": files, "count": len(items), "version": benchmark.version}
            if benchmark.kind is benchmarks.CONTESTS:
                facts["window"] = list(window)
            works.append(Work(name, benchmark.title, benchmark.kind, items, facts, benchmark.max_new_tokens,
                              benchmark.averaged))
        else:
            path = Path(name)
            items = benchmarks.selfplay_items(path, executor)[:limit]
            file = path / "checkpoint" / "state.json" if path.is_dir() else path
            facts = {"files": [{"file": name, "sha256": benchmarks.digest(file)}], "count": len(items),
                     "version": "self-play"}
            works.append(Work(name, name, benchmarks.selfplay_kind(style), items, facts,
                              192 if style.name == "compact" else 2048))
        if not works[-1].items:
            raise ValueError(f"{name}: no items are left by --limit, --lcb_from and --lcb_to")
    return works


def scorer(workers: int, require: str, mathematics: bool = True) -> Executor:
    """The executor that solutions run in: no results kept, since reruns must run, and the limits of a first try."""
    preload = ("benchmarks.harness", "benchmarks.mathcheck") if mathematics and benchmarks.has_math_verify() else ("benchmarks.harness",)
    return Executor(workers, benchmarks.FIRST[0], benchmarks.MEMORY_MB, require, cached_jobs=0, preload=preload)


def prompt_ids(policy: Policy, prompt: Prompt) -> list[int]:
    if prompt.text:
        return encode(policy, prompt.text)
    if policy.tokenizer.chat_template is None:
        raise ModelError("this model's tokenizer has no chat template; use --prompt azr or --prompt base")
    turns = [{"role": "system", "content": prompt.system}] * bool(prompt.system)
    text = policy.tokenizer.apply_chat_template(turns + [{"role": "user", "content": prompt.user}], tokenize=False,
                                                add_generation_prompt=True)
    if prompt.prefill == "<think>" and text.rstrip().endswith("<think>"):  # some templates open it themselves
        return encode(policy, text, chat=True)
    return encode(policy, text + prompt.prefill, chat=True)


# ---------------------------------------------------------------------------------------------------------------------
# Stage one: responses

def plan(work: Work, n: int, temperature: float) -> list[tuple[float, int]]:
    """[(temperature, samples)]: what the flags say; with greedy decoding also the samples of small benchmarks."""
    return [(temperature, n)] + [(benchmarks.AVERAGE_TEMPERATURE, work.averaged)] * bool(
        work.averaged and temperature == 0)


def sample(policy: Policy, work: Work, style: str, wanted: list[tuple[Item, int]], temperature: float,
           max_new_tokens: int, seed: int, slots: int, kv_gb: float = 4.0):
    """Yields (item, k, response, finish, tokens) as responses end; draws hang on (seed, task, item, k) alone. A prompt
    that does not fit into the model gets an empty response that finished with "too_long"."""
    asked = {item.id: work.kind.prompts[style](item) for item, _ in wanted}
    prompts = {id: prompt_ids(policy, prompt) for id, prompt in asked.items()}
    room = policy.max_length - max_new_tokens
    fits = [pair for pair in wanted if len(prompts[pair[0].id]) <= room]
    for item, k in wanted:
        if len(prompts[item.id]) > room:
            yield item, k, "", "too_long", 0
    if not fits:
        return
    longest = max(len(prompts[item.id]) for item, _ in fits) + max_new_tokens
    rollout = start_rollout(policy, min(slots, len(fits)), longest, max_new_tokens, temperature, seed, kv_gb)
    for item, k in sorted(fits, key=lambda pair: -len(prompts[pair[0].id])):
        add(rollout, prompts[item.id], 1, tag=(item, k), key=f"{work.name} {item.id} {k}")

    def has_stopped(request, ids: list[int]) -> bool:
        text = decode(policy, ids)
        return any(stop in text for stop in asked[request.tag[0].id].stops)
    with tqdm(total=len(fits), desc=work.name, unit="answer", leave=False, disable=None) as bar:
        while not idle(rollout):
            for request, _, made in advance(rollout):
                (item, k), text = request.tag, decode(policy, made.ids)
                stopped = any(stop in text for stop in asked[item.id].stops)
                bar.update()
                bar.set_postfix_str(f"{rollout.made} tokens")
                yield item, k, cut(text, asked[item.id].stops), "stop" if stopped else made.finish, len(made.ids)
            if rollout.steps // STOP_STEPS != (rollout.steps - rollout.read_every) // STOP_STEPS:
                stop_rows(rollout, has_stopped)


def read_json(text: bytes, where: str) -> dict:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is damaged ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where} is not a JSON object")
    return found


def read_lines(path: Path) -> list[dict]:
    """The rows of a JSONL file; what an interrupt has left of a last line is dropped. ValueError for any other damage:
    scores of what is left would look like scores of all."""
    *lines, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
    rows = [read_json(line, f"{path}, line {number},") for number, line in enumerate(lines, 1) if line.strip()]
    try:
        return rows + [read_json(last, "")]
    except ValueError:
        return rows


def generate_all(policy: Policy, works: list[Work], args, settings: dict, out: Path) -> None:
    """Completes samples.jsonl: what is there, made with the same settings, stays."""
    out.mkdir(parents=True, exist_ok=True)
    path, kept = out / "samples.jsonl", out / "settings.json"
    rows = read_lines(path)
    if rows and (not kept.exists() or read_json(kept.read_bytes(), str(kept)) != settings):
        raise ValueError(f"{out} holds responses made with other settings ({kept}); choose another --out")
    there = {tuple(row.get(name) for name in ("task", "id", "temperature", "k")) for row in rows}
    write(kept, json.dumps(settings, indent=2) + "\n")
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        write(path, "".join(json.dumps(row) + "\n" for row in rows))
    with open(path, "a", encoding="utf-8") as file:
        for work in works:
            limit = args.max_new_tokens or work.max_new_tokens
            for temperature, n in plan(work, args.n, args.temperature):
                missing = [(item, k) for item in work.items for k in range(n)
                           if (work.name, item.id, temperature, k) not in there]
                for item, k, text, finish, tokens in sample(policy, work, args.prompt, missing, temperature, limit,
                                                            args.seed, args.slots, args.kv_gb):
                    row = {"task": work.name, "id": item.id, "k": k, "temperature": temperature, "text": text,
                           "finish": finish, "tokens": tokens}
                    file.write(json.dumps(row) + "\n")
                    file.flush()


def write(path: Path, text: str) -> None:
    """All of it or nothing."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


# ---------------------------------------------------------------------------------------------------------------------
# Stage two: verdicts

def solutions_of(rows: list[dict], works: list[Work]) -> list[dict]:
    """Rows of anybody's samples in our form. evalplus' have task_id and solution or completion, in the order of k; its
    tasks go to the first of `works` that has them. ValueError for rows that name no item."""
    items = [{item.id: item for item in work.items} for work in works]
    seen, found = Counter(), []
    for number, row in enumerate(rows, 1):
        id = str(row.get("id", row.get("task_id")))
        at = next((i for i, work in enumerate(works)
                   if id in items[i] and row.get("task", work.name) == work.name), None)
        if at is None:
            continue  # of a task that was not asked for, or beyond --limit
        texts = [name for name in ("text", "solution", "completion") if isinstance(row.get(name), str)]
        if not texts:
            raise ValueError(f"line {number} has neither text, solution nor completion")
        facts = {"k": seen[at, id], "tokens": 0, "temperature": None, "finish": ""}
        facts |= {name: row[name] for name in facts if row.get(name) is not None}
        if not isinstance(facts["finish"], str) or not all(
                value is None or type(value) in (int, float) for name, value in facts.items() if name != "finish"):
            raise ValueError(f"line {number}: k, tokens and temperature are numbers, finish is text")
        made = {"task": works[at].name, "id": id} | facts
        seen[at, id] += 1
        item = items[at][id]
        if texts[0] != "text" and "prompt" not in item.row:
            raise ValueError(f"line {number}: {texts[0]} is for HumanEval and MBPP; {works[at].title} takes text")
        program = {"solution": row.get("solution"), "completion": item.row.get("prompt", "") + row.get("completion", "")
                   if texts[0] == "completion" else None}.get(texts[0])
        found.append(made | ({"text": row["text"]} if program is None else {"program": program}))
    return found


def judge_work(work: Work, rows: list[dict], style: str, executor: Executor, lenient: bool = False) -> list[Verdict]:
    """Verdicts on one task's rows (as `solutions_of` makes them), in order."""
    by_id = {item.id: item for item in work.items}
    answers: list[str | None] = []
    for row in rows:
        item = by_id[row["id"]]
        answers.append(row["program"] if "program" in row else
                       work.kind.find(item, work.kind.prompts[style](item), row["text"]))
    verdicts: list = [Verdict(False, "truncated" if row["finish"] == "length" else "no_answer",
                              "the prompt does not fit into the model" if row["finish"] == "too_long" else "")
                      for row in rows]
    whole = [i for i, row in enumerate(rows) if "program" in row]
    rest = [i for i, row in enumerate(rows) if "program" not in row and answers[i] is not None]
    for indices, options in ((whole, {"whole": True}), (rest, {})):
        pairs = list(dict.fromkeys((rows[i]["id"], answers[i]) for i in indices))  # samples repeat each other
        asked = [(by_id[id], answer) for id, answer in pairs]
        verdict_of = dict(zip(pairs, work.kind.judge(asked, executor, lenient, **options) if pairs else ()))
        for i in indices:
            verdict = verdict_of[rows[i]["id"], answers[i]]
            if verdict.infra:
                raise DataError(f"the executor failed on {rows[i]['id']} ({verdict.detail}); no verdicts were written")
            short = verdict.reason == "no_answer" and rows[i]["finish"] == "length"
            verdicts[i] = Verdict(False, "truncated", verdict.detail) if short else verdict
    return verdicts


def score_all(works: list[Work], samples: list[dict], args, executor: Executor, out: Path) -> list[dict]:
    """Writes verdicts.jsonl, whose rows it returns."""
    out.mkdir(parents=True, exist_ok=True)
    rows, done = solutions_of(samples, works), []
    if not rows:
        raise ValueError("there are no samples of these tasks")
    if missed := len(samples) - len(rows):
        complain(f"note: {missed} of {len(samples)} samples are of other problems, or beyond --limit")
    for work in works:
        mine = [row for row in rows if row["task"] == work.name]
        clusters = {item.id: item.cluster or item.id for item in work.items}
        for row, verdict in zip(mine, judge_work(work, mine, args.prompt, executor, args.lenient)):
            facts = {name: row[name] for name in ("task", "id", "k", "temperature", "finish", "tokens")}
            base = {} if verdict.base is None else {"base": verdict.base}
            done.append(facts | {"cluster": clusters[row["id"]], "ok": verdict.ok, "reason": verdict.reason,
                                 "detail": verdict.detail} | base)
    write(out / "verdicts.jsonl", "".join(json.dumps(row) + "\n" for row in done))
    return done


# ---------------------------------------------------------------------------------------------------------------------
# Stage three: numbers

def by_problem(rows: list[dict], value: str = "ok") -> tuple[list[str], list[list[float]], list[str]]:
    """(ids, one list of 0 and 1 per problem, clusters)"""
    grouped, clusters = defaultdict(list), {}
    for row in rows:
        grouped[row["id"]].append(float(row[value]))
        clusters[row["id"]] = row["cluster"]
    return list(grouped), list(grouped.values()), [clusters[id] for id in grouped]


def numbers(rows: list[dict], value: str = "ok") -> dict:
    """Of one task at one temperature: the mean over problems of their share of correct samples, and its company."""
    _, results, clusters = by_problem(rows, value)
    means = [sum(result) / len(result) for result in results]
    low, high = stats.interval(means, clusters)
    least = min(map(len, results))
    finished = [row["finish"] for row in rows]
    found = {"score": sum(means) / len(means), "low": low, "high": high, "error": stats.standard_error(means, clusters),
             "problems": len(results), "samples": len(rows), "reasons": stats.shares([row["reason"] for row in rows]),
             "truncated": finished.count("length") / len(rows),
             "tokens": sum(row["tokens"] for row in rows) / len(rows)}
    if least > 1:
        found["pass_at_k"] = {str(k): sum(stats.pass_at_k(len(result), int(sum(result)), k) for result in results)
                              / len(results) for k in CURVE if k <= least}
    return found


def summarise(works: list[Work], rows: list[dict], settings: dict, out: Path) -> str:
    """Writes summary.json and summary.md; the latter's text."""
    found = {}
    for work in works:
        mine = [row for row in rows if row["task"] == work.name]
        entry = {"title": work.title, **work.facts, "at": {}}
        for temperature in dict.fromkeys(row["temperature"] for row in mine):
            some = [row for row in mine if row["temperature"] == temperature]
            entry["at"][str(temperature)] = numbers(some)
            if "base" in some[0]:
                base = numbers(some, "base")
                entry["at"][str(temperature)]["base"] = {name: base[name] for name in ("score", "low", "high", "error")}
        found[work.name] = entry
    summary = {"settings": settings, "tasks": found, "averages": averages(found)}
    write(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    text = markdown(summary)
    for work in works:
        if isinstance(work.items[0].row.get("task"), Task):
            verdict_of = {row["id"]: row["ok"] for row in rows if row["task"] == work.name and row["k"] == 0}
            judged = [item for item in work.items if item.id in verdict_of]
            scores = Scores([item.row["task"] for item in judged], [int(verdict_of[item.id]) for item in judged])
            first = "" if len(verdict_of) == sum(row["task"] == work.name for row in rows) else \
                f"The first answer to every task of {work.title}:\n\n"
            text += f"\n{first}{table(None, scores)}"
    write(out / "summary.md", text)
    return text


def averages(found: dict) -> dict:
    """The paper's means over code and over mathematics, from the tasks' first temperatures, with standard errors."""
    means = {}
    for group in ("code", "math", "reason"):
        ats = [next(iter(found[name]["at"].values())) for name in GROUPS[group] if name in found]
        if len(ats) > 1:
            means[group] = {"mean": sum(at["score"] for at in ats) / len(ats), "tasks": len(ats),
                            "error": stats.macro_error([at["error"] for at in ats])}
    return means


def percent(entry: dict) -> str:
    return f"{100 * entry['score']:.1f} [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"


def markdown(summary: dict) -> str:
    """The table: percent correct with 95% intervals over problems."""
    settings = summary["settings"]
    lines = [f"Model {settings.get('model') or 'not stated'}"
             + (f" with {settings['adapter']}" if settings.get("adapter") else "")
             + f", prompt {settings['prompt']}, Python {settings['python']}.", "",
             "| task | T | problems x samples | score [95%] | wrong | error | timeout | no answer | cut off |",
             "|---" * 9 + "|"]
    for entry in summary["tasks"].values():
        for temperature, at in entry["at"].items():
            reasons = [100 * at["reasons"].get(reason, 0) for reason in ("wrong", "error", "timeout")]
            missing = 100 * (at["reasons"].get("no_answer", 0) + at["reasons"].get("truncated", 0))
            each = at["samples"] / at["problems"]
            share = " | ".join(f"{value:.1f}" for value in (*reasons, missing, 100 * at["truncated"]))
            head = f"{temperature} | {at['problems']} x {each:g}"
            if "base" in at:
                lines.append(f"| {entry['title'].rstrip('+')}, base tests | {head} | {percent(at['base'])} | | | | | |")
            title = entry["title"] + (f" avg@{each:g}" if each > 1 else "")
            lines.append(f"| {title} | {head} | {percent(at)} | {share} |")
    for entry in summary["tasks"].values():
        for temperature, at in entry["at"].items():
            if at["problems"] < entry["count"]:
                lines += ["", f"Only {at['problems']} of the {entry['count']} problems of {entry['title']}, T ="
                          f" {temperature}, have samples."]
            if curve := at.get("pass_at_k"):
                lines += ["", f"{entry['title']}, T = {temperature}, pass@k: " + ", ".join(
                    f"{k}: {100 * value:.1f}" for k, value in curve.items())]
    for group, mean in summary["averages"].items():
        lines += ["", f"Mean of {mean['tasks']} {group} tasks: {100 * mean['mean']:.1f}, standard error"
                  f" {100 * mean['error']:.1f}."]
    return "\n".join(lines) + "\n"


def results(folder: Path) -> tuple[dict, dict]:
    """(summary, (task, temperature) -> rows of verdicts) of an --out folder; ValueError."""
    summary, verdicts = folder / "summary.json", folder / "verdicts.jsonl"
    if not verdicts.is_file() or not summary.is_file():
        raise ValueError(f"{folder}: no verdicts.jsonl and summary.json; run eval.py --out {folder} first")
    found, grouped = read_json(summary.read_bytes(), str(summary)), defaultdict(list)
    for row in read_lines(verdicts):
        if row.get("task") not in found.get("tasks", ()) or not {"temperature", "id", "ok", "cluster"} <= row.keys():
            raise ValueError(f"{folder}: verdicts.jsonl does not go with summary.json; run --stage score again")
        grouped[row["task"], row["temperature"]].append(row)
    return found, grouped


def compare(before: Path, after: Path) -> str:
    """Markdown: what changed on the same problems, paired. ValueError where the two cannot be compared."""
    (old, old_rows), (new, new_rows) = results(before), results(after)
    for name in ("prompt", "n", "temperature", "max_new_tokens", "lenient"):
        was, now = (each.get("settings", {}).get(name) for each in (old, new))
        if was != now:
            raise ValueError(f"{before} and {after} differ in {name} ({was}, {now}), so the change is not the model's")
    lines, ps, notes = [], [], []
    for key in dict.fromkeys([*old_rows, *new_rows]):
        name = f"{key[0]}, T = {key[1]}"
        if key not in old_rows or key not in new_rows:
            notes.append(f"{name} is in one of the two only.")
            continue
        was, now = ([file["sha256"] for file in each["tasks"][key[0]]["files"]] for each in (old, new))
        if was != now:
            raise ValueError(f"{key[0]}: {before} and {after} were made with different files")
        earlier, later = list(zip(*by_problem(old_rows[key]))), dict(zip(*by_problem(new_rows[key])[:2]))
        both = [((verdicts, later[id]), cluster) for id, verdicts, cluster in earlier if id in later]
        if len(both) < max(len(earlier), len(later)):
            notes.append(f"{name}: {len(both)} problems are in both, of {len(earlier)} and {len(later)}.")
        if both:
            line, p, more = compare_task(*zip(*both))
            lines.append(f"| {old['tasks'][key[0]]['title']} | {key[1]} | {line}")
            ps.append(p)
            notes += [f"{name}: {note}" for note in more]
    if not lines:
        raise ValueError(f"{before} and {after} have no task in common")
    text = ["| task | T | problems | before | after | change, 95% interval | lost b | gained c | exact p | Holm p |",
            "|---" * 10 + "|"]
    text += [f"{line} | {p:.3g} | {held:.3g} |" for line, p, held in zip(lines, ps, stats.holm(ps))]
    notes.append("One training run a side: the spread between seeds is not in these intervals.")
    return "\n".join(text + [""] + notes) + "\n"


def compare_task(problems: list[tuple[list, list]], clusters: list[str]) -> tuple[str, float, list[str]]:
    """(cells of the table, exact p, notes) from every problem's (verdicts before, verdicts after)."""
    def change(value: Callable[[list], float]) -> tuple[list, list[str]]:
        pairs = [(value(was), value(now)) for was, now in problems]
        was, now = (100 * sum(side) / len(pairs) for side in zip(*pairs))
        low, high = stats.change_interval(pairs, clusters)
        return pairs, [f"{was:.1f}", f"{now:.1f}", f"{now - was:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"]
    pairs, cells = change(lambda verdicts: sum(verdicts) / len(verdicts))
    # Where problems are not independent, the coin that McNemar's test throws falls once for all of a cluster.
    moved: dict[str, float] = defaultdict(float)
    for (was, now), cluster in zip(pairs, clusters):
        moved[cluster] += now - was
    p = stats.mcnemar(sum(by < -1e-9 for by in moved.values()), sum(by > 1e-9 for by in moved.values()))
    counts = [len(verdicts) for problem in problems for verdicts in problem]
    notes = []
    if max(counts) > 1:
        notes.append("b and c count problems whose share of correct samples fell and rose (a sign test).")
    if len(moved) < len(pairs):
        notes.append(f"p is of {len(moved)} groups of problems, since those of a group are not independent.")
    if min(counts) > 1:
        curve = {k: change(lambda verdicts: stats.pass_at_k(len(verdicts), int(sum(verdicts)), k))[1]
                 for k in CURVE if k <= min(counts)}
        notes.append("pass@k " + ", ".join(f"{k}: {was} to {now}, {by}" for k, (was, now, by) in curve.items()) + ".")
    lost, gained = sum(was > now for was, now in pairs), sum(now > was for was, now in pairs)
    return " | ".join([str(len(pairs)), *cells, str(lost), str(gained)]), p, notes


def export_evalplus(works: list[Work], rows: list[dict], style: str, path: Path) -> int:
    """Writes the HumanEval and MBPP answers as evalplus' JSONL; how many. evalplus sanitizes them itself."""
    lines = []
    for work in works:
        items = {item.id: item for item in work.items if "entry_point" in item.row}
        for row in solutions_of(rows, [work]) if items else []:
            item = items[row["id"]]
            found = row["program"] if "program" in row else \
                work.kind.find(item, work.kind.prompts[style](item), row["text"])
            lines.append(json.dumps({"task_id": row["id"], "solution": found or ""}) + "\n")
    write(path, "".join(lines))
    return len(lines)


# ---------------------------------------------------------------------------------------------------------------------
# In training, and without a model

def rates(policy: Policy, works: list[Work], style: str, executor: Executor, max_new_tokens: int, slots: int,
          kv_gb: float) -> dict[str, float]:
    """task -> share of greedy answers that are correct, for metrics.jsonl."""
    found = {}
    for work in works:
        made = sample(policy, work, style, [(item, 0) for item in work.items], 0.0, max_new_tokens, 0, slots, kv_gb)
        rows = [{"id": item.id, "text": text, "finish": finish} for item, _, text, finish, _ in made]
        try:
            found[work.name] = sum(verdict.ok for verdict in judge_work(work, rows, style, executor)) / len(rows)
        except DataError as error:  # no reason to end a training run
            complain(f"{work.title} is not scored: {error}")
    return found


def own_answer(work: Work, item: Item) -> str:
    """The answer that the data states."""
    if work.kind is benchmarks.FUNCTIONS:
        return item.row["prompt"] + item.row["canonical_solution"]
    return item.row["gold"] if "gold" in item.row else item.row["input" if work.kind is benchmarks.INPUTS else "output"]


def selfcheck(works: list[Work], data: Path, executor: Executor) -> bool:
    """Prints, for every task, how many of the data's own answers pass. LiveCodeBench has none to check."""
    good = True
    for work in works:
        start = time.monotonic()
        if work.kind is benchmarks.CONTESTS:
            count = sum(len(benchmarks.contest_tests(item.row)) for item in work.items)
            print(f"{work.title}: {len(work.items)} problems, {count} tests can be read")
            continue
        pairs = [(item, own_answer(work, item)) for item in work.items]
        options = {"whole": True} if work.kind is benchmarks.FUNCTIONS else {}
        # Twelve of CRUXEval's own inputs are expressions such as dict(a=1), which no model's answer may be.
        verdicts = work.kind.judge(pairs, executor, work.kind is benchmarks.INPUTS, **options)
        failed = [f"{item.id} ({verdict.reason} {verdict.detail})".replace(" )", ")")
                  for (item, _), verdict in zip(pairs, verdicts) if not verdict.ok]
        good &= not failed
        print(f"{work.title}: {len(pairs) - len(failed)} of {len(pairs)} pass, {time.monotonic() - start:.1f} s"
              + "".join(f"\n  {line}" for line in failed), flush=True)
    original = data / "humaneval" / "HumanEval.jsonl.gz"
    if original.is_file():  # the authors' own assertions, which are trusted: they see what they expect
        rows = benchmarks.read_rows(original)
        jobs = [Job(f"{row['prompt']}{row['canonical_solution']}\n{row['test']}\ndef hold():\n    check("
                    f"{row['entry_point']})", ((),), "hold", limits=benchmarks.REFERENCE_LIMITS) for row in rows]
        failed = [row["task_id"] for row, [run] in zip(rows, executor.run(jobs)) if run.kind != "ok"]
        good &= not failed
        print(f"HumanEval, original assertions: {len(rows) - len(failed)} of {len(rows)} hold", *failed)
    return good


# ---------------------------------------------------------------------------------------------------------------------
# The command line

def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    add = parser.add_argument
    nano = str(HERE / "nano")
    add("--model", default=nano, help="a hub name or a folder in Hugging Face format")
    add("--adapter", type=Path, help="a LoRA adapter folder, such as runs/NAME/checkpoint/policy")
    add("--load_in_4bit", action="store_true", help="frozen weights in NF4 (bitsandbytes)")
    add("--tasks", help="names, groups (code, math, reason, all), task files or run folders, with commas; nano's"
        f" held-out file if not given. Names: {', '.join(BENCHMARKS)}")
    add("--data", type=Path, help="the folder with the benchmarks' files; if not given they are downloaded to a cache")
    add("--out", type=Path, help="the folder for samples, verdicts and the summary; one in evals/ if not given")
    add("--prompt", choices=(*benchmarks.STYLES, "compact"), help="azr: as in training (default); chat: evalplus' for"
        " HumanEval and MBPP, else azr's in the chat template; qwen: the Qwen2.5-Coder report's; base: plain text to go"
        " on with; boxed: Qwen's for mathematics; compact: nano's (default for nano)")
    add("--n", type=int, default=1, help="samples per problem")
    add("--temperature", type=float, default=0.0, help="0: greedy; AIME and AMC are then also sampled 16 times at"
        f" {benchmarks.AVERAGE_TEMPERATURE}")
    add("--max_new_tokens", type=int, help="longest response; by task if not given")
    add("--seed", type=int, default=0, help="fixes every draw")
    add("--limit", type=int, help="only the first items of every task")
    add("--lcb_from", default="2024-10-01", help="LiveCodeBench: first contest date")
    add("--lcb_to", default="9999", help="LiveCodeBench: last contest date")
    add("--lenient", action="store_true", help="CRUXEval and LiveCodeBench execution: expressions count too, as in the"
        " official scorers; such answers can cheat")
    add("--stage", choices=("all", "generate", "score"), default="all", help="only make responses, or only judge them")
    add("--samples", type=Path, help="with --stage score: judge these, ours or evalplus' JSONL, and not --out's")
    add("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="compare two --out folders")
    add("--selfcheck", action="store_true", help="judge the data's own answers; all should pass")
    add("--fetch", type=Path, metavar="DIR", help="download the files of --tasks (all if not given) into DIR")
    add("--export_evalplus", type=Path, metavar="FILE", help="write --out's programs as evalplus' JSONL")
    add("--slots", type=int, default=64, help="responses generated at once")
    add("--kv_gb", type=float, default=4.0, help="memory for keys and values")
    add("--device", default="cpu", help="cpu or cuda")
    add("--workers", type=int, default=os.cpu_count() or 1, help="executor processes")
    add("--require", choices=LEVELS, default="kernel", help="the least sandbox to run programs in")
    args = parser.parse_args()
    for name in ("n", "slots", "workers", "limit", "max_new_tokens"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1")
    if not args.kv_gb > 0:
        raise ValueError("--kv_gb must be above 0")
    for name in ("lcb_from", "lcb_to"):
        if not re.fullmatch(r"\d{4}(-\d\d-\d\d)?", getattr(args, name)):
            raise ValueError(f"--{name} must be a date: YYYY-MM-DD")
    if not 0 <= args.temperature < math.inf or args.n > 1 and args.temperature == 0:
        raise ValueError("--temperature must be 0 or more, and above 0 with --n: greedy samples are all the same")
    if args.export_evalplus and args.stage == "generate":
        raise ValueError("--export_evalplus does not go with --stage generate")
    if args.samples and args.stage != "score":
        raise ValueError("--samples goes with --stage score")
    if args.samples and not args.samples.is_file():
        raise ValueError(f"--samples {args.samples}: no such file")
    if args.data and not args.data.is_dir():
        raise ValueError(f"--data {args.data}: no such folder")
    if args.tasks is None and not (args.selfcheck or args.fetch):
        args.tasks = str(HERE / "nano" / "heldout.jsonl")
    selfplay = not {*BENCHMARKS, *GROUPS} & set((args.tasks or "all").split(","))
    args.prompt = args.prompt or (
        "compact" if Path(args.model).resolve() == Path(nano) and selfplay and not args.samples else "azr")
    unlike = hashlib.sha256(json.dumps(settings_of(args)).encode()).hexdigest()[:8]
    args.out = args.out or Path("evals") / (
        args.samples.stem if args.samples else f"{Path(args.model).name}-{args.prompt}-{unlike}")
    return args


def settings_of(args) -> dict:
    """What responses depend on. Other weights may come to lie in the same place: an adapter is told by its bytes, and a
    model, whose bytes take minutes to read, by the size and time of its files."""
    model, sampled = Path(args.model or "").expanduser(), args.model and not args.samples
    files, adapter = [], None
    if sampled:
        files = [(path, path.stat()) for path in sorted(model.glob("*.safetensors"))]
    if args.adapter:
        parts = [path.read_bytes() for path in sorted(args.adapter.glob("*.safetensors"))]
        adapter = hashlib.sha256(b"".join(parts)).hexdigest()
    return {"model": args.model if sampled else None,
            "weights": [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in files],
            "adapter": args.adapter and str(args.adapter), "adapter_sha256": adapter,
            "load_in_4bit": args.load_in_4bit, "prompt": args.prompt, "n": args.n, "temperature": args.temperature,
            "max_new_tokens": args.max_new_tokens, "seed": args.seed}


def fetch(names: list[str], folder: Path) -> int:
    """Downloads what is missing; one that fails does not keep the others from coming."""
    status = 0
    for name, url, sha256 in dict.fromkeys(file for name in names if name in BENCHMARKS
                                           for file in BENCHMARKS[name].files):
        path = folder / name
        try:
            if not path.is_file():
                print(f"{url} -> {path}", flush=True)
                benchmarks.fetch(url, sha256, path)
            elif sha256 and benchmarks.digest(path) != sha256:
                raise DataError(f"{path} is there, but not the file of {url}; remove it to download that")
        except DataError as error:
            complain(str(error))
            status = 2
    return status


def run(args) -> int:
    if args.compare:
        print(compare(*args.compare))
        return 0
    names = names_of(args.tasks or "all")
    if args.fetch:
        return fetch(names, args.fetch)
    if args.selfcheck and not args.data:
        raise ValueError("--selfcheck needs --data DIR")
    if args.selfcheck and not args.tasks:  # what the folder has
        names = [name for name in names if all((args.data / file[0]).is_file() for file in BENCHMARKS[name].files)]
    style = Style({"azr": "r1"}.get(args.prompt, args.prompt))
    with scorer(args.workers, args.require, any(name in GROUPS["math"] for name in names)) as executor:
        works = prepare(names, args.data, executor, style, args.limit, (args.lcb_from, args.lcb_to), note=complain)
        if args.selfcheck:
            return 0 if selfcheck(works, args.data, executor) else 1
        settings, source = settings_of(args), args.samples or args.out / "samples.jsonl"
        kept = source.parent / "settings.json"
        if args.stage == "score" and kept.is_file():  # responses are read in the way they were asked for
            settings = read_json(kept.read_bytes(), str(kept))
            args.prompt = settings.get("prompt")
        for work in works:
            if args.prompt not in work.kind.prompts:
                raise ValueError(f"--prompt {args.prompt} is not for {work.title}; choose from"
                                 f" {', '.join(work.kind.prompts)}")
        if args.stage != "score" and works:
            policy = load_policy(args.model, args.device, load_in_4bit=args.load_in_4bit, adapter=args.adapter,
                                 dtype="auto")
            generate_all(policy, works, args, settings, args.out)
        if args.stage == "generate" or not works:
            return 0
        if not source.is_file():
            raise ValueError(f"{source}: no samples; run --stage generate first, or give --samples FILE")
        rows = read_lines(source)
        if args.export_evalplus:
            print(f"{export_evalplus(works, rows, args.prompt, args.export_evalplus)} programs written to"
                  f" {args.export_evalplus}")
        judged = score_all(works, rows, args, executor, args.out)
        works = [work for work in works if any(row["task"] == work.name for row in judged)]
        settings |= {"lenient": args.lenient, "python": platform.python_version()}
        print(summarise(works, judged, settings, args.out))
        print(f"written to {args.out}")
    return 0


def complain(text: str) -> None:
    print(f"eval.py: {text}", file=sys.stderr)


def main() -> int:
    try:
        return run(arguments())
    except (ModelError, ExecutorError, DataError, ValueError, OSError, ImportError) as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        complain("stopped; run the same command again to go on")
        return 130


if __name__ == "__main__":
    sys.exit(main())
