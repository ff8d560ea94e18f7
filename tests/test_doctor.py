"""What is told of a model before training: the doctor on nano and on a random model; answers read leniently."""
import json
import random
from types import SimpleNamespace

import pytest

import config
import tasks
import train
from benchmarks import lenient
from runs import FEW
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
    assert found["best"]["formed"] > 0.8 and found["best"]["valid"] > 0.1 and found["best"]["pass1"] > 0.2
    assert len(found["settings"]) == 2, "the compact prompt has no example"
    cells = {(cell["temperature"], cell["role"], cell["type"]): cell for cell in found["cells"]}
    assert len(cells) == 2 * 2 * 3 == len(found["cells"])
    proposing, solving = cells[0.7, "propose", "induction"], cells[1.0, "solve", "deduction"]
    assert (proposing["n"], solving["n"], solving["tasks"]) == (4, 6, 2)
    assert solving["pass1"] <= solving["pass3"] and solving["pass1"] <= solving["lenient"]
    assert sum(proposing["reasons"].values()) == round(4 * (1 - proposing["valid"]))
    assert found["speed"]["step_seconds"] > 0 and found["speed"]["responses"] == 32 * 3 * 9
    options = [word for word in found["best"]["command"].split() if word.startswith("--")]
    assert config.parse(found["best"]["command"].split()[2:])[0].model == found["model"]
    assert len(options) == len(set(options)), "advice takes the place of what was asked for"
    assert "| as is | 1.0 | solve | deduction | 6 |" in told


def test_a_model_without_form_is_told_so_with_its_texts(capsys, tiny):
    found, told = examined(capsys, "--model", tiny(), "--max_prompt_tokens", "400", "--seed_tasks", FEW)
    assert found["best"]["formed"] == found["best"]["valid"] == found["best"]["pass1"] == 0
    assert "--- solve deduction: the thinking never ends" in told and "\x1b" not in told
    assert "--invalid_reward -0.5" in " ".join(found["best"]["flags"])
    failed = found["cells"][0]["failed"]
    assert failed and all(one["reason"] and one["text"] for one in failed)


@pytest.mark.quick
def test_advice_changes_only_what_is_not_so_already():
    shown = {"truncated": 0.5, "valid": 0.1, "never": 0.9, "mixed": 0.0, "pass1": 0.0}
    asked, _ = config.parse(["--preset", "nano", "--device", "cpu", "--solve_tasks", "this", "--max_new_tokens", "100"])
    setting = {"example": True, "temperature": 0.7}

    def flags(cfg, shown=shown, copies=True):
        return [flag for some, _ in doctor.advice(cfg, setting, shown, copies) for flag in some]
    advised = flags(asked)
    assert advised[:5] == ["--example", "--temperature", "0.7", "--refuse_copies", "--max_new_tokens"]
    following, _ = config.parse(["--preset", "nano", "--device", "cpu", *advised])
    assert following.solve_tasks == "probes" and following.max_new_tokens == 200
    assert flags(following, shown | {"truncated": 0.0}) == []
    assert flags(following, {"truncated": 0.0, "valid": 0.9, "never": 0.1, "mixed": 0.5, "pass1": 0.5}) == []


@pytest.mark.quick
def test_tasks_that_are_always_solved_need_no_more_answers():
    cfg, _ = config.parse(["--preset", "nano", "--device", "cpu", "--n_probes", "4"])
    setting = {"example": cfg.example, "temperature": cfg.temperature}
    shown = {"truncated": 0.0, "valid": 0.9, "never": 0.0, "mixed": 0.1}
    assert doctor.advice(cfg, setting, shown | {"pass1": 0.95}, False) == [([], "the tasks are too easy for it")]
    assert doctor.advice(cfg, setting, shown | {"pass1": 0.5}, False)[0][0] == ["--n_probes", "8"]


@pytest.mark.quick
def test_a_copy_is_no_task_to_solve_where_copies_are_refused(monkeypatch):
    shown, other = (tasks.Task("deduction", program, (("a",),), ("a",), key=program) for program in ("shown", "other"))
    rows = [Row("propose", "propose", "deduction", "", [], references=[shown]) for _ in range(2)]
    monkeypatch.setattr(tasks, "gate", lambda *a, **b: [tasks.Gated(shown, "ok"), tasks.Gated(other, "ok")])
    monkeypatch.setattr(train, "fits", lambda run, task: True)

    def chosen(refuse: bool) -> list:
        cfg = SimpleNamespace(seed_tasks=None, n_inputs=2, refuse_copies=refuse, types=["deduction"])
        buffers = SimpleNamespace(train={"deduction": []}, add=lambda task: buffers.train["deduction"].append(task))
        run = SimpleNamespace(cfg=cfg, executor=None, buffers=buffers, rng=random.Random)
        return sorted(task.program for task in doctor.choose_tasks(run, 5, rows))
    assert chosen(True) == ["other"] and chosen(False) == ["other", "shown"]


@pytest.mark.quick
@pytest.mark.parametrize("flags, seconds", [
    (["--solve_tasks", "probes"], 6 * (1 + 10) + 24 * (2 + 100)),
    (["--solve_tasks", "this"], 6 * (1 + 10) + 30 * 2 + 6 * 100),       # probes that only measure
    (["--solve_tasks", "this", "--no_train_propose"], 6 * 1 + 30 * 2 + 6 * 100)])
def test_a_step_updates_only_on_what_is_trained(monkeypatch, flags, seconds):
    cfg, _ = config.parse(["--preset", "nano", "--device", "cpu", "--batch_size", "2", "--n_probes", "4", *flags])
    rows, right = ([Row("", "", "", "", [], sample=Sample([1], [], "stop"))] * 5 for _ in range(2))
    monkeypatch.setattr(doctor, "update_seconds", lambda run, some: 10.0 if some is rows else 100.0)
    run = SimpleNamespace(policy=SimpleNamespace(device=SimpleNamespace(type="cpu")))
    assert doctor.speed_of(run, cfg, rows, 5 * 1.0, right, 5 * 2.0)["step_seconds"] == seconds


@pytest.mark.quick
def test_a_run_that_goes_on_is_no_case_for_the_doctor(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(vars(config.parse(RUN)[0])))
    assert command.main(["doctor", "--resume", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "instead of --resume" in said.err and not said.out


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
