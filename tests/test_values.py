"""Plain data: text that reads back, the wire format, equality; and the parser's refusal of everything else."""
import math
import subprocess
import sys
from pathlib import Path

import pytest

from executor import Job
from sandbox.parsing import parse_arguments, parse_literal
from sandbox.values import from_wire, same_value, show

pytestmark = pytest.mark.quick
nan, inf = math.nan, math.inf
VALUES = [
    None, True, False, 0, -1, 2**63, -(2**64), 10**4000, 0.1, -0.0, 1e300, 5e-324, nan, inf, -inf,
    1j, -1j, 1 + 2j, complex(nan, -inf), complex(-0.0, 1), complex(1, -0.0), complex(0, nan), "",
    "a'\"\\\n\0\ud800é\U0001f600", b"", b"\x00\xff'", [], [1, [2, [3]]], (), (1,), (1, (2,)),
    set(), {1, 2.5}, {"b", "a"}, {True, "x", None, (1, 2)}, frozenset(), frozenset({1}),
    {frozenset({frozenset()}), frozenset()}, {}, {1: {"a": [nan]}, (1, "b"): {2}}, {nan: nan},
    eval("[" * 50 + "]" * 50), "\ud800\udfff", {"\udbff\udc00": "\u00e9\udc00", "\U0010fc00": b""},
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_values_round_trip(value, executor):
    again = parse_literal(show(value))
    assert type(again) is type(value) and same_value(again, value)
    assert show(again) == show(value)
    assert parse_arguments(f"{show(value)}, 1")[1:] == (1,)
    (outcome,) = executor.run([Job("def f(x): return x", ((value,),))])[0]
    assert outcome.kind == "ok" and type(outcome.value) is type(value)
    assert same_value(outcome.value, value) and show(outcome.value) == show(value)


def test_sign_of_zero_survives():
    assert math.copysign(1, parse_literal(show(-0.0))) == -1
    assert math.copysign(1, from_wire(-0.0)) == -1


def test_show():
    assert show((1,)) == "(1,)"
    assert show({10, 9, 1}) == "{1, 9, 10}"
    assert show({"b": 1, "a": 2}) == "{'b': 1, 'a': 2}"
    assert show([nan, -inf]) == "[float('nan'), float('-inf')]"
    mixed = "show({'b', 'a', 1, None, (2, 'x'), frozenset({'q', 'p'}), b'z', 1.5})"
    program = f"from sandbox.values import show; print({mixed})"
    texts = {
        subprocess.check_output(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        for seed in "123"
    }
    assert len(texts) == 1
    for bad in (object(), [...], {1: int}, range(3), type("I", (int,), {})(3)):
        with pytest.raises(TypeError):
            show(bad)


@pytest.mark.parametrize(
    "text, value",
    [
        (" 1 ", 1), ("[1,\n 2]  # two", [1, 2]), ("-inf", -inf), ("float('-inf')", -inf),
        ("nan", nan), ("+1.5", 1.5), ("1-2j", 1 - 2j), ("'a' 'b'", "ab"), ("'\\d'", "\\d"),
        ("frozenset([1, 2])", frozenset({1, 2})), ("frozenset()", frozenset()),
        ("0x1F", 31), ("{1: 2,}", {1: 2}),
    ],
)
def test_parse_literal(text, value):
    assert same_value(parse_literal(text), value)


NOT_LITERALS = [
    "", "#", "...", "f()", "x", "1 + 2", "2**9", "-True", "-'a'", "[*[1]]", "{**{}}", "{[]}",
    "[i for i in []]", "f'{1}'", "set([1])", "frozenset('ab')", "float('1')", "float(x='nan')",
    "frozenset([1], [2])", "().__class__", "lambda: 1", "(x := 1)", "1 if 1 else 2", "1;2", "x = 1",
    "1\n2", "\0", "\ud800", "[" * 51 + "]" * 51, "[" * 9000, "-" * 19000 + "1", "1" + "+1j" * 6000,
    "1" * 5000, "0x" + "f" * 9000, "'" + "a" * 20_000 + "'", "__import__('os').system('false')",
    "a" + ".b" * 9000, "[x for x in " * 25 + "[]" + "]" * 25, "f" + "()" * 9000, "1j + 1",
]


@pytest.mark.parametrize("text", NOT_LITERALS, ids=range(len(NOT_LITERALS)))
def test_not_literals(text):
    with pytest.raises(ValueError):
        parse_literal(text)


def test_parse_arguments():
    assert parse_arguments("") == parse_arguments(" \n") == parse_arguments("# none") == ()
    assert parse_arguments("1, [2], # comment") == (1, [2])
    assert parse_arguments("(1, 2)") == ((1, 2),)
    assert parse_arguments("'a)', \"f(\"") == ("a)", "f(")


ATTACKS = [
    "1) or (True", "1), f(2", "1)(2", "1).__class__(", "1) if 1 else f(2", "1) #", "1)\n#", "*[1]",
    "**{}", "x=1", "1 for x in [1]", "x := 1", "1); f(2", "1)\nf(2", "1) + f(2", "lambda: 1",
    "f(1)", "1)[0](", "1) and print(", "(1", "1, ,", ",", "'", "1 \\",
]


def test_parse_arguments_attacks():
    accepted = []
    for text in ATTACKS[:-1]:
        try:
            accepted.append((text, parse_arguments(text)))
        except ValueError:
            pass
    assert accepted == []
    assert parse_arguments(ATTACKS[-1]) == (1,)  # a mere line continuation


SAME = [
    (1, 1.0), (1, 1 + 0j), (0.0, -0.0), (nan, -nan), ([nan], [nan]), ({nan}, {float("nan")}),
    ({1, 2}, frozenset({2, 1.0})), ({1: "a", 2: "b"}, {2.0: "b", 1: "a"}),
    ({nan: 1}, {float("nan"): 1}), ({(1,): {3}}, {(1.0,): {3}}), (complex(nan, 1), complex(nan, 1)),
    (10**40, 10**40), ((), ()),
]
DIFFERENT = [
    (1, True), (0, False), (0.0, False), ([1], [True]), ({1: "a"}, {True: "a"}), ({1}, {True}),
    ({(0,)}, {(False,)}), ([1], (1,)), ([], ()), ([], {}), (set(), {}), ("a", b"a"), (None, False),
    ([1, 2], [2, 1]), ("1", 1), (2**53 + 1, float(2**53)), ({nan}, {nan, float("nan")}), (nan, inf),
    ({1: 2}, {(1, 2)}), ({1: [1]}, {1: [True]}), (1j, 1), ([[]], []), ("number", ("number",)),
]


def test_same_value():
    for a, b in SAME:
        assert same_value(a, b) and same_value(b, a), (a, b)
    for a, b in DIFFERENT:
        assert not same_value(a, b) and not same_value(b, a), (a, b)
    big = [{i: [i]} for i in range(20_000)]
    assert same_value(big, list(big)) and same_value(set(range(50_000)), set(range(50_000)))

    class Equal:
        __hash__ = None

        def __eq__(self, other):
            return True

    for bad in (Equal(), [Equal()], type("I", (int,), {})(1), ..., range(2), {1: object}):
        with pytest.raises(TypeError):
            same_value(bad, 1)
