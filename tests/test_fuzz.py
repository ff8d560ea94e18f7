"""The short part of fuzz.py, the same in every run; and that fuzz.py sees what it looks for."""
import json
import subprocess
import sys

import pytest

import fuzz
import runfolder
import tasks
from sandbox import values


@pytest.fixture(scope="module")
def world():
    with fuzz.make_world() as made:
        yield made


def findings(kind: str, world, count: int) -> dict[str, tuple]:
    """What is wrong in the first cases: an example of each."""
    batch, found = fuzz.KINDS[kind].batch, {}
    for start in range(0, count, batch):
        cases = [fuzz.draw(kind, 0, number) for number in range(start, start + batch)]
        found |= {wrong: cases[position] for position, wrong in fuzz.examine(kind, world, cases)}
    return found


@pytest.mark.parametrize("kind, count", [("texts", 640), ("programs", 160), ("values", 150), ("files", 40),
                                         ("folders", 3), ("settings", 300)])
def test_nothing_is_found(kind, count, world):
    assert findings(kind, world, count) == {}


def last_answer(response: str) -> str | None:
    return response.rpartition("<answer>")[2].partition("</answer>")[0] if "</answer>" in response else None


def plain_equality(a, b) -> bool:
    return a == b


def careless_tasks(path, executor):
    with open(path, "rb") as lines:
        return [tasks.task_from_state(json.loads(line) | {"key": "", "depth": 0}) for line in lines]


PLANTED = [  # a fault of each kind: where it is put, and the words that tell it
    ("texts", tasks, "answer_part", last_answer, "counts"),
    ("values", fuzz, "same_value", plain_equality, "same_value"),
    ("values", fuzz, "show", repr, "wire"),
    ("values", values, "in_order", list, "wire"),
    ("files", tasks, "load_tasks", careless_tasks, "Error in tests/test_fuzz.py, careless_tasks"),
    ("folders", runfolder, "damage", lambda folder: [], "a damaged checkpoint is taken for a whole one"),
]


@pytest.mark.parametrize("kind, module, name, fault, words", PLANTED, ids=[row[2] for row in PLANTED])
def test_a_planted_fault_is_found(kind, module, name, fault, words, world, monkeypatch):
    monkeypatch.setattr(module, name, fault)
    if kind == "folders":  # the one that tells
        monkeypatch.setattr(fuzz, "draw", lambda *_: ((("checkpoint/optimizer.pt", b"cut"),),))
    found = findings(kind, world, 200 if kind != "folders" else 1)
    assert any(words in wrong for wrong in found), found


def test_findings_are_shrunk_to_what_matters(world, monkeypatch):
    def breaks(cases_of, cases):
        return ["a bell" if "\x07" in text and "def" in text else "" for _, _, text in cases]
    monkeypatch.setitem(fuzz.KINDS, "texts", fuzz.Kind(fuzz.draw_text, breaks, 1, 1))
    case = fuzz.Fixed("deduction"), fuzz.Fixed("solve"), "first " * 50 + "def f(x):\n" + "\x07 more" * 9
    kind, role, text = fuzz.shrink("texts", world, case, "a bell")
    assert (kind, role) == case[:2] and sorted(text) == sorted("def\x07")


def test_work_without_end_is_stopped(world, monkeypatch):
    def endless(*_):
        while True:
            pass
    monkeypatch.setattr(fuzz, "NEVER", 0.1)
    monkeypatch.setitem(fuzz.KINDS, "values", fuzz.Kind(fuzz.draw_value, endless, 1, 1))
    assert fuzz.examine("values", world, [(1, 0)]) == [(0, "no end in sight")]
    with pytest.raises(fuzz.TooSlow):
        fuzz.calls(values.show, [0] * 9, most=5)


def test_cases_are_the_same_under_every_hash_seed():
    program = ("import hashlib, tests.fuzz as fuzz; print(hashlib.sha256(repr([list(map(fuzz.written, fuzz.draw(kind, 3,"
               " number))) for kind in fuzz.KINDS for number in range(60)]).encode()).hexdigest())")
    told = {subprocess.run([sys.executable, "-c", program], cwd=fuzz.ROOT, env={"PYTHONHASHSEED": seed}, text=True,
                           capture_output=True, check=True).stdout for seed in "12"}
    assert len(told) == 1
