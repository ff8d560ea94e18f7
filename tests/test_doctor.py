"""What is told of a model before training: the doctor on nano and on a random model; answers read leniently."""
import json

import pytest

import config
import tasks
from benchmarks import lenient
from runs import ROOT
from sampler import Sample
from tools import __main__ as command
from tools import doctor
from train import Row

SIZES = ["--tasks", "2", "--answers", "3", "--proposals", "4"]
RUN = ["--preset", "nano", "--device", "cpu", "--workers", "1", "--require", "weak", "--max_new_tokens", "60"]


def examined(capsys, *flags: str) -> tuple[dict, str]:
    assert command.main(["doctor", *SIZES, *RUN, *flags]) == 0
    told = capsys.readouterr().out
    return json.loads(told.splitlines()[-1]), told


def test_nano_is_found_well(capsys):
    found, told = examined(capsys)
    assert found["best"]["formed"] > 0.8 and found["best"]["valid"] > 0.3 and found["best"]["pass1"] > 0.2
    assert len(found["settings"]) == 2, "the compact prompt has no example"
    cells = {(cell["temperature"], cell["role"], cell["type"]): cell for cell in found["cells"]}
    assert len(cells) == 2 * 2 * 3 == len(found["cells"])
    proposing, solving = cells[0.7, "propose", "induction"], cells[1.0, "solve", "deduction"]
    assert (proposing["n"], solving["n"], solving["tasks"]) == (4, 6, 2)
    assert solving["pass1"] <= solving["pass3"] and solving["pass1"] <= solving["lenient"]
    assert sum(proposing["reasons"].values()) == round(4 * (1 - proposing["valid"]))
    assert found["speed"]["step_seconds"] > 0 and found["speed"]["responses"] == 32 * 3 * 9
    assert config.parse(found["best"]["command"].split()[2:])[0].model == found["model"]
    assert "| as is | 1.0 | solve | deduction | 6 |" in told


def test_a_model_without_form_is_told_so_with_its_texts(capsys, tiny):
    found, told = examined(capsys, "--model", tiny(), "--max_prompt_tokens", "400",
                           "--seed_tasks", str(ROOT / "nano" / "heldout.jsonl"))
    assert found["best"]["formed"] == found["best"]["valid"] == found["best"]["pass1"] == 0
    assert "--- solve deduction: the thinking never ends" in told and "\x1b" not in told
    assert "--invalid_reward -0.5" in " ".join(found["best"]["flags"])
    failed = found["cells"][0]["failed"]
    assert failed and all(one["reason"] and one["text"] for one in failed)


@pytest.mark.quick
def test_advice_changes_only_what_is_not_so_already():
    shown = {"truncated": 0.5, "valid": 0.1, "never": 0.9, "mixed": 0.0}
    asked, _ = config.parse(["--preset", "nano", "--device", "cpu", "--solve_tasks", "this", "--max_new_tokens", "100"])
    setting = {"example": True, "temperature": 0.7}

    def flags(cfg, shown=shown, copies=True):
        return [flag for some, _ in doctor.advice(cfg, setting, shown, copies) for flag in some]
    advised = flags(asked)
    assert advised[:5] == ["--example", "--temperature", "0.7", "--refuse_copies", "--max_new_tokens"]
    following, _ = config.parse(["--preset", "nano", "--device", "cpu", *advised])
    assert following.solve_tasks == "probes" and following.max_new_tokens == 200
    assert flags(following, shown | {"truncated": 0.0}) == []
    assert flags(following, {"truncated": 0.0, "valid": 0.9, "never": 0.1, "mixed": 0.5}) == []


@pytest.mark.quick
@pytest.mark.parametrize("text, finish, says", [
    ("and so", "length", "the thinking never ends, up to --max_new_tokens"), ("so</think> 7", "stop", "no answer part"),
    ("so</think><answer>7", "stop", "the answer part never ends"),
    ("so</think> It is <answer>7</answer>", "stop", "text stands between")])
def test_bad_forms_are_told_by_where_they_end(text, finish, says):
    row = Row("solve", "probe", "deduction", "", [], sample=Sample([], [], finish), text=text)
    assert says in doctor.form_fault(row)


PROGRAM = "def f(a, b):\n    return [a + b]"
VALUE = tasks.Task("deduction", PROGRAM, ((3, 4),), ([7],))
INPUT = tasks.Task("abduction", PROGRAM, ((3, 4),), ([7],))
WHOLE = tasks.Task("induction", PROGRAM, ((3, 4), (1, 2)), ([7], [3]), "a sum")


@pytest.mark.parametrize("task, text, right", [
    (VALUE, "so</think><answer>\n```output\n[7]\n```\n</answer>", True),
    (VALUE, "so <answer>[7]</answer>", True),
    (VALUE, "It returns `[7]`.", True),
    (VALUE, "3 + 4 is 7.\nThe output is [7].", True),
    (VALUE, "</thanswer>\n```output\n[7]", True),  # cut off before the fence ends
    (VALUE, "f(3, 4) == [7]", True),
    (VALUE, "first [7], no: <answer>[8]</answer>", False),  # one guess, the last
    (VALUE, "<answer>[3 + 4]</answer>", False),  # read, never evaluated
    (VALUE, "", False),
    (INPUT, "```input\n0, 7\n```", True),
    (INPUT, "The call is f(7, 0)", True),
    (INPUT, "f(5, 2) == [7]", True),
    (INPUT, "so <answer>\n3, 5\n</answer>", False),
    (WHOLE, "Like this:\n```python\ndef f(x, y):\n    return [x + y]\n```\nfor example f(1, 2)", True),
    (WHOLE, "I write\ndef f(x, y):\n    return [x + y]\n</answer>", True),
    (WHOLE, "```python\ndef f(x, y):\n    return [x - y]\n```", False),
])
def test_a_lenient_reading_takes_what_was_meant(task, text, right, executor):
    assert lenient.verify([(task, text)], executor) == [right]
