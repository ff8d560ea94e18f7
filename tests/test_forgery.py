"""Every known way to a reward without the work, for every task type, from the model's text to the reward: none pays."""
import pytest

import rewards
import tasks
from executor import Executor
from tasks import ABDUCTION, DEDUCTION, INDUCTION, Task

ADD = "def f(x):\n    return x * 7 + 3"
OUTPUTS = (10, 17, 24, 31)  # of 1, 2, 3, 4


@pytest.fixture(scope="module")
def ex():
    with Executor(workers=1, cpu_seconds=0.2, require="weak") as running:
        yield running


def response(*blocks: tuple[str, str]) -> str:
    return "thoughts</think><answer>" + "\n".join(tasks.fence(*block) for block in blocks) + "</answer>"


def solve(ex, type: str, language: str, answer: str) -> float:
    inputs = ((1,), (2,), (3,), (4,)) if type == "induction" else ((2,),)
    task = Task(type, ADD, inputs, OUTPUTS if type == "induction" else (17,), "times seven")
    [verdict] = tasks.verify([(task, response((language, answer)))], ex)
    return rewards.solve_reward(verdict.well_formed, verdict.correct)


@pytest.mark.quick
def test_honest_answers_pay(ex):
    assert solve(ex, "deduction", "output", "17") == solve(ex, "abduction", "input", "2") == 1
    assert solve(ex, "induction", "python", ADD) == 1


@pytest.mark.quick
@pytest.mark.parametrize("answer", [
    "__import__('os').system('true') or 17", "f(2)", "2 * 7 + 3", "17 if True else 0", "[17][0]", "int('17')",
    "type('E', (), {'__eq__': lambda s, o: True})()", "True or 17", "17 or 1", "(lambda: 17)()", "x := 17", "17\n18",
    "17, 17", "{17}", "'17'", "*[17]", "17) or (17", "...", "NotImplemented"])
def test_deduction(ex, answer):
    assert solve(ex, "deduction", "output", answer) == -0.5


@pytest.mark.quick
@pytest.mark.parametrize("answer", [
    "0) or True or (0", "0) == 17 or (17", "*[2]", "x=2", "**{'x': 2}", "__import__('os').system('true') or 2", "1 + 1",
    "(lambda: 2)()", "type('E', (), {'__mul__': lambda s, o: 14})()", "2 if True else 0", "len('ab')", "2,", "x := 2",
    "2)\n(2", "2 # )", "", "\\", "2; 17"])
def test_abduction(ex, answer):
    # A trailing comma and a comment are the same call of f, so these two are honest.
    assert solve(ex, "abduction", "input", answer) == (1 if answer in ("2,", "2 # )") else -0.5)


EVIL = "    __eq__ = __ne__ = __bool__ = lambda *_: True\n    __hash__ = object.__hash__\n"
SEARCH = """
def f(x):
    found = []
    def walk(o, depth):
        if type(o) is int and 0 < o < 100: found.append(o)
        if depth and type(o) in (list, tuple, dict, set):
            for item in (list(o.values()) + list(o) if type(o) is dict else list(o)): walk(item, depth - 1)
    {look}
    return found[-1] if found else 0
"""


@pytest.mark.parametrize("program", [
    f"class E:\n{EVIL}\ndef f(x):\n    return E()",
    f"class E(int):\n{EVIL}\ndef f(x):\n    return E(5)",
    f"class E(float):\n{EVIL}\ndef f(x):\n    return E('nan')",
    "class E:\n    def __repr__(s): return '24'\n    __str__ = __repr__\ndef f(x):\n    return E()",
    "class E:\n    def __reduce__(s): return (int, (24,))\ndef f(x):\n    return E()",
    "repr = str = print = lambda *a: '24'\ndef f(x):\n    return 0",
    "def f(x):\n    raise SystemExit(0)", "def f(x):\n    print(24)", "def f(x):\n    exit()",
    "calls = 0\ndef f(x):\n    global calls\n    calls += 1\n    return [10, 17, 24, 31][calls - 1]",
    "def f(x, seen=[]):\n    seen.append(x)\n    return {1: 10, 2: 17}.get(len(seen))",
    "def f(x):\n    return {1: 10, 2: 17}.get(x)",  # copies the examples it was shown
    "def f(x):\n    while True: pass", "def f(x):\n    return f(x)", "f = lambda x: x * 7 + 3",
    "import os\ndef f(x):\n    os._exit(0)", "import sys\ndef f(x):\n    return sys._getframe(1).f_locals",
    "def f(x):\n    return [frame for frame in ().__class__.__base__.__subclasses__()]",
    SEARCH.format(look="import gc\n    for o in gc.get_objects(): walk(o, 2)"),
    SEARCH.format(look="try: 1 / 0\n    except Exception as error: t = error.__traceback__.tb_frame\n"
                  "    while t:\n        for o in (t.f_locals, t.f_code.co_consts): walk(o, 3)\n        t = t.f_back"),
    "from json import dumps\ndef f(x):\n    f.__code__ = (lambda x: 24).__code__\n    return 0",
    "import json\njson.dumps = lambda *a, **k: '24'\ndef f(x):\n    return 0",
    "import __main__\n__main__.to_wire = lambda v: '24'\ndef f(x):\n    return 0",
    "from sandbox import values\ndef f(x):\n    values.same_value = lambda a, b: True",
    "def f(x):\n    open(3, 'wb', closefd=False).write(b'\\0\\0\\0\\x0b[0,\"ok\",24]')\n    return 0"])
def test_induction(ex, program):
    assert solve(ex, "induction", "python", program) == -0.5


# What these return depends on the harness, so that no solver could know it.
COUNTING = [  # calls in one process: nothing to count for a task with one input, whose value is then the same always
    "import math\ndef f(x):\n    math.calls = getattr(math, 'calls', 0) + 1\n    return math.calls",
    "import re\ndef f(x):\n    re.seen = getattr(re, 'seen', ()) + (x,)\n    return len(re.seen)"]
UNFAIR = [
    "def f(x):\n    return id(x) % 7", "def f(x):\n    return hash(str(x)) % 2",
    "def f(x):\n    return ''.join({'a', 'b', 'c', 'd'})",
    "def f(x):\n    return str(object())", "import os\ndef f(x):\n    return os.getpid() % 2",
    "import time\ndef f(x):\n    return time.time()", "import random\ndef f(x):\n    return random.random()",
    # These have no plain value, or none at all.
    "class E:\n    __eq__ = lambda s, o: True\ndef f(x):\n    return E()",
    "class E(int): pass\ndef f(x):\n    return E(1)",
    "def f(x):\n    return lambda: x", "def f(x):\n    raise SystemExit", "def f(x):\n    while 1: pass",
    "def f(x):\n    return '```'", "def f(x):\n    return '</answer>'", "def f(x):\n    return [0] * 500"]


@pytest.mark.parametrize("type, program", [(type, program) for type in (DEDUCTION, ABDUCTION, INDUCTION)
                                           for program in UNFAIR + (COUNTING if type is INDUCTION else [])])
def test_proposals(ex, type, program):
    reference = Task("deduction", program, ((1,),), (0,)) if type is INDUCTION else None
    blocks = [("python", program), ("input", "1")]
    if reference:
        blocks = [("input", str(i)) for i in range(6)] + [("message", "m")]
    [gated] = tasks.gate([(type, response(*blocks), reference)], ex, n_inputs=6)
    assert gated.task is None and gated.reason not in ("valid", "infra")
    assert rewards.propose_reward(True, gated.task and 1.0) < 0
