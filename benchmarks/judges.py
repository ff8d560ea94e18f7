"""
Whether answers are right. They are run, read and compared as everywhere in this project: programs and parsers in
processes of the executor (which load harness.py and mathcheck.py), expected values only here.

Every judge takes (answers, executor, lenient) and returns a Judgement for each answer, in order.

Order of reading: Judgement, the second try, functions, contests, values (outputs and inputs), mathematics.
"""
import importlib.util
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation

import tasks
from benchmarks.items import DataError, Item, contest_tests
from executor import Executor, Job, Outcome
from sandbox.values import same_value

REASONS = ("pass", "wrong", "error", "timeout", "no_answer", "truncated")
# Limits of a test in CPU time: (seconds, times the reference's own), whichever is more. LAST are those of AZR's
# evalplus runs and decide; a first try gets less, so that an endless loop takes 11 s and not 20 (see `judge_twice`).
FIRST, LAST = (1.0, 2.0), (10.0, 8.0)
ALL_TESTS = 6                              # times as much for all of a problem (evalplus: 60 s of wall time)
REFERENCE_LIMITS = (200.0, 1000.0)
CONTEST_SECONDS = 6.0                      # a test, as LiveCodeBench (AZR used 60)
MEMORY_MB = 4096                           # as evalplus


@dataclass(frozen=True)
class Judgement:
    """What is said of one answer: a line of verdicts.jsonl."""
    ok: bool
    reason: str               # one of REASONS
    detail: str = ""          # what went wrong where, for people
    base: bool | None = None  # functions: whether the tests without "+" pass
    infra: bool = False       # our own failure or the data's, which says nothing of the answer: tried again, left out


Answers = list[tuple[Item, str]]


def without_value(outcome: Outcome) -> Judgement:
    """Of an answer whose program or text gave no value."""
    reason = "timeout" if outcome.kind == "timeout" else "error"
    return Judgement(False, reason, f"{outcome.kind}: {outcome.error}".strip(": "), infra=outcome.kind == "infra")


def beside(failed: dict[str, Judgement], answers: Answers, judge: Callable[[Answers], list[Judgement]]) -> list:
    """Judgements of all answers where those on some items, by id, are known: the data itself fails there."""
    rest = iter(judge([(item, answer) for item, answer in answers if item.id not in failed]))
    return [failed[item.id] if item.id in failed else next(rest) for item, _ in answers]


def data_fails(why: str) -> Judgement:
    return Judgement(False, "error", why, infra=True)


def judge_twice(firsts: list[Job], jobs: list[Job], executor: Executor,
                decide: Callable[[int, list[Outcome]], Judgement]) -> list[Judgement]:
    """decide(index, outcomes) for every job. `firsts` are the jobs with the limits of a first try, beside all the
    others; timeouts and our own failures run once more."""
    judgements: list = [None] * len(jobs)
    for index, outcomes in executor.stream(firsts):
        judgements[index] = decide(index, outcomes)
    tried = [index for index, first in enumerate(judgements) if first.reason == "timeout" or first.infra]
    for index, outcomes in again(executor, {index: jobs[index] for index in tried}):
        judgements[index] = decide(index, outcomes)
    return judgements


def again(executor: Executor, jobs: dict[int, Job]) -> Iterator[tuple[int, list[Outcome]]]:
    """The outcomes that decide, by index, of what ran out of time in a first try: with LAST's limits, when nothing else
    runs any more. So every timeout was seen twice, the second time undisturbed, and an endless loop is paid for once.
    They need not wait for each other, since each has a worker, and thus a core, of its own and limits are CPU time:
    what is left of a neighbour's influence are the caches, against ten seconds for what takes the reference
    milliseconds, or eight times the reference."""
    indices = list(jobs)
    for number, outcomes in executor.stream(jobs.values()):
        yield indices[number], outcomes


def run_again(executor: Executor, outcomes: list[Outcome], jobs: dict[int, Job]) -> None:
    """The same for jobs of one input: puts the outcomes that decide into the place of timeouts and our own failures."""
    tried = {index: replace(job, limits=(LAST[0], LAST[0])) for index, job in jobs.items()
             if outcomes[index].kind in ("timeout", "infra")}
    for index, [outcome] in again(executor, tried):
        outcomes[index] = outcome


# ---------------------------------------------------------------------------------------------------------------------
# Functions

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


def digit_distance(a: int, b: int) -> int:
    width = max(len(str(a)), len(str(b)))
    return sum(abs(int(x) - int(y)) for x, y in zip(str(a).zfill(width), str(b).zfill(width)))


def pyramid_surface(edge: float, height: float) -> int:
    """With the height from the base to the apex."""
    return round(edge * edge + 2 * edge * ((edge / 2) ** 2 + height ** 2) ** 0.5)


ORACLES = {  # (arguments, value, expected, tolerance) -> whether the value will do, if it is not the expected one
    "find_zero": lambda args, value, _, atol: abs(sum(c * value ** i for i, c in enumerate(args[0]))) <= atol,
    "are_equivalent": lambda args, value, expected, atol: True,
    "sum_div": lambda args, value, expected, atol: value == 0,
    "surface_Area": lambda args, value, expected, atol: abs(value - pyramid_surface(*args)) <= atol,
    "digit_distance_nums": lambda args, value, expected, atol: value == digit_distance(*args),
}


def agrees(item: Item, args: tuple, packed: object, expected: list) -> bool:
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
            isinstance(true, (list, tuple)) and true and all(isinstance(item, float) for item in true)
        atol = atol or (1e-6 if floats else 0)
        return bool(atol) and type(value) is type(true) and close(value, true, atol) or same_value(value, true)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return False


def close(a: object, b: object, atol: float) -> bool:
    """numpy.allclose with rtol 1e-7, on nested lists of numbers."""
    if isinstance(b, (list, tuple)):
        return isinstance(a, (list, tuple)) and len(a) == len(b) and all(close(x, y, atol) for x, y in zip(a, b))
    return a == b or abs(a - b) <= atol + 1e-7 * abs(b) < math.inf


def judge_functions(answers: Answers, executor: Executor, lenient: bool, whole: bool = False) -> list[Judgement]:
    """Every solution in a process of its own, against what the canonical one returns. `whole` programs are run as they
    are, others without what their top level does beside defining."""
    expected, limits, failed = references({item.id: item for item, _ in answers}.values(), executor)

    def judge(answers: Answers) -> list[Judgement]:
        firsts, jobs = ([function_job(item, code, limits[item.id][which], whole) for item, code in answers]
                        for which in (0, 1))
        return judge_twice(firsts, jobs, executor, lambda index, outcomes: decide_function(
            answers[index][0], outcomes, expected[answers[index][0].id]))
    return beside(failed, answers, judge)


def decide_function(item: Item, outcomes: list[Outcome], expected: list) -> Judgement:
    base = len(item.row["base_input"])
    tests = zip(item.row["base_input"] + item.row["plus_input"], outcomes, expected, strict=True)
    for number, (args, outcome, true) in enumerate(tests):
        if outcome.kind != "ok":
            return replace(without_value(outcome), base=number >= base)
        if not agrees(item, args, outcome.value, true):
            return Judgement(False, "wrong", f"test {number}", base=number >= base)
    return Judgement(True, "pass", base=True)


def references(items: Iterable[Item], executor: Executor) -> tuple[dict[str, list], dict[str, list[tuple]],
                                                                   dict[str, Judgement]]:
    """By item: what its canonical solution returns; the limits of a first and the last try that follow from its times;
    where it fails, and so no answer can be judged, what is said of every answer."""
    items, expected, limits, failed = list(items), {}, {}, {}
    jobs = [function_job(item, item.row["prompt"] + item.row["canonical_solution"], REFERENCE_LIMITS, True)
            for item in items]
    for index, outcomes in executor.stream(jobs):
        id, times = items[index].id, [outcome.cpu_seconds for outcome in outcomes]
        if bad := next((outcome for outcome in outcomes if outcome.kind != "ok"), None):
            failed[id] = data_fails(f"the canonical solution itself fails here ({bad.kind}: {bad.error})")
        expected[id] = [outcome.value for outcome in outcomes]
        limits[id] = [(max(seconds, factor * max(times)), max(ALL_TESTS * seconds, factor * sum(times)))
                      for seconds, factor in (FIRST, LAST)]
    return expected, limits, failed


# ---------------------------------------------------------------------------------------------------------------------
# Contests

def judge_contests(answers: Answers, executor: Executor, lenient: bool) -> list[Judgement]:
    tests, failed = {}, {}
    for item in {item.id: item for item, _ in answers}.values():
        try:
            tests[item.id] = readable_tests(item)
        except (DataError, ValueError) as error:
            failed[item.id] = data_fails(str(error))

    def judge(answers: Answers) -> list[Judgement]:
        jobs = [contest_job(code, *tests[item.id]) for item, code in answers]
        firsts = [replace(job, limits=(min(FIRST[0], CONTEST_SECONDS), job.limits[1])) for job in jobs]
        return judge_twice(firsts, jobs, executor, lambda index, outcomes: decide_contest(
            outcomes, *tests[answers[index][0].id]))
    return beside(failed, answers, judge)


def readable_tests(item: Item) -> tuple[str, list[tuple], list[str]]:
    """(name of the method or "", arguments of every test, its output as text). DataError, ValueError."""
    name = json.loads(item.row["metadata"] or "{}").get("func_name") or ""
    inputs, outputs = zip(*contest_tests(item.row))
    return name, [tuple(map(json.loads, text.split("\n"))) if name else (text,) for text in inputs], list(outputs)


def contest_job(code: str, name: str, inputs: list[tuple], outputs: list[str]) -> Job:
    call = f"call_method(SOURCE, {name!r}, arguments)" if name else "run_script(SOURCE, *arguments)"
    limits = CONTEST_SECONDS, CONTEST_SECONDS * len(inputs) + 1
    return Job(WRAPPED.format(source=code, call=call), tuple(inputs), limits=limits)


def decide_contest(outcomes: list[Outcome], name: str, inputs: list[tuple], outputs: list[str]) -> Judgement:
    same = same_json if name else same_lines
    for number, (outcome, output) in enumerate(zip(outcomes, outputs, strict=True)):
        if outcome.kind != "ok":
            return without_value(outcome)
        if not same(outcome.value, output):
            return Judgement(False, "wrong", f"test {number}")
    return Judgement(True, "pass")


def same_json(packed: object, output: str) -> bool:
    from benchmarks import harness  # pack is the measure of what is too long to send
    return packed == harness.pack(json.loads(output))


def same_lines(packed: object, output: str) -> bool:
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


# ---------------------------------------------------------------------------------------------------------------------
# Values

def equal_values(a: object, b: object) -> bool:
    """Python's `==` as in the official scorers (so 1 == True), or equal with nan."""
    return a == b or same_value(a, b)


def golds(answers: Answers, executor: Executor) -> tuple[dict[str, object], dict[str, Judgement]]:
    """By item: the output that the data states; what is said of every answer where it is no literal."""
    items = list({item.id: item for item, _ in answers}.values())
    outcomes = tasks.read([("parse_literal", item.row["output"]) for item in items], executor)
    failed = {item.id: data_fails(f"its output is not a literal ({outcome.error})")
              for item, outcome in zip(items, outcomes) if outcome.kind != "ok"}
    return {item.id: outcome.value for item, outcome in zip(items, outcomes)}, failed


def judge_value(outcome: Outcome, true: object) -> Judgement:
    if outcome.kind != "ok":
        return without_value(outcome)
    return Judgement(True, "pass") if equal_values(outcome.value, true) else Judgement(False, "wrong")


def unpacked(outcome: Outcome) -> Outcome:
    """With the value that harness.pack packed; what else came, too long for a gold or forged, equals none."""
    match outcome.kind, outcome.value:
        case "ok", ["value", value]:
            return replace(outcome, value=value)
        case "ok", other:
            return replace(outcome, value=("not a value", other))
    return outcome


def evaluate_unread(outcomes: list[Outcome], function: str, arguments: list[tuple], executor: Executor) -> None:
    """Lenient: what could not be read as literals is evaluated, by a function of the harness."""
    unread = [index for index, outcome in enumerate(outcomes) if outcome.kind != "ok"]
    program, limits = f"from benchmarks.harness import {function} as f", (LAST[0], LAST[0])
    jobs = [Job(program, (arguments[index],), limits=limits) for index in unread]
    for index, [outcome] in zip(unread, executor.run(jobs)):
        outcomes[index] = unpacked(outcome)


def judge_outputs(answers: Answers, executor: Executor, lenient: bool) -> list[Judgement]:
    true, failed = golds(answers, executor)

    def judge(answers: Answers) -> list[Judgement]:
        outcomes = tasks.read([("parse_literal", text) for _, text in answers], executor)
        if lenient:
            evaluate_unread(outcomes, "lenient_value", [(text,) for _, text in answers], executor)
        return [judge_value(outcome, true[item.id]) for outcome, (item, _) in zip(outcomes, answers)]
    return beside(failed, answers, judge)


CALLED = """{code}

import benchmarks.harness as harness
def f_packed(arguments, words):
    return harness.pack(f(*arguments, **words))
"""


def judge_inputs(answers: Answers, executor: Executor, lenient: bool) -> list[Judgement]:
    true, failed = golds(answers, executor)

    def judge(answers: Answers) -> list[Judgement]:
        outcomes = outcomes_of_inputs(answers, executor, lenient)
        return [judge_value(outcome, true[item.id]) for outcome, (item, _) in zip(outcomes, answers)]
    return beside(failed, answers, judge)


def outcomes_of_inputs(answers: Answers, executor: Executor, lenient: bool) -> list[Outcome]:
    """All answers to one program run in one process: they are literals, and the program is the benchmark's."""
    programs = [CALLED.format(code=item.row["code"]) for item, _ in answers]
    outcomes = tasks.read([("parse_call", text) for _, text in answers], executor)
    inputs = {index: outcome.value for index, outcome in enumerate(outcomes) if outcome.kind == "ok"}
    if lenient:
        evaluate_unread(outcomes, "lenient_call", [(item.row["code"], text) for item, text in answers], executor)
    together: dict[str, list[int]] = {}
    for index in inputs:
        together.setdefault(programs[index], []).append(index)
    jobs = [Job(program, tuple(inputs[i] for i in indices), "f_packed") for program, indices in together.items()]
    for indices, ran in zip(together.values(), executor.run(jobs)):
        for index, outcome in zip(indices, ran):
            outcomes[index] = outcome
    run_again(executor, outcomes, {i: Job(programs[i], (value,), "f_packed") for i, value in inputs.items()})
    for index in inputs:
        outcomes[index] = unpacked(outcomes[index])
    return outcomes


# ---------------------------------------------------------------------------------------------------------------------
# Mathematics

INTEGER = re.compile(r"[+-]?\d{1,40}(\.0*)?")
THOUSANDS = re.compile(r"(?<=\d)(,|\{,\}|,?\\[,!])(?=\d{3}(?!\d))")
UNITS = re.compile(r"\\(text|mathrm)\{[^{}]*\}|\^\{?\\circ\}?|\\[,!;% $]|[$%]")
MINUS = str.maketrans(dict.fromkeys("\u2212\ufe63\uff0d", "-"))  # as people and some models write it


def integer(text: str) -> int | None:
    """The integer that an answer writes, with thousands separators, leading zeros, a unit or `x =` before it."""
    text = UNITS.sub(" ", THOUSANDS.sub("", text.translate(MINUS).rpartition("=")[2])).strip()
    return int(text.partition(".")[0]) if INTEGER.fullmatch(text) else None


def judge_integers(answers: Answers, executor: Executor, lenient: bool) -> list[Judgement]:
    """As integers; where an answer is written otherwise, such as \\frac{54}{2}, as formulas."""
    found = [integer(text) for _, text in answers]
    judgements = [Judgement(True, "pass") if value == int(item.row["gold"]) else Judgement(False, "wrong")
                  for value, (item, _) in zip(found, answers)]
    others = [index for index, value in enumerate(found) if value is None] if has_math_verify() else []
    if others:
        for index, judgement in zip(others, judge_formulas([answers[i] for i in others], executor, lenient)):
            judgements[index] = judgement
    return judgements


def has_math_verify() -> bool:
    return importlib.util.find_spec("math_verify") is not None


def judge_formulas(answers: Answers, executor: Executor, lenient: bool) -> list[Judgement]:
    """Answers are parsed in processes that know no gold; what they say, as plain data, is compared in others."""
    texts = list(dict.fromkeys(text.translate(MINUS) for _, text in answers))
    parsed = dict(zip(texts, run_in_chunks(executor, "parsed", [(text,) for text in texts])))
    readings = [parsed[text.translate(MINUS)] for _, text in answers]
    read = [index for index, outcome in enumerate(readings) if outcome.kind == "ok"]
    compared = run_in_chunks(executor, "equal", [(answers[i][0].row["gold"], readings[i].value) for i in read])
    outcomes = dict(zip(read, compared))
    return [judge_value(outcomes.get(index, outcome), True) for index, outcome in enumerate(readings)]


def run_in_chunks(executor: Executor, function: str, calls: list[tuple]) -> list[Outcome]:
    """What a function of mathcheck.py returns for each call, several in a process."""
    program = f"from benchmarks.mathcheck import {function} as f"
    outcomes = [outcome for chunk in executor.run([Job(program, tuple(chunk)) for chunk in tasks.chunks(calls, 16)])
                for outcome in chunk]
    run_again(executor, outcomes, {index: Job(program, (call,)) for index, call in enumerate(calls)})
    return outcomes
