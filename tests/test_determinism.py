"""What the gate lets through hangs on its input alone: no program that is random by construction, and every honest one."""
import itertools
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import random_programs
import tasks
from executor import HASH_SEEDS, Executor, Job
from sandbox import parsing
from tasks import ABDUCTION, Task

USES_HASH = "def f(x):\n    return hash(str(x)) % 2"


@pytest.fixture(scope="module")
def ex():
    with Executor(workers=2, cpu_seconds=0.5, cached_jobs=0, require="weak") as running:
        yield running


def response(*blocks: tuple[str, str]) -> str:
    return "</think><answer>" + "\n".join(tasks.fence(*block) for block in blocks) + "</answer>"


def gate(programs: list[str], executor: Executor) -> list[tasks.Gated]:
    proposals = [(ABDUCTION, response(("python", program), ("input", "1")), None) for program in programs]
    return tasks.gate(proposals, executor)


# ----------------------------------------------------------------------------------------------------------------
# What is refused, and what is not

# For every program here the same without the randomness is honest.
REFUSED = [
    ("hash", "def f(x):\n    return hash('a')"), ("hash as a value", "def f(x):\n    return sorted('ab', key=hash)"),
    ("bound in another function", "def g(hash):\n    return 0\n" + USES_HASH),
    ("bound in a class", "class A:\n    hash = 0\n" + USES_HASH),
    ("bound in a comprehension", "def f(x):\n    a = [id for id in 'ab']\n    return id(a) % 2"),
    ("bound where it never runs", "if 0:\n    hash = 0\n" + USES_HASH),
    ("deleted again", "hash = 0\ndel hash\n" + USES_HASH),
    ("bound by a handler, which unbinds it", "try:\n    1 / 0\nexcept ZeroDivisionError as hash:\n    pass\n" + USES_HASH),
    ("used before it is bound", "a = hash('a')\ndef hash(x):\n    return 0\ndef f(x):\n    return a"),
    ("used by what decorates it", "def g(h):\n    return h(0)\n@g\ndef id(x):\n    return id(g)\ndef f(x):\n    return id"),
    ("a default", "def f(x, h=lambda y, hash=hash: hash(y)):\n    return h('a')"),
    ("in a class before it is bound", "class A:\n    a = hash('a')\n    hash = 0\ndef f(x):\n    return A.a"),
    ("global in a function", "def g():\n    global hash\n    hash = 0\n" + USES_HASH),
    ("type parameter or annotation", "def f(x: hash('a')):\n    return 1"),
    ("eval", "def f(x):\n    return eval('1')"), ("vars", "def f(x):\n    return vars()"),
    ("getattr of a text", "def f(x):\n    return getattr(x, 're' + 'al')"),
    ("getattr of a private name", "def f(x):\n    return getattr(x, '__hash__')()"),
    ("getattr handed on", "def f(x):\n    return list(map(getattr, [x], ['real']))"),
    ("attrgetter", "import operator as o\ndef f(x):\n    return o.attrgetter('real.__hash__')(x)()"),
    ("methodcaller under a name", "from operator import methodcaller as m\ndef f(x):\n    return m('__ha' + 'sh__')(x)"),
    ("star import", "from operator import *\ndef f(x):\n    return attrgetter(str(x))(x)"),
    ("format", "def f(x):\n    return '{0.__reduce__}'.format(x)"),
    ("match by attribute", "def f(x):\n    match x:\n        case int(__hash__=h):\n            return h()"),
    ("match by a text", "class A:\n    __match_args__ = ('__ha' + 'sh__',)\ndef f(x):\n    return 1"),
    ("module of a module", "import textwrap\ndef f(x):\n    return textwrap.re.sys"),
    ("private name of a module", "import collections\ndef f(x):\n    return collections._sys"),
    ("module as a value", "import math\ndef f(x):\n    return [math][0].pi"),
    ("module changed", "import math\nmath.pi = 3\ndef f(x):\n    return x"),
    ("wraps copies names", "import functools\ndef f(x):\n    return functools.wraps(f)(f, assigned=['__globals__'])"),
    ("frame", "def f(x):\n    return (i for i in 'ab').gi_frame.f_lineno"),
    ("traceback", "def f(x):\n    try:\n        1 / 0\n    except ArithmeticError as e:\n        return e.__traceback__"),
    ("code", "def f(x):\n    return f.__code__"), ("globals of a function", "def f(x):\n    return f.__globals__"),
    ("all classes", "def f(x):\n    return object.__subclasses__()"), ("dict", "def f(x):\n    return str.__dict__"),
    ("private attribute", "def f(x):\n    return x._hidden"), ("size", "def f(x):\n    return x.__sizeof__()"),
    ("samples", "from statistics import NormalDist as N\ndef f(x):\n    return N().samples(1)"),
    ("annotations as code", "import typing\ndef f(x):\n    return typing.get_type_hints(f)"),
    ("fields as code", "import dataclasses\ndef f(x):\n    return dataclasses.make_dataclass('A', ['a'])"),
    ("class of texts", "def f(x):\n    return type('A', (), {'__del__': 0})"),
    ("metaclass", "class M(type):\n    pass\nclass A(metaclass=M):\n    pass\ndef f(x):\n    return 1"),
    ("memory", "def f(x):\n    try:\n        return len('a' * 2**30)\n    except MemoryError:\n        return 0"),
    ("stack", "def f(x):\n    try:\n        return f(x)\n    except RecursionError:\n        return 0"),
    ("memory manager", "class A:\n    def __del__(self):\n        pass\ndef f(x):\n    return 1"),
    ("memo of a copy", "import copy\ndef f(x):\n    memo = {}\n    copy.deepcopy([], memo)\n    return list(memo)"),
    ("file", "def f(x):\n    return open('/proc/self/stat').read()"),
]


@pytest.mark.parametrize("program", [program for _, program in REFUSED], ids=[name for name, _ in REFUSED])
def test_what_is_refused_before_it_runs(program):
    facts = parsing.inspect_program(program)
    assert facts["reason"] == "not deterministic" and len(facts["why"]) > 10


HONEST = {
    "parameter": "def f(hash, id=2):\n    return hash * id",
    "own function": "def hash(x):\n    return x % 7\ndef f(x):\n    return hash(x)",
    "own function, recursive": "def hash(x):\n    return hash(x - 1) + 1 if x else 0\ndef f(x):\n    return hash(x)",
    "own class, below": "def f(x):\n    return id(x).n\nclass id:\n    def __init__(self, n):\n        self.n = n",
    "free variable": "def f(x):\n    input = [x]\n    def g():\n        return [input[0] for _ in input]\n    return g()",
    "loop": "def f(x):\n    for id in range(3):\n        x += id\n    return x",
    "own private names": "class A:\n    def __init__(self):\n        self._n, self.__m = 1, 2\n    def _get(self):\n"
                         "        return self._n + self.__m\ndef f(x):\n    return A()._get()",
    "slots": "class A:\n    __slots__ = ('_n',)\n    def __init__(self, n):\n        self._n = n\ndef f(x):\n    return A(x)._n",
    "super": "class A:\n    def __init__(self, n):\n        self.n = n\nclass B(A):\n    def __init__(self, n):\n"
             "        super().__init__(n + 1)\ndef f(x):\n    return B(x).n",
    "special methods": "class V:\n    def __init__(self, n):\n        self.n = n\n    def __add__(self, o):\n        return V("
                       "self.n + o.n)\n    def __repr__(self):\n        return f'V({self.n})'\ndef f(x):\n    return str(V(x) "
                       "+ V(2))",
    "property": "class A:\n    @property\n    def n(self):\n        return 3\n    @staticmethod\n    def m():\n        return 4\n"
                "def f(x):\n    return A().n + A.m()",
    "named tuple": "from collections import namedtuple\nP = namedtuple('P', 'a b')\ndef f(x):\n    return P(x, 2)._replace("
                   "a=5)._asdict()",
    "dataclass": "from dataclasses import dataclass, field\n@dataclass\nclass A:\n    id: int = 0\n@dataclass(order=True)\n"
                 "class B(A):\n    a: list = field(default_factory=list)\ndef f(x):\n    return repr(B(x, [1]))",
    "enum": "import enum\nclass E(enum.Enum):\n    A = 1\n    B = 2\ndef f(x):\n    return [e.name for e in E]",
    "abstract class": "from abc import ABC, abstractmethod\nclass A(ABC):\n    @abstractmethod\n    def m(self): ...\nclass B("
                      "A):\n    def m(self):\n        return 1\ndef f(x):\n    return B().m()",
    "wraps": "import functools\ndef d(g):\n    @functools.wraps(g)\n    def h(*a):\n        return g(*a) + 1\n    return h\n"
             "@d\ndef g(x):\n    return x\ndef f(x):\n    return g(x), g.__name__",
    "cache": "from functools import lru_cache\n@lru_cache(maxsize=None)\ndef g(n):\n    return n if n < 2 else g(n - 1) + g("
             "n - 2)\ndef f(x):\n    return g(20)",
    "names as text": "import operator as o\ndef f(x):\n    return getattr(x, 'real'), hasattr(x, '__iter__'), "
                     "o.attrgetter('real')(x), o.itemgetter(0)([1]), o.methodcaller('upper')('a')",
    "star import": "from math import *\nfrom operator import *\ndef f(x):\n    return floor(pi) + add(x, 2)",
    "module in another scope": "import string\ndef f(x):\n    string = 'abc'\n    return string.upper()",
    "submodule": "import collections.abc\ndef f(x):\n    return isinstance([], collections.abc.Sequence)",
    "copies": "import copy\ndef f(x):\n    a = [[x]]\n    b = copy.deepcopy(a)\n    b[0][0] = 9\n    return a, b, copy.copy(b)",
    "formats": "def f(x):\n    return '{:>4.1f}|{0}'.replace('0', '') .format(x, x), f'{x:.2f}', '%d. %s' % (x, x)",
    "match": "def f(x):\n    match [x, {'a': 1}]:\n        case [int(n), {'a': m}]:\n            return n + m",
    "generator": "def g(n):\n    for i in range(n):\n        yield i\ndef f(x):\n    return list(g(4)), sum(g(3))",
    "type": "def f(x):\n    return type(x).__name__, type(x)(3), x.__class__.__name__, type(x) == int",
    "set in order": "def f(x):\n    return sorted(set('hello')), len({'a', 'b'}), {'a', 'b'} & set('abc'), 'a' in {'a', x}",
    "set of numbers": "def f(x):\n    return list({3, 1, 2, x})",
    "handlers": "def f(x):\n    try:\n        return int('a')\n    except Exception as error:\n        return str(error)\n"
                "    finally:\n        x += 1",
    "recursion": "def f(x):\n    return x if x > 900 else f(x + 1)",
    "default of a name that is a builtin": "def f(x, max=max):\n    return max(x, 2)",
    "type variables": "from typing import Generic, TypeVar\nT = TypeVar('T')\nclass A(Generic[T]):\n    def g(self, x: 'T') -> "
                      "T:\n        return x\ndef f(x):\n    return A().g(x)",
    "defaultdict": "from collections import defaultdict\ndef f(x):\n    d = defaultdict(lambda: [0])\n    d[x].append(1)\n"
                   "    return dict(d)",
}


def test_honest_programs_pass(ex):
    for name, gated in zip(HONEST, gate(list(HONEST.values()), ex), strict=True):
        assert gated.reason == "valid", (name, gated.why)


def test_what_the_gate_says_is_a_sentence(ex):
    [gated] = gate(["import math\n" + USES_HASH], ex)
    assert (gated.reason, gated.why) == (
        "not deterministic", "hash is an address or a hash, which differ from process to process")


@pytest.mark.parametrize("text", [
    "lambda: " * 300 + "hash", "[" * 90 + "hash" + "]" * 90, "x" + ".a" * 20_000, "x" + "(1)" * 900, "x" + " + y" * 900,
    ", ".join(f"a{i}" for i in range(20_000)), ", ".join(["lambda hash: id"] * 8_000), "'" + "{0.a}" * 20_000 + "'.format(x)",
    "f'" + "{x.a}" * 9_000 + "'", "\n".join(["0", *(f"import math as m{i}\nm{i}.pi" for i in range(5_000))]),
    "\n".join(["0", *(f"def g{i}(hash):\n    id = hash\n    return hash" for i in range(8_000))])],
    ids=lambda text: text[:20])
def test_judging_takes_time_in_proportion_to_the_text(text):
    def seconds(text: str) -> float:
        start = time.process_time()
        parsing.inspect_program("def f(x): pass\nv = " + text)
        return time.process_time() - start
    assert seconds(text) < 5  # at most 50 microseconds a character here; in a square it would be minutes


# ----------------------------------------------------------------------------------------------------------------
# Hash seeds

def seeds_of(executor: Executor, program: str, seeds: int) -> list[int]:
    return executor.seeds_of(Job(program, (), seeds=seeds))


def test_hash_seeds_are_drawn_from_the_seed_and_the_program(ex):
    programs = [f"def f(x):\n    return {i}" for i in range(50)]
    with Executor(workers=1, require="weak", seed=0) as same, Executor(workers=1, require="weak", seed=7) as other:
        assert ex.options[0] == same.options[0] and not set(ex.options[0]) & set(other.options[0])
        for program in programs:
            assert seeds_of(ex, program, 8) == seeds_of(same, program, 8)
        assert any(seeds_of(ex, program, 2) != seeds_of(other, program, 2) for program in programs)
    drawn = [seeds_of(ex, program, 2) for program in programs]
    assert {number for seeds in drawn for number in seeds} == set(range(HASH_SEEDS))
    assert all(len(set(seeds_of(ex, program, 8))) == 8 for program in programs)
    # Verdicts on answers come from the first, which the gate always asks, too.
    assert all(seeds[0] == 0 for seeds in drawn) and seeds_of(ex, programs[0], 1) == [0]


def test_programs_run_under_the_hash_seeds_of_their_executor():
    program = "def f():\n    return [*{'a', 'b', 'c', 'd', 'e'}, hash('a')]"

    def value(seed: int, workers: int = 1):
        with Executor(workers=workers, require="weak", seed=seed) as running:
            return running.run([Job(program, ((),))])[0][0].value
    assert value(1) == value(1, workers=2) != value(2)


def test_more_processes_judge_where_order_or_addresses_can_show(ex, monkeypatch):
    programs = {"def f(x):\n    return x + 1": 2, "def f(x):\n    return sorted(set('abc'))": 8,
                "def f(x):\n    return [str(lambda: 0)] and 1": 8, "def f(x):\n    return list({1: 2}.keys() - [x])": 8,
                "def f(x):\n    return sorted('ab', key=lambda y: y)": 2, "def f(x):\n    try:\n        return 1 / x\n"
                "    except:\n        return 0": 8, "def f(x):\n    return x in {1, 2}": 2}
    seen = []
    monkeypatch.setattr(ex, "run", lambda jobs, run=ex.run: seen.extend(jobs) or run(jobs))
    gate(list(programs), ex)
    assert {job.program: job.seeds for job in seen if job.program in programs} == programs
    tasks.gate([(ABDUCTION, response(("python", "def f(x):\n    return 1"), ("input", "[{2: ({3},)}]")), None)], ex)
    assert seen[-1].seeds == 8


def test_where_memory_and_stack_end_differs_between_the_processes(ex):
    deep = "def f(x):\n    return depth(0)\ndef depth(n):\n    try:\n        return depth(n + 1)\n    except BaseException:\n" \
           "        return n"
    large = "def f(x):\n    a = []\n    try:\n        while True:\n            a.append(bytearray(10**6))\n    except BaseException:\n" \
            "        return len(a)"
    assert [outcomes[0].kind for outcomes in ex.run([Job(deep, ((1,),), seeds=2), Job(large, ((1,),), seeds=2)])] == \
        ["nondeterministic"] * 2


# ----------------------------------------------------------------------------------------------------------------
# Programs that are random by construction

HONEST_SETS = [
    "def f(x):\n    return sorted({str(i) for i in range(9)}, reverse=True)",
    "def f(x):\n    return list(set([3, 1, 2, 3]))", "def f(x):\n    return {w: len(w) for w in ['a', 'bb']}.keys() & {'a'}",
    "def f(x):\n    seen = set()\n    return [w for w in 'hello' if not (w in seen or seen.add(w))]",
    "def f(x):\n    return max(set('hello'), key=lambda c: ('hello'.count(c), c))",
    "def f(x):\n    return ''.join(sorted(set('hello') - set('world')))"]


def check_the_gate(executor: Executor, count: int, trials: int, seed: int) -> None:
    """Of `count` random programs at most one in 200 is let through, and the true input of all that is, honest or not,
    is judged right in every trial."""
    programs = list(itertools.islice(random_programs.draw(seed), count))
    gated = gate(programs + HONEST_SETS, executor)
    assert [result.reason for result in gated[count:]] == ["valid"] * len(HONEST_SETS)
    passed = [program for program, result in zip(programs, gated) if result.task]
    assert len(passed) <= count / 200, "\n\n".join(passed)
    accepted: list[Task] = [result.task for result in gated if result.task]
    for _ in range(trials):
        verdicts = tasks.verify([(task, response(("input", "1"))) for task in accepted], executor)
        assert all(verdict.correct for verdict in verdicts)


def test_two_hundred_random_programs(ex):
    check_the_gate(ex, 200, 20, seed=1)


@pytest.mark.slow
def test_two_thousand_random_programs(ex):
    check_the_gate(ex, 2_000, 100, seed=2)


@pytest.mark.slow
def test_verdicts_are_the_same_in_two_runs():
    programs = list(itertools.islice(random_programs.draw(3), 300)) + HONEST_SETS

    def reasons(workers: int) -> list[str]:
        with Executor(workers=workers, cpu_seconds=0.5, require="weak", seed=11) as running:
            return [result.reason for result in gate(programs, running)]
    assert reasons(2) == reasons(1)
