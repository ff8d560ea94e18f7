"""Benchmarks on hand-made toy rows, with solutions that are right, wrong and hostile; stages, statistics, flags."""
import base64
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import sys
import zlib
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path

import pytest

from benchmarks import suite as benchmarks
import eval as evaluation
from benchmarks import harness
from benchmarks import stats
import tasks
import train
from benchmarks.suite import BENCHMARKS, DataError, Item, Prompt
from executor import Executor, Job
from model import load_policy

ROOT = Path(__file__).resolve().parent.parent
NANO = str(ROOT / "nano")


@pytest.fixture(scope="module")
def runner():
    with Executor(workers=2, cpu_seconds=0.4, memory_mb=512, require="weak", cached_jobs=0,
                  preload=("harness",)) as running:
        yield running


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(benchmarks, "FIRST", (0.2, 2.0))
    monkeypatch.setattr(benchmarks, "LAST", (0.4, 8.0))
    monkeypatch.setattr(benchmarks, "ALL_TESTS", 2.5)
    monkeypatch.setattr(benchmarks, "CONTEST_SECONDS", 0.4)


def reasons(verdicts):
    return [verdict.reason for verdict in verdicts]


# ---- functions -----------------------------------------------------------------------------------


def function_row(name="double", body="    return 2 * x", base=((1,), (5,)), plus=((0,), (-3,)), id="HumanEval/900",
                 **more):
    return {"task_id": id, "prompt": f'def {name}(x):\n    """Twice x."""\n', "canonical_solution": body + "\n",
            "entry_point": name, "base_input": list(map(list, base)), "plus_input": list(map(list, plus)),
            "atol": 0} | more


def function_item(*args, **more):
    return benchmarks.read_functions([function_row(*args, **more)])[0]


CHEATS = {
    "right": ("def double(x):\n    return x + x", "pass", True),
    "right, with dates": ("from datetime import datetime\ndef double(x):\n    day = datetime.strptime('2', '%d').day\n"
                          "    return day * x", "pass", True),
    "right in base only": ("def double(x):\n    return abs(2 * x)", "wrong", True),
    "wrong": ("def double(x):\n    return x", "wrong", False),
    "looping": ("def double(x):\n    while True: pass", "timeout", False),
    "looping at the end": ("def double(x):\n    while x < 0: pass\n    return 2 * x", "timeout", True),
    "memory-hungry": ("def double(x):\n    return [0] * 10**11", "error", False),
    "exiting": ("import os\ndef double(x):\n    os._exit(0)", "error", False),
    "exiting politely": ("import sys\ndef double(x):\n    sys.exit(0)", "error", False),
    "exiting at once": ("raise SystemExit", "error", False),
    "raising": ("def double(x):\n    return 1 / 0", "error", False),
    "no such function": ("def triple(x):\n    return 3 * x", "error", False),
    "no program": ("here is the code", "error", False),
    "__eq__": ("class Yes:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
               "def double(x):\n    return Yes()", "error", False),
    "__eq__ on an int": ("class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
                         "def double(x):\n    return Yes(7)", "wrong", False),
    "printing": ("def double(x):\n    print(2 * x)", "wrong", False),
    "reading the harness": ("import benchmarks.harness as harness\ndef double(x):\n    harness.pack = lambda value: ['value', True]", "wrong",
                            False),
    "forging the tag": ("import benchmarks.harness as harness\nharness.pack = lambda value: 'value'\ndef double(x):\n    return 1", "wrong",
                        False),
    "a generator": ("def double(x):\n    yield 2 * x", "error", False),
}


def test_functions_right_wrong_and_hostile(runner, quick):
    item = function_item()
    verdicts = benchmarks.judge_functions([(item, program) for program, _, _ in CHEATS.values()], runner, False, True)
    found = {name: (verdict.reason, verdict.base) for name, verdict in zip(CHEATS, verdicts)}
    assert found == {name: (reason, base) for name, (_, reason, base) in CHEATS.items()}
    assert all(verdict.ok == (verdict.reason == "pass") for verdict in verdicts)


VALUES = {  # canonical expression, another that is equal in Python, one that is not
    "Counter": ("__import__('collections').Counter('aab')", "{'a': 2, 'b': 1}", "{'a': 2}"),
    "inf": ("[float('inf'), 1]", "[1e999, True]", "[float('-inf'), 1]"),
    "infinite": ("float('inf')", "1e999", "5.0"),
    "Fraction": ("0.5", "__import__('fractions').Fraction(1, 2)", "__import__('fractions').Fraction(1, 3)"),
    "Decimal": ("[2]", "[__import__('decimal').Decimal('2.0')]", "[__import__('decimal').Decimal('0.1')]"),
    "set": ("{1, 2, frozenset([3])}", "{2.0, frozenset([3]), 1}", "{1, 2}"),
    "named tuple": ("(1, 2)", "__import__('collections').namedtuple('P', 'a b')(1, 2)", "[1, 2]"),
    "huge int": ("3 ** 100_000", "3 ** 100_000 + 0", "3 ** 100_000 + 1"),
    "long text": ("'ab' * 100_000", "''.join(['ab'] * 100_000)", "'ab' * 100_000 + 'a'"),
    "long list": ("[(i, 'x') for i in range(50_000)]", "list(zip(range(50_000), 'x' * 50_000))", "[]"),
    "long numbers": ("[i / 2 for i in range(50_000)]", "[i / 2 if i % 2 else i // 2 for i in range(50_000)]",
                     "[i // 2 for i in range(50_000)]"),
    "long set": ("set(range(50_000))", "set(reversed(range(50_000)))", "set(range(50_001))"),
    "long dict": ("{i: [i] for i in range(30_000)}", "{i: [i] for i in reversed(range(30_000))}",
                  "{i: (i,) for i in range(30_000)}"),
    "deep": ("f(60)", "f(60)", "f(61)"),
    "nearly": ("[0.1 + 0.2, 1.0]", "[0.3, 1.0]", "[0.3001, 1.0]"),
    "nan": ("[float('nan')]", "[float('nan')]", "[0.0]"),
    "complex": ("1j * 1j", "-1", "1j"),
}


def test_values_of_every_shape_come_back(runner):
    helper = "def f(n):\n    return [f(n - 1)] if n else []\n"
    for name, (true, same, other) in VALUES.items():
        item = function_item(body=f"    return {true}", prompt=f"{helper}def double(x):\n    'value'\n", plus=())
        solutions = [f"{helper}def double(x):\n    return {value}" for value in (true, same, other)]
        verdicts = benchmarks.judge_functions([(item, program) for program in solutions], runner, False, True)
        assert reasons(verdicts)[:2] == ["pass", "pass"] and not verdicts[2].ok, (name, verdicts)


def test_oracles(runner):
    def verdict(name, body, solution, inputs, atol=0, **more):
        item = function_item(name, body, base=inputs, plus=(), id="Mbpp/1", atol=atol, **more)
        return benchmarks.judge_functions([(item, solution)], runner, False, True)[0].reason
    roots = ("find_zero", "    return 0.0", "def find_zero(x): return 0.5", [([1, -2],)], 1e-4)
    assert verdict(*roots) == "pass"
    assert verdict(*roots[:2], "def find_zero(x): return 0.51", *roots[3:]) == "wrong"
    assert verdict(*roots[:2], "def find_zero(x): return 'no number'", *roots[3:]) == "wrong"
    assert verdict("Diff", "    return [1, 2]", "def Diff(x): return (2, 1, 1)", [(0,)]) == "pass"
    assert verdict("Diff", "    return [1, 2]", "def Diff(x): return filter(None, [2, 0, 1])", [(0,)]) == "pass"
    assert verdict("Diff", "    return [1, 2]", "def Diff(x): return {1: 2}.keys()", [(0,)]) == "wrong"
    assert verdict("Diff", "    return [1, 2]", "def Diff(x): return 7", [(0,)]) == "error"
    assert verdict("sum_div", "    return 9", "def sum_div(x): return 0", [(0,)]) == "pass"
    match = "    import re\n    return re.search('a', x)"
    assert verdict("check_str", match, "def check_str(x): return 'a' in x", [("ba",), ("b",)]) == "pass"
    assert verdict("check_str", match, "def check_str(x): return True", [("ba",), ("b",)]) == "wrong"
    assert verdict("double", "    return 1.0", "def double(x): return 1.00001", [(0,)], 1e-4) == "pass"
    assert verdict("double", "    return 1.0", "def double(x): return [1.0]", [(0,)], 1e-4) == "wrong"
    assert verdict("double", "    return 1", "def double(x): return 1.00001", [(0,)]) == "wrong"


def test_a_canonical_solution_that_fails_is_an_error(runner):
    with pytest.raises(DataError, match="HumanEval/900: the canonical solution itself fails"):
        benchmarks.judge_functions([(function_item(body="    return 1 / 0"), "")], runner, False, True)


def test_responses_lose_their_tests_and_what_was_cut(runner, quick):
    item = function_item()
    program = "import math\nK = 2\ndef double(x):\n    return K * x\n"
    for text in (program + "assert double(1) == 3\nprint(double(input()))", program + "def more(x):\n    return (x +",
                 program + "n = int(input())\nshown: int = double(n)", "import numpy as np\n" + program,
                 "from __future__ import annotations\nfrom typing import List\n" + program + "def g(x: No): pass"):
        assert reasons(benchmarks.judge_functions([(item, text)], runner, False)) == ["pass"]
    assert reasons(benchmarks.judge_functions([(item, program + "assert double(1) == 3")], runner, False, True)) == \
        ["error"]
    unknown = "n = missing\ndef double(x):\n    return n * x"
    assert reasons(benchmarks.judge_functions([(item, unknown)], runner, False)) == ["error"]


def burning(seconds):
    return (f"import time\ndef f(x):\n    end = time.process_time() + {seconds}\n    while time.process_time() < end:"
            " pass\n    return x")


def test_a_timeout_is_run_again_with_all_of_its_limits(runner):
    """The second run decides."""
    jobs = [Job(burning(seconds), ((1,),), limits=(2.0, 2.0)) for seconds in (0, 0.3, 9)]
    seen = []

    def verdict(index, runs):
        seen.append((index, runs[0].kind))
        return benchmarks.Verdict(True, "pass") if runs[0].kind == "ok" else benchmarks.outcome(runs[0])
    found = benchmarks.judged([replace(job, limits=(0.1, 0.1)) for job in jobs], jobs, runner, verdict)
    assert reasons(found) == ["pass", "pass", "timeout"]
    assert sorted(seen) == [(0, "ok"), (1, "ok"), (1, "timeout"), (2, "timeout"), (2, "timeout")]


def test_slow_answers_get_the_whole_limit_and_equal_ones_run_once(monkeypatch):
    monkeypatch.setattr(benchmarks, "LAST", (2.0, 8.0))
    code = burning("x / 10")
    item = benchmarks.read_cruxeval([{"code": code, "input": "3", "output": "3", "id": "s"}])[0]
    task = tasks.Task("abduction", code, ((3,),), (3,), key="k")
    answer = "t</think><answer>```input\n{}\n```</answer>"
    with Executor(2, cpu_seconds=0.1, require="weak", cached_jobs=0, preload=("harness",)) as ex:
        real, inputs = ex.submit, []
        monkeypatch.setattr(ex, "submit", lambda job: (inputs.append(len(job.inputs)), real(job))[1])
        work = evaluation.Work("cruxeval_i", "", BENCHMARKS["cruxeval_i"].kind, [item], {}, 0)
        rows = [{"id": "s", "text": f"[ANSWER]f({x})[/ANSWER]", "finish": ""} for x in (3, 99, 3, 0, 99)]
        found = evaluation.judge_work(work, rows, "base", ex)
        assert reasons(found) == ["pass", "timeout", "pass", "wrong", "timeout"]
        assert inputs[-3:] == [3, 1, 1]
        found = benchmarks.judge_selfplay([(Item("a", {"task": task}), answer.format(x)) for x in (3, 99)], ex, False)
        assert reasons(found) == ["pass", "timeout"]
        monkeypatch.setattr(tasks, "verify", lambda answers, ex: [tasks.Verdict(False, "infra", True)] * len(answers))
        monkeypatch.setattr(tasks, "run_through", lambda work, ex, limits: [tasks.Verdict(False, "infra", True)])
        assert benchmarks.judge_selfplay([(Item("a", {"task": task}), "")], ex, False)[0].infra


def test_mbpp_inputs_get_their_types_back():
    rows = [function_row(id=f"Mbpp/{number}", base=[args], plus=()) for number, args in (
        (2, ([1], [2])), (63, ([[1, 2]],)), (75, ([[1]], 2)), (106, ([1], [2])), (115, ([[1, 2], [], {}],)),
        (124, ("1", "2j")), (250, ([1], 2)), (252, ("3+1j",)), (259, ([[1]],)), (278, ([1, [2]],)),
        (722, ({"a": [1]}, 2)), (793, ([1], 2)))]
    rows[-1]["plus_input"] = {}
    found = [item.row["base_input"][0] for item in benchmarks.read_functions(rows)]
    assert found == [((1,), (2,)), ([(1, 2)],), ([(1,)], 2), ([1], (2,)), ([{1, 2}, {}, {}],), (1.0, 2j), ((1,), 2),
                     (3 + 1j,), (((1,),),), ((1, (2,)),), ({"a": (1,)}, 2), ([1], 2)]


# ---- contests ------------------------------------------------------------------------------------


def contest_row(tests, method=None, private=None, date="2024-11-05T00:00:00", id="q1", starter=""):
    encoded = [{"input": given, "output": out, "testtype": "functional" if method else "stdin"} for given, out in tests]
    hidden = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(encoded[1:])))).decode()
    return {"question_content": "Add the numbers.", "starter_code": starter, "contest_date": date, "question_id": id,
            "public_test_cases": json.dumps(encoded[:1]), "private_test_cases": hidden if private is None else private,
            "metadata": json.dumps({"func_name": method} if method else {})}


def test_contests_from_standard_input(runner, quick):
    [item] = benchmarks.read_contests([contest_row([("1 2\n", "3\n"), ("4 5\n", "9.0\n\n")])])
    add = "a, b = map(int, {}.split())\nprint(a + b)"
    solutions = {
        add.format("input()"): "pass", add.format("sys.stdin.readline()"): "pass",
        "import sys\n" + add.format("sys.stdin.buffer.read()"): "pass", add.format("open(0).read()"): "pass",
        "print(sum(map(int, input().split())) * pow(3, -1, 2))": "pass",
        "import threading\ndef main():\n    print(sum(map(int, input().split())))\nt = threading.Thread(target=main)\n"
        "t.start()\nt.join()": "pass", add.format("input()") + "\nexit(0)": "pass", "print(3)": "wrong",
        "while True: pass": "timeout",
        "x = [0] * 10**11": "error", "import os; os._exit(0)": "error", "raise SystemExit(1)": "error",
        "1 / 0": "error", "import time; time.sleep(0)": "wrong",
        "class Yes(str):\n    def __eq__(self, other): return True\nprint(Yes('1'))": "wrong",
        "print('3'); print('9')": "wrong", "def (": "error", "print('x' * 10**6)": "wrong",
    }
    found = dict(zip(solutions, benchmarks.judge_contests([(item, code) for code in solutions], runner, False)))
    assert {code: verdict.reason for code, verdict in found.items()} == solutions


def test_contests_with_a_method(runner, quick):
    [item] = benchmarks.read_contests([contest_row([("[1, 2]\n3", "[4, 5]"), ("[]\n1", "[]")], "addAll")])
    good = "class Solution:\n    def addAll(self, xs: List[int], k: int):\n        return {}"
    solutions = {good.format("[x + k for x in xs]"): "pass", good.format("[x + k for x in deepcopy(xs)]"): "pass",
                 good.format("tuple(x + k for x in xs)"): "pass",
                 "def addAll(xs, k): return [x + k for x in xs]": "pass", good.format("xs"): "wrong",
                 good.format("self"): "error", "class Solution: pass": "error"}
    found = benchmarks.judge_contests([(item, code) for code in solutions], runner, False)
    assert dict(zip(solutions, reasons(found))) == solutions


def test_long_contest_input_and_output(runner, quick):
    lines = "\n".join(map(str, range(40_000)))
    [item] = benchmarks.read_contests([contest_row([("0", "0"), (lines, lines)])])
    found = benchmarks.judge_contests([(item, "import sys\nprint(sys.stdin.read())"), (item, "print(input())")], runner,
                                      False)
    assert reasons(found) == ["pass", "wrong"]


def test_pickled_tests_cannot_call_anything(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)
    for thing in (Evil(), [Evil()], os.system, Path("x")):
        private = base64.b64encode(zlib.compress(pickle.dumps(thing))).decode()
        with pytest.raises(DataError, match="LiveCodeBench: tests that cannot be read"):
            benchmarks.contest_tests(contest_row([("1", "1")], private=private))
    assert not (tmp_path / "made").exists()
    for junk in ("", "not base64!", base64.b64encode(b"not zlib").decode()):
        with pytest.raises(DataError):
            benchmarks.contest_tests(contest_row([("1", "1")], private=junk))
    plain = contest_row([("1", "1")], private='[{"input": "2", "output": "3"}]')
    assert benchmarks.contest_tests(plain) == [("1", "1"), ("2", "3")]


def test_contest_window():
    items = benchmarks.read_contests([contest_row([("1", "1")], date=f"{day}T10:00:00", id=day) for day in
                                      ("2024-06-30", "2024-10-01", "2025-02-01")])
    assert [item.id for item in benchmarks.in_window(items, "2024-10-01", "2024-12-31")] == ["2024-10-01"]
    assert len(benchmarks.in_window(items, "2024-10-01", "9999")) == 2
    other = [Item("a", {})]
    assert benchmarks.in_window(other, "2024-10-01", "9999") == other


# ---- outputs and inputs --------------------------------------------------------------------------

CODE = "def f(x, y=1):\n    while x == 99: pass\n    return {'a': [x + y], 'b': True}"


def crux(output="{'a': [3], 'b': True}"):
    return benchmarks.read_cruxeval([{"code": CODE, "input": "2", "output": output, "id": "sample_0"}])[0]


def test_output_answers_are_literals(runner, quick):
    item = crux()
    answers = {"{'a': [3], 'b': True}": "pass", "{'b': 1, 'a': [3.0]}": "pass", "{'a': [4], 'b': True}": "wrong",
               "{'a': (3,), 'b': True}": "wrong", "f(2)": "error", "dict(a=[3], b=True)": "error", "1 + 1": "error",
               "__import__('os')._exit(0)": "error", "": "error", "(" * 5000: "error", "eval(gold)": "error",
               "[x for x in ().__class__.__base__.__subclasses__()]": "error", "3\n3": "error", "9" * 30_000: "error"}
    pairs = [(item, text) for text in answers]
    assert dict(zip(answers, reasons(benchmarks.judge_outputs(pairs, runner, False)))) == answers
    lenient = dict(zip(answers, reasons(benchmarks.judge_outputs(pairs, runner, True))))
    assert lenient["dict(a=[3], b=True)"] == "pass" and lenient["1 + 1"] == "wrong"
    assert lenient["f(2)"] == lenient["eval(gold)"] == "error"
    for forged in (b'[0, "ok", 7]', b'[0, "ok", null]', b'[0, "ok", ["l", "value"]]', b'[0, "ok", ["l", "sha256", 0]]'):
        record = len(forged).to_bytes(4, "big") + forged
        cheat = f"(__import__('os').write(3, {record!r}), __import__('os')._exit(0))"
        assert reasons(benchmarks.judge_outputs([(item, cheat)], runner, True)) == ["wrong"]
        assert reasons(benchmarks.judge_inputs([(item, cheat)], runner, True)) == ["wrong"]


def test_input_answers_are_literals(runner, quick):
    item = crux()
    answers = {"2": "pass", "f(2)": "pass", "1, 2": "pass", "x=1, y=2": "pass", "f(1, y=2)": "pass", "2.0": "pass",
               "3": "wrong", "1) or (True": "error", "2) or True #": "error", "2, *[]": "error", "**{'x': 2}": "error",
               "99": "timeout", "": "error", "'a'": "error", "int('2')": "error", "type('Y', (), {})()": "error",
               "10**9**9": "error", "2 #": "pass"}
    pairs = [(item, text) for text in answers]
    assert dict(zip(answers, reasons(benchmarks.judge_inputs(pairs, runner, False)))) == answers
    lenient = dict(zip(answers, reasons(benchmarks.judge_inputs(pairs, runner, True))))
    assert lenient["int('2')"] == "pass" and lenient["3"] == "wrong"


def test_lcb_execution_rows(runner):
    row = {"question_id": "3", "contest_id": "c", "difficulty": "easy", "function_name": "count", "id": "s_1",
           "code": "def count(xs: list) -> int:\n    return len(xs)", "input": "count(xs = [1, 2])", "output": "2",
           "problem_id": "77", "numsteps": "3"}
    [item] = benchmarks.read_lcb_execution([row])
    assert item.cluster == "77"
    text = BENCHMARKS["lcb_execution"].kind.prompts["azr"](item).text
    assert "return count(xs = [1, 2])" in text and text.endswith("<think>")
    assert reasons(benchmarks.judge_outputs([(item, "2"), (item, "3"), (item, "count([1, 2])")], runner, False)) == \
        ["pass", "wrong", "error"]


def test_a_gold_that_is_no_literal_is_an_error(runner):
    with pytest.raises(DataError, match="sample_0: its output is not a literal"):
        benchmarks.judge_outputs([(crux("f(2)"), "1")], runner, False)


# ---- mathematics ---------------------------------------------------------------------------------


def test_integers():
    [item] = benchmarks.read_integers([{"id": 7, "problem": "?", "answer": "025"}])
    answers = {"25": "pass", "025": "pass", "25.0": "pass", "$25$": "pass", "x = 25": "pass", "25^\\circ": "pass",
               "25 \\text{ miles}": "pass", "26": "wrong", "2.5": "wrong", "": "wrong", "25 or 26": "wrong",
               "2, 5": "wrong", "2 5": "wrong", "2\\,5": "wrong",
               "9" * 5000: "wrong", "twenty-five": "wrong", "1/0": "wrong"}
    assert dict(zip(answers, reasons(benchmarks.judge_integers([(item, text) for text in answers], None, False)))) == \
        answers
    [item] = benchmarks.read_integers([{"id": "0", "problem": "?", "answer": "3159.0"}])
    answers = ("3,159", "3{,}159", "3\\,159", "3,\\!159")
    assert all(verdict.ok for verdict in benchmarks.judge_integers([(item, text) for text in answers], None, False))
    with pytest.raises(ValueError, match="2.5 is no integer"):
        benchmarks.read_integers([{"id": "0", "problem": "?", "answer": 2.5}])


def test_formulas():
    pytest.importorskip("math_verify", reason="needs pip install 'math-verify[antlr4_13_2]'")
    items = benchmarks.read_math500([{"unique_id": "a", "problem": "?", "answer": "\\frac{1}{2}"}]) + \
        benchmarks.read_minerva([{"idx": 0, "problem": "?", "solution": "so \\boxed{x^{2}+1}."}]) + \
        benchmarks.read_olympiad([{"id": 3, "question": "?", "final_answer": ["$(1,2)$"]}])
    pairs = [(items[0], "0.5"), (items[0], "\\dfrac12"), (items[0], "0.6"), (items[1], "1 + x^2"), (items[1], "x^2"),
             (items[2], "(1, 2)"), (items[2], "(2, 1)"), (items[0], ""), (items[0], "__import__('os')._exit(0)"),
             (items[0], "9^{9^{9^{9^9}}}"), (items[0], "{" * 2000), (items[0], "\\frac{1}{2}" * 1000)]
    with Executor(1, cpu_seconds=0.6, memory_mb=2048, require="weak", cached_jobs=0, preload=("mathcheck",)) as ex:
        found = reasons(benchmarks.judge_formulas(pairs, ex, False))
    assert found[:8] == ["pass", "pass", "wrong", "pass", "wrong", "pass", "wrong", "wrong"]
    assert all(reason != "pass" for reason in found[8:])


@pytest.mark.parametrize("gold, right, wrong", [
    ("4.5e33", ("4.5 \\times 10^{33}", "4.5\\cdot10^{33}\\text{ erg}", "\\frac{9}{2} \\times 10^{33}", "4.5e33"),
     ("4.5 \\times 10^{34}", "4.6e33", "4.5")),
    ("3.89e-10", ("3.89 \\times 10^{-10}", "\\frac{389}{100} \\times 10^{-10}"),
     ("1.39e-10", "0", "10^{-10}", "4+5")),
    ("3e6", ("3,000,000", "3000000", "x = 3*10^6"), ("3,000", "3+6", "300000")),
    ("100000", ("1.0e5", "10^5"), ("1e6",)), ("1e-8", ("10^{-8} \\mathrm{~M}",), ("1e-9",)),
    ("0.0005", ("\\frac{1}{2000}", "5e-4"), ("0.0006", "\\frac{1}{2500}")),
    ("12", ("12.0", "12 \\text{ m}"), ("12.0000001", "1e2"))])
def test_numbers_with_powers_of_ten(gold, right, wrong):
    mathcheck = pytest.importorskip("mathcheck", reason="needs pip install 'math-verify[antlr4_13_2]'")
    assert [mathcheck.equal(gold, answer) for answer in right] == [True] * len(right)
    assert [mathcheck.equal(gold, answer) for answer in wrong] == [False] * len(wrong)


def test_without_math_verify_its_tasks_are_skipped_not_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "has_math_verify", lambda: False)
    (tmp_path / "math").mkdir()
    rows = [{"id": i, "problem": "?", "answer": "1"} for i in range(30)]
    (tmp_path / "math" / "aime24.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = []
    works = evaluation.prepare(["math500", "aime24"], tmp_path, None, None, note=told.append)
    assert [work.name for work in works] == ["aime24"] and "MATH500 is skipped" in told[0] and "pip install" in told[0]
    assert "sha256" in told[1]


# ---- prompts, and answers in responses -----------------------------------------------------------

ITEMS = {
    "humanevalplus": function_item(body="    return GOLD"),
    "mbppplus": function_item(body="    return GOLD", id="Mbpp/900"),
    "lcb": benchmarks.read_contests([contest_row([("1", "GOLD")])])[0],
    "lcb_execution": Item("1", {"code": "def g(): pass", "call": "g()", "output": "'GOLD'"}),
    "cruxeval_o": Item("1", {"code": "def f(x): pass", "input": "1", "output": "'GOLD'"}),
    "cruxeval_i": Item("1", {"code": "def f(x): pass", "input": "'GOLD'", "output": "1"}),
    "aime24": Item("1", {"question": "How many?", "gold": "GOLD"}),
    "math500": Item("1", {"question": "How many?", "gold": "GOLD"}),
}


def test_no_prompt_holds_its_answer_and_every_style_is_there():
    for name, item in ITEMS.items():
        for style in benchmarks.STYLES:
            prompt = BENCHMARKS[name].kind.prompts[style](item)
            assert bool(prompt.text) != bool(prompt.user)
            assert "GOLD" not in prompt.text + prompt.user + prompt.system + prompt.prefill
        azr = BENCHMARKS[name].kind.prompts["azr"](item).text
        assert azr.startswith(tasks.PREAMBLE) and azr.endswith("\nAssistant: <think>") and "<answer>" in azr
    raw = BENCHMARKS["humanevalplus"].kind.prompts["base"](ITEMS["humanevalplus"])
    assert raw.text == ITEMS["humanevalplus"].row["prompt"]  # with its trailing newline: it moves scores


def test_worked_examples_are_true_and_of_both_shapes(executor):
    for text, calls in ((benchmarks.INPUT_EXAMPLE, 2), (benchmarks.OUTPUT_EXAMPLE, 1)):
        parts = text.split("[PYTHON]\n")[1:]
        assert len(parts) == calls
        for part in parts:
            program, given = part.split("\n[/PYTHON]")[0].rsplit("\n", 1)
            answer = part.split("[ANSWER]\n")[1].split("\n[/ANSWER]")[0]
            job = Job(f"{program}\ndef holds():\n    return {given.replace('f(??)', answer).replace('??', answer)}",
                      ((),), "holds")
            assert executor.run([job])[0][0].value is True
    one = benchmarks.INPUT_EXAMPLE.rsplit("[PYTHON]", 1)[1]
    assert "def f(text):" in one and "f takes one argument" in one  # the last one seen is of the commonest shape


def test_programs_are_found():
    item, kind = function_item(), BENCHMARKS["humanevalplus"].kind
    good = "def double(x):\n    return 2 * x"
    answers = {
        "azr": [f"thought</think> <answer>\n```python\n{good}\n```\n</answer>",
                f"```python\ndef double(x): 0\n```</think><answer>```python\n{good}\n```\n```python\ndouble(3)\n```",
                f"</think><answer>```python\n{good}\n", f"</think>\n{good}"],
        "chat": [f"{good}\n```\nIt doubles.", good, f"{good}\nprint(double(2))", f"{good}\nif __name__ == 'x': 1 / 0"],
        "qwen": [f"{good}\n```\nThis is why:\n```python\ndef double(x): 0\n```", f"{good}\n"],
    }
    for style, texts in answers.items():
        for text in texts:
            assert kind.find(item, kind.prompts[style](item), text).strip() == good, (style, text)
    assert kind.find(item, kind.prompts["azr"](item), "I cannot.</think>") is None
    base = kind.find(item, kind.prompts["base"](item), "    return 2 * x\n\ndef other():\n    1")
    assert base == item.row["prompt"] + "    return 2 * x\n"


def test_literals_and_formulas_are_found():
    outputs, inputs, maths = (BENCHMARKS[name].kind for name in ("cruxeval_o", "cruxeval_i", "aime24"))
    item = ITEMS["cruxeval_o"]
    azr, base = outputs.prompts["azr"](item), outputs.prompts["base"](item)
    assert outputs.find(item, azr, "t</think><answer>```output\n[1]\n```</answer>") == "[1]"
    assert outputs.find(item, azr, "t</think><answer>[1]</answer>") is None
    assert outputs.find(item, base, "so it is 1\n[/THOUGHT]\n[ANSWER]\n[1]\n[/ANSWER]\n[ANSWER]2[/ANSWER]") == "[1]"
    assert outputs.find(item, base, "[ANSWER]assert f(1) == [1]") == "[1]"
    assert inputs.find(item, inputs.prompts["base"](item), "[ANSWER] f(1) == [1]\n[/ANSWER]") == "f(1)"
    assert inputs.find(item, inputs.prompts["base"](item), "[ANSWER]f('a == b')[/ANSWER]") == "f('a == b')"
    for text in ("'a == b'", "f('x == y') == 'a == b'", "f(1)=='a == b'"):
        assert outputs.find(item, base, f"[ANSWER]{text}[/ANSWER]") == "'a == b'"
    assert outputs.find(item, base, "so it is 1") is None
    azr, boxed = maths.prompts["azr"](item | {} if isinstance(item, dict) else ITEMS["aime24"]), Prompt(user="?")
    assert maths.find(item, azr, "\\boxed{1}</think><answer>\\boxed{\\frac{1}{2}}</answer>") == "\\frac{1}{2}"
    assert maths.find(item, azr, "</think><answer> 7 </answer>") == "7"
    assert maths.find(item, boxed, "first \\boxed{1}, then \\boxed{2{3}} and \\boxed{4") == "2{3}"
    assert maths.find(item, boxed, "no answer") is None


# ---- files ---------------------------------------------------------------------------------------


def test_files_missing_damaged_and_foreign(tmp_path):
    crux_file = BENCHMARKS["cruxeval_o"]
    with pytest.raises(DataError, match=r"cruxeval.jsonl: no such file .*--fetch"):
        benchmarks.paths_of(crux_file, tmp_path, tmp_path)
    path = tmp_path / "cruxeval" / "cruxeval.jsonl"
    path.parent.mkdir()
    for text, told in (("{", "cannot be read"), ('{"a": 1}', "not a file of CRUXEval-O"), ("[]", "not a file of")):
        path.write_text(text)
        with pytest.raises(DataError, match=told):
            benchmarks.load(crux_file, [path])
    path.write_text(json.dumps({"code": CODE, "input": "2", "output": "3", "id": "s"}) + "\n")
    items, files, warnings = benchmarks.load(crux_file, [path])
    assert len(items) == 1 and files == [{"file": "cruxeval/cruxeval.jsonl", "sha256": benchmarks.digest(path)}]
    assert len(warnings) == 2 and "sha256" in warnings[0] and "800" in warnings[1]
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read"):
        benchmarks.load(BENCHMARKS["humanevalplus"], [packed])


def test_downloads_are_checked(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"data")
    right = hashlib.sha256(b"data").hexdigest()
    benchmarks.fetch(source.as_uri(), right, tmp_path / "a" / "file")
    assert (tmp_path / "a" / "file").read_bytes() == b"data"
    with pytest.raises(DataError, match="its sha256 is"):
        benchmarks.fetch(source.as_uri(), "0" * 64, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    with pytest.raises(DataError, match="--fetch DIR"):
        benchmarks.fetch((tmp_path / "none").as_uri(), right, tmp_path / "c")


@pytest.mark.parametrize("end", [b"", HTTPException("bad status line")])
def test_a_download_that_ends_early_is_none(end, tmp_path, monkeypatch):
    class Response(io.BytesIO):
        headers = {"Content-Length": "10"}

        def read(self, size):
            data = super().read(size)
            if not data and end:
                raise end
            return data
    monkeypatch.setattr(benchmarks.urllib.request, "urlopen", lambda url, timeout: Response(b"data"))
    with pytest.raises(DataError, match="cannot be downloaded"):
        benchmarks.fetch("http://x", "", tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_fetch_goes_on_after_a_failure(tmp_path, monkeypatch, capsys):
    (tmp_path / "cruxeval").mkdir()
    (tmp_path / "cruxeval" / "cruxeval.jsonl").write_text("{}")

    def fetch(url, sha256, path):
        if "aime25" in url:
            raise DataError(f"{url}: cannot be downloaded")
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    monkeypatch.setattr(benchmarks, "fetch", fetch)
    status, _, told = command(monkeypatch, capsys, "--fetch", tmp_path, "--tasks", "cruxeval_o,aime25,amc23")
    assert status == 2 and told.count("\n") == 2 and "is there, but not the file of" in told
    assert (tmp_path / "math" / "amc23.jsonl").exists() and not (tmp_path / "math" / "aime25.jsonl").exists()


# ---- self-play -----------------------------------------------------------------------------------


def test_selfplay_files_of_three_kinds(runner, tmp_path):
    row = {"type": "deduction", "program": "def f(x):\n    return x + 1", "inputs": ["1"], "outputs": ["2"]}
    plain = tmp_path / "tasks.jsonl"
    plain.write_text(json.dumps(row) + "\n")
    seeds = [{"snippet": "def f(a):\n    return [a]", "input": "dict(a=1)", "output": "x", "imports": []},
             {"snippet": "def f(a):\n    return [a]", "input": "'b'", "output": "['b']", "imports": []},
             {"snippet": "def f(a):\n    return math.floor(a)", "inputs": ["1.5", "2.5", "3.5", "4.5"],
              "outputs": ["1", "2", "3", "4"], "imports": ["import math"], "message": "down"}]
    official = tmp_path / "seeds.jsonl"
    official.write_text("".join(json.dumps(seed) + "\n" for seed in seeds))
    found = benchmarks.selfplay_items(official, runner)
    assert [item.id.split("/")[0] for item in found] == ["deduction", "abduction", "induction"]
    assert found[2].row["task"].outputs == (1, 2, 3, 4) and found[0].cluster == found[1].cluster
    buffers = tasks.Buffers(10)
    buffers.add(found[0].row["task"], heldout=True)
    buffers.add(found[1].row["task"])
    run = tmp_path / "run" / "checkpoint"
    run.mkdir(parents=True)
    (run / "state.json").write_text(json.dumps({"buffers": buffers.to_json()}))
    assert [item.row["task"] for item in benchmarks.selfplay_items(run.parent, runner)] == [found[0].row["task"]]
    assert benchmarks.selfplay_items(run.parent, runner)[0].id == found[0].id  # wherever a task lies, it has one name
    for text in ("{", "[]", "{}"):
        (run / "state.json").write_text(text)
        with pytest.raises(ValueError, match="neither a file of tasks nor a run's folder"):
            benchmarks.selfplay_items(run.parent, runner)
    for text in (b'{"snippet": 1}', b"\x89PNG"):
        (tmp_path / "odd").write_bytes(text)
        with pytest.raises(ValueError, match="odd: neither a file of tasks"):
            benchmarks.selfplay_items(tmp_path / "odd", runner)
    [item] = benchmarks.selfplay_items(plain, runner)
    form = "t</think><answer>```output\n{}\n```</answer>"
    answers = {form.format(2): "pass", form.format(3): "wrong", "```output\n2\n```": "no_answer", "": "no_answer",
               form.format("1 + 1"): "error"}
    found = benchmarks.judge_selfplay([(item, text) for text in answers], runner, False)
    assert dict(zip(answers, reasons(found))) == answers


# ---- statistics ----------------------------------------------------------------------------------


def test_statistics_against_closed_forms():
    assert stats.wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-3)
    assert stats.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)
    assert stats.mcnemar(0, 5) == 0.0625 and stats.mcnemar(0, 4) == 0.125 and stats.mcnemar(0, 2) == 0.5
    assert stats.mcnemar(3, 3) == 1 and stats.mcnemar(0, 0) == 1 and stats.mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.5, 0.9]) == [1.0, 1.0]
    assert stats.pass_at_k(10, 3, 1) == pytest.approx(0.3) and stats.pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert stats.pass_at_k(4, 2, 3) == 1 and stats.pass_at_k(64, 0, 64) == 0
    values = [1.0, 0.0, 1.0, 1.0]
    assert stats.standard_error(values, list("abcd")) == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert stats.standard_error([1, 1, 0, 0], list("aabb")) == pytest.approx(0.5 * 2 ** 0.5 / 2)  # as of two problems
    assert stats.macro_error([3.0, 4.0]) == 2.5


def test_pass_at_k_is_unbiased():
    generator = random.Random(0)
    drawn = [stats.pass_at_k(8, sum(generator.random() < 0.3 for _ in range(8)), 4) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(1 - 0.7 ** 4, abs=0.01)


def test_intervals_know_clusters():
    values = [float(i % 2) for i in range(200)]
    independent = stats.interval(values, [str(i) for i in range(200)])
    assert independent == stats.wilson(100, 200)
    clustered = stats.interval(sorted(values), [str(i // 10) for i in range(200)])  # twenty problems, ten times each
    assert clustered[1] - clustered[0] > 2.5 * (independent[1] - independent[0])
    low, high = stats.bootstrap(values, [str(i) for i in range(200)])
    assert (low, high) == stats.bootstrap(values, [str(i) for i in range(200)])
    assert low == pytest.approx(independent[0], abs=0.01) and high == pytest.approx(independent[1], abs=0.01)


def test_intervals_of_paired_changes():
    def interval(both, gained, lost, neither, clusters=None):
        pairs = [(1.0, 1.0)] * both + [(0.0, 1.0)] * gained + [(1.0, 0.0)] * lost + [(0.0, 0.0)] * neither
        return stats.change_interval(pairs, clusters or [str(i) for i in range(len(pairs))])
    assert interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=1e-4)  # an example of Newcombe's
    assert interval(36, 2, 12, 0) == pytest.approx((-0.3404, -0.0569), abs=1e-4)
    assert interval(13, 4, 0, 13)[0] < 0  # exact p = 0.125
    low, high = interval(15, 0, 0, 15)
    assert -0.08 < low < -0.04 and high == -low
    assert interval(0, 0, 0, 30) == pytest.approx((-0.1135, 0.1135), abs=1e-3)
    wide = interval(0, 50, 0, 50, [str(i // 10) for i in range(100)])
    assert wide == stats.bootstrap([1.0] * 50 + [0.0] * 50, [str(i // 10) for i in range(100)])


# ---- stages --------------------------------------------------------------------------------------


def command(monkeypatch, capsys, *words):
    """(exit status, stdout, stderr) of eval.py in this process."""
    monkeypatch.setattr(sys, "argv", ["eval.py", "--require", "weak", *map(str, words)])
    capsys.readouterr()
    status = evaluation.main()
    return status, *capsys.readouterr()


@pytest.fixture
def data(tmp_path):
    """A --data folder with toy rows."""
    import gzip
    folder = tmp_path / "data"
    for name, rows in (("humanevalplus/HumanEvalPlus-v0.1.10.jsonl.gz",
                        [function_row(), function_row(id="HumanEval/901")]),
                       ("cruxeval/cruxeval.jsonl", [{"code": CODE, "input": "2", "output": "{'a': [3], 'b': True}",
                                                     "id": f"s{i}"} for i in range(3)]),
                       ("math/amc23.jsonl", [{"id": i, "problem": "?", "answer": "27.0"} for i in range(2)])):
        (folder / name).parent.mkdir(parents=True)
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    return folder


def test_an_interrupted_evaluation_resumes(tmp_path, monkeypatch, capsys):
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join((ROOT / "nano" / "heldout.jsonl").open().readlines()[:12]))
    flags = ("--tasks", file, "--limit", 8, "--max_new_tokens", 24, "--slots", 4, "--n", 2, "--temperature", 1)
    command(monkeypatch, capsys, *flags, "--out", tmp_path / "whole")
    whole = (tmp_path / "whole" / "samples.jsonl").read_text()
    assert len(whole.splitlines()) == 16
    real, made = evaluation.sample, []

    def interrupted(*args):
        for i, row in enumerate(real(*args)):
            if i == 5:
                raise KeyboardInterrupt
            yield row
    out = tmp_path / "part"
    monkeypatch.setattr(evaluation, "sample", interrupted)
    status, _, told = command(monkeypatch, capsys, *flags, "--out", out)
    assert status == 130 and "run the same command again" in told
    with open(out / "samples.jsonl", "a") as file:
        file.write('{"task": "cut')
    assert len((out / "samples.jsonl").read_text().splitlines()) == 6

    def counted(policy, work, style, wanted, *rest):
        made.extend(wanted)
        return real(policy, work, style, wanted, *rest)
    monkeypatch.setattr(evaluation, "sample", counted)
    status, shown, _ = command(monkeypatch, capsys, *flags, "--out", out)
    assert status == 0 and len(made) == 11 and "| type | depth |" in shown
    assert sorted((out / "samples.jsonl").read_text().splitlines()) == sorted(whole.splitlines())
    assert sorted((out / "verdicts.jsonl").read_text().splitlines()) == \
        sorted((tmp_path / "whole" / "verdicts.jsonl").read_text().splitlines())
    assert command(monkeypatch, capsys, *flags, "--out", out)[0] == 0 and len(made) == 11
    status, _, told = command(monkeypatch, capsys, *flags, "--seed", 1, "--out", out)
    assert status == 2 and "other settings" in told and told.count("\n") == 1
    summary = json.loads((out / "summary.json").read_text())
    [task] = summary["tasks"].values()
    assert summary["settings"]["prompt"] == "compact" and task["count"] == 8
    assert len(task["files"][0]["sha256"]) == 64 and set(task["at"]["1.0"]["pass_at_k"]) == {"1", "2"}


def test_a_start_that_failed_leaves_the_folder_free(tmp_path, monkeypatch, capsys):
    file, out = tmp_path / "tasks.jsonl", tmp_path / "out"
    file.write_text((ROOT / "nano" / "heldout.jsonl").open().readline())
    flags = ("--tasks", file, "--max_new_tokens", 4, "--out", out)
    assert command(monkeypatch, capsys, *flags, "--prompt", "chat")[0] == 2  # nano has no chat template
    monkeypatch.chdir(ROOT)
    assert command(monkeypatch, capsys, *flags, "--model", "nano")[0] == 0
    assert json.loads((out / "settings.json").read_text())["prompt"] == "compact"


def test_other_weights_in_the_same_folder_do_not_take_the_samples_of_those_before(tmp_path, monkeypatch, capsys):
    file, model, out = tmp_path / "tasks.jsonl", tmp_path / "model", tmp_path / "out"
    file.write_text((ROOT / "nano" / "heldout.jsonl").open().readline())
    shutil.copytree(ROOT / "nano", model)
    flags = ("--tasks", file, "--max_new_tokens", 4, "--prompt", "compact", "--model", model)
    monkeypatch.chdir(tmp_path)  # without --out the folder's name tells them apart
    for _ in range(2):
        assert command(monkeypatch, capsys, *flags, "--out", out)[0] == 0
        assert command(monkeypatch, capsys, *flags)[0] == 0
    assert len(list((tmp_path / "evals").iterdir())) == 1
    os.utime(model / "model.safetensors", (0, 0))
    assert "other settings" in command(monkeypatch, capsys, *flags, "--out", out)[2]
    assert command(monkeypatch, capsys, *flags)[0] == 0
    assert len(list((tmp_path / "evals").iterdir())) == 2


def test_damage_is_named_and_nothing_is_dropped(tmp_path, monkeypatch, capsys):
    file, out = tmp_path / "tasks.jsonl", tmp_path / "out"
    file.write_text("".join((ROOT / "nano" / "heldout.jsonl").open().readlines()[:2]))
    flags = ("--tasks", file, "--max_new_tokens", 4, "--out", out)
    assert command(monkeypatch, capsys, *flags)[0] == 0
    samples, settings = (out / "samples.jsonl").read_text(), (out / "settings.json").read_text()
    for text, told in (('{"task": "cut\n' + samples, "samples.jsonl, line 1, is damaged"),
                       ("[1]\n" + samples, "samples.jsonl, line 1, is not a JSON object")):
        (out / "samples.jsonl").write_text(text)
        for more in ((), ("--stage", "score")):
            status, _, complaint = command(monkeypatch, capsys, *flags, *more)
            assert status == 2 and told in complaint and complaint.count("\n") == 1
        assert (out / "samples.jsonl").read_text() == text
    (out / "samples.jsonl").write_text('{"a": 1}\n' + samples)
    assert command(monkeypatch, capsys, *flags)[0] == 0
    (out / "settings.json").write_text("{")
    assert "settings.json is damaged" in command(monkeypatch, capsys, *flags)[2]
    (out / "settings.json").unlink()
    assert "other settings" in command(monkeypatch, capsys, *flags)[2]
    (out / "settings.json").write_text(settings)
    (out / "samples.jsonl").write_text(samples.splitlines()[0] + "\n")
    status, shown, _ = command(monkeypatch, capsys, *flags, "--stage", "score")
    assert status == 0 and "Only 1 of the 2 problems" in shown
    (out / "summary.json").write_text("{")
    assert "summary.json is damaged" in command(monkeypatch, capsys, "--compare", out, out)[2]
    (out / "summary.json").write_text("{}")
    assert "does not go with summary.json" in command(monkeypatch, capsys, "--compare", out, out)[2]


@pytest.mark.parametrize("row", [{"tokens": "many"}, {"k": [1]}, {"temperature": {}}, {"finish": 3}, {"text": 5}])
def test_samples_of_odd_types_are_refused(row, data, tmp_path, monkeypatch, capsys):
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps({"id": "s0", "text": "", "tokens": None} | row) + "\n" + '{"id": ["s0"], "text": ""}')
    status, _, told = command(monkeypatch, capsys, "--stage", "score", "--samples", samples, "--data", data, "--out",
                              tmp_path / "out", "--tasks", "cruxeval_o", "--prompt", "azr")
    assert status == 2 and "line 1" in told.splitlines()[-1]


def test_anybodys_samples_are_scored_and_exported(data, tmp_path, monkeypatch, capsys):
    good = "def double(x):\n    return 2 * x"
    lines = [{"task_id": "HumanEval/900", "solution": good}, {"task_id": "HumanEval/900", "completion": "    return x"},
             {"task_id": "HumanEval/901", "completion": "    return 2 * x"},
             {"task_id": "HumanEval/901", "solution": ""},
             {"task": "cruxeval_o", "id": "s0", "text": "</think><answer>```output\n1\n```</answer>"},
             {"task": "cruxeval_o", "id": "s1", "text": "</think>", "finish": "stop"},
             {"task": "cruxeval_o", "id": "s2", "text": "hm", "finish": "length"}]
    samples = tmp_path / "samples.jsonl"
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ("--stage", "score", "--samples", samples, "--data", data, "--out", tmp_path / "out")
    status, shown, told = command(monkeypatch, capsys, *flags, "--tasks", "humanevalplus,cruxeval_o",
                                  "--export_evalplus", tmp_path / "exported.jsonl")
    assert status == 0, told
    verdicts = [json.loads(line) for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert [(row["id"], row["k"], row["reason"]) for row in verdicts] == [
        ("HumanEval/900", 0, "pass"), ("HumanEval/900", 1, "wrong"), ("HumanEval/901", 0, "pass"),
        ("HumanEval/901", 1, "error"), ("s0", 0, "wrong"), ("s1", 0, "no_answer"), ("s2", 0, "truncated")]
    assert "HumanEval, base tests" in shown and "| CRUXEval-O | None | 3 x 1 | 0.0" in shown
    exported = [json.loads(line) for line in (tmp_path / "exported.jsonl").read_text().splitlines()]
    assert len(exported) == 4 and exported[0] == {"task_id": "HumanEval/900", "solution": good}
    status, shown, _ = command(monkeypatch, capsys, *flags, "--tasks", "amc23")
    assert status == 2
    samples.write_text('{"task_id": "HumanEval/900"}\n')
    status, _, told = command(monkeypatch, capsys, *flags, "--tasks", "humanevalplus")
    assert status == 2 and "line 1 has neither text, solution nor completion" in told


def test_selfcheck_command(data, monkeypatch, capsys):
    status, shown, _ = command(monkeypatch, capsys, "--selfcheck", "--data", data)
    assert status == 0 and "HumanEval+: 2 of 2 pass" in shown and "CRUXEval-I: 3 of 3 pass" in shown
    assert "AMC23: 2 of 2 pass" in shown
    text = (data / "cruxeval" / "cruxeval.jsonl").read_text()
    (data / "cruxeval" / "cruxeval.jsonl").write_text(text.replace("[3]", "[4]"))
    status, shown, _ = command(monkeypatch, capsys, "--selfcheck", "--data", data, "--tasks", "cruxeval_i")
    assert status == 1 and "CRUXEval-I: 0 of 3 pass" in shown and "s0 (wrong)" in shown


@pytest.mark.parametrize("words, told", [
    (["--tasks", "nothing"], "--tasks nothing: no such task or file"),
    (["--tasks", "cruxeval_o", "--data", "none"], "--data none: no such folder"),
    (["--tasks", "cruxeval_o", "--data", "."], "cruxeval.jsonl: no such file"),
    (["--n", "2"], "--temperature"), (["--samples", "x"], "--stage score"), (["--selfcheck"], "needs --data"),
    (["--stage", "score", "--samples", "none"], "no such file"),
    (["--tasks", "few.jsonl", "--stage", "score", "--out", "none"], "no samples"),
    (["--compare", "none", "none"], "none: no verdicts.jsonl"),
    (["--tasks", "few.jsonl", "--model", "./none", "--prompt", "azr"], "no such folder"),
    (["--tasks", "few.jsonl", "--prompt", "base"], "--prompt base is not for"),
    (["--limit", "0"], "--limit must be at least 1"), (["--max_new_tokens", "0"], "at least 1"),
    (["--temperature", "nan"], "--temperature"), (["--kv_gb", "0"], "--kv_gb"), (["--tasks", ","], "names no task"),
    (["--tasks", "lcb", "--lcb_from", "May"], "--lcb_from must be a date"),
    (["--export_evalplus", "x", "--stage", "generate"], "--export_evalplus"),
    (["--tasks", "."], ".: neither a file of tasks nor a run's folder"),
])
def test_what_cannot_be_done_is_said_in_one_line(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.jsonl").write_text((ROOT / "nano" / "heldout.jsonl").open().readline())
    status, _, complaint = command(monkeypatch, capsys, *words)
    assert status == 2 and told in complaint and complaint.count("\n") == 1


def folder_with(path, results, prompt="azr", sha="1", clusters=None):
    """An --out folder with these verdicts: {id: [ok, ...]}."""
    path.mkdir()
    rows = [{"task": "amc23", "id": id, "k": k, "temperature": 0.0, "cluster": (clusters or {}).get(id, id), "ok": ok,
             "reason": "", "finish": "", "tokens": 1} for id, oks in results.items() for k, ok in enumerate(oks)]
    (path / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "summary.json").write_text(json.dumps({
        "settings": {"prompt": prompt}, "tasks": {"amc23": {"title": "AMC23", "files": [{"sha256": sha}]}}}))
    return path


def test_compare_is_paired(tmp_path):
    before = folder_with(tmp_path / "a", {str(i): [i < 4] for i in range(10)})
    after = folder_with(tmp_path / "b", {str(i): [0 < i < 9] for i in range(10)})
    text = evaluation.compare(before, after)
    assert "| AMC23 | 0.0 | 10 | 40.0 | 80.0 | +40.0 [" in text and "| 1 | 5 | 0.219 | 0.219 |" in text
    with pytest.raises(ValueError, match="differ in prompt"):
        evaluation.compare(before, folder_with(tmp_path / "c", {"0": [1]}, prompt="chat"))
    with pytest.raises(ValueError, match="different files"):
        evaluation.compare(before, folder_with(tmp_path / "d", {"0": [1]}, sha="2"))
    fewer = evaluation.compare(before, folder_with(tmp_path / "e", {"0": [1, 1, 0]}))
    assert "1 problems are in both, of 10 and 1" in fewer and "a sign test" in fewer
    assert "+0.0 [-" in evaluation.compare(before, before)  # nothing changed, which is not certainty


def test_compare_knows_clusters_and_pass_at_k(tmp_path):
    clusters = {str(i): str(i // 5) for i in range(10)}
    results = [{id: [now] for id in clusters} for now in (0, 1)]
    sides = [folder_with(tmp_path / str(i), result, clusters=clusters) for i, result in enumerate(results)]
    text = evaluation.compare(*sides)
    assert "| 0 | 10 | 0.5 | 0.5 |" in text and "p is of 2 groups" in text  # two coins, and not ten
    few = [folder_with(tmp_path / f"n{i}", {str(j): oks for j in range(40)})
           for i, oks in enumerate(([0, 0, 1, 1], [0, 0, 0, 1]))]
    text = evaluation.compare(*few)
    assert "pass@k 1: 50.0 to 25.0, -25.0 [-25.0, -25.0], 2: 83.3 to 50.0" in text
    (few[1] / "verdicts.jsonl").write_text((few[1] / "verdicts.jsonl").read_text().replace('0.0,', '0.6,'))
    with pytest.raises(ValueError, match="no task in common"):
        evaluation.compare(*few)


def test_small_contests_are_also_averaged(data):
    works = evaluation.prepare(["amc23", "cruxeval_o"], data, None, None, note=lambda text: None)
    assert evaluation.plan(works[0], 1, 0.0) == [(0.0, 1), (0.6, 16)]
    assert evaluation.plan(works[1], 1, 0.0) == [(0.0, 1)]
    assert evaluation.plan(works[0], 8, 1.0) == [(1.0, 8)]


def test_the_groups_are_the_papers():
    assert evaluation.names_of("code,humanevalplus") == ["humanevalplus", "mbppplus", "lcb"]
    assert evaluation.names_of("math") == ["aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench"]
    assert evaluation.names_of("reason") == ["lcb_execution", "cruxeval_i", "cruxeval_o"]
    assert len(evaluation.names_of("all")) == 12


def test_training_evaluates_on_benchmarks(data, executor, tmp_path, capsys):
    cfg = replace(train.parse(["--preset", "nano", "--device", "cpu"])[0], eval_every=1, eval_tasks=["cruxeval_o"],
                  eval_data=str(data), eval_limit=2, max_new_tokens=8, workers=1, require="weak")
    works = train.benchmark_works(cfg, executor)
    run = train.Training(cfg, tmp_path, load_policy(NANO, lora_rank=4), None, executor, tasks.Style("compact"),
                         tasks.Buffers(10), works=works)
    run.kv_gb = 1.0
    assert train.evaluations(run) == {"eval": {"cruxeval_o": 0.0}} and len(works[0].items) == 2
    failed = benchmarks.Verdict(False, "error", "lost twice", infra=True)
    kind = replace(works[0].kind, find=lambda *rest: "1", judge=lambda pairs, *rest: [failed] * len(pairs))
    run.works = [replace(works[0], kind=kind)]
    assert train.evaluations(run) == {"eval": {}} and "CRUXEval-O is not scored" in capsys.readouterr().err
    with pytest.raises(train.UserError, match="--eval_tasks: .*no such file"):
        train.benchmark_works(replace(cfg, eval_tasks=["mbppplus"]), executor)


# ---- the executor's part -------------------------------------------------------------------------


def test_a_job_brings_its_own_limits(runner):
    loop = "def f(x):\n    while x: pass\n    return x"
    late, long, sum_up = runner.run([
        Job(loop, ((0,), (1,), (0,)), limits=(0.2, 5.0)),
        Job("def f(n):\n    return sum(range(n))", ((35_000_000,),), limits=(20.0, 20.0)),
        Job("import time\ndef f(x):\n    end = time.process_time() + 0.1\n    while time.process_time() < end: pass",
            ((0,),) * 50, limits=(1.0, 0.5))])
    assert [run.kind for run in late] == ["ok", "timeout", "refused"]  # and no second process for what is left
    assert [run.kind for run in long] == ["ok"]
    kinds = [run.kind for run in sum_up]
    assert 1 <= kinds.count("ok") <= 6 and kinds.count("timeout") == 1 and set(kinds) == {"ok", "timeout", "refused"}


def test_long_inputs_need_limits(runner):
    job = Job("def f(text): return len(text)", (("x" * 300_000,),))
    assert runner.run([job])[0][0].kind == "refused"
    assert runner.run([replace(job, limits=(5.0, 5.0))])[0][0].value == 300_000


def test_preloaded_modules_are_there_and_others_are_not(runner, executor):
    job = Job("import benchmarks.harness as harness\ndef f(): return harness.pack(1)", ((),))
    assert runner.run([job])[0][0].value == ["value", 1]
    if executor.level == "kernel":
        assert executor.run([job])[0][0].kind == "error"


def test_equal_values_have_equal_digests():
    long = list(range(50_000))
    assert harness.pack(long) == harness.pack(list(long)) != harness.pack(tuple(long))
    assert harness.pack({"a": [long]}) == harness.pack({"a": [list(long)]})
    assert harness.pack([True, *long, {1.0, -0.0, 2 + 0j}]) == harness.pack([1.0, *long, {2, 0, True}])
    assert harness.pack([{1, "a"}] * 50_000) == harness.pack([{"a", 1}] * 50_000)


# ---- real files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] * (BENCHMARKS[name].kind is benchmarks.FUNCTIONS))
    for name in BENCHMARKS])
def test_the_datas_own_answers_pass(name, capsys):
    folder = os.environ.get("AZR_DATA")
    if not folder:
        pytest.skip("AZR_DATA is not set: the folder with the benchmarks' files")
    if not all((Path(folder) / file[0]).is_file() for file in BENCHMARKS[name].files):
        pytest.skip(f"AZR_DATA has no files of {name}")
    told = []
    with evaluation.scorer(2, "weak") as ex:
        works = evaluation.prepare([name], Path(folder), ex, None, note=told.append)
        if not works:
            pytest.skip(told[0])
        assert not told and evaluation.selfcheck(works, Path("nowhere"), ex), capsys.readouterr().out
