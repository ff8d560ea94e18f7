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


def findings(kind: str, world, count: int, until: str = "\n") -> dict[str, list[str]]:
    """What is wrong in the first cases, up to one that is told with the words `until`: an example of each."""
    batch, found = fuzz.KINDS[kind].batch, {}
    for start in range(0, count, batch):
        cases = [fuzz.draw(kind, 0, number) for number in range(start, start + batch)]
        found |= {wrong: list(map(fuzz.written, cases[position]))
                  for position, wrong in fuzz.examine(kind, world, cases)}
        if until in "\t".join(found):
            break
    return found


@pytest.mark.parametrize("kind, count", [("texts", 512), ("programs", 96), ("values", 100), ("files", 40),
                                         ("folders", 1), ("settings", 300)])
def test_nothing_is_found(kind, count, world):
    assert findings(kind, world, count) == {}


def with_field(name: str, field: str, text: str) -> tuple:
    """A run folder in which this field of a file (of the file's first line) reads so."""
    data = fuzz.FILES[name].decode()
    tree = json.loads(data.split("\n")[0] if name.endswith("l") else data)
    line = json.dumps(tree | {field: "\0"}).replace(json.dumps("\0"), text) + "\n"
    return (((name, line.encode()),),)


ROW = b'{"type": "%s", "program": "def f(x):\\n    return x", "inputs": ["1"], "outputs": [%s]}\n'
FOUND = [  # once; each must stay one line for the user, or a page
    ("files", (b"[" * 5000 + b"\n",)), ("files", (b"9" * 5000 + b"\n",)), ("files", (ROW % (b"error", b'"[1]"'),)),
    ("files", (b'{"snippet": "", "imports": []}\n' + b"[" * 5000 + b"\n",)),
    ("files", (b'{"snippet": "", "imports": []}\n' + b"9" * 5000 + b"\n",)),
    ("files", (ROW % (b"deduction", b'"1"') + ROW.replace(b"def", b"# \\ud800\\ndef") % (b"deduction", b'"1"'),)),
    *(("files", (b'{"snippet": "def f(): return 1", "imports": [], "inputs": %s, "message": ""}\n' % given,))
      for given in (b'""', b"[]", b'["1"]', b"{}")),
    ("folders", with_field("config.json", "steps", "null")), ("folders", with_field("config.json", "lr", '"fast"')),
    ("folders", with_field("config.json", "device", "[]")), ("folders", ((("config.json", b"[" * 5000),),)),
    ("folders", with_field("metrics.jsonl", "tokens_generated", '"many"')),
    ("folders", with_field("metrics.jsonl", "length/solve/deduction", "[1]")),
    ("folders", with_field("metrics.jsonl", "solved_of_2/deduction", "[null]")),
    ("folders", with_field("metrics.jsonl", "solved_of_2/deduction", "[1, 0]")),
    ("folders", with_field("samples.jsonl", "task", '{"type": "deduction", "inputs": [null]}')),
    ("folders", ((("checkpoint/checksums.json", b"[]"),),)), ("folders", ((("machine.json", b"[" * 5000),),)),
    ("folders", ((("checkpoint/checksums.json", b"{}"), ("checkpoint/optimizer.pt", b"cut")),)),
]


@pytest.mark.parametrize("kind, case", FOUND, ids=range(len(FOUND)))
def test_what_was_found_is_mended(kind, case, world, monkeypatch):
    if "checkpoint" in str(case):  # a page takes a second, and has nothing of it
        monkeypatch.setattr(fuzz, "write_report", lambda *_: "")
    assert fuzz.examine(kind, world, [case]) == []


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
    ("values", values, "ordered", lambda some, write: list(map(write, some)), "wire"),
    ("files", tasks, "load_tasks", careless_tasks, "a task whose parts are of other types"),
    ("folders", runfolder, "damage", lambda folder: [], "a damaged checkpoint is taken for a whole one"),
]


@pytest.mark.parametrize("kind, module, name, fault, words", PLANTED, ids=[row[2] for row in PLANTED])
def test_a_planted_fault_is_found(kind, module, name, fault, words, world, monkeypatch):
    monkeypatch.setattr(module, name, fault)
    if kind == "folders":  # the one that tells, without the page
        monkeypatch.setattr(fuzz, "draw", lambda *_: ((("checkpoint/optimizer.pt", b"cut"),),))
        monkeypatch.setattr(fuzz, "write_report", lambda *_: "")
    found = findings(kind, world, 1000 if kind != "folders" else 1, words)
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
    program = ("import hashlib, random, fuzz_draws as draws; rng = random.Random(3); texts = [(draws.written("
               "draws.value(rng)), draws.program(rng), draws.response(rng, 'deduction', 'solve', '1'), draws.damaged("
               "b'{}', rng)) for _ in range(300)]; print(hashlib.sha256(ascii(texts).encode()).hexdigest())")
    told = {subprocess.run([sys.executable, "-c", program], cwd=fuzz.ROOT / "tests", env={"PYTHONHASHSEED": seed},
                           text=True, capture_output=True, check=True).stdout for seed in "12"}
    assert len(told) == 1
