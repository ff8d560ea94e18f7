"""
The benchmarks of the paper and our own held-out tasks, as data plus a few functions: where the files lie, how a row
becomes an item, how an item becomes a prompt, how an answer is found in a response and judged.

A benchmark's kind holds its prompts (one per style), `find` (response -> answer text) and `judge` (answers ->
verdicts). Kinds: functions (HumanEval, MBPP+), contests (LiveCodeBench), outputs and inputs (CRUXEval, LiveCodeBench
execution), integers (AIME, AMC), formulas (the other mathematics), selfplay (task files). Answers are run, read and
compared as everywhere in this project: programs and parsers in processes of the executor (harness.py, mathcheck.py),
expected values only here.

Order of reading: Item and Verdict, files, prompts, finding answers, judging, the table BENCHMARKS.
"""
import base64
import gzip
import hashlib
import importlib.util
import io
import json
import math
import os
import pickle
import re
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from http.client import HTTPException
from pathlib import Path

import tasks
from executor import Executor, Job, Outcome
from sandbox.values import same_value, show
from tasks import Style

REASONS = ("pass", "wrong", "error", "timeout", "no_answer", "truncated")
# Limits of a test in CPU time: (seconds, times the reference's own), whichever is more. LAST are those of AZR's
# evalplus runs and decide; a first try gets less, so that an endless loop takes 11 s and not 20 (see `judged`).
FIRST, LAST = (1.0, 2.0), (10.0, 8.0)
ALL_TESTS = 6                              # times as much for all of a problem (evalplus: 60 s of wall time)
REFERENCE_LIMITS = (200.0, 1000.0)
CONTEST_SECONDS = 6.0                      # a test, as LiveCodeBench (AZR used 60)
MEMORY_MB = 4096                           # as evalplus
MAX_TESTS = 1 << 30                        # bytes of a contest problem's unpacked tests


class DataError(Exception):
    """A benchmark file is missing or not what it should be; the text is one line for the user."""


@dataclass(frozen=True)
class Item:
    """One problem. `cluster` names what it shares with others: their verdicts are not independent."""
    id: str
    row: dict
    cluster: str = ""


@dataclass(frozen=True)
class Verdict:
    ok: bool
    reason: str              # one of REASONS
    detail: str = ""         # what went wrong where, for people
    base: bool | None = None  # functions: whether the tests without "+" pass
    infra: bool = False      # our own failure, which is no verdict: to be tried again


@dataclass(frozen=True)
class Prompt:
    """Raw `text`, or else the turns of a chat (`user`, perhaps `system`) with the beginning of the answer (`prefill`).
    The response ends at the first of `stops`. `continues`: the program begins in the prompt."""
    text: str = ""
    user: str = ""
    system: str = ""
    prefill: str = ""
    stops: tuple[str, ...] = ()
    continues: bool = False


@dataclass(frozen=True)
class Kind:
    prompts: dict[str, Callable[[Item], Prompt]]               # by style
    find: Callable[[Item, Prompt, str], str | None]            # response -> answer
    judge: Callable[[list[tuple[Item, str]], Executor, bool], list[Verdict]]  # (answers, executor, lenient)


@dataclass(frozen=True)
class Benchmark:
    title: str
    group: str
    kind: Kind
    files: tuple[tuple[str, str, str], ...]  # (path under --data, where it comes from, sha256 if known)
    read: Callable[[list[dict]], list[Item]]
    count: int                               # items; 0: not known beforehand
    version: str
    max_new_tokens: int
    averaged: int = 0                        # also this many samples at AVERAGE_TEMPERATURE: too few items for one


AVERAGE_TEMPERATURE = 0.6


# ---------------------------------------------------------------------------------------------------------------------
# Files

def paths_of(benchmark: Benchmark, data: Path | None, cache: Path) -> list[Path]:
    """The benchmark's files, under `data` if given, else downloaded into `cache`. DataError if there is none."""
    paths = []
    for name, url, sha256 in benchmark.files:
        path = (data or cache) / name
        if not path.is_file():
            if data:
                raise DataError(f"{path}: no such file ({benchmark.title}); python eval.py --fetch {data} downloads it"
                                " where there is a network")
            fetch(url, sha256, path)
        paths.append(path)
    return paths


def fetch(url: str, sha256: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=60) as response, open(part, "wb") as out:
            while block := response.read(1 << 20):
                out.write(block)
            if out.tell() < int(response.headers["Content-Length"] or 0):
                raise OSError("the connection ended early")
    except (OSError, ValueError, HTTPException) as error:
        raise DataError(f"{url}: cannot be downloaded ({error}); on a connected machine run python eval.py --fetch DIR,"
                        " then give --data DIR here") from error
    if sha256 and (found := digest(part)) != sha256:
        raise DataError(f"{url}: its sha256 is {found}, not {sha256}; it was left at {part}")
    os.replace(part, path)


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(benchmark: Benchmark, paths: list[Path]) -> tuple[list[Item], list[dict], list[str]]:
    """(items, [{file, sha256}], warnings). DataError names the file that cannot be read."""
    facts, warnings = [], []
    rows: list[dict] = []
    for path, (name, _, sha256) in zip(paths, benchmark.files):
        facts.append({"file": name, "sha256": digest(path)})
        if sha256 and facts[-1]["sha256"] != sha256:
            warnings.append(f"{path} is not the file that {benchmark.title} {benchmark.version} is known by (sha256)")
        try:
            rows += read_rows(path)
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    try:
        items = benchmark.read(rows)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{paths[0]}: not a file of {benchmark.title} ({type(error).__name__}: {error})") from error
    if benchmark.count and len(items) != benchmark.count:
        warnings.append(f"{benchmark.title} has {benchmark.count} items, these files {len(items)}")
    return items, facts, warnings


def read_rows(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise ValueError("parquet needs pyarrow: pip install pyarrow, or give the rows as .jsonl") from error
        return parquet.read_table(path).to_pylist()
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


# How JSON's lists become the tuples, sets and complex numbers that MBPP+ means, by task number (facts of the data set;
# as evalplus restores them).
def deep_tuple(value):
    return tuple(map(deep_tuple, value)) if isinstance(value, list) else value


def first_tuple(args: list) -> list:
    return [tuple(args[0]), *args[1:]]


RESTORE = (
    ((2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
     lambda args: [tuple(arg) for arg in args]),
    ((63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
     lambda args: [[tuple(item) for item in arg] for arg in args]),
    ((75, 413, 444, 753), lambda args: [[tuple(item) for item in args[0]], *args[1:]]),
    ((106, 750), lambda args: [args[0], tuple(args[1])]),
    ((250, 307, 405, 446, 617, 720, 763, 808), first_tuple),
    ((259, 401, 445), lambda args: [tuple(tuple(item) for item in arg) for arg in args]),
    ((278, 580, 615, 791), lambda args: [deep_tuple(arg) for arg in args]),
    ((115,), lambda args: [[set(item) if isinstance(item, list) and item else {} for item in args[0]]]),
    ((124,), lambda args: [float(args[0]), complex(args[1])]),
    ((252,), lambda args: [complex(args[0])]),
    ((722,), lambda args: [{key: tuple(value) for key, value in args[0].items()}, *args[1:]]),
)
RESTORERS = {f"Mbpp/{number}": restore for numbers, restore in RESTORE for number in numbers}


def read_functions(rows: list[dict]) -> list[Item]:
    items = []
    for row in rows:
        restore = RESTORERS.get(row["task_id"], list)
        tests = {name: [tuple(restore(args)) for args in list(row[name])] for name in ("base_input", "plus_input")}
        items.append(Item(row["task_id"], row | tests))
    return items


def read_cruxeval(rows: list[dict]) -> list[Item]:
    return [Item(row["id"], {"code": row["code"], "input": row["input"], "output": row["output"]}) for row in rows]


def read_lcb_execution(rows: list[dict]) -> list[Item]:
    return [Item(str(row["id"]), {"code": row["code"], "call": row["input"], "output": row["output"]},
                 str(row.get("problem_id", row["question_id"]))) for row in rows]


def read_integers(rows: list[dict]) -> list[Item]:
    if wrong := [row["answer"] for row in rows if not float(row["answer"]).is_integer()]:
        raise ValueError(f"{wrong[0]} is no integer")
    return [Item(str(row.get("id", i)), {"question": row.get("problem") or row["question"],
                                         "gold": str(int(float(row["answer"])))}) for i, row in enumerate(rows)]


def read_math500(rows: list[dict]) -> list[Item]:
    return [Item(row["unique_id"], {"question": row["problem"], "gold": row["answer"]}) for row in rows]


def read_minerva(rows: list[dict]) -> list[Item]:
    golds = [boxed(row["solution"]) for row in rows]
    if None in golds:
        raise ValueError("a solution without \\boxed")
    return [Item(str(row["idx"]), {"question": row["problem"], "gold": gold}) for row, gold in zip(rows, golds)]


def read_olympiad(rows: list[dict]) -> list[Item]:
    return [Item(str(row["id"]), {"question": row["question"], "gold": row["final_answer"][0]}) for row in rows]


def read_contests(rows: list[dict]) -> list[Item]:
    fields = ("question_content", "starter_code", "public_test_cases", "private_test_cases", "contest_date", "metadata")
    return [Item(row["question_id"], {name: row[name] for name in fields}) for row in rows]


def in_window(items: list[Item], first: str, last: str) -> list[Item]:
    """The contest problems of these dates (inclusive, YYYY-MM-DD); those without a date always."""
    return [item for item in items
            if not (date := str(item.row.get("contest_date", ""))[:10]) or first <= date <= last]


class Plain(pickle.Unpickler):
    """Loads pickles of plain data: no name is ever looked up, so nothing can be called."""
    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"the pickle names {module}.{name}")


def contest_tests(row: dict) -> list[tuple[str, str]]:
    """[(input, output)]; the private ones are JSON, or base64 of zlib of a pickled JSON text. DataError."""
    private = row["private_test_cases"]
    try:
        if not private.lstrip().startswith("["):
            unzip = zlib.decompressobj()
            data = unzip.decompress(base64.b64decode(private), MAX_TESTS)
            private = Plain(io.BytesIO(data)).load()
        tests = json.loads(row["public_test_cases"]) + json.loads(private)
        return [(test["input"], test["output"]) for test in tests]
    except (pickle.UnpicklingError, ValueError, TypeError, KeyError, EOFError, zlib.error, AttributeError) as error:
        raise DataError(f"LiveCodeBench: tests that cannot be read ({type(error).__name__}: {error})") from error


# ---------------------------------------------------------------------------------------------------------------------
# Prompts. Words in quotation marks of other projects are theirs: scores depend on them (sources beside them).

# evalplus 0.3.1, provider/utility.py: where raw completions end.
STOPS = ("<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint(")
FUNCTION_STOPS = STOPS + ("\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert ")
DOCSTRING_STOPS = STOPS + ('\n"""', "\nassert")


def azr(question: str) -> Prompt:
    return Prompt(text=tasks.base_prompt(question))


def chat(question: str) -> Prompt:
    return Prompt(user=f"{tasks.CHAT_RULE}\n{question}", prefill="<think>")


def program_question(task: str) -> str:
    return (f"{task}\nThe answer is the whole program, with the imports it needs, in exactly this form:\n<answer>\n"
            "```python\n...\n```\n</answer>")


def function_question(item: Item) -> str:
    return program_question("Complete this Python function.\n" + tasks.fence("python", item.row["prompt"].strip()))


def function_chat(item: Item) -> Prompt:  # evalplus 0.3.1, codegen.py and provider/utility.py
    return Prompt(user="Please provide a self-contained Python script that solves the following problem in a markdown"
                  f" code block:\n```\n{item.row['prompt'].strip()}\n```\n",
                  prefill="Below is a Python script with a self-contained function that solves the problem and passes"
                  " corresponding tests:\n```python\n", stops=(*STOPS, "\n```\n"))


def function_qwen(item: Item) -> Prompt:  # QwenLM/Qwen2.5-Coder, qwencoder-eval/instruct/eval_plus
    return Prompt(system="You are an intelligent programming assistant to produce Python algorithmic solutions",
                  user=f"Can you complete the following Python function?\n```python\n{item.row['prompt'].strip()}\n\n"
                  "```\n", prefill="```python\n", stops=(*STOPS, "\n```"))


def function_base(item: Item) -> Prompt:
    prompt, human = item.row["prompt"], item.id.startswith("HumanEval")
    return Prompt(text=prompt if human else prompt.strip() + "\n", continues=True,
                  stops=FUNCTION_STOPS if human else DOCSTRING_STOPS)


def contest_question(item: Item) -> str:
    starter = item.row["starter_code"]
    how = ("Solve it by completing this code:\n" + tasks.fence("python", starter) if starter else
           "The program reads the standard input and prints the answer.")
    return program_question(f"Solve this problem in Python.\n\n{item.row['question_content']}\n\n{how}")


def contest_base(item: Item) -> Prompt:
    return Prompt(text=f"{contest_question(item)}\n\n<answer>\n```python\n", prefill="```python\n", stops=("\n```",))


def blocks_for(type: tasks.TaskType, item: Item) -> list[tuple[str, str]]:
    row = item.row
    if "call" in row:  # LiveCodeBench execution calls a function by its own name
        return [("python", f"{row['code']}\n\ndef f():\n    return {row['call']}"), ("input", "")]
    hidden = "output" if type is tasks.DEDUCTION else "input"
    return [("python", row["code"]), *((name, row[name]) for name in ("input", "output") if name != hidden)]


def literal_azr(type: tasks.TaskType) -> Callable[[Item], Prompt]:
    return lambda item: Prompt(text=tasks.build_prompt(Style("r1"), "solve", type, [blocks_for(type, item)]))


def literal_chat(type: tasks.TaskType) -> Callable[[Item], Prompt]:
    def prompt(item: Item) -> Prompt:
        text = tasks.build_prompt(Style("chat", wrap=lambda text: text), "solve", type, [blocks_for(type, item)])
        return Prompt(user=text.removesuffix("<think>"), prefill="<think>")
    return prompt


# Worked examples in CRUXEval's form of tags, for models that only continue text. They and their words are ours, so
# expect other scores than with the official ones. Small models copy the form of what they see, with it the number of
# arguments: where these must be found there are two examples, which count them aloud (440 of the 800 functions have one
# parameter, 296 two).
TAGGED = "[PYTHON]\n{code}\n{given}\n[/PYTHON]\n[THOUGHT]\n"
EXAMPLE = TAGGED + "{thought}\n[/THOUGHT]\n[ANSWER]\n{answer}\n[/ANSWER]\n\n"
WORDS = """def f(text):
    words = text.split('-')
    return {word: len(word) for word in words}"""
APPEND = """def f(items, x):
    items.append(x)
    return items[::-1]"""
OUTPUT_EXAMPLE = "Work out what the call returns, step by step, then give the value as a Python literal.\n\n" + \
    EXAMPLE.format(code=WORDS, given="f('red-blue') == ??", answer="{'red': 3, 'blue': 4}", thought="f is called with"
                   " text = 'red-blue'. Split at '-' it gives the words 'red' and 'blue'. Their lengths are 3 and 4.")
INPUT_EXAMPLE = "Find arguments with which the call returns the value, step by step, then give the call.\n\n" + \
    EXAMPLE.format(code=APPEND, given="f(??) == [7, 2, 5]", answer="f([5, 2], 7)", thought="f takes two arguments,"
                   " items and x. It appends x to items and returns them reversed. The value reversed is [5, 2, 7], so"
                   " items is [5, 2] and x is 7.") + \
    EXAMPLE.format(code=WORDS, given="f(??) == {'red': 3, 'blue': 4}", answer="f('red-blue')", thought="f takes one"
                   " argument, text. It splits text at '-' and returns every word with its length. The words are 'red'"
                   " and 'blue', so text is 'red-blue'.")


def output_base(item: Item) -> Prompt:
    call = item.row.get("call") or f"f({item.row['input']})"
    return Prompt(text=OUTPUT_EXAMPLE + TAGGED.format(code=item.row["code"], given=f"{call} == ??"),
                  stops=("[/ANSWER]",))


def input_base(item: Item) -> Prompt:
    return Prompt(text=INPUT_EXAMPLE + TAGGED.format(code=item.row["code"], given=f"f(??) == {item.row['output']}"),
                  stops=("[/ANSWER]",))


def math_question(item: Item) -> str:
    return (f"{item.row['question']}\n\nThe answer has exactly this form:\n<answer>\n\\boxed{{...}}\n</answer>")


def math_boxed(item: Item) -> Prompt:  # QwenLM/Qwen2.5-Math
    return Prompt(system="Please reason step by step, and put your final answer within \\boxed{}.",
                  user=item.row["question"])


def math_base(item: Item) -> Prompt:
    return Prompt(text=f"Problem: {item.row['question']}\nSolution, with the final answer within \\boxed{{}}:",
                  stops=("\nProblem:",))


# ---------------------------------------------------------------------------------------------------------------------
# Finding the answer in a response: searches in text, nothing is parsed

OPEN_FENCE = re.compile(r"```[ \t]*+\w*+[ \t]*+\n(.*)", re.DOTALL)


def cut(text: str, stops: tuple[str, ...]) -> str:
    return text[:min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def final(text: str) -> str:
    """What follows the thinking; the last answer part if there is one."""
    text = text[text.rfind("</think>") + len("</think>"):] if "</think>" in text else text
    return text[text.rfind("<answer>") + len("<answer>"):].split("</answer>")[0] if "<answer>" in text else text


def find_program(item: Item, prompt: Prompt, response: str) -> str | None:
    """The last fenced block that defines what is asked for, else the last one, else a block that was not closed."""
    if prompt.continues:
        return prompt.text + cut(response, prompt.stops)
    # A prefilled fence is closed by what ends the response, so the stops of a chat cut as they do while sampling.
    text = prompt.prefill + cut(response, prompt.stops)
    if prompt.prefill.endswith("```python\n"):
        text += "\n```\n"
    text = final(text)
    blocks = [code for language, code in tasks.FENCED.findall(text) if language.lower() in (*tasks.CODE, "python3")]
    wanted = item.row.get("entry_point")
    named = [code for code in blocks if wanted and re.search(rf"^[ \t]*+def {re.escape(wanted)}\b", code, re.MULTILINE)]
    if blocks:
        return (named or blocks)[-1]
    unclosed = OPEN_FENCE.search(text)
    code = unclosed[1] if unclosed else text if wanted and f"def {wanted}" in text else ""
    return code if code.strip() else None


def find_literal(language: str) -> Callable[[Item, Prompt, str], str | None]:
    def find(item: Item, prompt: Prompt, response: str) -> str | None:
        text = cut(response, prompt.stops)
        if "[ANSWER]" in text and prompt.stops:
            answer = text[text.rfind("[ANSWER]") + len("[ANSWER]"):].strip().removeprefix("assert ")
            return sides(answer)[language == "output"] or None
        blocks = tasks.blocks_of(tasks.answer_blocks(text), language) if "<answer>" in text else []
        # The prompts ask for a block; as the training does, nothing else counts as an answer.
        return blocks[0] if blocks else None
    return find


def sides(answer: str) -> tuple[str, str]:
    """The two sides of `f(...) == ...`; the whole answer for both where it is nothing of the kind."""
    found = re.fullmatch(r"(\w+\(.*\))[ \t]*==(.*)", answer, re.DOTALL)
    return (found[1], found[2].strip()) if found else (answer, answer)


def boxed(text: str) -> str | None:
    """What the last closed \\boxed{...} holds; one pass, since a model may write a thousand that are not closed."""
    opened, last = [], None
    for at, character in enumerate(text):
        if character == "{":
            opened.append(at)
        elif character == "}" and opened:
            start = opened.pop()
            if text.endswith("\\boxed", 0, start) and (last is None or start > last[0]):
                last = start, at
    return last and text[last[0] + 1:last[1]].strip()


def find_math(item: Item, prompt: Prompt, response: str) -> str | None:
    text = cut(response, prompt.stops)
    answer = final(text)
    if (inside := boxed(answer)) is not None:
        return inside
    return answer.strip() or None if "<answer>" in text else boxed(text)


# ---------------------------------------------------------------------------------------------------------------------
# Judging

def outcome(run: Outcome) -> Verdict:
    """The verdict of a run that gave no value."""
    reason = "timeout" if run.kind == "timeout" else "error"
    return Verdict(False, reason, f"{run.kind}: {run.error}".strip(": "), infra=run.kind == "infra")


def judged(firsts: list[Job], jobs: list[Job], executor: Executor,
           verdict: Callable[[int, list[Outcome]], Verdict]) -> list[Verdict]:
    """verdict(index, runs) for every job. `firsts` are the jobs with the limits of a first try, beside all the others;
    timeouts and our own failures run once more."""
    verdicts: list = [None] * len(jobs)
    for index, runs in executor.stream(firsts):
        verdicts[index] = verdict(index, runs)
    tried = [index for index, first in enumerate(verdicts) if first.reason == "timeout" or first.infra]
    for index, runs in again(executor, {index: jobs[index] for index in tried}):
        verdicts[index] = verdict(index, runs)
    return verdicts


def again(executor: Executor, jobs: dict[int, Job]) -> Iterator[tuple[int, list[Outcome]]]:
    """The runs that decide, by index, of what ran out of time in a first try: with LAST's limits, when nothing else
    runs any more. So every timeout was seen twice, the second time undisturbed, and an endless loop is paid for once.
    They need not wait for each other, since each has a worker, and thus a core, of its own and limits are CPU time:
    what is left of a neighbour's influence are the caches, against ten seconds for what takes the reference
    milliseconds, or eight times the reference."""
    indices = list(jobs)
    for number, runs in executor.stream(jobs.values()):
        yield indices[number], runs


WRAPPED = "import benchmarks.harness as harness\nSOURCE = {source!r}\ndef f(*arguments):\n    return harness.{call}\n"


def function_job(item: Item, source: str, limits: tuple, whole: bool) -> Job:
    name = item.row["entry_point"]
    form = "presence" if name in PRESENT else "elements" if name in AS_SETS else ""
    call = f"call(SOURCE, {name!r}, arguments, {whole}, {form!r})"
    return Job(WRAPPED.format(source=source, call=call), (*item.row["base_input"], *item.row["plus_input"]),
               limits=limits)


# How evalplus 0.3.1 compares where `==` is not meant; by name of the function, as there.
PRESENT = ("check_str", "text_match_three", "text_starta_endb")  # only whether there is a result
AS_SETS = ("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
           "intersection_array", "find_dissimilar", "Diff")


def digit_distance(a, b) -> int:
    width = max(len(str(a)), len(str(b)))
    return sum(abs(int(x) - int(y)) for x, y in zip(str(a).zfill(width), str(b).zfill(width)))


def pyramid_surface(edge, height) -> int:
    """With the height from the base to the apex."""
    return round(edge * edge + 2 * edge * ((edge / 2) ** 2 + height ** 2) ** 0.5)


ORACLES = {  # (arguments, value, expected, tolerance) -> whether the value will do, if it is not the expected one
    "find_zero": lambda args, value, _, atol: abs(sum(c * value ** i for i, c in enumerate(args[0]))) <= atol,
    "are_equivalent": lambda args, value, expected, atol: True,
    "sum_div": lambda args, value, expected, atol: value == 0,
    "surface_Area": lambda args, value, expected, atol: abs(value - pyramid_surface(*args)) <= atol,
    "digit_distance_nums": lambda args, value, expected, atol: value == digit_distance(*args),
}


def agrees(item: Item, args: tuple, packed, expected: list) -> bool:
    """Whether what a solution returned will do. `packed` is the solution's word: plain data of any shape."""
    name, atol = item.row["entry_point"], item.row["atol"]
    try:
        if packed == expected:
            return True
        tag, value = packed
        if tag != "value" or expected[0] != "value":
            return name == "are_equivalent"
        true = expected[1]
        if name in AS_SETS:
            return set(value) == set(true)
        if name in ORACLES and ORACLES[name](args, value, true, atol):
            return True
        floats = isinstance(true, float) or \
            isinstance(true, (list, tuple)) and true and all(isinstance(part, float) for part in true)
        atol = atol or (1e-6 if floats else 0)
        return bool(atol) and type(value) is type(true) and close(value, true, atol) or same_value(value, true)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return False


def close(a, b, atol: float) -> bool:
    """numpy.allclose with rtol 1e-7, on nested lists of numbers."""
    if isinstance(b, (list, tuple)):
        return isinstance(a, (list, tuple)) and len(a) == len(b) and all(close(x, y, atol) for x, y in zip(a, b))
    return a == b or abs(a - b) <= atol + 1e-7 * abs(b) < math.inf


def judge_functions(answers: list[tuple[Item, str]], executor: Executor, lenient: bool,
                    whole: bool = False) -> list[Verdict]:
    """Every solution in a process of its own, against what the canonical one returns. `whole` programs are run as they
    are, others without what their top level does beside defining."""
    items = list({item.id: item for item, _ in answers}.values())
    expected, limits = {}, {}
    jobs = [function_job(item, item.row["prompt"] + item.row["canonical_solution"], REFERENCE_LIMITS, True)
            for item in items]
    for index, runs in executor.stream(jobs):
        item = items[index]
        if bad := next((run for run in runs if run.kind != "ok"), None):
            raise DataError(f"{item.id}: the canonical solution itself fails here ({bad.kind}: {bad.error})")
        expected[item.id] = [run.value for run in runs]
        slowest, total = max(run.cpu_seconds for run in runs), sum(run.cpu_seconds for run in runs)
        limits[item.id] = [(max(seconds, factor * slowest), max(ALL_TESTS * seconds, factor * total))
                           for seconds, factor in (FIRST, LAST)]

    def verdict(index: int, runs: list[Outcome]) -> Verdict:
        item, base, first = answers[index][0], len(answers[index][0].row["base_input"]), None
        tests = zip(item.row["base_input"] + item.row["plus_input"], runs, expected[item.id], strict=True)
        for number, (args, run, true) in enumerate(tests):
            if run.kind != "ok":
                first = outcome(run)
            elif not agrees(item, args, run.value, true):
                first = Verdict(False, "wrong", f"test {number}")
            if first:
                return Verdict(False, first.reason, first.detail, base=number >= base, infra=first.infra)
        return Verdict(True, "pass", base=True)
    firsts, jobs = ([function_job(item, code, limits[item.id][which], whole) for item, code in answers]
                    for which in (0, 1))
    return judged(firsts, jobs, executor, verdict)


def judge_contests(answers: list[tuple[Item, str]], executor: Executor, lenient: bool) -> list[Verdict]:
    tests, jobs = {}, []
    for item, code in answers:
        if item.id not in tests:
            tests[item.id] = contest_tests(item.row)
        name = json.loads(item.row["metadata"] or "{}").get("func_name")
        call = f"call_method(SOURCE, {name!r}, arguments)" if name else "run_script(SOURCE, *arguments)"
        inputs = [tuple(map(json.loads, text.split("\n"))) if name else (text,) for text, _ in tests[item.id]]
        limits = CONTEST_SECONDS, CONTEST_SECONDS * len(inputs) + 1
        jobs.append(Job(WRAPPED.format(source=code, call=call), tuple(inputs), limits=limits))
    firsts = [replace(job, limits=(min(FIRST[0], CONTEST_SECONDS), job.limits[1])) for job in jobs]

    def verdict(index: int, runs: list[Outcome]) -> Verdict:
        item = answers[index][0]
        method = json.loads(item.row["metadata"] or "{}").get("func_name")
        for number, (run, (_, output)) in enumerate(zip(runs, tests[item.id], strict=True)):
            if run.kind != "ok":
                return outcome(run)
            if not (same_json if method else same_lines)(run.value, output):
                return Verdict(False, "wrong", f"test {number}")
        return Verdict(True, "pass")
    return judged(firsts, jobs, executor, verdict)


def same_json(packed, output: str) -> bool:
    from benchmarks import harness  # pack is the measure of what is too long to send
    return packed == harness.pack(json.loads(output))


def same_lines(packed, output: str) -> bool:
    """Stripped lines equal, or else equal as decimal numbers token by token."""
    from benchmarks import harness
    lines = [line.strip() for line in output.strip().split("\n")]
    if packed == harness.pack("\n".join(lines)):
        return True
    try:
        tag, text = packed
        if tag != "value" or len(text.split("\n")) != len(lines):
            return False
        pairs = [(a.split(), b.split()) for a, b in zip(text.split("\n"), lines)]
        return all(len(a) == len(b) and all(x == y or same_decimal(x, y) for x, y in zip(a, b)) for a, b in pairs)
    except (TypeError, ValueError, AttributeError):
        return False


def same_decimal(a: str, b: str) -> bool:
    try:
        return len(a) < 1000 and Decimal(a) == Decimal(b)
    except InvalidOperation:
        return False


def read_texts(texts: list[tuple[str, str]], executor: Executor) -> list[Outcome]:
    return tasks.read(texts, executor)


def equal_values(a, b) -> bool:
    """Python's `==` as in the official scorers (so 1 == True), or equal with nan."""
    return a == b or same_value(a, b)


def golds(items: list[Item], executor: Executor) -> dict[str, object]:
    """id -> the output that the data states."""
    found = {}
    for item, run in zip(items, read_texts([("parse_literal", item.row["output"]) for item in items], executor)):
        if run.kind != "ok":
            raise DataError(f"{item.id}: its output is not a literal ({run.error})")
        found[item.id] = run.value
    return found


def literal_verdict(run: Outcome, true) -> Verdict:
    if run.kind != "ok":
        return outcome(run)
    return Verdict(True, "pass") if equal_values(run.value, true) else Verdict(False, "wrong")


def unpacked(run: Outcome) -> Outcome:
    """The run with the value that harness.pack packed; what else came, too long for a gold or forged, equals none."""
    match run.kind, run.value:
        case "ok", ["value", value]:
            return replace(run, value=value)
        case "ok", other:
            return replace(run, value=("not a value", other))
    return run


def judge_outputs(answers: list[tuple[Item, str]], executor: Executor, lenient: bool) -> list[Verdict]:
    true = golds([item for item, _ in answers], executor)
    read = read_texts([("parse_literal", text) for _, text in answers], executor)
    if lenient:
        jobs = [Job("from benchmarks.harness import lenient_value as f", ((text,),), limits=(LAST[0], LAST[0]))
                for _, text in answers]
        read = [run if run.kind == "ok" else unpacked(again) for run, [again] in zip(read, executor.run(jobs))]
    return [literal_verdict(run, true[item.id]) for (item, _), run in zip(answers, read)]


CALLED = "{code}\n\nimport benchmarks.harness as harness\ndef f_packed(arguments, words):\n    return harness.pack(f(*arguments, **words))\n"


def judge_inputs(answers: list[tuple[Item, str]], executor: Executor, lenient: bool) -> list[Verdict]:
    """All answers to one program run in one process: they are literals, and the program is the benchmark's."""
    true = golds([item for item, _ in answers], executor)
    runs = read_texts([("parse_call", text) for _, text in answers], executor)
    programs = [CALLED.format(code=item.row["code"]) for item, _ in answers]
    inputs = {index: run.value for index, run in enumerate(runs) if run.kind == "ok"}
    unread = [index for index in range(len(runs)) if index not in inputs]
    together: dict[str, list[int]] = {}
    for index in inputs:
        together.setdefault(programs[index], []).append(index)
    jobs = [Job(program, tuple(inputs[i] for i in indices), "f_packed") for program, indices in together.items()]
    for indices, ran in zip(together.values(), executor.run(jobs)):
        for index, run in zip(indices, ran):
            runs[index] = run
    for index, [run] in again(executor, {i: Job(programs[i], (value,), "f_packed", limits=(LAST[0], LAST[0]))
                                       for i, value in inputs.items() if runs[i].kind in ("timeout", "infra")}):
        runs[index] = run
    if lenient:
        jobs = [Job("from benchmarks.harness import lenient_call as f", ((answers[i][0].row["code"], answers[i][1]),),
                    limits=(LAST[0], LAST[0])) for i in unread]
        for index, [run] in zip(unread, executor.run(jobs)):
            runs[index] = run
    return [literal_verdict(unpacked(run), true[item.id]) for (item, _), run in zip(answers, runs)]


INTEGER = re.compile(r"[+-]?\d{1,40}(\.0*)?")
THOUSANDS = re.compile(r"(?<=\d)(,|\{,\}|,?\\[,!])(?=\d{3}(?!\d))")
UNITS = re.compile(r"\\(text|mathrm)\{[^{}]*\}|\^\{?\\circ\}?|\\[,!;% $]|[$%]")


def integer(text: str) -> int | None:
    """The integer that an answer writes, with thousands separators, leading zeros, a unit or `x =` before it."""
    text = UNITS.sub(" ", THOUSANDS.sub("", text.rpartition("=")[2])).strip()
    return int(text.partition(".")[0]) if INTEGER.fullmatch(text) else None


def judge_integers(answers: list[tuple[Item, str]], executor: Executor, lenient: bool) -> list[Verdict]:
    return [Verdict(True, "pass") if integer(text) == int(item.row["gold"]) else Verdict(False, "wrong")
            for item, text in answers]


def has_math_verify() -> bool:
    return importlib.util.find_spec("math_verify") is not None


def judge_formulas(answers: list[tuple[Item, str]], executor: Executor, lenient: bool) -> list[Verdict]:
    program = "from benchmarks.mathcheck import equal as f"
    pairs = [(item.row["gold"], text) for item, text in answers]
    parts = executor.run([Job(program, tuple(part)) for part in tasks.chunks(pairs, 16)])
    ran = [run for runs in parts for run in runs]
    for index, [run] in again(executor, {i: Job(program, (pairs[i],), limits=(LAST[0], LAST[0]))
                                         for i, first in enumerate(ran) if first.kind in ("timeout", "infra")}):
        ran[index] = run
    return [Verdict(run.value is True, "pass" if run.value is True else "wrong") if run.kind == "ok" else outcome(run)
            for run in ran]


SELFPLAY_REASONS = {"correct": "pass", "wrong": "wrong", "no answer": "no_answer", "timeout": "timeout"}


def judge_selfplay(answers: list[tuple[Item, str]], executor: Executor, lenient: bool) -> list[Verdict]:
    """As in training: an answer counts if it is correct and in the form that was asked for."""
    pairs, verdicts = [(item.row["task"], text) for item, text in answers], []
    judgements = tasks.verify(pairs, executor)
    tried = [index for index, found in enumerate(judgements) if found.reason in ("timeout", "infra")]
    limits = LAST[0], ALL_TESTS * LAST[0]  # with an executor to themselves, see `again`
    for index, found in zip(tried, tasks.verify([pairs[i] for i in tried], executor, limits)):
        judgements[index] = found
    for found in judgements:
        reason = SELFPLAY_REASONS.get(found.reason, "error")
        if reason == "pass" and not found.well_formed:
            reason = "no_answer"
        verdicts.append(Verdict(reason == "pass", reason, found.reason, infra=found.reason == "infra"))
    return verdicts


# ---------------------------------------------------------------------------------------------------------------------
# Held-out self-play

def selfplay_items(path: Path, executor: Executor) -> list[Item]:
    """The tasks of a task file (as nano's), of a run's folder (what it set aside; its induction tasks are made by
    train.py, which shows them in heldout.md) or of an official AZR seed file. ValueError, OSError."""
    try:
        if path.is_dir():
            state = json.loads((path / "checkpoint" / "state.json").read_text())
            heldout = tasks.Buffers.from_json(state["buffers"]).heldout
            found = [task for name in tasks.TYPES for task in heldout[name]]
        elif "snippet" in first_row(path):
            found = official_tasks(path, executor)
        else:
            found = tasks.load_tasks(str(path), executor)
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: neither a file of tasks nor a run's folder ({type(error).__name__}: {error})") \
            from error
    if not found:
        raise ValueError(f"{path}: no tasks")
    # By content, not by place: a run goes on, and responses to earlier tasks must not be judged as those to others.
    by_id = {f"{task.type}/{tasks.task_id(task)}": task for task in found}
    return [Item(id, {"task": task}, task.key) for id, task in by_id.items()]


def first_row(path: Path) -> dict:
    with open(path, encoding="utf-8") as lines:
        line = lines.readline()
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return {}  # load_tasks says what is wrong
    return row if isinstance(row, dict) else {}


def official_tasks(path: Path, executor: Executor) -> list[tasks.Task]:
    """Seed tasks in the official format; values are recomputed here, and rows whose inputs are no literals or whose
    program does not pass the gate are left out (about 2%)."""
    proposals = []
    for row in read_rows(path):
        program = "\n".join([*row["imports"], row["snippet"]])
        code = tasks.fence("python", program)
        if "inputs" in row:
            blocks = [tasks.fence("input", text) for text in row["inputs"]] + [tasks.fence("message", row["message"])]
            reference = tasks.Task("deduction", program, ((),), (None,))
            proposals.append((tasks.INDUCTION, "\n".join(blocks), reference, len(row["inputs"])))
        else:
            text = f"{code}\n{tasks.fence('input', row['input'])}"
            proposals += [(type, text, None, 1) for type in (tasks.DEDUCTION, tasks.ABDUCTION)]
    found: dict[tuple, tasks.Task] = {}
    for count in sorted({count for *_, count in proposals}):
        group = [tuple(rest) for *rest, n in proposals if n == count]
        for gated in tasks.gate(group, executor, n_inputs=count, strict_format=False):
            if gated.task:
                found.setdefault((gated.task.type, gated.task.key, show(gated.task.inputs)), gated.task)
    return list(found.values())


# ---------------------------------------------------------------------------------------------------------------------
# The table

def with_style(question: Callable[[Item], str], **others) -> dict[str, Callable[[Item], Prompt]]:
    """Prompts of a kind: our question after the training preamble and in the chat template, unless said otherwise;
    `boxed` and `qwen` are `chat` where their authors have no prompt."""
    plain = {"azr": lambda item: azr(question(item)), "chat": lambda item: chat(question(item))} | others
    return {"boxed": plain["chat"], "qwen": plain["chat"]} | plain


def literal_prompts(type: tasks.TaskType, base: Callable[[Item], Prompt]) -> dict[str, Callable[[Item], Prompt]]:
    return {"azr": literal_azr(type), "base": base} | dict.fromkeys(("chat", "boxed", "qwen"), literal_chat(type))


FUNCTIONS = Kind(with_style(function_question, chat=function_chat, qwen=function_qwen, base=function_base),
                 find_program, judge_functions)
CONTESTS = Kind(with_style(contest_question, base=contest_base), find_program, judge_contests)
OUTPUTS = Kind(literal_prompts(tasks.DEDUCTION, output_base), find_literal("output"), judge_outputs)
INPUTS = Kind(literal_prompts(tasks.ABDUCTION, input_base), find_literal("input"), judge_inputs)
MATH_PROMPTS = with_style(math_question, boxed=math_boxed, qwen=math_boxed, base=math_base)
INTEGERS = Kind(MATH_PROMPTS, find_math, judge_integers)
FORMULAS = Kind(MATH_PROMPTS, find_math, judge_formulas)
STYLES = ("azr", "chat", "qwen", "base", "boxed")


def selfplay_kind(style: Style) -> Kind:
    prompts = {name: lambda item: Prompt(text=tasks.solve_prompt(style, item.row["task"])) for name in
               ("azr", "compact")}
    chatted = Style("chat", style.n_inputs, lambda text: text)
    prompts["chat"] = lambda item: Prompt(
        user=tasks.solve_prompt(chatted, item.row["task"]).removesuffix("<think>"), prefill="<think>")
    return Kind(prompts, lambda item, prompt, response: response, judge_selfplay)


EVALPLUS = "https://github.com/evalplus/{0}plus_release/releases/download/{1}/{2}.jsonl.gz"
QWEN_MATH = "https://raw.githubusercontent.com/QwenLM/Qwen2.5-Math/main/evaluation/data/{}/test.jsonl"
LCB = "https://huggingface.co/datasets/livecodebench/{}/resolve/main/{}"
CRUX_FILE = (("cruxeval/cruxeval.jsonl",
              "https://raw.githubusercontent.com/facebookresearch/cruxeval/main/data/cruxeval.jsonl",
              "8368b81047dc5014e4caf5a2f97604eff7644e0ecd7415e3ceeb184bbc2e0c96"),)
HUMAN_FILE = (("humanevalplus/HumanEvalPlus-v0.1.10.jsonl.gz", EVALPLUS.format("humaneval", "v0.1.10", "HumanEvalPlus"),
               "272720b90ac375502c8ed23cd791c2a93dfb22a911641a494da74a426c09f101"),)


def math_file(name: str, folder: str, sha256: str = "") -> tuple:
    return ((f"math/{name}.jsonl", QWEN_MATH.format(folder), sha256),)


BENCHMARKS = {
    "humaneval": Benchmark("HumanEval", "", FUNCTIONS, HUMAN_FILE, lambda rows: read_functions(
        [row | {"plus_input": []} for row in rows]), 164, "base tests of HumanEval+ v0.1.10", 2048),
    "humanevalplus": Benchmark("HumanEval+", "code", FUNCTIONS, HUMAN_FILE, read_functions, 164, "v0.1.10", 2048),
    "mbppplus": Benchmark("MBPP+", "code", FUNCTIONS, ((
        "mbppplus/MbppPlus-v0.2.0.jsonl.gz", EVALPLUS.format("mbpp", "v0.2.0", "MbppPlus"),
        "af43697e8791c4c149bdfd6b489d8b5412507551ac20e28a439f650b8225db63"),), read_functions, 378, "v0.2.0", 2048),
    "lcb": Benchmark("LiveCodeBench", "code", CONTESTS, tuple(
        (f"lcb/{name}.jsonl", LCB.format("code_generation_lite", f"{name}.jsonl"), "")
        for name in ("test5", "test6")), read_contests, 0, "lite, test5 and test6", 4096),
    "lcb_execution": Benchmark("LiveCodeBench execution", "reason", OUTPUTS, ((
        "lcb/execution-v2.parquet", LCB.format("execution-v2", "data/test-00000-of-00001.parquet"), ""),),
        read_lcb_execution, 479, "v2", 2048),
    "cruxeval_i": Benchmark("CRUXEval-I", "reason", INPUTS, CRUX_FILE, read_cruxeval, 800, "1", 2048),
    "cruxeval_o": Benchmark("CRUXEval-O", "reason", OUTPUTS, CRUX_FILE, read_cruxeval, 800, "1", 2048),
    "aime24": Benchmark("AIME24", "math", INTEGERS, math_file(
        "aime24", "aime24", "af2b8bd2aa911b6333ad0df32f3ca05c7ae8ed10f1731f4372c8ae26990bf7ac"), read_integers, 30,
        "2024", 4096, 16),
    "aime25": Benchmark("AIME25", "math", INTEGERS, math_file("aime25", "aime25"), read_integers, 30, "2025", 4096, 16),
    "amc23": Benchmark("AMC23", "math", INTEGERS, math_file(
        "amc23", "amc23", "43707e1ca784602d8479de24ee8ce36609dbebc46dd152b0b12a46611aa898a4"), read_integers, 40,
        "2023", 4096, 16),
    "math500": Benchmark("MATH500", "math", FORMULAS, math_file(
        "math500", "math500", "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132"), read_math500, 500,
        "PRM800K's", 4096),
    "minerva": Benchmark("Minerva", "math", FORMULAS, math_file(
        "minerva_math", "minerva_math", "0e656b430d3a0a1dab6aa853f453ba3805e28e2cabe4fc72486a897cc09d8ba2"),
        read_minerva, 272, "OCWCourses", 4096),
    "olympiadbench": Benchmark("OlympiadBench", "math", FORMULAS, math_file(
        "olympiadbench", "olympiadbench", "bb8c1e38a16ea9eacb77530315a674d883f267fbff79183effc53681b4fcc416"),
        read_olympiad, 675, "text, English, mathematics, open", 4096),
}
GROUPS = {group: [name for name, benchmark in BENCHMARKS.items() if benchmark.group == group]
          for group in ("code", "math", "reason")}
GROUPS["all"] = [name for names in list(GROUPS.values()) for name in names]
