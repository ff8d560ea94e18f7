"""
Our judges against the official scorers on answers of our own wording: right, wrong and odd programs, literals and
formulas. verdicts.jsonl has both verdicts on each and, where they differ, why.

The official verdicts were made by running the official code, none of which is here: evalplus 0.3.1 (sanitize and
untrusted_check, with find_zero as mended after that release), LiveCodeBench's runner at 28fef95 (as packaged by
nvidia-livecodebench 26.3, its stand-in for stdin updated), CRUXEval's postprocessing and assertion, and the answer
extraction and strip_string of AZR's evaluation (simpleRL's) with math-verify 0.7.0.
"""
import json
from pathlib import Path

import pytest

from benchmarks import items, judges, stages
from benchmarks.items import Item
from benchmarks.suite import BENCHMARKS
from toys import contest_row

ROWS = [json.loads(line) for line in (Path(__file__).parent / "verdicts.jsonl").open(encoding="utf-8")]

FUNCTIONS = {  # name: (prompt, canonical body, base inputs, plus inputs, tolerance)
    "double": ('def double(x):\n    """Twice x."""\n', "    return 2 * x\n", [[1], [5]], [[0], [-3]], 0),
    "mean": ('def mean(xs):\n    """Their mean."""\n', "    return sum(xs) / len(xs)\n", [[[1, 2]], [[3]]],
             [[[0.1, 0.2, 0.3]]], 0),
    "halves": ('def halves(xs):\n    """Half of each."""\n', "    return [x / 2 for x in xs]\n", [[[1, 2]]],
               [[[3, 1]], [[]]], 0),
    "vowels": ('def vowels(s):\n    """How often each vowel occurs."""\n',
               "    return {c: s.count(c) for c in 'aeiou' if c in s}\n", [["banana"], [""]], [["queue"]], 0),
    "ends": ('def ends(xs):\n    """The first and the last."""\n', "    return (xs[0], xs[-1])\n", [[[1, 2, 3]]],
             [[[4]]], 0),
    "find_zero": ('def find_zero(xs):\n    """A root."""\n', "    return -xs[0] / xs[1]\n", [[[-1.0, 2.0]]],
                  [[[6.0, -3.0]]], 1e-4),
    "Diff": ('"""\nElements of one list alone.\nassert Diff([1, 2], [2, 3]) == [1, 3]\n"""\n',
             "def Diff(a, b):\n    return list(set(a) ^ set(b))\n", [[[1, 2], [2, 3]]], [[[5, 1], [1]]], 0),
    "check_str": ('"""\nWhether a text begins with a vowel.\n"""\n',
                  "import re\ndef check_str(s):\n    return re.match('[aeiou]', s)\n", [["apple"], ["pear"]],
                  [[""]], 0),
    "sum_div": ('"""\nThe sum of divisors.\n"""\n',
                "def sum_div(n):\n    return sum(d for d in range(1, n) if n % d == 0)\n", [[8]], [[12]], 0),
}
CONTESTS = {  # name: (input, output) of each test; those of METHODS call a method of this name
    "sum": [("1 2\n", "3\n"), ("4 5\n", "9\n"), ("-7 7\n", "0\n")],
    "lines": [("3\na\nb b\nc\n", "a\nb b\nc\n"), ("1\nx\n", "x\n")], "half": [("3\n", "1.5\n"), ("4\n", "2.0\n")],
    "deep": [("3\n", "3\n"), ("9000\n", "9000\n")], "empty": [("2\n\nz\n", "z\n"), ("2\nq\nz\n", "qz\n")],
    "yes": [("5\n", "Yes\n"), ("6\n", "No\n")]}
METHODS = {
    "addAll": [("[1, 2]\n3", "[4, 5]"), ("[]\n1", "[]")], "depth": [("3", "3"), ("9000", "9000")],
    "mean": [("[1, 2]", "1.5"), ("[4]", "4.0")], "pairs": [("[1, 2, 3]", "[[1, 2], [2, 3]]"), ("[1]", "[]")],
    "twice": [('"ab"', '"abab"'), ('""', '""')]}
VALUES = {  # name: (program, input, output)
    "words": ("def f(text):\n    return {w: len(w) for w in text.split()}", "'ab c'", "{'ab': 2, 'c': 1}"),
    "first": ("def f(xs, n=2):\n    return xs[:n]", "[1, 2, 3]", "[1, 2]"),
    "same": ("def f(x):\n    return x == 'a == b'", "'a == b'", "True"),
    "less": ("def f(x):\n    return -x / 2", "3", "-1.5"),
    "text": ("def f(s):\n    return s.upper() + '!'", '"it\'s"', '"IT\'S!"')}


def function_of(name: str) -> Item:
    prompt, body, base, plus, atol = FUNCTIONS[name]
    id = ("HumanEval" if prompt.startswith("def") else "Mbpp") + f"/{name}"
    return items.read_functions([{"task_id": id, "prompt": prompt, "canonical_solution": body, "entry_point": name,
                                  "base_input": base, "plus_input": plus, "atol": atol}])[0]


def contest_of(name: str) -> Item:
    method = name if name in METHODS else None
    return items.read_contests([contest_row((CONTESTS | METHODS)[name], method, id=name)])[0]


def value_of(name: str) -> Item:
    return Item(name, dict(zip(("code", "input", "output"), VALUES[name])))


def formula_of(gold: str) -> Item:
    return Item(gold, {"question": "?", "gold": gold})


SCORERS = {  # name in verdicts.jsonl: (benchmark, prompt style, problem -> item)
    "evalplus": ("humanevalplus", "chat", function_of), "cruxeval_o": ("cruxeval_o", "base", value_of),
    "cruxeval_i": ("cruxeval_i", "base", value_of), "mathematics": ("math500", "boxed", formula_of),
    "contest": ("lcb", "", contest_of)}
INTEGERS = ("27", "-5")  # golds that are judged as AIME's are


def verdicts(scorer: str, rows: list[dict], executor) -> list[bool]:
    benchmark, style, item_of = SCORERS[scorer]
    pairs = []
    for row in rows:
        kind = BENCHMARKS["aime24" if row["problem"] in INTEGERS else benchmark].kind
        item, answer = item_of(row["problem"]), row["answer"]
        if scorer == "mathematics":
            answer = answer if "boxed" in answer else f"\\boxed{{{answer}}}"
            answer = f"So the answer is ${answer}$."
        answer = kind.find(item, kind.ask(item, style), answer) if style else answer
        pairs.append((kind, item, answer))
    judged: dict[int, bool] = {index: False for index, pair in enumerate(pairs) if pair[2] is None}
    for kind in {id(kind): kind for kind, _, _ in pairs}.values():
        mine = [index for index, pair in enumerate(pairs) if pair[0] is kind and pair[2] is not None]
        found = kind.judge([pairs[index][1:] for index in mine], executor, False)
        judged |= {index: judgement.ok for index, judgement in zip(mine, found)}
    return [judged[index] for index in range(len(pairs))]


def test_the_corpus_is_large_and_every_difference_has_its_reason():
    assert len(ROWS) >= 500 and sum(row["scorer"] == "contest" for row in ROWS) >= 120
    assert len({(row["scorer"], row["problem"], row["answer"]) for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert (row["official"] != row["ours"]) == bool(row.get("why")), row
    assert sum("why" in row for row in ROWS) < 70


@pytest.mark.parametrize("scorer", [pytest.param(scorer, marks=[pytest.mark.slow] * (scorer == "mathematics"))
                                    for scorer in SCORERS])
def test_verdicts_are_those_of_the_official_scorers(scorer, monkeypatch):
    if scorer == "mathematics":
        pytest.importorskip("math_verify", reason="needs pip install 'math-verify[antlr4_13_2]'")
    if scorer in ("evalplus", "contest"):
        pytest.importorskip("numpy")
    for name, value in (("FIRST", (0.5, 2.0)), ("LAST", (1.0, 8.0)), ("ALL_TESTS", 2), ("CONTEST_SECONDS", 1.0)):
        monkeypatch.setattr(judges, name, value)
    rows = [row for row in ROWS if row["scorer"] == scorer]
    with stages.scorer(2, "weak", scorer == "mathematics") as executor:
        found = verdicts(scorer, rows, executor)
    assert [row for row, ok in zip(rows, found) if ok != row["ours"]] == []
