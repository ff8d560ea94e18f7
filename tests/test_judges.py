"""Answers to toy problems that are right, wrong and hostile, judged; the harness beside them, and its limits."""
import json
from dataclasses import replace

import pytest

from benchmarks import harness, items, judges, stages, taskfiles
import tasks
from benchmarks.items import Item
from benchmarks.suite import BENCHMARKS
from executor import Executor, Job, Outcome
from toys import contest_row, crux, function_item


@pytest.fixture(scope="module")
def runner():
    with Executor(workers=2, cpu_seconds=0.4, memory_mb=512, require="weak", cached_jobs=0,
                  preload=("benchmarks.harness",)) as running:
        yield running


@pytest.fixture
def short_limits(monkeypatch):
    monkeypatch.setattr(judges, "FIRST", (0.2, 2.0))
    monkeypatch.setattr(judges, "LAST", (0.4, 8.0))
    monkeypatch.setattr(judges, "ALL_TESTS", 2.5)
    monkeypatch.setattr(judges, "CONTEST_SECONDS", 0.4)


def reasons(verdicts):
    return [verdict.reason for verdict in verdicts]


# ---- functions ------------------------------------------------------------------------------------


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
    "reading the harness": ("import benchmarks.harness as harness\ndef double(x):\n"
                            "    harness.pack = lambda value: ['value', True]", "wrong", False),
    "forging the tag": ("import benchmarks.harness as harness\nharness.pack = lambda value: 'value'\n"
                        "def double(x):\n    return 1", "wrong", False),
    "a generator": ("def double(x):\n    yield 2 * x", "error", False),
}


@pytest.mark.quick
def test_functions_right_wrong_and_hostile(runner, short_limits):
    item = function_item()
    verdicts = judges.judge_functions([(item, program) for program, _, _ in CHEATS.values()], runner, False, True)
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
        verdicts = judges.judge_functions([(item, program) for program in solutions], runner, False, True)
        assert reasons(verdicts)[:2] == ["pass", "pass"] and not verdicts[2].ok, (name, verdicts)


def test_solutions_import_what_the_list_says_whatever_else_is_loaded(runner):
    names = ("ast asyncio bz2 configparser ctypes dis email glob http.client json multiprocessing os.path pathlib"
             " platform pickle queue resource select signal socket sqlite3 ssl subprocess tempfile threading timeit"
             " tracemalloc unittest urllib.request uuid weakref xml.etree.ElementTree zipfile zlib").split()
    assert len(harness.MODULES) > 170
    item = function_item(body="    return x")
    programs = [f"import {name}\ndef double(x):\n    return x" for name in (*names, "benchmarks.lenient", "no_such")]
    with Executor(1, cpu_seconds=0.4, memory_mb=1024, require="weak", cached_jobs=0,
                  preload=("benchmarks.harness", "benchmarks.lenient")) as ex:
        found = judges.judge_functions([(item, program) for program in programs], ex, False, True)
        kernel = ex.level == "kernel"
    assert [name for name, verdict in zip(names, found) if not verdict.ok] == []
    assert not kernel or reasons(found[-2:]) == ["error", "error"]


def test_numbers_of_numpy_are_numbers(runner):
    pytest.importorskip("numpy")
    item = function_item()
    programs = [f"import numpy as np\ndef double(x):\n    return {value}" for value in
                ("np.int64(2 * x)", "np.float64(2 * x)", "np.array([x, x]).sum()", "np.array([2 * x])", "np.int8(7)")]
    assert reasons(judges.judge_functions([(item, program) for program in programs], runner, False, True)) == \
        ["pass", "pass", "pass", "error", "wrong"]


def test_oracles(runner):
    def verdict(name, body, solution, inputs, atol=0, **more):
        item = function_item(name, body, base=inputs, plus=(), id="Mbpp/1", atol=atol, **more)
        return judges.judge_functions([(item, solution)], runner, False, True)[0].reason
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


def test_a_canonical_solution_that_fails_costs_its_item_alone(runner):
    good, broken = function_item(), function_item(body="    return 1 / 0", id="HumanEval/901")
    program = "def double(x):\n    return 2 * x"
    found = judges.judge_functions([(good, program), (broken, program), (good, "")], runner, False, True)
    assert [(verdict.ok, verdict.infra) for verdict in found] == [(True, False), (False, True), (False, False)]
    assert "the canonical solution itself fails here (error: ZeroDivisionError" in found[1].detail


def test_contests_whose_tests_cannot_be_read_cost_their_item_alone(runner):
    good, broken = items.read_contests([contest_row([("1", "1"), ("2", "2")]),
                                        contest_row([("1", "1")], private="junk", id="q2")])
    found = judges.judge_contests([(broken, "print(input())"), (good, "print(input())")], runner, False)
    assert [(verdict.ok, verdict.infra) for verdict in found] == [(False, True), (True, False)]


def test_responses_lose_their_tests_and_what_was_cut(runner, short_limits):
    item = function_item()
    program = "import math\nK = 2\ndef double(x):\n    return K * x\n"
    for text in (program + "assert double(1) == 3\nprint(double(input()))", program + "def more(x):\n    return (x +",
                 program + "n = int(input())\nshown: int = double(n)", "import numpy as np\n" + program,
                 "from __future__ import annotations\nfrom typing import List\n" + program + "def g(x: No): pass"):
        assert reasons(judges.judge_functions([(item, text)], runner, False)) == ["pass"]
    assert reasons(judges.judge_functions([(item, program + "assert double(1) == 3")], runner, False, True)) == \
        ["error"]
    unknown = "n = missing\ndef double(x):\n    return n * x"
    assert reasons(judges.judge_functions([(item, unknown)], runner, False)) == ["error"]


def burning(seconds):
    return (f"import time\ndef f(x):\n    end = time.process_time() + {seconds}\n    while time.process_time() < end:"
            " pass\n    return x")


def test_a_timeout_is_run_again_with_all_of_its_limits(runner):
    """The second run decides."""
    jobs = [Job(burning(seconds), ((1,),), limits=(2.0, 2.0)) for seconds in (0, 0.3, 9)]
    seen = []

    def decide(index, outcomes):
        seen.append((index, outcomes[0].kind))
        return judges.Judgement(True, "pass") if outcomes[0].kind == "ok" else judges.without_value(outcomes[0])
    found = judges.judge_twice([replace(job, limits=(0.1, 0.1)) for job in jobs], jobs, runner, decide)
    assert reasons(found) == ["pass", "pass", "timeout"]
    assert sorted(seen) == [(0, "ok"), (1, "ok"), (1, "timeout"), (2, "timeout"), (2, "timeout")]


def test_slow_answers_get_the_whole_limit_and_equal_ones_run_once(monkeypatch):
    monkeypatch.setattr(judges, "LAST", (2.0, 8.0))
    code = burning("x / 10")
    item = items.read_cruxeval([{"code": code, "input": "3", "output": "3", "id": "s"}])[0]
    task = tasks.Task("abduction", code, ((3,),), (3,), key="k")
    answer = "t</think><answer>```input\n{}\n```</answer>"
    with Executor(2, cpu_seconds=0.1, require="weak", cached_jobs=0, preload=("benchmarks.harness",)) as ex:
        real, inputs = ex.stream, []

        def counted(jobs):
            jobs = list(jobs)
            inputs.extend(len(job.inputs) for job in jobs)
            return real(jobs)
        monkeypatch.setattr(ex, "stream", counted)
        work = stages.Work("cruxeval_i", "", BENCHMARKS["cruxeval_i"].kind, [item], {}, 0)
        rows = [{"id": "s", "text": f"[ANSWER]f({x})[/ANSWER]", "finish": ""} for x in (3, 99, 3, 0, 99)]
        found = stages.judge_work(work, rows, "base", ex)
        assert reasons(found) == ["pass", "timeout", "pass", "wrong", "timeout"]
        assert inputs[-3:] == [3, 1, 1]
        found = taskfiles.judge_selfplay([(Item("a", {"task": task}), answer.format(x)) for x in (3, 99)], ex, False)
        assert reasons(found) == ["pass", "timeout"]
        monkeypatch.setattr(tasks, "verify", lambda answers, ex, limits=None:
                            [tasks.Verdict(False, "infra", True)] * len(answers))
        assert taskfiles.judge_selfplay([(Item("a", {"task": task}), "")], ex, False)[0].infra


# ---- contests -------------------------------------------------------------------------------------


def test_contests_from_standard_input(runner, short_limits):
    [item] = items.read_contests([contest_row([("1 2\n", "3\n"), ("4 5\n", "9.0\n\n")])])
    add = "a, b = map(int, {}.split())\nprint(a + b)"
    solutions = {
        add.format("input()"): "pass", add.format("sys.stdin.readline()"): "pass",
        "import sys\n" + add.format("sys.stdin.buffer.read()"): "pass", add.format("open(0).read()"): "pass",
        "print(sum(map(int, input().split())) * pow(3, -1, 2))": "pass",
        "import threading\ndef main():\n    print(sum(map(int, input().split())))\nt = threading.Thread(target=main)\n"
        "t.start()\nt.join()": "pass", add.format("input()") + "\nexit(0)": "pass", "print(3)": "wrong",
        "while True: pass": "timeout",
        "x = [0] * 10**11": "error", "import os; os._exit(0)": "error", "raise SystemExit(1)": "wrong",
        "1 / 0": "error", "import time; time.sleep(0)": "wrong",
        "class Yes(str):\n    def __eq__(self, other): return True\nprint(Yes('1'))": "wrong",
        "print('3'); print('9')": "wrong", "def (": "error", "print('x' * 10**6)": "wrong",
    }
    found = dict(zip(solutions, judges.judge_contests([(item, code) for code in solutions], runner, False)))
    assert {code: verdict.reason for code, verdict in found.items()} == solutions


def test_contests_with_a_method(runner, short_limits):
    [item] = items.read_contests([contest_row([("[1, 2]\n3", "[4, 5]"), ("[]\n1", "[]")], "addAll")])
    good = "class Solution:\n    def addAll(self, xs: List[int], k: int):\n        return {}"
    solutions = {good.format("[x + k for x in xs]"): "pass", good.format("[x + k for x in deepcopy(xs)]"): "pass",
                 good.format("tuple(x + k for x in xs)"): "pass",
                 "def addAll(xs, k): return [x + k for x in xs]": "pass", good.format("xs"): "wrong",
                 good.format("self"): "error", "class Solution: pass": "error"}
    found = judges.judge_contests([(item, code) for code in solutions], runner, False)
    assert dict(zip(solutions, reasons(found))) == solutions


def test_long_contest_input_and_output(runner, short_limits):
    lines = "\n".join(map(str, range(40_000)))
    [item] = items.read_contests([contest_row([("0", "0"), (lines, lines)])])
    found = judges.judge_contests([(item, "import sys\nprint(sys.stdin.read())"), (item, "print(input())")], runner,
                                      False)
    assert reasons(found) == ["pass", "wrong"]


# ---- outputs and inputs ---------------------------------------------------------------------------


@pytest.mark.quick
def test_output_answers_are_literals(runner, short_limits):
    item = crux()
    answers = {"{'a': [3], 'b': True}": "pass", "{'b': 1, 'a': [3.0]}": "pass", "{'a': [4], 'b': True}": "wrong",
               "{'a': (3,), 'b': True}": "wrong", "f(2)": "error", "dict(a=[3], b=True)": "error", "1 + 1": "error",
               "__import__('os')._exit(0)": "error", "": "error", "(" * 5000: "error", "eval(gold)": "error",
               "[x for x in ().__class__.__base__.__subclasses__()]": "error", "3\n3": "error", "9" * 30_000: "error"}
    pairs = [(item, text) for text in answers]
    assert dict(zip(answers, reasons(judges.judge_outputs(pairs, runner, False)))) == answers
    lenient = dict(zip(answers, reasons(judges.judge_outputs(pairs, runner, True))))
    assert lenient["dict(a=[3], b=True)"] == "pass" and lenient["1 + 1"] == "wrong"
    assert lenient["f(2)"] == lenient["eval(gold)"] == "error"
    for forged in (b'[0, "ok", 7]', b'[0, "ok", null]', b'[0, "ok", ["l", "value"]]', b'[0, "ok", ["l", "sha256", 0]]'):
        record = len(forged).to_bytes(4, "big") + forged
        cheat = f"(__import__('os').write(3, {record!r}), __import__('os')._exit(0))"
        assert reasons(judges.judge_outputs([(item, cheat)], runner, True)) == ["wrong"]
        assert reasons(judges.judge_inputs([(item, cheat)], runner, True)) == ["wrong"]


def test_input_answers_are_literals(runner, short_limits):
    item = crux()
    answers = {"2": "pass", "f(2)": "pass", "1, 2": "pass", "x=1, y=2": "pass", "f(1, y=2)": "pass", "2.0": "pass",
               "3": "wrong", "1) or (True": "error", "2) or True #": "error", "2, *[]": "error", "**{'x': 2}": "error",
               "99": "timeout", "": "error", "'a'": "error", "int('2')": "error", "type('Y', (), {})()": "error",
               "10**9**9": "error", "2 #": "pass"}
    pairs = [(item, text) for text in answers]
    assert dict(zip(answers, reasons(judges.judge_inputs(pairs, runner, False)))) == answers
    lenient = dict(zip(answers, reasons(judges.judge_inputs(pairs, runner, True))))
    assert lenient["int('2')"] == "pass" and lenient["3"] == "wrong"


def test_lcb_execution_rows(runner):
    row = {"question_id": "3", "contest_id": "c", "difficulty": "easy", "function_name": "count", "id": "s_1",
           "code": "def count(xs: list) -> int:\n    return len(xs)", "input": "count(xs = [1, 2])", "output": "2",
           "problem_id": "77", "numsteps": "3"}
    [item] = items.read_lcb_execution([row])
    assert item.cluster == "77"
    text = BENCHMARKS["lcb_execution"].kind.prompts["azr"](item).text
    assert "return count(xs = [1, 2])" in text and text.endswith("<think>")
    assert reasons(judges.judge_outputs([(item, "2"), (item, "3"), (item, "count([1, 2])")], runner, False)) == \
        ["pass", "wrong", "error"]


def test_a_gold_that_is_no_literal_costs_its_item_alone(runner):
    broken = replace(crux("f(2)"), id="sample_1")
    for judge, answer in ((judges.judge_outputs, "{'a': [3], 'b': True}"), (judges.judge_inputs, "2")):
        found = judge([(broken, answer), (crux(), answer)], runner, False)
        assert [(verdict.ok, verdict.infra) for verdict in found] == [(False, True), (True, False)]
        assert "its output is not a literal" in found[0].detail


# ---- mathematics ----------------------------------------------------------------------------------


@pytest.mark.quick
def test_integers(monkeypatch):
    monkeypatch.setattr(judges, "has_math_verify", lambda: False)
    [item] = items.read_integers([{"id": 7, "problem": "?", "answer": "025"}])
    answers = {"25": "pass", "025": "pass", "25.0": "pass", "$25$": "pass", "x = 25": "pass", "25^\\circ": "pass",
               "25 \\text{ miles}": "pass", "26": "wrong", "2.5": "wrong", "": "wrong", "25 or 26": "wrong",
               "2, 5": "wrong", "2 5": "wrong", "2\\,5": "wrong",
               "9" * 5000: "wrong", "twenty-five": "wrong", "1/0": "wrong"}
    assert dict(zip(answers, reasons(judges.judge_integers([(item, text) for text in answers], None, False)))) == \
        answers
    [item] = items.read_integers([{"id": "0", "problem": "?", "answer": "3159.0"}])
    answers = ("3,159", "3{,}159", "3\\,159", "3,\\!159")
    assert all(verdict.ok for verdict in judges.judge_integers([(item, text) for text in answers], None, False))
    minus = items.read_integers([{"id": "0", "problem": "?", "answer": "-5"}])[0]
    assert judges.judge_integers([(minus, "\u22125")], None, False)[0].ok
    with pytest.raises(ValueError, match="2.5 is no integer"):
        items.read_integers([{"id": "0", "problem": "?", "answer": 2.5}])


@pytest.mark.slow
def test_formulas(monkeypatch):
    monkeypatch.setattr(judges, "LAST", (1.0, 8.0))
    pytest.importorskip("math_verify", reason="needs pip install 'math-verify[antlr4_13_2]'")
    problems = items.read_math500([{"unique_id": "a", "problem": "?", "answer": "\\frac{1}{2}"}]) + \
        items.read_minerva([{"idx": 0, "problem": "?", "solution": "so \\boxed{x^{2}+1}."}]) + \
        items.read_olympiad([{"id": 3, "question": "?", "final_answer": ["$(1,2)$"]}])
    half, polynomial, pair = problems
    pairs = [(half, "0.5"), (half, "\\dfrac12"), (half, "0.6"), (polynomial, "1 + x^2"), (polynomial, "x^2"),
             (pair, "(1, 2)"), (pair, "(2, 1)"), (half, ""), (half, "__import__('os')._exit(0)"),
             (half, "9^{9^{9^{9^9}}}"), (half, "{" * 2000), (half, "\\frac{1}{2}" * 1000)]
    with Executor(1, cpu_seconds=0.6, memory_mb=2048, require="weak", cached_jobs=0,
                  preload=("benchmarks.mathcheck",)) as ex:
        found = reasons(judges.judge_formulas(pairs, ex, False))
    assert found[:8] == ["pass", "pass", "wrong", "pass", "wrong", "pass", "wrong", "wrong"]
    assert all(reason != "pass" for reason in found[8:])
    [integer] = items.read_integers([{"id": 7, "problem": "?", "answer": "27"}])
    with stages.scorer(1, "weak") as ex:
        for text, ok in (("27 miles", True), ("\\mathbf{27}", True), ("\\frac{54}{2}", True), ("28 miles", False),
                         ("", False)):
            assert judges.judge_integers([(integer, text)], ex, False)[0].ok == ok, text
        [below] = items.read_math500([{"unique_id": "a", "problem": "?", "answer": "(-\\infty, 0]"}])
        answers = ("x \\le 0", "0 \\ge x", "(-\\infty,0]", "x < 0", "(-\\infty,0)")
        found = judges.judge_formulas([(below, text) for text in answers], ex, False)
    assert [verdict.ok for verdict in found] == [True, True, True, False, False]


@pytest.mark.quick
def test_golds_never_share_a_process_with_the_text_of_answers():
    class Recorder:
        def __init__(self):
            self.jobs = []

        def run(self, jobs):
            self.jobs += jobs
            return [[Outcome("ok", (None, [[("integer", 5)]])) for _ in job.inputs] for job in jobs]

        def stream(self, jobs):
            return iter(())
    recorder = Recorder()
    judges.judge_formulas([(Item("1", {"gold": "THE GOLD"}), "AN ANSWER")], recorder, False)
    reading, comparing = recorder.jobs
    assert "import parsed as f" in reading.program and reading.inputs == (("AN ANSWER",),)
    assert comparing.inputs == (("THE GOLD", (None, [[("integer", 5)]])),)


@pytest.mark.slow
def test_what_an_answer_says_comes_through_as_it_was():
    mathcheck = pytest.importorskip("benchmarks.mathcheck", reason="needs pip install 'math-verify[antlr4_13_2]'")
    import sympy
    for text in ("27", "-\\frac{3}{4}", "0.125", "x^2+1", "(1,2)", "\\{3,1,2\\}", "(-\\infty,0]", "x \\le 2", "1<x<3",
                 "\\begin{pmatrix}1\\\\x\\end{pmatrix}", "\\sqrt[3]{2}\\pi i", "f(x) = 2x", "50\\%", "\\binom{n}{2}",
                 "e^{x}", "9^{9^{9^{9}}}", "\\emptyset", "\\mathbb{R}", "\\sin x + \\log_2 y", "1+1+1",
                 "2 \\cdot 3", "(1,2) \\cup (3,4)", "10!", "\\lfloor x \\rfloor", "|x-1|", "x = 1, y = 2"):
        for expression in mathcheck.read(text):
            told = json.loads(json.dumps(mathcheck.parts(expression)))
            again = mathcheck.rebuilt(told)
            assert type(again) is type(expression) and sympy.srepr(again) == sympy.srepr(expression), text
            assert getattr(again, "_unsorted_args", ()) == getattr(expression, "_unsorted_args", ())
    for hostile in ([["made", "Symbol", 0]], [["text", "x"], ["made", "Add", 1]], [["made", "__import__", 0]],
                    [["applied", "f", 9]], [["integer", "__import__('os')"]], [["nothing"]], [], [["integer", 1]] * 2):
        with pytest.raises(Exception):
            mathcheck.rebuilt(hostile)


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
    mathcheck = pytest.importorskip("benchmarks.mathcheck", reason="needs pip install 'math-verify[antlr4_13_2]'")
    assert [mathcheck.equal(gold, mathcheck.parsed(answer)) for answer in right] == [True] * len(right)
    assert [mathcheck.equal(gold, mathcheck.parsed(answer)) for answer in wrong] == [False] * len(wrong)


# ---- the executor's part --------------------------------------------------------------------------


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
