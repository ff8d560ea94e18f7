"""What the gate lets through hangs on its input alone: no random program, and every honest one."""
import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import random_programs
import tasks
from executor import HASH_SEEDS, Executor, Job
from sandbox import determinism, parsing
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

def table(text: str) -> dict[str, str]:
    """{name: program}: every program stands behind a line with a # and its name."""
    parts = [part.partition("\n") for part in text.strip().removeprefix("# ").split("\n# ")]
    return {name: program for name, _, program in parts}


REFUSED = table(r"""
# hash
def f(x):
    return hash('a')
# hash as a value
def f(x):
    return sorted('ab', key=hash)
# bound in another function
def g(hash):
    return 0
def f(x):
    return hash(str(x)) % 2
# bound in a class
class A:
    hash = 0
def f(x):
    return hash(str(x)) % 2
# bound in a comprehension
def f(x):
    a = [id for id in 'ab']
    return id(a) % 2
# bound where it never runs
if 0:
    hash = 0
def f(x):
    return hash(str(x)) % 2
# deleted again
hash = 0
del hash
def f(x):
    return hash(str(x)) % 2
# bound by a handler, which unbinds it
try:
    1 / 0
except ZeroDivisionError as hash:
    pass
def f(x):
    return hash(str(x)) % 2
# used before it is bound
a = hash('a')
def hash(x):
    return 0
def f(x):
    return a
# used by what decorates it
def g(h):
    return h(0)
@g
def id(x):
    return id(g)
def f(x):
    return id
# a default
def f(x, h=lambda y, hash=hash: hash(y)):
    return h('a')
# in a class before it is bound
class A:
    a = hash('a')
    hash = 0
def f(x):
    return A.a
# global in a function
def g():
    global hash
    hash = 0
def f(x):
    return hash(str(x)) % 2
# type parameter or annotation
def f(x: hash('a')):
    return 1
# eval
def f(x):
    return eval('1')
# vars
def f(x):
    return vars()
# getattr of a text
def f(x):
    return getattr(x, 're' + 'al')
# getattr of a private name
def f(x):
    return getattr(x, '__hash__')()
# getattr handed on
def f(x):
    return list(map(getattr, [x], ['real']))
# attrgetter
import operator as o
def f(x):
    return o.attrgetter('real.__hash__')(x)()
# methodcaller under a name
from operator import methodcaller as m
def f(x):
    return m('__ha' + 'sh__')(x)
# star import
from operator import *
def f(x):
    return attrgetter(str(x))(x)
# format
def f(x):
    return '{0.__reduce__}'.format(x)
# match by attribute
def f(x):
    match x:
        case int(__hash__=h):
            return h()
# match by a text
class A:
    __match_args__ = ('__ha' + 'sh__',)
def f(x):
    return 1
# module of a module
import textwrap
def f(x):
    return textwrap.re.sys
# private name of a module
import collections
def f(x):
    return collections._sys
# module as a value
import math
def f(x):
    return [math][0].pi
# module changed
import math
math.pi = 3
def f(x):
    return x
# wraps copies names
import functools
def f(x):
    return functools.wraps(f)(f, assigned=['__globals__'])
# frame
def f(x):
    return (i for i in 'ab').gi_frame.f_lineno
# traceback
def f(x):
    try:
        1 / 0
    except ArithmeticError as e:
        return e.__traceback__
# code
def f(x):
    return f.__code__
# globals of a function
def f(x):
    return f.__globals__
# all classes
def f(x):
    return object.__subclasses__()
# dict
def f(x):
    return str.__dict__
# private attribute
def f(x):
    return x._hidden
# size
def f(x):
    return x.__sizeof__()
# samples
from statistics import NormalDist as N
def f(x):
    return N().samples(1)
# annotations as code
import typing
def f(x):
    return typing.get_type_hints(f)
# fields as code
import dataclasses
def f(x):
    return dataclasses.make_dataclass('A', ['a'])
# class of texts
def f(x):
    return type('A', (), {'__del__': 0})
# metaclass
class M(type):
    pass
class A(metaclass=M):
    pass
def f(x):
    return 1
# memory
def f(x):
    try:
        return len('a' * 2**30)
    except MemoryError:
        return 0
# stack
def f(x):
    try:
        return f(x)
    except RecursionError:
        return 0
# memory manager
class A:
    def __del__(self):
        pass
def f(x):
    return 1
# memo of a copy
import copy
def f(x):
    memo = {}
    copy.deepcopy([], memo)
    return list(memo)
# file
def f(x):
    return open('/proc/self/stat').read()
""")


@pytest.mark.parametrize("program", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_before_it_runs(program):
    facts = parsing.inspect_program(program)
    assert facts["reason"] == "not deterministic" and len(facts["why"]) > 10


HONEST = table(r"""
# parameter
def f(hash, id=2):
    return hash * id
# own function
def hash(x):
    return x % 7
def f(x):
    return hash(x)
# own function, recursive
def hash(x):
    return hash(x - 1) + 1 if x else 0
def f(x):
    return hash(x)
# own class, below
def f(x):
    return id(x).n
class id:
    def __init__(self, n):
        self.n = n
# free variable
def f(x):
    input = [x]
    def g():
        return [input[0] for _ in input]
    return g()
# loop
def f(x):
    for id in range(3):
        x += id
    return x
# own private names
class A:
    def __init__(self):
        self._n, self.__m = 1, 2
    def _get(self):
        return self._n + self.__m
def f(x):
    return A()._get()
# slots
class A:
    __slots__ = ('_n',)
    def __init__(self, n):
        self._n = n
def f(x):
    return A(x)._n
# super
class A:
    def __init__(self, n):
        self.n = n
class B(A):
    def __init__(self, n):
        super().__init__(n + 1)
def f(x):
    return B(x).n
# special methods
class V:
    def __init__(self, n):
        self.n = n
    def __add__(self, o):
        return V(self.n + o.n)
    def __repr__(self):
        return f'V({self.n})'
def f(x):
    return str(V(x) + V(2))
# property
class A:
    @property
    def n(self):
        return 3
    @staticmethod
    def m():
        return 4
def f(x):
    return A().n + A.m()
# named tuple
from collections import namedtuple
P = namedtuple('P', 'a b')
def f(x):
    return P(x, 2)._replace(a=5)._asdict()
# dataclass
from dataclasses import dataclass, field
@dataclass
class A:
    id: int = 0
@dataclass(order=True)
class B(A):
    a: list = field(default_factory=list)
def f(x):
    return repr(B(x, [1]))
# enum
import enum
class E(enum.Enum):
    A = 1
    B = 2
def f(x):
    return [e.name for e in E]
# abstract class
from abc import ABC, abstractmethod
class A(ABC):
    @abstractmethod
    def m(self): ...
class B(A):
    def m(self):
        return 1
def f(x):
    return B().m()
# wraps
import functools
def d(g):
    @functools.wraps(g)
    def h(*a):
        return g(*a) + 1
    return h
@d
def g(x):
    return x
def f(x):
    return g(x), g.__name__
# cache
from functools import lru_cache
@lru_cache(maxsize=None)
def g(n):
    return n if n < 2 else g(n - 1) + g(n - 2)
def f(x):
    return g(20)
# names as text
import operator as o
def f(x):
    a = getattr(x, 'real'), hasattr(x, '__iter__'), o.attrgetter('real')(x)
    return a, o.itemgetter(0)([1]), o.methodcaller('upper')('a')
# star import
from math import *
from operator import *
def f(x):
    return floor(pi) + add(x, 2)
# module in another scope
import string
def f(x):
    string = 'abc'
    return string.upper()
# submodule
import collections.abc
def f(x):
    return isinstance([], collections.abc.Sequence)
# copies
import copy
def f(x):
    a = [[x]]
    b = copy.deepcopy(a)
    b[0][0] = 9
    return a, b, copy.copy(b)
# formats
def f(x):
    return '{:>4.1f}|{0}'.replace('0', '') .format(x, x), f'{x:.2f}', '%d. %s' % (x, x)
# match
def f(x):
    match [x, {'a': 1}]:
        case [int(n), {'a': m}]:
            return n + m
# generator
def g(n):
    for i in range(n):
        yield i
def f(x):
    return list(g(4)), sum(g(3))
# type
def f(x):
    return type(x).__name__, type(x)(3), x.__class__.__name__, type(x) == int
# set in order
def f(x):
    return sorted(set('hello')), len({'a', 'b'}), {'a', 'b'} & set('abc'), 'a' in {'a', x}
# set of numbers
def f(x):
    return list({3, 1, 2, x})
# handlers
def f(x):
    try:
        return int('a')
    except Exception as error:
        return str(error)
    finally:
        x += 1
# recursion
def f(x):
    return x if x > 900 else f(x + 1)
# default of a name that is a builtin
def f(x, max=max):
    return max(x, 2)
# type variables
from typing import Generic, TypeVar
T = TypeVar('T')
class A(Generic[T]):
    def g(self, x: 'T') -> T:
        return x
def f(x):
    return A().g(x)
# defaultdict
from collections import defaultdict
def f(x):
    d = defaultdict(lambda: [0])
    d[x].append(1)
    return dict(d)
""")


def test_honest_programs_pass(ex):
    for name, gated in zip(HONEST, gate(list(HONEST.values()), ex), strict=True):
        assert gated.reason == "valid", (name, gated.why)


def test_what_the_gate_says_is_a_sentence(ex):
    [gated] = gate(["import math\n" + USES_HASH], ex)
    assert (gated.reason, gated.why) == (
        "not deterministic", "hash is an address or a hash, which differ from process to process")


LONG = {
    "lambdas": lambda n: "lambda: " * n + "hash", "brackets": lambda n: "[" * (n // 4) + "hash" + "]" * (n // 4),
    "attributes": lambda n: "x" + ".a" * n, "calls": lambda n: "x" + "(1)" * n, "sum": lambda n: "x" + " + y" * n,
    "names": lambda n: ", ".join(f"a{i}" for i in range(n)),
    "parameters": lambda n: ", ".join(["lambda hash: id"] * n),
    "format": lambda n: "'" + "{0.a}" * n + "'.format(x)", "open format": lambda n: "'" + "{" * n + "'.format(x)",
    "f-string": lambda n: "f'" + "{x.a}" * n + "'",
    "imports": lambda n: "\n".join(["0", *(f"import math as m{i}\nm{i}.pi" for i in range(n))]),
    "functions": lambda n: "\n".join(["0", *(f"def g{i}(hash):\n    id = hash" for i in range(n))]),
    "handlers": lambda n: "0\ntry: 0" + "".join(f"\nexcept A{i} as hash: 0" for i in range(n))}


@pytest.mark.parametrize("make", LONG.values(), ids=LONG)
def test_judging_takes_steps_in_proportion_to_the_text(make):
    def steps(text: str) -> int:
        counted = itertools.count()
        tree = parsing.parse_program("def f(x): pass\nv = " + text)
        sys.setprofile(lambda *event: next(counted))
        try:
            determinism.judge(tree)
        except determinism.Refused:
            pass
        finally:
            sys.setprofile(None)
        return next(counted)
    assert steps(make(200)) < 2.3 * steps(make(100)) + 500


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
    assert [job.seeds for job in seen if job.entry == "f"][-1] == 8


DEEP = """
def depth(n):
    try:
        return depth(n + 1)
    except BaseException:
        return n
def f(x):
    return depth(0)"""
LARGE = """
def f(x):
    a = []
    try:
        while True:
            a.append(bytearray(10**6))
    except BaseException:
        return len(a)"""


def test_where_memory_and_stack_end_differs_between_the_processes(ex):
    outcomes = ex.run([Job(program, ((1,),), seeds=2) for program in (DEEP, LARGE)])
    assert all(outcome.kind in ("nondeterministic", "timeout") for (outcome,) in outcomes)


# ----------------------------------------------------------------------------------------------------------------
# Unfair coins: a set's order shows, but most hash seeds agree

COINS = """
return str(frozenset([1, 'b']))
return list(set('abcdefg'))[0] == 'a'
s = {'ab', 'cd', 'ef', 3}; s.pop(); return 'ab' in s
return ''.join({c + c for c in 'abcde'}).startswith('bb')
return min({'ab', 'cd', 'ef', 'ghi', 'jk'}, key=len) == 'ab'
return sorted({'ab', 'cd', 'ef', 'gh', 'ijk'}, key=len)[2] == 'cd'
return f"{set('abcdefg')}".startswith("{'a'")
return next(iter({'a', 'b', 'c', 'd', 'e', 'f'})) == 'd'
return list({'a': 1, 'b': 2, 'c': 3, 'd': 4}.keys() & set('abcz'))[0] == 'a'
a, *_, b = set('vwxyz'); return (a, b) == ('v', 'w') or a == 'z'
return '%s' % set('abcdefg') < "{'b'"
return '{}'.format([set('abcdefg'), 1])[3] == 'c'
return list(map(list, [set('abcdefg')]))[0][0] == 'b'
return [a == 'g' for a, *b in [set('abcdefg')]]
r = []; r += set('abcdefg'); return r[-1] == 'd'
return {c: i for i, c in enumerate(set('abcdefg'))}['c'] == 4
"""
PLAIN_SETS = """
return len({'a', 'b', x})
return 'a' in {'a', 'bb'}, {'a'} <= {'a', 'b'}
return sorted({'b', 'a', 'c'}), sorted({w: 1 for w in {'b', 'a'}}.items())
return sum(len(w) for w in {'a', 'bb', 'ccc'}), sum({1, 2, x})
return min({'b', 'a'}), max({'a', 'bb', 'cc'}, key=lambda w: (len(w), w))
return sorted({'a', 'b'} | {'c'}), {'a', 'b'} & {'b'}, {'a'} ^ {'b', 'c'}
n = 0; n += sum(1 for w in set('hello') if w > 'h'); return n
return list({5, 30, 2, 9}), str({30, 5, 9}), {30, 5}.pop(), f'{ {7, 300, 8} }'
return list({(1, 2), (3, 4), (0, 9)}), list({1.5, 2, True}), str(frozenset([frozenset([8, 1]), frozenset([3])]))
return {w.upper() for w in {'a', 'b', 'c'}}
return set(list({'a', 'b', 'c'})), frozenset({'a', 'b'}), [{'b', 'a'}, {1: {'c', 'd'}}]
return {w: len(w) for w in {'a', 'bb'}}, dict.fromkeys({'a', 'b'})
s = set('hello'); s.remove('h'); s.discard('q'); s.update('xy'); return len(s), s
s = {'a'}; t = s; s |= {'b'}; s.update(['c'], {'d'}); return t
s = {'a', 'b', 'c'}; n = [s.pop(), s.pop(), s.pop()]; return sorted(n), s, {'z'}.pop()
return all(w.isalpha() for w in {'a', 'b'}), any(map(str.isupper, {'a', 'b'}))
return len(str({'a', 'b', 'c'})), len(f"{set('abc')!r}"), len('%s' % {'a', 'b'})
return sorted(list(s)[0] for s in map(set, 'abc')), sorted(zip(*[{'a'}, {'b'}]))
return {'a', 'b'} == set(['b', 'a']), {'a'}.isdisjoint({'b', 'c'}), [{'a', 'b'}].index({'b', 'a'})
return g({'a', 'b'}, {'b', 'c'}), A({'a', 'b'}).extend({'c', 'd'})
"""
OWN = """
class A:
    def __init__(self, items):
        self.items = items
    def extend(self, more):
        self.items = self.items | more
        return self.items
def g(a, b):
    return a - b, len(a | b)
"""


def programs_of(lines: str) -> list[str]:
    return [OWN * ("g(" in line) + "def f(x):\n    " + line for line in lines.strip().split("\n")]


def test_unfair_coins_are_refused_whatever_the_hash_seeds_say(monkeypatch):
    monkeypatch.setattr(tasks, "MANY_SEEDS", 1)
    for seed in range(3):
        with Executor(workers=1, cpu_seconds=0.5, require="weak", seed=seed) as running:
            for program, gated in zip(programs_of(COINS), gate(programs_of(COINS), running), strict=True):
                assert (gated.reason, gated.why) == (
                    "not deterministic", "its value changes with the order of a set: sort it"), (seed, program)


def test_sets_whose_order_does_not_show_pass(ex):
    for program, gated in zip(programs_of(PLAIN_SETS), gate(programs_of(PLAIN_SETS), ex), strict=True):
        assert gated.reason == "valid", (program, gated.why)


def test_the_order_of_a_set_shows_in_an_input_too_and_under_names_that_the_helpers_have(ex, monkeypatch):
    monkeypatch.setattr(tasks, "MANY_SEEDS", 1)
    shadowed = ("list = map = str = len\ndef flip(x):\n    return [w for w in x][0]\n"
                "def f(x):\n    return flip(x) == 'a'")
    first = "def f(x):\n    return [*x][0] == 'a'"
    proposals = [(ABDUCTION, response(("python", program), ("input", text)), None) for program in (shadowed, first)
                 for text in ("{'a', 'b', 'c', 'd'}", "{1, 2, 3}", "'abc'")]
    assert [gated.reason for gated in tasks.gate(proposals, ex)] == ["not deterministic", "valid", "valid"] * 2
    for second, reason in (("{'b', 'a', 'c'}", "not deterministic"), ("{2, 3}", "valid")):  # of several inputs, one
        text = response(("input", "'abc'"), ("input", second), ("message", "m"))
        reference = Task("deduction", first, (("a",),), (True,))
        assert tasks.gate([(tasks.INDUCTION, text, reference)], ex, n_inputs=2)[0].reason == reason


def test_a_run_in_another_order_that_fails_says_nothing(ex):
    programs = ["def f(x):\n    for w in {'a', 'b', 'c'}:\n        y = w\n    return g({'a', 'b'})\ndef g(s):\n"
                "    for t in [s, {'c', 'd'}]:\n        s = s | t\n    return len(s)",
                "def list(s):\n    return s | {'c'}\ndef f(x):\n    return list({'a', 'b'})",
                "def f(x):\n    return {'a'} | h(max={'b', 'c'})\ndef h(max):\n    return max | {'d'}"]
    assert [gated.reason for gated in gate(programs, ex)] == ["valid"] * 3


# ----------------------------------------------------------------------------------------------------------------
# Programs that are random by construction

HONEST_SETS = [
    "def f(x):\n    return sorted({str(i) for i in range(9)}, reverse=True)",
    "def f(x):\n    return list(set([3, 1, 2, 3]))",
    "def f(x):\n    return {w: len(w) for w in ['a', 'bb']}.keys() & {'a'}",
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
