"""
The stages of an evaluation, from names of tasks to verdicts: which items, the model's responses (samples.jsonl, which a
rerun completes: what was asked and what was said), and verdicts on them (verdicts.jsonl, made without the model: the
answer found, the data's own, and whether they agree). Responses are our own engine's here, other engines' in
endpoint.py; numbers follow in summary.py.

Order of reading: Work and `prepare`, responses, verdicts, then what train.py calls (`rates`).
"""
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

import tasks
from benchmarks import judges, suite, taskfiles
from benchmarks.items import DataError, Item
from benchmarks.judges import Judgement, has_math_verify
from benchmarks.prompts import Prompt, before_stops
from benchmarks.suite import BENCHMARKS, GROUPS, Kind
from executor import Executor
from model import ModelError, Policy, decode, encode, in_template
from runfolder import sha256_of, write_file
from sampler import add, advance, idle, start_rollout
from sandbox.values import printable
from tasks import TYPES, Style, Task

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "absolute-zero"


def complain(text: str) -> None:
    print(printable(f"eval.py: {text}"), file=sys.stderr)


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
    names = [name for word in filter(None, text.split(",")) for name in GROUPS.get(word, [word])]
    if not names:
        raise ValueError("--tasks names no task")
    for name in names:
        if name not in BENCHMARKS and not Path(name).exists():
            raise ValueError(f"--tasks {name}: no such task or file; tasks: {', '.join(BENCHMARKS)}; groups:"
                             f" {', '.join(GROUPS)}")
    return list(dict.fromkeys(names))


def prepare(names: list[str], data: Path | None, executor: Executor, style: Style, limit: int | None = None,
            window: tuple[str, str] = suite.EVER,
            note: Callable[[str], None] = complain) -> tuple[list[Work], list[str]]:
    """(the tasks with their items, a line for each task or part of one that cannot be scored here). What could be done
    differently goes to `note`. ValueError for what was asked wrongly."""
    works, left_out = [], []
    for name in names:
        try:
            if name not in BENCHMARKS:
                works.append(selfplay_work(name, executor, style, limit))
            else:
                work, missing = benchmark_work(name, data, limit, window, note)
                works.append(work)
                left_out += [f"a part of {work.title} is left out: {line}" for line in missing]
        except DataError as error:
            left_out.append(f"{BENCHMARKS[name].title} is skipped: {error}")
            continue
        if not works[-1].items:
            raise ValueError(f"{name}: no items are left by --limit, --lcb_from and --lcb_to")
    return works, left_out


def benchmark_work(name: str, data: Path | None, limit: int | None, window: tuple[str, str],
                   note: Callable[[str], None]) -> tuple[Work, list[str]]:
    """(a benchmark's items, why some of its files are left out). DataError if it cannot be scored."""
    benchmark = BENCHMARKS[name]
    if not has_math_verify():
        if benchmark.kind is suite.FORMULAS:
            raise DataError("it needs pip install 'math-verify[antlr4_13_2]'")
        if benchmark.kind is suite.INTEGERS:
            note(f"note: without pip install 'math-verify[antlr4_13_2]' only plain integers answer {benchmark.title}")
    paths, missing = suite.paths_of(benchmark, data, CACHE, window)
    items, files, warnings = suite.load(benchmark, paths, window)
    for warning in warnings:
        note(f"note: {warning}")
    items = items[:limit]
    facts = {"files": files, "count": len(items), "version": benchmark.version}
    if benchmark.kind is suite.CONTESTS:
        facts["window"] = list(window)
    return Work(name, benchmark.title, benchmark.kind, items, facts, benchmark.max_new_tokens,
                benchmark.averaged), missing


def selfplay_work(name: str, executor: Executor, style: Style, limit: int | None) -> Work:
    path = Path(name)
    items = taskfiles.selfplay_items(path, executor, limit)
    file = path / "checkpoint" / "state.json" if path.is_dir() else path
    facts = {"files": [{"file": name, "sha256": sha256_of(file)}], "count": len(items), "version": "self-play"}
    return Work(name, name, taskfiles.selfplay_kind(style), items, facts, 192 if style.name == "compact" else 2048)


def scorer(workers: int, require: str, mathematics: bool = True) -> Executor:
    """The executor that solutions run in: no results kept, since reruns must run, and the limits of a first try. What
    mathcheck.py loads, programs do not see (harness.hide_others)."""
    preload = ["benchmarks.harness"] + ["benchmarks.mathcheck"] * (mathematics and has_math_verify())
    return Executor(workers, judges.FIRST[0], judges.MEMORY_MB, require, cached_jobs=0, preload=preload)


# ---------------------------------------------------------------------------------------------------------------------
# Stage one: responses

@dataclass(frozen=True)
class Sampling:
    """How responses are drawn; max_new_tokens None: as many as the task's own. `slots` of them are made at once."""
    style: str
    n: int = 1
    temperature: float = 0.0
    max_new_tokens: int | None = None
    seed: int = 0
    slots: int = 64
    kv_gb: float = 4.0
    example: bool = False         # show the worked example of training where there is one
    stop_at_answer: bool = False  # end at </answer> where an answer part is asked for
    averaged: int | None = None   # samples of benchmarks with few items; None: as many as their own
    top_p: float = 1.0            # other engines only
    system: str | None = None     # the system's turn, in place of a style's own
    template_args: dict = field(default_factory=dict)  # what else the chat template is told


def asked(work: Work, item: Item, sampling: Sampling) -> Prompt:
    prompt = work.kind.ask(item, sampling.style, sampling.example)
    return prompt if sampling.system is None else replace(prompt, system=sampling.system)


def stops_of(prompt: Prompt, sampling: Sampling) -> tuple[str, ...]:
    for_parts = prompt.prefill == "<think>" or prompt.text.endswith("<think>")
    return prompt.stops + ("</answer>",) * (for_parts and sampling.stop_at_answer)


def prompt_text(policy: Policy, prompt: Prompt, template_args: dict) -> str:
    """All that the model sees before its response."""
    if prompt.text:
        return prompt.text
    if policy.tokenizer.chat_template is None:
        raise ModelError("this model's tokenizer has no chat template; use --prompt azr or --prompt base")
    text = in_template(policy, turns_of(prompt), template_args)
    if any(turn not in text for turn in prompt.turns[1::2]):  # this template cuts thoughts out of earlier turns
        text = in_template(policy, turns_of(replace(prompt, turns=(), user=prompt.alone)), template_args)
    if prompt.prefill == "<think>" and text.rstrip().endswith("<think>"):  # some templates open it themselves
        return text
    return text + prompt.prefill


def turns_of(prompt: Prompt) -> list[tuple[str, str]]:
    """[(role, text)] of a chat, without the beginning of the answer."""
    return [("system", prompt.system)] * bool(prompt.system) + [
        (("user", "assistant")[number % 2], turn) for number, turn in enumerate((*prompt.turns, prompt.user))]


def passes(work: Work, sampling: Sampling) -> list[tuple[float, int]]:
    """[(temperature, samples)]: what the flags say; with greedy decoding also the samples of small benchmarks."""
    averaged = work.averaged if sampling.averaged is None else sampling.averaged
    also = work.averaged and averaged and sampling.temperature == 0
    return [(sampling.temperature, sampling.n)] + [(suite.AVERAGE_TEMPERATURE, averaged)] * bool(also)


def responses(policy: Policy, work: Work, wanted: list[tuple[Item, int]], temperature: float,
              sampling: Sampling) -> Iterator[dict]:
    """Lines of samples.jsonl for the wanted (item, k), as responses end; draws hang on (seed, task, item, k) alone. A
    prompt that does not fit into the model gets an empty response that finished with "too_long"."""
    asked_of = {item.id: asked(work, item, sampling) for item, _ in wanted}
    texts = {id: prompt_text(policy, prompt, sampling.template_args) for id, prompt in asked_of.items()}
    prompts = {id: encode(policy, text, chat=not asked_of[id].text) for id, text in texts.items()}

    def line(item: Item, k: int, *rest) -> dict:
        return sample_line(work, item, k, temperature, texts[item.id], *rest)
    most = sampling.max_new_tokens or work.max_new_tokens
    fits = [pair for pair in wanted if len(prompts[pair[0].id]) + most <= policy.max_length]
    for item, k in wanted:
        if len(prompts[item.id]) + most > policy.max_length:
            yield line(item, k, "", "too_long", 0)
    if not fits:
        return
    longest = max(len(prompts[item.id]) for item, _ in fits) + most
    rollout = start_rollout(policy, min(sampling.slots, len(fits)), longest, most, temperature, sampling.seed,
                            sampling.kv_gb)
    for item, k in sorted(fits, key=lambda pair: -len(prompts[pair[0].id])):
        add(rollout, prompts[item.id], 1, tag=(item, k), key=f"{work.name} {item.id} {k}",
            stops=stops_of(asked_of[item.id], sampling))
    with tqdm(total=len(fits), desc=work.name, unit="answer", leave=False, disable=None) as bar:
        while not idle(rollout):
            for request, _, made in advance(rollout):
                (item, k), text = request.tag, decode(policy, made.ids)
                bar.update()
                bar.set_postfix_str(f"{rollout.made} tokens")
                yield line(item, k, before_stops(text, asked_of[item.id].stops), made.finish, len(made.ids))


def sample_line(work: Work, item: Item, k: int, temperature: float, prompt: str | list, text: str, finish: str,
                tokens: int | None) -> dict:
    """A line of samples.jsonl. `finish` is stop, length, too_long or what another engine calls it; `tokens` None: it
    does not say how many."""
    return {"task": work.name, "id": item.id, "k": k, "temperature": temperature, "prompt": prompt, "text": text,
            "finish": finish, "tokens": tokens}


def read_object(text: bytes, where: str) -> dict:
    """A JSON object; ValueError says what is wrong with it."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is damaged ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{where} is not a JSON object")
    return data


def whole_lines(path: Path) -> list[dict]:
    """The rows of a JSONL file; what an interrupt has left of a last line is dropped. ValueError for any other damage:
    scores of what is left would look like scores of all."""
    *lines, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
    rows = [read_object(line, f"{path}, line {number},") for number, line in enumerate(lines, 1) if line.strip()]
    try:
        return rows + [read_object(last, "")]
    except ValueError:
        return rows


def claim(out: Path, settings: dict) -> list[dict]:
    """The responses that the folder has; it is one for these settings, else ValueError."""
    out.mkdir(parents=True, exist_ok=True)
    kept, rows = out / "settings.json", whole_lines(out / "samples.jsonl")
    if rows and (not kept.exists() or read_object(kept.read_bytes(), str(kept)) != settings):
        raise ValueError(f"{out} holds responses made with other settings ({kept}); choose another --out")
    write_file(kept, json.dumps(settings, indent=2) + "\n")
    return rows


def generate_all(answers: Callable[..., Iterator[dict]], works: list[Work], sampling: Sampling, settings: dict,
                 out: Path) -> None:
    """Completes samples.jsonl with what answers(work, [(item, k)], temperature, sampling) gives, which is `responses`
    or endpoint.py's. Responses that are already there stay, if they were made with the same settings; else
    ValueError."""
    rows, path = claim(out, settings), out / "samples.jsonl"
    there = {tuple(row.get(name) for name in ("task", "id", "temperature", "k")) for row in rows}
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        write_file(path, "".join(json.dumps(row) + "\n" for row in rows))
    with open(path, "a", encoding="utf-8") as file:
        for work in works:
            for temperature, n in passes(work, sampling):
                missing = [(item, k) for item in work.items for k in range(n)
                           if (work.name, item.id, temperature, k) not in there]
                for row in answers(work, missing, temperature, sampling):
                    file.write(json.dumps(row) + "\n")
                    file.flush()


# ---------------------------------------------------------------------------------------------------------------------
# Stage two: verdicts

def solutions_of(rows: list[dict], works: list[Work]) -> list[dict]:
    """Rows of anybody's samples in our form. evalplus' have task_id and solution or completion, in the order of k; its
    tasks go to the first of `works` that has them. ValueError for rows that name no item."""
    items = [{item.id: item for item in work.items} for work in works]
    seen, solutions = Counter(), []
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
        seen[at, id] += 1
        row = row | {name: whole_characters(row[name]) for name in texts}
        before = items[at][id].row.get("prompt")
        if texts[0] != "text" and before is None:
            raise ValueError(f"line {number}: {texts[0]} is for HumanEval and MBPP; {works[at].title} takes text")
        answer = {"text": row["text"]} if texts[0] == "text" else \
            {"program": row["solution"] if texts[0] == "solution" else before + row["completion"]}
        solutions.append({"task": works[at].name, "id": id} | facts | answer)
    return solutions


def whole_characters(text: str) -> str:
    """JSON can write half of a character, which no process can be sent."""
    return text.encode("utf-8", "replace").decode()


def complain_of_gaps(works: list[Work], samples: list[dict], rows: list[dict]) -> None:
    """What of `samples` is judged, as `rows`, and what is missing there, in a line each. ValueError if two rows are the
    same sample of an item: one of them is wrong."""
    keys = Counter((row["task"], row["id"], row["temperature"], row["k"]) for row in rows)
    if twice := [f"{task} {id}, k = {k}" for (task, id, _, k), count in keys.items() if count > 1]:
        raise ValueError(f"{few(twice)}: there more than once")
    known = {item.id for work in works for item in work.items}
    if missed := len(samples) - len(rows):
        unknown = [id for row in samples if (id := str(row.get("id", row.get("task_id")))) not in known]
        complain(f"note: {missed} of {len(samples)} samples are of other problems, or beyond --limit"
                 + f" ({few(unknown)})" * bool(unknown))
    for work in works:
        for temperature in dict.fromkeys(row["temperature"] for row in rows if row["task"] == work.name):
            counts = Counter(row["id"] for row in rows if (row["task"], row["temperature"]) == (work.name, temperature))
            most = max(counts.values())
            for what, ids in (("no sample", [item.id for item in work.items if item.id not in counts]),
                              (f"fewer than {most} samples", [id for id, count in counts.items() if count < most])):
                if ids:
                    at = "" if temperature is None else f" at T = {temperature}"
                    complain(f"note: {len(ids)} of {len(work.items)} problems of {work.title} have {what}{at}:"
                             f" {few(ids)}")


def few(names: list[str], most: int = 3) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most)


def answer_of(work: Work, item: Item, row: dict, style: str) -> str | None:
    """Of a row as `solutions_of` makes them: its whole program, or what is found in its text."""
    return row["program"] if "program" in row else work.kind.find(item, work.kind.ask(item, style), row["text"])


def judge_work(work: Work, rows: list[dict], style: str, executor: Executor, lenient: bool = False) -> list[Judgement]:
    """On one task's rows (as `solutions_of` makes them), in order."""
    items = {item.id: item for item in work.items}
    keys = [("program" in row, row["id"], answer_of(work, items[row["id"]], row, style)) for row in rows]
    judgements: dict[tuple, Judgement] = {}
    for whole, options in ((True, {"whole": True}), (False, {})):
        distinct = [key for key in dict.fromkeys(keys) if key[0] == whole and key[2] is not None]  # samples repeat
        if distinct:
            answers = [(items[id], answer) for _, id, answer in distinct]
            judgements |= zip(distinct, work.kind.judge(answers, executor, lenient, **options))
    return [with_finish(row, judgements.get(key)) for key, row in zip(keys, rows)]


def with_finish(row: dict, judgement: Judgement | None) -> Judgement:
    """The judgement on a row's answer, if it has one: what ended before there was an answer was cut off."""
    if judgement is None:
        told = "the prompt does not fit into the model" if row["finish"] == "too_long" else ""
        judgement = Judgement(False, "no_answer", told)
    if judgement.reason == "no_answer" and row["finish"] == "length":
        return replace(judgement, reason="truncated")
    return judgement


def judge_all(works: list[Work], samples: list[dict], style: str, executor: Executor, lenient: bool,
              out: Path) -> tuple[list[dict], list[str]]:
    """Writes verdicts.jsonl; (its rows, a line for each item without a verdict, for which we are to blame)."""
    out.mkdir(parents=True, exist_ok=True)
    rows, done, left_out = solutions_of(samples, works), [], {}
    if not rows:
        raise ValueError("there are no samples of these tasks")
    complain_of_gaps(works, samples, rows)
    for work in works:
        mine = [row for row in rows if row["task"] == work.name]
        items = {item.id: item for item in work.items}
        for row, judgement in zip(mine, judge_work(work, mine, style, executor, lenient)):
            if judgement.infra:
                left_out[f"{work.title} {row['id']} is left out: {judgement.detail}"] = True
                continue
            facts = {name: row[name] for name in ("task", "id", "k", "temperature", "finish", "tokens")}
            base, item = {} if judgement.base is None else {"base": judgement.base}, items[row["id"]]
            answer = answer_of(work, item, row, style)
            if isinstance(item.row.get("task"), Task):  # the whole response is what is judged there
                answer = tasks.answer_part(answer)
            done.append(facts | {"cluster": item.cluster or item.id, "ok": judgement.ok, "reason": judgement.reason,
                                 "detail": judgement.detail} | base
                        | {"answer": answer, "gold": own_answer(work, item)})
    write_file(out / "verdicts.jsonl", "".join(json.dumps(row) + "\n" for row in done))
    return done, list(left_out)


def own_answer(work: Work, item: Item) -> str | None:
    """The answer that the data states: one of the right ones, where there are several. LiveCodeBench states none."""
    if work.kind is suite.CONTESTS:
        return None
    if isinstance(task := item.row.get("task"), Task):
        return TYPES[task.type].hidden(task)
    if work.kind is suite.FUNCTIONS:
        return item.row["prompt"] + item.row["canonical_solution"]
    return item.row["gold"] if "gold" in item.row else item.row["input" if work.kind is suite.INPUTS else "output"]


def export_evalplus(works: list[Work], rows: list[dict], style: str, path: Path) -> int:
    """Writes the HumanEval and MBPP answers as evalplus' JSONL; how many. evalplus sanitizes them itself."""
    lines = []
    for work in works:
        items = {item.id: item for item in work.items if "entry_point" in item.row}
        for row in solutions_of(rows, [work]) if items else []:
            answer = answer_of(work, items[row["id"]], row, style)
            lines.append(json.dumps({"task_id": row["id"], "solution": answer or ""}) + "\n")
    write_file(path, "".join(lines))
    return len(lines)


# ---------------------------------------------------------------------------------------------------------------------
# In training

def rates(policy: Policy, works: list[Work], sampling: Sampling, executor: Executor) -> dict[str, float]:
    """task -> share of greedy answers that are correct, for metrics.jsonl."""
    scores = {}
    for work in works:
        rows = list(responses(policy, work, [(item, 0) for item in work.items], 0.0, sampling))
        judgements = [judged for judged in judge_work(work, rows, sampling.style, executor) if not judged.infra]
        if judgements:
            scores[work.name] = sum(judgement.ok for judgement in judgements) / len(judgements)
        if len(judgements) < len(rows):  # no reason to end a training run
            complain(f"{len(rows) - len(judgements)} of {len(rows)} answers to {work.title} could not be scored")
    return scores
