"""The task types, the gate, verification, prompts, program keys and buffers, against programs that are really run."""
import json
import math
import os
import random
import signal
import warnings
from collections import Counter
from dataclasses import replace

import pytest

from sandbox import parsing
from sandbox.values import same_value, show
import tasks
from executor import Executor, Outcome
from tasks import ABDUCTION, DEDUCTION, ERROR, INDUCTION, TYPES, Buffers, Style, Task

nan, inf = math.nan, math.inf
PLUS_ONE = "def f(x):\n    return x + 1"
FENCED_FIVE = "```output\n5\n```"


@pytest.fixture(scope="module")
def ex():
    with Executor(workers=1, cpu_seconds=0.3, memory_mb=256, require="weak") as running:
        yield running


class FakeExecutor:
    """Reads texts as an executor process would; keeps all other jobs and answers their inputs with the same run."""
    def __init__(self, outcome: Outcome = Outcome("ok", 0)):
        self.answer, self.jobs = outcome, []

    def run(self, jobs):
        return [[read(job.entry, *args) for args in job.inputs] if job.program.startswith("from sandbox.parsing")
                else self.keep(job) for job in jobs]

    def keep(self, job):
        self.jobs.append(job)
        return [self.answer] * len(job.inputs)


def read(reader: str, text: str) -> Outcome:
    try:
        return Outcome("ok", getattr(parsing, reader)(text))
    except ValueError as error:
        return Outcome("error", error=str(error))


def response(*blocks) -> str:
    return "thoughts</think><answer>" + "\n".join(tasks.fence(*block) for block in blocks) + "</answer>"


def proposal(program: str, given: str = "1") -> str:
    return response(("python", program), ("input", given))


def induction_proposal(inputs, message: str = "adds one") -> str:
    return response(*[("input", text) for text in inputs], ("message", message))


def gate_one(executor, text: str, type=DEDUCTION, reference: Task | None = None, **options) -> tasks.Gated:
    [gated] = tasks.gate([(type, text, reference)], executor, **options)
    assert (gated.task is None) == (gated.reason != "valid")
    return gated


def reason(executor, text: str, **options) -> str:
    return gate_one(executor, text, **options).reason


def judge(executor, task: Task, text: str) -> tasks.Verdict:
    [verdict] = tasks.verify([(task, text)], executor)
    return verdict


def make_task(type: str, program: str, *pairs, message: str = "", step: int = 0) -> Task:
    """pairs: (argument tuple, output)"""
    facts = parsing.inspect_program(program)
    return Task(type, program, tuple(args for args, _ in pairs), tuple(value for _, value in pairs), message, step,
                facts["key"], facts["depth"])


def numbered(type: str, n: int, step: int = 0) -> Task:
    return make_task(type, f"def f(x):\n    return x + {n}", ((1,), 1 + n), step=step)


def induction_task(program: str, inputs, outputs) -> Task:
    return make_task("induction", program, *(((x,), y) for x, y in zip(inputs, outputs)), message="guess")


# ----------------------------------------------------------------------------------------------------------------
# The gate

GOOD_PROGRAMS = {
    "one function": PLUS_ONE,
    "helper": "def double(x):\n    return 2 * x\n\ndef f(x):\n    return double(x) + 1",
    "helper below": "def f(x):\n    return double(x)\n\ndef double(x):\n    return 2 * x",
    "nested function": "def f(x):\n    def inner(y):\n        return y + x\n    return inner(2)",
    "class with methods": "class Counter:\n    def __init__(self, n):\n        self.n = n\n    def add(self, k):\n"
                          "        self.n += k\n        return self.n\n\ndef f(x):\n    return Counter(x).add(2)",
    "allowed imports": "import math\nimport collections.abc\nfrom functools import lru_cache, reduce\n"
                       "from itertools import accumulate as acc\n\n@lru_cache\ndef f(x):\n"
                       "    import re\n    return [math.gcd(x, 4), list(acc([x, 2])), re.sub('a', 'b', 'aa')]",
    "comments and docstring": "# a hint\ndef f(x):\n    '''doc'''\n    return x  # the end",
    "module-level state": "table = {1: 'one'}\n\ndef f(x):\n    return table.get(x, 'many')",
    "set in any order": "def f(x):\n    return {'a', 'b', 'cc', 'dd', str(x)}",
    "invalid escape": "def f(x):\n    return '\\d' * x",
    "own hash and id": "def f(hash):\n    id = 3\n    return hash * id",
    "process_input": "def process_input(x):\n    return x\n\ndef f(x):\n    return process_input(x)",
}


@pytest.mark.quick
@pytest.mark.parametrize("program", GOOD_PROGRAMS.values(), ids=GOOD_PROGRAMS)
def test_good_programs_pass_the_gate(ex, program):
    gated = gate_one(ex, proposal(program), step=7)
    assert gated.reason == "valid"
    assert gated.task.program == program and gated.task.inputs == ((1,),) and gated.task.step == 7
    assert gated.task.key == parsing.program_key(program)


@pytest.mark.parametrize("type", [DEDUCTION, ABDUCTION], ids=lambda type: type.name)
def test_blocks_may_come_in_any_order(ex, type):
    gated = gate_one(ex, response(("input", "[1, 2], 3"), ("python", "def f(a, b):\n    return a[-1] * b")), type)
    assert gated.task == make_task(type.name, "def f(a, b):\n    return a[-1] * b", (([1, 2], 3), 6))


BAD_PROGRAMS = [
    ("missing colon", "def f(x)\n    return x", "does not parse"),
    ("indented", "    def f(x):\n        return x", "does not parse"),
    ("null byte", "def f(x):\n    return '\0'", "does not parse"),
    ("deep nesting", "def f(x):\n    return " + "(" * 500 + "x" + ")" * 500, "does not parse"),
    ("other name", "def g(x):\n    return x", "no f"),
    ("empty", "", "no f"),
    ("lambda", "f = lambda x: x", "no f"),
    ("class", "class f:\n    def __new__(cls, x):\n        return x", "no f"),
    ("coroutine", "async def f(x):\n    return x", "no f"),
    ("f in a class", "class A:\n    def f(x):\n        return x", "no f"),
    ("f rebound", PLUS_ONE + "\nf = 3", "no f"),
    ("import", "import os\n" + PLUS_ONE, "import not allowed"),
    ("import submodule", "import os.path\n" + PLUS_ONE, "import not allowed"),
    ("import second of two", "import math, sys\n" + PLUS_ONE, "import not allowed"),
    ("import under an allowed name", "import subprocess as math\n" + PLUS_ONE, "import not allowed"),
    ("from import", "from random import random\n" + PLUS_ONE, "import not allowed"),
    ("from submodule", "from os.path import join\n" + PLUS_ONE, "import not allowed"),
    ("name that starts like an allowed one", "import mathematics\n" + PLUS_ONE, "import not allowed"),
    ("relative", "from . import helpers\n" + PLUS_ONE, "import not allowed"),
    ("relative to an allowed name", "from .math import sqrt\n" + PLUS_ONE, "import not allowed"),
    ("inside f", "def f(x):\n    import time\n    return x", "import not allowed"),
    ("inside a dead branch", "def f(x):\n    if not x:\n        from sys import exit\n    return x",
     "import not allowed"),
    ("without a statement", "def f(x):\n    return __import__('os').getcwd()", "import not allowed"),
    ("raises", "def f(x):\n    return 1 / (x - 1)", "error"),
    ("raises with an innocent text", "def f(x):\n    raise StopIteration('fine')", "error"),
    ("exits", "def f(x):\n    raise SystemExit(0)", "error"),
    ("raises on import", "1 / 0\n" + PLUS_ONE, "error"),
    ("takes no argument", "def f():\n    return 1", "error"),
    ("endless recursion", "def f(x):\n    return f(x)", "error"),
    ("does not compile", "return 1\n" + PLUS_ONE, "error"),
    ("endless loop", "def f(x):\n    while True:\n        pass", "timeout"),
    ("endless loop that catches", "def f(x):\n    while x:\n        try:\n            while x:\n                pass\n"
                                  "        except BaseException:\n            pass", "timeout"),
    ("memory", "def f(x):\n    return len([0] * 10**9)", "memory"),
    ("set order", "def f(x):\n    return ''.join(set('abcdefghijklmnop'))", "not deterministic"),
    ("a fence in the output", "def f(x):\n    return chr(96) * 3", "holds a fence or tag"),
    ("an end tag in the output", "def f(x):\n    return '</ans' + 'wer>'", "holds a fence or tag"),
    ("one random bit", "def f(x):\n    return hash(str(x)) % 2", "not deterministic"),
    ("address", "def f(x):\n    return id([]) % 2", "not deterministic"),
    ("hash by method", "def f(x):\n    return str(x).__hash__() % 2", "not deterministic"),
    ("module within a module", "import dataclasses\n" + "def f(x):\n    return dataclasses.sys.argv", "not deterministic"),
    ("module from a module", "from enum import sys\n" + PLUS_ONE, "import not allowed"),
    ("builtins", "def f(x):\n    return __builtins__['__import__']('os').getppid() % 2", "not deterministic"),
    ("string hash", "def f(x):\n    return hash('absolute') % 1000003", "not deterministic"),
    ("set pop", "def f(x):\n    return {str(i) for i in range(50)}.pop()", "not deterministic"),
    ("function", "def f(x):\n    return f", "value not a literal"),
    ("generator", "def f(x):\n    yield x", "value not a literal"),
    ("range", "def f(x):\n    return range(x)", "value not a literal"),
    ("object", "class A:\n    pass\n\ndef f(x):\n    return A()", "value not a literal"),
    ("object that prints like a literal", "class A:\n    def __repr__(self):\n        return '1'\n\n"
                                          "def f(x):\n    return A()", "value not a literal"),
    ("int subclass", "class I(int):\n    pass\n\ndef f(x):\n    return [I(x)]", "value not a literal"),
    ("Counter", "import collections\n\ndef f(x):\n    return collections.Counter('aab')", "value not a literal"),
    ("enum", "import enum\nclass E(enum.IntEnum):\n    A = 1\n\ndef f(x):\n    return E.A", "value not a literal"),
    ("exception", "def f(x):\n    return ValueError(x)", "value not a literal"),
    ("401 characters", "def f(x):\n    return 'a' * 399", "value too long"),
    ("long list", "def f(x):\n    return list(range(500))", "value too long"),
    ("huge", "def f(x):\n    return 'a' * 10**6", "value too long"),
    ("huge integer", "def f(x):\n    return 10**5000", "value too long"),
    ("endless value", "def f(x):\n    x = []\n    x.append(x)\n    return x", "value too long"),
    ("long program", PLUS_ONE + "\n#" + "a" * 4000, "program too long"),
]


@pytest.mark.parametrize("program, wanted", [row[1:] for row in BAD_PROGRAMS], ids=[row[0] for row in BAD_PROGRAMS])
def test_bad_programs_are_rejected_with_the_reason(ex, program, wanted):
    assert reason(ex, proposal(program)) == wanted


BAD_INPUTS = [
    ("injected", "1) or (True", "input not a literal"),
    ("closes the call", "1), f(2", "input not a literal"),
    ("name", "x", "input not a literal"),
    ("keyword", "x=1", "input not a literal"),
    ("starred", "*[1]", "input not a literal"),
    ("call", "len('ab')", "input not a literal"),
    ("import", "__import__('os').getpid()", "input not a literal"),
    ("arithmetic", "2 ** 3", "input not a literal"),
    ("comprehension", "[i for i in 'ab']", "input not a literal"),
    ("two statements", "1\n2", "input not a literal"),
    ("unfinished", "[1, 2", "input not a literal"),
    ("unhashable", "{[]: 1}", "input not a literal"),
    ("401 characters", repr("a" * 399), "value too long"),
    # Prompts show values, not the proposer's text of them.
    ("short to write, long to show", ", ".join(["nan"] * 75), "value too long"),
    ("no arguments", "", "no arguments"),
]


@pytest.mark.parametrize("given, wanted", [row[1:] for row in BAD_INPUTS], ids=[row[0] for row in BAD_INPUTS])
def test_bad_inputs_are_rejected_with_the_reason(ex, given, wanted):
    program = "def f(*x):\n    return len(x)"
    assert reason(ex, proposal(program, given)) == wanted
    assert reason(ex, proposal(program, "'b'")) == "valid"


@pytest.mark.parametrize("given, args", [
    ("1", (1,)), ("1, 'a'", (1, "a")), ("[1,\n 2]", ([1, 2],)), ("-1.5  # a comment", (-1.5,)),
    ("{'a': (1, None)}, {2}", ({"a": (1, None)}, {2})), ("float('-inf'), True", (-inf, True)), ("'a\\nb'", ("a\nb",)),
])
def test_inputs_are_read_as_the_arguments_of_one_call(ex, given, args):
    assert gate_one(ex, proposal("def f(*x):\n    return len(x)", given)).task.inputs == (args,)


def test_limits_of_length_are_inclusive(ex):
    assert reason(ex, proposal("def f(x):\n    return 'a' * 398")) == "valid"
    longest = PLUS_ONE + "\n#" + "a" * (tasks.MAX_PROGRAM_CHARS - len(PLUS_ONE) - 2)
    assert reason(ex, proposal(longest)) == "valid"
    assert reason(ex, proposal(longest + "a")) == "program too long"


def test_missing_blocks_are_named(ex):
    assert reason(ex, response(("input", "1"))) == "no code block"
    assert reason(ex, response(("python", PLUS_ONE))) == "no input block"
    assert reason(ex, response()) == "no code block"
    assert reason(ex, response(("python", PLUS_ONE), ("output", "1"))) == "no input block"


def test_bad_format_is_rejected_unless_seeding(ex):
    blocks = tasks.fence("python", PLUS_ONE) + "\n" + tasks.fence("input", "1")
    assert reason(ex, blocks) == "bad format"
    assert reason(ex, f"thoughts</think> so <answer>{blocks}</answer>") == "bad format"
    assert reason(ex, blocks, strict_format=False) == "valid"
    assert reason(ex, "", strict_format=False) == "no code block"


def test_only_blocks_of_the_answer_count(ex):
    thoughts = tasks.fence("python", PLUS_ONE) + tasks.fence("input", "1")
    assert reason(ex, f"{thoughts}</think><answer>done</answer>") == "no code block"


def test_induction_proposals_need_enough_inputs_and_a_message(ex):
    reference = numbered("deduction", 1)

    def outcome(text):
        return reason(ex, text, type=INDUCTION, reference=reference, n_inputs=4)
    assert outcome(induction_proposal("1234")) == "valid"
    assert outcome(induction_proposal("")) == "no input block"
    assert outcome(induction_proposal("123")) == "too few inputs"
    assert outcome(induction_proposal("1221")) == outcome(induction_proposal("1111")) == "inputs repeat"
    assert outcome(induction_proposal("1123")) == "valid"
    assert outcome(response(*[("input", text) for text in "1234"])) == "no message"
    assert outcome(induction_proposal(["1", "2", "3", "x"])) == "input not a literal"
    assert outcome(induction_proposal(["1", "2", "3", "4, 5"])) == "error"
    assert outcome(induction_proposal("1234", "m" * 401)) == "value too long"


def test_induction_tasks_hold_the_references_program_and_the_last_inputs(ex):
    reference = numbered("abduction", 10)
    gated = gate_one(ex, induction_proposal("91234", " a hint\n"), INDUCTION, reference, n_inputs=4, step=3)
    assert gated.task == Task("induction", reference.program, ((1,), (2,), (3,), (4,)), (11, 12, 13, 14), "a hint", 3,
                              reference.key)


def test_state_that_outlives_a_call_is_not_deterministic(ex):
    """Only what a call can leave behind counts: the two runs of a task go through its inputs in opposite orders."""
    shared = make_task("deduction", "import math\n\ndef f(x):\n    math.n = getattr(math, 'n', 0) + 1\n"
                                    "    return math.n")
    assert reason(ex, induction_proposal("1234"), type=INDUCTION, reference=shared, n_inputs=4) == "not deterministic"
    # A plain global starts anew with every call, so this is the function that always returns 1.
    own = make_task("deduction", "n = 0\n\ndef f(x):\n    global n\n    n += 1\n    return n")
    assert gate_one(ex, induction_proposal("1234"), INDUCTION, own, n_inputs=4).task.outputs == (1, 1, 1, 1)


def test_programs_that_change_their_argument_leave_the_task_as_proposed(ex):
    program = "def f(x):\n    x.append(x.pop(0))\n    x.append(9)\n    return x"
    gated = gate_one(ex, proposal(program, "[1, 2]"))
    assert gated.task.inputs == (([1, 2],),) and gated.task.outputs == ([2, 1, 9],)


@pytest.mark.parametrize("kind, wanted", [
    ("error", "error"), ("timeout", "timeout"), ("memory", "memory"), ("crash", "crash"), ("infra", "infra"),
    ("unserializable", "value not a literal"), ("too_big", "value too long"), ("nondeterministic", "not deterministic"),
    ("refused", "no f")])
def test_no_failed_run_becomes_a_task(kind, wanted):
    assert reason(FakeExecutor(Outcome(kind)), proposal(PLUS_ONE)) == wanted


def test_every_run_is_made_under_two_hash_seeds_and_only_for_sound_proposals():
    fake = FakeExecutor()
    gated = tasks.gate([(DEDUCTION, proposal("import os"), None), (ABDUCTION, proposal(PLUS_ONE), None),
                        (INDUCTION, induction_proposal("12"), numbered("deduction", 3)),
                        (DEDUCTION, "nothing", None)], fake, n_inputs=2)
    assert [job.seeds for job in fake.jobs] == [2, 2]
    assert [job.inputs for job in fake.jobs] == [((1,),), ((1,), (2,))]
    assert [result.reason for result in gated] == ["no f", "valid", "valid", "bad format"]
    assert [result.reason for result in gated].count("valid") == 2


def test_results_keep_the_order_of_the_proposals(ex):
    programs = ["def f(x):\n    return x + 1", "def g(x):\n    return x", "def f(x):\n    return x + 2", "syntax error",
                "def f(x):\n    return x / 0", "def f(x):\n    return x + 3"]
    gated = tasks.gate([(DEDUCTION, proposal(program), None) for program in programs], ex)
    assert [result.task and result.task.outputs[0] for result in gated] == [2, None, 3, None, None, 4]


# ----------------------------------------------------------------------------------------------------------------
# Verification

ANSWERS = [
    (7, "7"), (-7, "-7"), (10**30, str(10**30)), (0.1 + 0.2, "0.30000000000000004"), (2.0, "2"), (2, "2.0"),
    (True, "True"), (None, "None"), ("it's", '"it\'s"'), ("a\nb", "'a\\nb'"), ("", "''"), (b"\x00a", "b'\\x00a'"),
    ([1, [2]], "[1,\n [2]]"), ((1,), "(1,)"), ((), "()"), ([], "[]"), ({"a": 1, "b": 2}, "{'b': 2, 'a': 1}"),
    ({3, 1}, "{3, 1}"), (set(), "set()"), (frozenset("a"), "frozenset({'a'})"), (nan, "nan"), (nan, "float('nan')"),
    (-inf, "float('-inf')"), (2 + 1j, "(2+1j)"), ([nan, {"k": (None, False)}], "[nan, {'k': (None, False)}]"),
]


@pytest.mark.parametrize("value, text", ANSWERS, ids=str)
def test_right_answers_of_every_type_are_accepted(value, text):
    deduction = make_task("deduction", PLUS_ONE, ((0,), value))
    assert judge(FakeExecutor(), deduction, response(("output", text))) == tasks.Verdict(True, "correct", True)
    abduction = replace(deduction, type="abduction")
    assert judge(FakeExecutor(Outcome("ok", value)), abduction, response(("input", "0"))).correct
    induction = induction_task(PLUS_ONE, [0, 1], [value, value])
    assert judge(FakeExecutor(Outcome("ok", value)), induction, response(("python", PLUS_ONE))).correct


@pytest.mark.parametrize("value, text", [(show(value), text) for value, text in ANSWERS], ids=str)
def test_what_prompts_show_is_accepted_as_an_answer(value, text):
    task = make_task("deduction", PLUS_ONE, ((0,), parsing.parse_literal(text)))
    assert judge(FakeExecutor(), task, response(("output", value))).correct


@pytest.mark.parametrize("value, other", [
    (1, True), (True, 1), (0, False), (False, 0.0), ([1], [True]), ({1: 2}, {True: 2}), ({0}, {False}), ([1], (1,)),
    (1, "1"), ("a", b"a"), (nan, 0), (inf, -inf), (1.0, 1.0000001), (10**17 + 1, 1e17), ({1: 2}, {1: 2, 3: 4}),
    ([1, 2], [2, 1]), (None, False), ("a", "A"), ((), [])], ids=str)
def test_values_that_only_look_alike_are_wrong(value, other):
    wrong = tasks.Verdict(False, "wrong", True)
    deduction = make_task("deduction", PLUS_ONE, ((0,), value))
    assert judge(FakeExecutor(), deduction, response(("output", show(other)))) == wrong
    abduction = replace(deduction, type="abduction")
    assert judge(FakeExecutor(Outcome("ok", other)), abduction, response(("input", "0"))) == wrong
    induction = induction_task(PLUS_ONE, [0, 1], [value, value])
    assert judge(FakeExecutor(Outcome("ok", other)), induction, response(("python", PLUS_ONE))) == wrong


@pytest.mark.parametrize("answer", [
    "eval(gold_output)", "gold_output", "output", "f(x)", "f(4)", "__import__('os').getpid()", "5\n5", "5; 5",
    "__import__('os')._exit(0)", "5 if True else 0", "2 + 3", "max(5, 1)", "10**10**10", "lambda: 5", "[5][0]",
    "f'{5}'", "type('E', (), {'__eq__': lambda a, b: True})()", "5 == 5", "not 0", "", "# 5", "*[5]", "(yield)",
    "x := 5", "str", "..."])
def test_deduction_answers_are_data_never_code(answer):
    number = make_task("deduction", PLUS_ONE, ((4,), 5))
    text = make_task("deduction", "def f(x):\n    return str(x)", ((5,), "5"))  # where the official code accepts f(x)
    for task in (number, text):
        verdict = judge(FakeExecutor(), task, response(("output", answer)))
        assert verdict == tasks.Verdict(False, "answer not a literal", True)


@pytest.mark.parametrize("answer", [
    "1) or (True", "1) == f(1", "1) or f(4", "), (", "x", "x=4", "*[4]", "**{'x': 4}", "2 + 2", "int('4')", "f(4)",
    "4)#", "type('E', (), {'__eq__': lambda a, b: True})()", "__import__('os')", "4\n4", "gold_input", "4 if 1 else 4"])
def test_abduction_answers_are_data_never_code(answer):
    fake, task = FakeExecutor(Outcome("ok", 5)), make_task("abduction", PLUS_ONE, ((4,), 5))
    assert judge(fake, task, response(("input", answer))) == tasks.Verdict(False, "answer not a literal", True)
    assert fake.jobs == []


ALWAYS_EQUAL = "    def __eq__(self, other):\n        return True\n    def __hash__(self):\n        return 0\n"
CHEATS = [
    ("always equal", "class E:\n" + ALWAYS_EQUAL + "\ndef f(x):\n    return E()", "unserializable"),
    ("always equal int", "class E(int):\n" + ALWAYS_EQUAL + "\ndef f(x):\n    return E(0)", "unserializable"),
    ("always equal list", "class E(list):\n" + ALWAYS_EQUAL + "\ndef f(x):\n    return E()", "unserializable"),
    ("always equal in a list", "class E(int):\n" + ALWAYS_EQUAL + "\ndef f(x):\n    return [E(0)]", "unserializable"),
    ("equal int", "class I(int):\n    pass\n\ndef f(x):\n    return I(x + 1)", "unserializable"),
    ("looks for the answer", "def f(x):\n    return gold_output", "error"),
    ("imports", "import sys\n\ndef f(x):\n    return sys.argv", "import not allowed"),
    ("defines no f", "def g(x):\n    return x + 1", "no f"),
    ("a lambda", "f = lambda x: x + 1", "no f"),
    ("does not parse", "def f(x) return x + 1", "does not parse"),
    ("too long", PLUS_ONE + "\n#" + "a" * 4000, "program too long"),
    ("knows only what was shown", "def f(x):\n    return {0: 1, 1: 2}[x]", "error"),
    ("right on some hidden examples only", "def f(x):\n    return x + 1 if x < 3 else 0", "wrong"),
    ("loops", "def f(x):\n    while True:\n        pass", "timeout"),
]


@pytest.mark.parametrize("program, wanted", [row[1:] for row in CHEATS], ids=[row[0] for row in CHEATS])
def test_induction_programs_that_do_not_compute_the_function_get_nothing(ex, program, wanted):
    task = induction_task(PLUS_ONE, range(4), range(1, 5))
    assert judge(ex, task, response(("python", program))) == tasks.Verdict(False, wanted, True)


def test_an_int_output_is_not_matched_by_a_bool(ex):
    task = induction_task("def f(x):\n    return int(x > 1)", range(4), [0, 0, 1, 1])
    assert judge(ex, task, response(("python", "def f(x):\n    return x > 1"))).reason == "wrong"
    assert judge(ex, task, response(("python", "def f(x):\n    return 1 if x > 1 else 0"))).correct


def test_any_program_that_gives_the_hidden_outputs_is_right(ex):
    task = induction_task(PLUS_ONE, range(6), range(1, 7))
    other = "import operator\n\nclass Adder:\n    def add(self, x):\n        return operator.add(x, 1)\n\n" \
        "def f(number):\n    return Adder().add(number)"
    assert judge(ex, task, response(("python", other))).correct
    # The paper's text judges the hidden half only.
    assert judge(ex, task, response(("python", "def f(x):\n    return x + 1 if x > 2 else None"))).correct


@pytest.mark.parametrize("answer, correct", [("-5", True), ("5", True), ("5.0", True), ("4", False), ("'5'", False)])
def test_any_input_that_gives_the_output_is_right(ex, answer, correct):
    task = make_task("abduction", "def f(x):\n    return abs(x)", ((-5,), 5))
    assert judge(ex, task, response(("input", answer))).correct is correct


@pytest.mark.parametrize("answer", ["[1,\n 2],\n3", "[1, 2], 3", "[1, 2], 3  # a comment", "[2, 1], 3.0"])
def test_answers_of_several_arguments_and_lines_are_read(ex, answer):
    task = make_task("abduction", "def f(a, b):\n    return sum(a) + b", (([3], 3), 6))
    assert judge(ex, task, response(("input", answer))).correct


def test_expected_values_never_reach_the_executor():
    """What a job does not hold, no program can read, whatever it does to its process."""
    fake = FakeExecutor()
    outputs = [9_000_001, 9_000_002, 9_000_003, 9_000_004]
    one = make_task("abduction", PLUS_ONE, ((7,), outputs[0]))
    many = induction_task("def f(x):\n    return 'the true program'", [11, 12, 13, 14], outputs)
    tasks.verify([(replace(one, type="deduction"), response(("output", "1"))), (one, response(("input", "3"))),
                  (many, response(("python", PLUS_ONE)))], fake)
    assert [(job.program, job.inputs) for job in fake.jobs] == [(PLUS_ONE, ((3,),)), (PLUS_ONE, ((13,), (14,)))]
    for job in fake.jobs:
        assert "900000" not in repr(job) and "the true program" not in repr(job)


def test_deduction_runs_no_program():
    fake = FakeExecutor(Outcome("infra"))
    task = make_task("deduction", PLUS_ONE, ((4,), 5))
    verdicts = tasks.verify([(task, response(("output", answer))) for answer in ("5", "6", "f(4)")], fake)
    assert [verdict.reason for verdict in verdicts] == ["correct", "wrong", "answer not a literal"] and fake.jobs == []


@pytest.mark.parametrize("kind", ["infra", "error", "timeout", "memory", "crash", "unserializable", "too_big",
                                  "refused"])
def test_answers_without_a_value_are_not_correct(kind):
    fake = FakeExecutor(Outcome(kind))  # its value is None, which is also the true output
    abduction = make_task("abduction", PLUS_ONE, ((4,), None))
    induction = induction_task(PLUS_ONE, [0, 1], [None, None])
    assert judge(fake, abduction, response(("input", "4"))) == tasks.Verdict(False, kind, True)
    assert judge(fake, induction, response(("python", PLUS_ONE))) == tasks.Verdict(False, kind, True)


@pytest.mark.parametrize("type, block", [("deduction", "input"), ("abduction", "output"), ("induction", "output")])
def test_answers_in_the_wrong_kind_of_block_are_none(type, block):
    task = induction_task(PLUS_ONE, [0, 5], [1, 6]) if type == "induction" else make_task(type, PLUS_ONE, ((0,), 1))
    for text in ("", "5", response(), response((block, "1")), "<answer>1</answer>"):
        assert judge(FakeExecutor(), task, text).reason == "no answer"


def test_verdicts_keep_the_order_of_the_answers(ex):
    deduction, abduction = make_task("deduction", PLUS_ONE, ((4,), 5)), make_task("abduction", PLUS_ONE, ((4,), 5))
    induction = induction_task(PLUS_ONE, range(4), range(1, 5))
    verdicts = tasks.verify([
        (abduction, response(("input", "4"))), (induction, response(("python", "x"))),
        (deduction, response(("output", "5"))), (induction, response(("python", PLUS_ONE))), (abduction, "none"),
        (abduction, response(("input", "5"))), (deduction, response(("output", "4")))], ex)
    assert [v.reason for v in verdicts] == ["correct", "no f", "correct", "correct", "no answer", "wrong", "wrong"]


def test_format_and_correctness_are_judged_apart():
    task = make_task("deduction", PLUS_ONE, ((4,), 5))
    assert judge(FakeExecutor(), task, FENCED_FIVE) == tasks.Verdict(True, "correct", False)
    assert judge(FakeExecutor(), task, response(("output", "6"))) == tasks.Verdict(False, "wrong", True)


# ----------------------------------------------------------------------------------------------------------------
# Parsing

@pytest.mark.parametrize("text, wanted", [
    ("a</think><answer>b</answer>", True),
    ("</think><answer></answer>", True),
    ("a\n</think>\n\n <answer>\nb\n</answer>", True),
    ("a</think><answer>b</answer> and more", True),  # as in the official code, nothing is asked of what follows
    ("a</think><answer>b</answer><answer>c</answer>", True),
    ("<think>a</think><answer>b</answer>", True),
    ("a <answer>x</answer> b</think><answer>b</answer>", True),
    ("", False),
    ("a", False),
    ("<answer>b</answer>", False),                        # missing think end
    ("a</think>", False),
    ("a</think><answer>b", False),                        # truncated
    ("a</think>b</answer>", False),
    ("a</think> so <answer>b</answer>", False),           # text between
    ("a<answer>b</answer></think>", False),
    ("a</Think><answer>b</answer>", False),
    ("a</think><answer>b<answer>", False),
])
def test_format(text, wanted):
    assert tasks.well_formed(text) is wanted


def fenced(*blocks) -> str:
    return "\n".join(tasks.fence(*block) for block in blocks)


@pytest.mark.parametrize("text, wanted", [
    (f"{fenced(('output', '1'))}</think><answer>{fenced(('output', '2'))}</answer>", [("output", "2")]),
    (f"<answer>{fenced(('output', '1'))}</answer> no: <answer>{fenced(('output', '2'))}</answer>", [("output", "1")]),
    (f"x</think><answer>{fenced(('output', '1'))}</answer></think><answer>{fenced(('output', '2'))}</answer>",
     [("output", "1")]),
    (f"</think>-<answer>{fenced(('output', '1'))}</answer></think> <answer>{fenced(('output', '2'))}</answer>",
     [("output", "2")]),
    ("</think><answer> 7 </answer>", [(None, "7")]), ("</think><answer>\n</answer>", []),
    ("</think><answer>```7</answer>", []), ("<answer>7</answer>", []), ("</think><answer>7", []),
    (f"<answer>{fenced(('output', '1'))}</answer>{fenced(('output', '2'))}", [("output", "1")]),
    (f"<answer>{fenced(('output', '1'))}", [("output", "1")]),
    (f"<answer></answer>{fenced(('output', '1'))}", []),
    (fenced(("output", "1"), ("output", "2")), [("output", "1"), ("output", "2")]),
    (fenced(("python", "def f(x):\n\n    return x"), ("input", "1")),
     [("python", "def f(x):\n\n    return x"), ("input", "1")]),
    (fenced(("", "def f(x):\n    return x"), ("py", "x")), [("", "def f(x):\n    return x"), ("py", "x")]),
    ("text\n" + fenced(("input", "1")) + " text", [("input", "1")]),
    ("``` input \n1\n  ```", [("input", "1")]),
    ("```input\n```", [("input", "")]),
    ("```input\n\n```", [("input", "")]),
    ("```input\n1```", [("input", "1")]),
    ("```input\n1\n", []),
    ("", []),
])
def test_blocks_are_those_of_the_first_answer(text, wanted):
    assert tasks.answer_blocks(text) == wanted


@pytest.mark.parametrize("text", ["```python\n" + " " * 10**6, "```" + " " * 10**6, "</think>" + " " * 10**6,
                                  "```python\n" + "\n" * 10**6, "```" * 10**5, "\n ```" * 10**5 + "x"], ids=range(6))
def test_degenerate_responses_do_not_hang_the_trainer(text):
    """Policies that collapse repeat one token, often white space. Milliseconds if the work is linear in the length,
    half an hour if it is quadratic; the alarm only ends the wait for the latter."""
    def too_much(*_):
        raise AssertionError("more than linear in the length of the response")
    signal.signal(signal.SIGVTALRM, too_much)
    signal.setitimer(signal.ITIMER_VIRTUAL, 5)
    try:
        tasks.well_formed(text)
        tasks.answer_blocks(text)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)


def test_the_first_block_of_a_kind_is_the_answer():
    task = make_task("deduction", PLUS_ONE, ((4,), 5))
    assert judge(FakeExecutor(), task, response(("python", "x"), ("output", "5"), ("output", "6"))).correct
    assert not judge(FakeExecutor(), task, response(("output", "6"), ("output", "5"))).correct


def test_the_first_code_block_is_the_proposed_program(ex):
    for language in ("python", "py", ""):
        gated = gate_one(ex, response((language, PLUS_ONE), ("python", "x"), ("input", "1"), ("input", "2")))
        assert gated.task.program == PLUS_ONE and gated.task.inputs == ((1,),)


# ----------------------------------------------------------------------------------------------------------------
# Prompts

STYLES = {"compact": Style("compact", 6), "r1": Style("r1"),
          "chat": Style("chat", wrap=lambda text: f"[user]{text}[/user][assistant]")}


def some_tasks(type: str) -> list[Task]:
    """Tasks whose inputs (70..), outputs (90..) and programs are told apart in a prompt."""
    def one(i: int) -> Task:
        pairs = [((7000 + 10 * i + j,), 9000 + 10 * i + j) for j in range(4 if type == "induction" else 1)]
        program = f"def f(x):\n    return x + 2000 if x > {i} else '{{n_inputs}}'"
        return make_task(type, program, *pairs, message=f"hint {i}")
    return [one(i) for i in range(3)]


def shown_in(prompt: str, values) -> list[bool]:
    return [str(value) in prompt for value in values]


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_solvers_see_everything_but_what_they_are_asked_for(style):
    for task in some_tasks("deduction"):
        prompt = tasks.solve_prompt(style, task)
        assert task.program in prompt and str(task.inputs[0][0]) in prompt and str(task.outputs[0]) not in prompt
    for task in some_tasks("abduction"):
        prompt = tasks.solve_prompt(style, task)
        assert task.program in prompt and str(task.inputs[0][0]) not in prompt and str(task.outputs[0]) in prompt
    for task in some_tasks("induction"):
        prompt = tasks.solve_prompt(style, task)
        assert "x + 2000" not in prompt and task.message in prompt
        assert shown_in(prompt, (args[0] for args in task.inputs)) == [True, True, False, False]
        assert shown_in(prompt, task.outputs) == [True, True, False, False]


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_proposers_see_whole_triplets_and_for_induction_a_program_only(style):
    for type in ("deduction", "abduction"):
        references = some_tasks(type)
        prompt = tasks.propose_prompt(style, TYPES[type], references)
        places = [prompt.index(text) for task in references
                  for text in (task.program, str(task.inputs[0][0]), str(task.outputs[0]))]
        assert places == sorted(places)
    task = some_tasks("induction")[0]
    prompt = tasks.propose_prompt(style, INDUCTION, [task])
    assert task.program in prompt and task.message not in prompt
    assert not any(shown_in(prompt, task.outputs)) and not any(shown_in(prompt, (args[0] for args in task.inputs)))


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("type", TYPES.values(), ids=TYPES)
def test_prompts_of_a_kind_share_their_instructions_as_a_prefix(style, type):
    solve = [tasks.solve_prompt(style, task) for task in some_tasks(type.name)]
    references = some_tasks(type.name)
    shown = [[task] for task in references] if type.given_program else [references, references[:1], references[1:], []]
    propose = [tasks.propose_prompt(style, type, group) for group in shown]
    for role, instructions, prompts in (("solve", type.solution, solve), ("propose", type.proposal, propose)):
        prefix = os.path.commonprefix(prompts)
        if style.name == "compact":
            assert prefix.startswith(f"{role} {type.name}\n")
        else:
            assert instructions.replace("{n_inputs}", str(style.n_inputs)) in prefix
        assert len(set(prompts)) == len(prompts)
        assert all(prompt.endswith("<think>") and prompt[:-len("<think>")].strip() for prompt in prompts)


def test_prompts_of_different_kinds_differ():
    for style in STYLES.values():
        kinds = [tasks.build_prompt(style, role, type, []) for role in ("propose", "solve") for type in TYPES.values()]
        assert len(set(kinds)) == 2 * len(TYPES)


@pytest.mark.parametrize("n", [4, 10])
def test_the_induction_proposer_is_told_how_many_inputs(n):
    task = some_tasks("deduction")[0]
    prompt = tasks.propose_prompt(Style("r1", n), INDUCTION, [task])
    assert f"Choose {n} inputs" in prompt
    assert "'{n_inputs}'" in prompt  # the program itself stays as it is


def test_references_are_numbered_where_there_are_several():
    references = some_tasks("deduction")
    prompt = tasks.propose_prompt(STYLES["r1"], DEDUCTION, references)
    assert [f"Reference {i}:" in prompt for i in (1, 2, 3, 4)] == [True, True, True, False]
    alone = tasks.propose_prompt(STYLES["r1"], DEDUCTION, [])  # the ablation without references speaks of none
    assert "Reference" not in alone and "earlier" not in alone


def test_chat_prompts_are_wrapped_once_and_open_the_think_tag_outside():
    prompt = tasks.solve_prompt(STYLES["chat"], some_tasks("deduction")[0])
    assert prompt.startswith("[user]") and prompt.endswith("[/user][assistant]<think>") and prompt.count("[user]") == 1


def test_prompts_name_the_rules_that_the_gate_applies():
    for type in (DEDUCTION, ABDUCTION):
        assert all(name in type.proposal for name in tasks.ALLOWED_IMPORTS)
        assert f"{tasks.MAX_VALUE_CHARS} characters" in type.proposal
    assert all(name in INDUCTION.solution for name in tasks.ALLOWED_IMPORTS)


# ----------------------------------------------------------------------------------------------------------------
# Program keys and the held-out split

PROGRAM = """import math
from collections import Counter

def helper(items, scale=2):
    return [math.floor(v * scale) for v in items if v]

class Box:
    def __init__(self, content):
        self.content = content

def f(x, *rest):
    total = 0
    for i, v in enumerate(helper(x)):
        total += v if i % 2 == 0 else -v
    return {'total': total, 'rest': Counter(rest)[1], 'text': f"{total}!", 'part': x[1:2]}
"""
SAME = {
    "names": PROGRAM.replace("helper", "g").replace("total", "t_1").replace("'t_1'", "'total'").replace("items", "zs")
    .replace("Box", "Holder").replace("for i, v in", "for k, v in").replace("if i %", "if k %"),
    "comments": PROGRAM.replace("total = 0", "total = 0  # start") + "# end",
    "docstrings": "'''module'''\n" + PROGRAM.replace("    total = 0", "    '''doc'''\n    total = 0")
    .replace("class Box:", "class Box:\n    'a box'"),
    "layout": PROGRAM.replace("    ", "\t").replace("v * scale", "(v   *\n scale)").replace("\n\n", "\n\n\n\n"),
    "quotes": PROGRAM.replace("'total'", '"total"'),
}
DIFFERENT = {
    "constant": ("total = 0", "total = 1"), "type of a constant": ("total = 0", "total = 0.0"),
    "bool for int": ("total = 0", "total = False"), "operator": ("v * scale", "v + scale"),
    "default": ("scale=2", "scale=3"), "comparison": ("== 0", "!= 0"), "builtin": ("enumerate(", "zip(x, "),
    "string": ("'rest'", "'res'"),
    "attribute": ("math.floor", "math.ceil"), "slice": ("x[1:2]", "x[1:3]"), "argument": ("helper(x)", "helper(rest)"),
    "module": ("import math", "import cmath"), "f-string": ('{total}!"', '{total}?"'), "star": ("*rest", "rest"),
    "statement": ("    total = 0\n", "    total = 0\n    total += 0\n"),
}


@pytest.mark.parametrize("program", SAME.values(), ids=SAME)
def test_keys_ignore_names_comments_docstrings_and_layout(program):
    assert program != PROGRAM and parsing.program_key(program) == parsing.program_key(PROGRAM)


@pytest.mark.parametrize("old, new", DIFFERENT.values(), ids=DIFFERENT)
def test_keys_tell_different_computations_apart(old, new):
    assert old in PROGRAM and parsing.program_key(PROGRAM.replace(old, new)) != parsing.program_key(PROGRAM)


RENAMED = [
    ("parameter", "def f({}):\n    return {}"),
    ("lambda", "def f(x):\n    g = lambda {}: {} + 1\n    return g(x)"),
    ("walrus", "def f(x):\n    return ({} := x) + {}"),
    ("with keyword", "def g({}=1):\n    return {}\n\ndef f(x):\n    return g({}=x)"),
    ("global", "{} = 0\n\ndef f(x):\n    global {}\n    {} += x\n    return {}"),
    ("nonlocal", "def f(x):\n    {} = 0\n    def g():\n        nonlocal {}\n        {} += x\n    g()\n    return {}"),
    ("module alias", "import math as {}\n\ndef f(x):\n    return {}.sqrt(x)"),
    ("function alias", "from math import sqrt as {}\n\ndef f(x):\n    return {}(x)"),
    ("exception", "def f(x):\n    try:\n        return 1 / x\n    except TypeError as {}:\n        return str({})"),
    ("match capture", "def f(x):\n    match x:\n        case [{}, *_]:\n            return {}"),
    ("match star", "def f(x):\n    match x:\n        case [_, *{}]:\n            return {}"),
    ("match rest", "def f(x):\n    match x:\n        case {{'a': 1, **{}}}:\n            return {}"),
]


@pytest.mark.parametrize("template", [row[1] for row in RENAMED], ids=[row[0] for row in RENAMED])
def test_keys_ignore_names_however_they_are_bound(template):
    """Else a held-out program comes back into training under another name."""
    holes = template.replace("{{", "").count("{}")
    first, second = (template.format(*[name] * holes) for name in ("alpha", "beta"))
    assert parsing.program_key(first) == parsing.program_key(second)


def test_keys_tell_the_order_of_names_apart():
    assert parsing.program_key("def f(a, b):\n    return a - b") != parsing.program_key("def f(a, b):\n    return b - a")
    assert parsing.program_key("def f(a, b):\n    return a - b") == parsing.program_key("def f(b, a):\n    return b - a")


def test_keys_do_not_confuse_a_module_with_a_variable_of_its_name():
    one, other = ("def f({0}):\n    import {0}\n    return 1".format(name) for name in ("string", "re"))
    assert parsing.program_key(one) != parsing.program_key(other)


def test_keys_do_not_depend_on_the_python_version():
    """The held-out file and every run's split hang on these; a change makes trained programs held-out ones."""
    assert parsing.program_key(tasks.IDENTITY) == "1e7be341c57c4afd4aecc4d41d088bc4c84ea0f98d37f80645154083ba489386"
    assert parsing.program_key(PROGRAM) == "a160bb8a0aed57053e85d944a4b11f93dfc5b469e46c027cbbb12224f6c64f2e"


def test_the_gate_and_the_files_agree_on_keys(ex):
    task = gate_one(ex, proposal(PROGRAM, "[1, 2, 3], 1")).task
    assert task.key == parsing.program_key(PROGRAM) == tasks.task_from_state(tasks.task_to_state(task)).key


def test_the_held_out_share_is_what_was_asked_for():
    keys = [parsing.program_key(f"def f(x):\n    return x + {i}") for i in range(4000)]
    for fraction, low, high in ((0.0, 0, 0), (0.05, 0.035, 0.065), (0.5, 0.46, 0.54), (1.0, 1, 1)):
        assert low <= sum(tasks.is_heldout(key, fraction) for key in keys) / len(keys) <= high
    # A larger share holds the smaller one.
    assert all(tasks.is_heldout(key, 0.2) for key in keys if tasks.is_heldout(key, 0.1))


def test_which_keys_are_held_out_never_changes():
    tail = "0" * 56
    assert [tasks.is_heldout(head + tail, 0.05) for head in ("00000000", "0ccccccc", "0ccccccd", "ffffffff")] == [
        True, True, False, False]


def test_the_identity_is_never_held_out():
    assert not tasks.is_heldout(parsing.program_key(tasks.IDENTITY), 0.05)


@pytest.mark.parametrize("program, depth", [
    (tasks.IDENTITY, 0), ("def f(x):\n    x = x + 1\n    return x", 1), ("def f(x):\n    x = 1; y = 2\n    return", 2),
    ("def f(x):\n    if x:\n        x += 1\n    return x", 2), ("def f(x):\n    for i in x:\n        pass", 2)])
def test_depth_counts_statements(program, depth):
    assert make_task("deduction", program).depth == depth


# ----------------------------------------------------------------------------------------------------------------
# Seeds, buffers, files

@pytest.mark.parametrize("n", [4, 6, 10])
@pytest.mark.parametrize("type", TYPES.values(), ids=TYPES)
def test_the_identity_tasks_are_what_the_gate_would_make_of_them(ex, type, n):
    task = tasks.identity_task(type, n)
    blocks = [("input", tasks.arguments(args)) for args in task.inputs]
    blocks += [("message", task.message)] if type is INDUCTION else [("python", task.program)]
    assert gate_one(ex, response(*blocks), type, task, n_inputs=n).task == task
    answer = {"deduction": ("output", "'Hello world'"), "abduction": ("input", "'Hello world'"),
              "induction": ("python", "def f(z):\n    return z"), "error": ("output", "NoError")}[type.name]
    assert judge(ex, task, response(answer)).correct


def test_full_buffers_drop_the_oldest():
    buffers = Buffers(3)
    for i in range(5):
        buffers.add(numbered("deduction", i))
        buffers.add(replace(numbered("deduction", 100 + i), heldout=True))
    buffers.add(numbered("abduction", 9))
    assert buffers.train["deduction"] == [numbered("deduction", i) for i in (2, 3, 4)]
    assert buffers.heldout["deduction"] == [replace(numbered("deduction", i), heldout=True) for i in (102, 103, 104)]
    assert buffers.train["abduction"] == [numbered("abduction", 9)] and buffers.train["induction"] == []


def filled(counts: dict[str, int]) -> Buffers:
    buffers = Buffers(1000)
    for type, count in counts.items():
        for i in range(count):
            buffers.add(numbered(type, i))
        for i in range(20):
            buffers.add(replace(numbered(type, 500 + i), heldout=True))
    return buffers


def test_references_are_distinct_uniform_and_of_the_type():
    buffers, rng = filled({"deduction": 8, "abduction": 5}), random.Random(0)
    counts = Counter()
    for _ in range(400):
        drawn = buffers.draw_references(DEDUCTION, 6, rng)
        assert len(drawn) == 6 == len({id(task) for task in drawn})
        assert all(task in buffers.train["deduction"] for task in drawn)
        counts.update(task.program for task in drawn)
    assert len(counts) == 8 and min(counts.values()) > 240  # each is expected 300 times
    assert len(buffers.draw_references(ABDUCTION, 6, rng)) == 5
    assert buffers.draw_references(DEDUCTION, 0, rng) == []


def test_induction_is_given_one_program_of_either_other_type():
    buffers, rng = filled({"deduction": 10, "abduction": 30, "induction": 10}), random.Random(0)
    drawn = [task for _ in range(400) for task in buffers.draw_references(INDUCTION, 6, rng)]
    assert len(drawn) == 400
    assert all(task in buffers.train[task.type] for task in drawn)  # and so never held out
    share = Counter(task.type for task in drawn)
    assert set(share) == {"deduction", "abduction"} and 240 < share["abduction"] < 360  # uniform over programs: 300
    # The ablation without references still needs a program to propose on.
    assert len(buffers.draw_references(INDUCTION, 0, rng)) == 1


def with_steps(*steps: int) -> Buffers:
    buffers = Buffers(1000)
    for i, step in enumerate(steps):
        buffers.add(numbered("deduction", i, step))
        buffers.add(replace(numbered("deduction", 500 + i, step), heldout=True))
    return buffers


@pytest.mark.parametrize("steps, n, newest, wanted", [
    ([0] * 5 + [1] * 5, 3, 1, {1: 3}), ([0] * 5 + [1] * 5, 5, 1, {1: 5}), ([0] * 5 + [1] * 5, 8, 1, {1: 5, 0: 3}),
    ([0] * 5, 3, 1, {0: 3}), ([0, 1, 2, 3], 3, 3, {3: 1}), ([0] * 5 + [1] * 5 + [2] * 9, 8, 1, {1: 5, 0: 3}),
    ([3] * 4, 4, 3, {3: 4})])
def test_solvers_get_new_tasks_first_then_earlier_ones_without_repeats(steps, n, newest, wanted):
    for seed in range(20):
        buffers = with_steps(*steps)
        drawn = buffers.draw_tasks(DEDUCTION, n, newest, random.Random(seed))
        counts = Counter(task.step for task in drawn)
        assert len(drawn) == n == len({task.program for task in drawn})
        assert all(counts[step] == count for step, count in wanted.items()) and max(counts) <= newest
        assert all(task in buffers.train["deduction"] for task in drawn)  # and so never held out


def test_small_buffers_repeat_tasks_as_evenly_as_they_can():
    for steps, n in (([0, 0, 1], 7), ([1, 1, 1], 7), ([0], 4)):
        drawn = with_steps(*steps).draw_tasks(DEDUCTION, n, 1, random.Random(0))
        counts = Counter(task.program for task in drawn if len(set(steps)) == 1 or task.step == 0)
        assert len(drawn) == n and max(counts.values()) - min(counts.values()) <= 1
        assert len({task.program for task in drawn}) == len(steps)
    assert Buffers(5).draw_tasks(DEDUCTION, 4, 1, random.Random(0)) == []


def test_draws_are_fixed_by_the_generator():
    buffers = filled({"deduction": 40, "abduction": 40})

    def draws(seed):
        rng = random.Random(seed)
        return [task.program for type in TYPES.values() for task in buffers.draw_references(type, 6, rng)] \
            + [task.program for task in buffers.draw_tasks(DEDUCTION, 20, 0, rng)]
    assert draws(1) == draws(1) != draws(2)


ODD_VALUES = [nan, inf, -inf, -0.0, 1e300, 10**40, True, None, "it's \"\\\n\té\ud800", b"\xff'", (), (1,), [[]], {},
              set(), {1, "a"}, frozenset({2}), {"k": (nan, {3})}, 1 - 2j, "```", "</think>"]


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: ascii(show(value)))
def test_tasks_survive_the_way_through_a_file(value):
    task = make_task("induction", PLUS_ONE, ((value, 1), value), ((value,), [value]), message="say \"hi\"\n", step=12)
    line = json.dumps(tasks.task_to_state(task), allow_nan=False)  # strict JSON: values travel as literals
    back = tasks.task_from_state(json.loads(line))
    assert same_value(list(back.inputs), list(task.inputs)) and same_value(list(back.outputs), list(task.outputs))
    assert show(back.inputs) == show(task.inputs) and show(back.outputs) == show(task.outputs)
    assert replace(back, inputs=(), outputs=()) == replace(task, inputs=(), outputs=())


def test_buffers_survive_the_way_through_a_checkpoint():
    buffers = filled({"deduction": 3, "abduction": 2})
    buffers.add(make_task("induction", PLUS_ONE, ((nan,), nan), (({1: {2}},), b"x"), message="m", step=4))
    back = Buffers.from_json(json.loads(json.dumps(buffers.to_json(), allow_nan=False)))
    assert back.to_json() == buffers.to_json() and back.size == 1000
    assert back.train["deduction"] == buffers.train["deduction"] and back.heldout == buffers.heldout
    assert [list(back.train), list(back.heldout)] == [list(TYPES), list(TYPES)]


def good_line(**changes) -> str:
    return json.dumps(tasks.task_to_json(numbered("deduction", 1)) | changes)


def test_task_files_are_read_in_order(tmp_path, ex):
    path = tmp_path / "tasks.jsonl"
    wanted = [numbered("deduction", 1, step=2), numbered("abduction", 2), induction_task(PLUS_ONE, [0, 1], [1, 2])]
    path.write_text("".join(json.dumps(tasks.task_to_json(task)) + "\n" for task in wanted))
    assert tasks.load_tasks(str(path), ex) == wanted
    # Message and step may be left out.
    path.write_text(json.dumps({"type": "deduction", "program": PLUS_ONE, "inputs": ["1"], "outputs": ["2"]}))
    assert tasks.load_tasks(str(path), ex) == [make_task("deduction", PLUS_ONE, ((1,), 2))]
    path.write_text(good_line(group="dose 1%", family="of some kind"))  # what is not known is left alone
    assert [task.group for task in tasks.load_tasks(str(path), ex)] == ["dose 1%"]


@pytest.mark.parametrize("line", [
    "not json", "", "[]", "{}", "null", good_line(type="guessing"), good_line(inputs=["x"]),
    good_line(outputs=["x + 1"]),
    good_line(inputs=["1) or (True"]), good_line(program="def f(x) return x"), good_line(program=None),
    good_line(inputs=None), good_line(inputs=["1", "2"]), good_line(outputs=[1]), good_line(inputs=[], outputs=[]),
    # One call each: the prompt would show the first only, and verification expects as many runs as outputs.
    good_line(inputs=["1", "2"], outputs=["2", "3"]),
    good_line(group=3), good_line(group="a | b"), good_line(group="x" * 41), good_line(group="a\nb"),
    good_line(group="all"), good_line(group="5+")], ids=range(22))
def test_a_wrong_line_of_a_task_file_is_named(tmp_path, ex, line):
    path = tmp_path / "tasks.jsonl"
    path.write_text(f"{good_line()}\n{line}\n{good_line()}\n")
    with pytest.raises(ValueError, match=r"tasks\.jsonl, line 2: "):
        tasks.load_tasks(str(path), ex)


def test_inspection_gives_key_depth_and_reason():
    facts = parsing.inspect_program(PROGRAM)
    assert facts["key"] == parsing.program_key(PROGRAM) and facts["reason"] == "" and facts["depth"] > 0
    assert parsing.inspect_program("x = 1")["reason"] == "no f"
    assert parsing.inspect_program("def f(x) return")["reason"] == "does not parse"


def test_model_text_is_parsed_only_in_processes_that_may_die(ex, tmp_path):
    """The trainer's own parser is broken here; the gate, the verdicts and task files do not notice."""
    task, path = make_task("deduction", PLUS_ONE, ((4,), 5)), tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(tasks.task_to_json(task)))
    many = induction_task(PLUS_ONE, [1, 2, 3, 4], [2, 3, 4, 5])
    answers = [(task, response(("output", "5"))), (replace(task, type="abduction"), response(("input", "4"))),
               (many, response(("python", PLUS_ONE)))]
    parsed = []
    with pytest.MonkeyPatch.context() as patch:
        for place in ("ast.parse", "ast.literal_eval", "builtins.compile", "builtins.eval", "builtins.exec"):
            patch.setattr(place, lambda *args, **kwargs: parsed.append(args))
        reasons = [gate_one(ex, proposal(program)).reason for program in (PLUS_ONE, "def f(x) return")]
        verdicts = tasks.verify(answers, ex)
        loaded = tasks.load_tasks(str(path), ex)
    assert reasons == ["valid", "does not parse"] and loaded == [task] and parsed == []
    assert [verdict.reason for verdict in verdicts] == ["correct"] * 3


def test_a_text_that_ends_its_reader_costs_only_itself(ex, monkeypatch):
    """Whatever crashes Python's parser: here a text whose literal is too much for the memory of a run."""
    bomb = "(" * 150 + "1" + ")" * 150
    texts = ["5", bomb, "6", "[" * 19_000]
    runs = tasks.read([("parse_literal", text) for text in texts], ex)
    assert [run.value for run in (runs[0], runs[2])] == [5, 6] and runs[3].kind != "ok"


def test_oddities_in_model_text_do_not_warn():
    """Newer Pythons print a SyntaxWarning for each, and a run parses many programs in every step."""
    program = "def f(x):\n    return '\\d' if x else 1if x else 0"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = make_task("deduction", program, ((1,), "d"))
        assert task.depth == 0 and parsing.inspect_program(program)["key"] == task.key
        assert tasks.task_from_state(tasks.task_to_state(task)).key == task.key


# ----------------------------------------------------------------------------------------------------------------
# The fourth type: error deduction

RAISES = "def f(xs):\n    return xs[3] // len(xs)"


def test_error_tasks_are_off_unless_asked_for():
    from config import parse
    assert parse(["--preset", "nano"])[0].types == ["deduction", "abduction", "induction"]
    assert parse(["--preset", "nano", "--types", "error"])[0].types == ["error"]


@pytest.mark.parametrize("given, name", [("[1, 2]", "IndexError"), ("7", "TypeError"), ("[4, 4, 4, 4]", "NoError")])
def test_the_gate_keeps_the_name_of_the_exception(ex, given, name):
    task = gate_one(ex, proposal(RAISES, given), type=ERROR).task
    assert task.type == "error" and task.outputs == (name,)
    assert tasks.task_from_state(json.loads(json.dumps(tasks.task_to_state(task)))) == task
    prompt = tasks.solve_prompt(Style("r1"), task)
    assert RAISES in prompt and name not in prompt.replace("or NoError", "").replace("\nNoError\n", "")
    assert tasks.build_prompt(Style("r1"), "propose", ERROR, [ERROR.show_reference(task)]).count(f"\n{name}\n") == 1
    assert gate_one(ex, proposal(RAISES, given)).reason == ("valid" if name == "NoError" else "error")


@pytest.mark.parametrize("program, wanted", [
    ("def f(x):\n    raise (ValueError if [*{f'{x}{c}' for c in 'abcdefgh'}][0][1] < 'e' else KeyError)",
     "not deterministic"),
    ("def f(x):\n    raise ValueError([*{'a', 'b', 'c', 'd', 'e', 'f'}])", "valid"),  # the class decides
    ("class Mine(Exception):\n    pass\n\ndef f(x):\n    raise Mine", "valid"),
    ("def f(x):\n    return [0 for _ in iter(int, 1)]", "timeout"),    # not an exception of the program
    ("def g(x):\n    return x", "no f"), ("def f(x)\n    return x", "does not parse")])
def test_what_no_error_task_can_be_made_of(ex, program, wanted):
    reasons = {reason(ex, proposal(program, str(given)), type=ERROR) for given in range(8)}
    assert wanted in reasons and (wanted != "valid" or len(reasons) == 1)


@pytest.mark.parametrize("answer, correct", [
    ("IndexError", True), (" indexerror\n", True), ("IndexError: list index out of range", True),
    ("ZeroDivisionError", False), ("NoError", False), ("Exception", False), ("", False), ("IndexErrors", False),
    ("the IndexError", False), ("IndexError or TypeError", False)])
def test_answers_to_error_tasks(answer, correct):
    task = make_task("error", RAISES, (([1, 2],), "IndexError"))
    wanted = tasks.Verdict(correct, "correct" if correct else "wrong", True)
    assert judge(FakeExecutor(), task, response(("output", answer))) == wanted


def test_programs_that_raise_are_given_to_no_induction_proposer():
    buffers = Buffers(10)
    buffers.add(make_task("error", RAISES, (([1, 2],), "IndexError")))
    buffers.add(numbered("deduction", 1))
    rng = random.Random(0)
    assert {task.type for _ in range(20) for task in buffers.draw_references(INDUCTION, 1, rng)} == {"deduction"}


def test_checkpoints_from_before_the_type_still_load():
    data = filled({"deduction": 3}).to_json()
    for name in ("train", "heldout"):
        del data[name]["error"]
    back = Buffers.from_json(data)
    assert back.train["error"] == back.heldout["error"] == [] and len(back.train["deduction"]) == 3


# ----------------------------------------------------------------------------------------------------------------
# A form that a small model can meet

@pytest.mark.parametrize("text, reason", [
    ("'ab'", "correct"), (" 'ab' \n", "correct"), ("'abc'", "wrong"), ("The answer is 'ab'", "answer not a literal"),
    ("f('a') == 'ab'", "answer not a literal"), ("```'ab'", "no answer")])
def test_an_answer_without_a_fence_counts_if_all_of_it_is_the_literal(text, reason):
    task = make_task("deduction", PLUS_ONE, ((0,), "ab"))
    verdict = judge(FakeExecutor(), task, f"so</think> <answer>{text}</answer>")
    assert (verdict.reason, verdict.well_formed) == (reason, True)


def test_arguments_and_programs_without_a_fence_count_too(ex):
    assert judge(ex, make_task("abduction", PLUS_ONE, ((4,), 5)), "so</think><answer>4</answer>").correct
    task = induction_task(PLUS_ONE, [0, 1, 2, 3], [1, 2, 3, 4])
    assert judge(ex, task, f"so</think><answer>\n{PLUS_ONE}\n</answer>").correct
    assert judge(ex, make_task("error", RAISES, ((7,), "TypeError")), "so</think><answer>TypeError</answer>").correct
    assert reason(ex, f"so</think><answer>{PLUS_ONE}\n1</answer>") == "no code block"  # a proposal has two parts


@pytest.mark.parametrize("name", TYPES)
def test_worked_examples_are_what_the_gate_and_the_verdict_accept(ex, name):
    type, style = TYPES[name], Style("r1", 6, None, True)
    example = tasks.example_task(type, 6)
    prompt = tasks.solve_prompt(style, tasks.identity_task(type, 6))
    answer = prompt[prompt.index("<think> " + type.thought) + len("<think>"):prompt.index("\nNow it is your turn")]
    assert judge(ex, example, answer) == tasks.Verdict(True, "correct", True)
    for which in range(4):
        prompt = tasks.propose_prompt(style, type, [tasks.identity_task(type, 6)], which)
        start = prompt.index("<think>", prompt.index("Here is an example."))
        answer = prompt[start + len("<think>"):prompt.index("\nNow it is your turn")]
        task = gate_one(ex, answer, type, example, n_inputs=6).task
        assert task.key in tasks.EXAMPLE_KEYS
        assert not type.given_program or task.inputs == example.inputs
    plain = tasks.solve_prompt(replace(style, example=False), tasks.identity_task(type, 6))
    assert "example" not in plain and type.thought not in plain
    assert tasks.solve_prompt(replace(style, name="compact"), example) == \
        tasks.solve_prompt(Style("compact", 6), example), "nano has none"


def test_references_can_be_drawn_from_tasks_that_are_solved_sometimes():
    buffers, rng = filled({"deduction": 20}), random.Random(0)
    rates = dict(enumerate([0.0] * 10 + [0.5] * 5 + [1.0] * 3))
    buffers.rates = {task.id: rates[i] for i, task in enumerate(buffers.train["deduction"]) if i in rates}
    between = {task.id for task in buffers.train["deduction"][10:15]}
    drawn = {task.id for _ in range(50) for task in buffers.draw_references(DEDUCTION, 2, rng, "mixed")}
    assert drawn == between
    drawn = {task.id for _ in range(50) for task in buffers.draw_references(DEDUCTION, 6, rng, "mixed")}
    assert len(drawn) == 20, "too few of them: all count"
    assert Buffers.from_json(json.loads(json.dumps(buffers.to_json()))).rates == buffers.rates


def test_a_template_that_cuts_thoughts_out_of_earlier_turns_gets_the_example_in_the_question():
    def wrap(*turns):
        return "|".join(turn.rpartition("</think>")[2] if i % 2 else turn for i, turn in enumerate(turns)) + "|"
    task = tasks.identity_task(DEDUCTION)
    for cuts in (False, True):
        style = Style("chat", 6, wrap if cuts else lambda *turns: "|".join(turns) + "|", True)
        prompt = tasks.solve_prompt(style, task)
        assert f"<think> {DEDUCTION.thought} </think>" in prompt and prompt.endswith("<think>")
        assert prompt.count("|") == (1 if cuts else 3)


def test_programs_can_be_set_aside_later():
    buffers = filled({"deduction": 3})
    key = buffers.train["deduction"][1].key
    buffers.rates = {task.id: 0.5 for task in buffers.train["deduction"]} | {"gone": 1.0}
    buffers.hold_out({key})
    assert [task.key == key for task in buffers.train["deduction"]] == [False, False]
    assert [task.key for task in buffers.heldout["deduction"] if task.heldout][-1] == key
    buffers.note_rates([])
    assert set(buffers.rates) == {task.id for task in buffers.train["deduction"]}
