"""eval.py's stages and flags, on toy rows and nano: resumed, damaged, foreign, refused."""
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import judges, selfplay, stages
import config
import eval as evaluation
import tasks
import train
from benchmarks.items import DataError
from benchmarks.stages import Sampling
from model import load_policy
from toys import CODE, function_row


ROOT = Path(__file__).resolve().parent.parent
NANO = str(ROOT / "nano")


def command(monkeypatch, capsys, *words):
    """(exit status, stdout, stderr) of eval.py in this process."""
    monkeypatch.setattr(sys, "argv", ["eval.py", "--require", "weak", *map(str, words)])
    capsys.readouterr()
    try:
        status = evaluation.main()
    except SystemExit as ended:  # of the parser
        status = ended.code
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
    real, made = stages.responses, []

    def interrupted(*args):
        for i, row in enumerate(real(*args)):
            if i == 5:
                raise KeyboardInterrupt
            yield row
    out = tmp_path / "part"
    monkeypatch.setattr(stages, "responses", interrupted)
    status, _, told = command(monkeypatch, capsys, *flags, "--out", out)
    assert status == 130 and "run the same command again" in told
    with open(out / "samples.jsonl", "a") as file:
        file.write('{"task": "cut')
    assert len((out / "samples.jsonl").read_text().splitlines()) == 6

    def counted(policy, work, wanted, *rest):
        made.extend(wanted)
        return real(policy, work, wanted, *rest)
    monkeypatch.setattr(stages, "responses", counted)
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


@pytest.mark.quick
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


def test_a_missing_or_damaged_task_is_skipped_and_the_others_are_scored(data, tmp_path, monkeypatch, capsys):
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps({"id": "s0", "text": "<answer>```output\n{'a': [3], 'b': True}\n```"}) + "\n")
    flags = ("--stage", "score", "--samples", samples, "--data", data, "--prompt", "azr", "--out", tmp_path / "out")
    (data / "math" / "amc23.jsonl").write_text("{")
    status, shown, told = command(monkeypatch, capsys, *flags, "--tasks", "mbppplus,cruxeval_o,amc23")
    assert status == 2 and "| CRUXEval-O | None | 1 x 1 | 100.0 [" in shown
    assert "MBPP+ is skipped: " in told and "MbppPlus-v0.2.0.jsonl.gz: no such file" in told
    assert "AMC23 is skipped: " in told and "amc23.jsonl: cannot be read" in told
    assert command(monkeypatch, capsys, *flags, "--tasks", "cruxeval_o")[0] == 0
    row = json.loads((data / "cruxeval" / "cruxeval.jsonl").read_text().splitlines()[0])
    rows = [row | {"output": "f(2)"}, row | {"id": "s1"}]
    (data / "cruxeval" / "cruxeval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = samples.read_text()
    samples.write_text(text + text.replace("s0", "s1"))
    status, shown, told = command(monkeypatch, capsys, *flags, "--tasks", "cruxeval_o")
    assert status == 2 and "| CRUXEval-O | None | 1 x 1 | 100.0 [" in shown
    assert "CRUXEval-O s0 is left out: its output is not a literal" in told and "Only 1 of the 2 problems" in shown


def test_base_tests_are_counted_where_some_responses_hold_no_program(data, tmp_path, monkeypatch, capsys):
    samples = tmp_path / "samples.jsonl"
    lines = [{"task_id": "HumanEval/900", "text": "I cannot.</think>"},
             {"task_id": "HumanEval/901", "solution": "def double(x):\n    return abs(2 * x)"}]
    for order in (lines, lines[::-1]):
        samples.write_text("".join(json.dumps(line) + "\n" for line in order))
        status, shown, told = command(monkeypatch, capsys, "--stage", "score", "--samples", samples, "--data", data,
                                      "--out", tmp_path / "out", "--tasks", "humanevalplus", "--prompt", "azr")
        assert status == 0, told
        assert "| HumanEval, base tests | None | 2 x 1 | 50.0 [" in shown
        assert "| HumanEval+ | None | 2 x 1 | 0.0 [" in shown


def test_selfcheck_command(data, monkeypatch, capsys):
    status, shown, _ = command(monkeypatch, capsys, "--selfcheck", "--data", data)
    assert status == 0 and "HumanEval+: 2 of 2 pass" in shown and "CRUXEval-I: 3 of 3 pass" in shown
    assert "AMC23: 2 of 2 pass" in shown
    text = (data / "cruxeval" / "cruxeval.jsonl").read_text()
    (data / "cruxeval" / "cruxeval.jsonl").write_text(text.replace("[3]", "[4]"))
    status, shown, _ = command(monkeypatch, capsys, "--selfcheck", "--data", data, "--tasks", "cruxeval_i")
    assert status == 1 and "CRUXEval-I: 0 of 3 pass" in shown and "s0 (wrong)" in shown


def test_fetch_goes_on_after_a_failure(tmp_path, monkeypatch, capsys):
    (tmp_path / "cruxeval").mkdir()
    (tmp_path / "cruxeval" / "cruxeval.jsonl").write_text("{}")

    def download(url, sha256, path):
        if "aime25" in url:
            raise DataError(f"{url}: cannot be downloaded")
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    monkeypatch.setattr(evaluation, "download", download)
    status, _, told = command(monkeypatch, capsys, "--fetch", tmp_path, "--tasks", "cruxeval_o,aime25,amc23")
    assert status == 2 and told.count("\n") == 2 and "is there, but not the file of" in told
    assert (tmp_path / "math" / "amc23.jsonl").exists() and not (tmp_path / "math" / "aime25.jsonl").exists()


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


def test_small_contests_are_also_averaged(data):
    works, _ = stages.prepare(["amc23", "cruxeval_o"], data, None, None, note=lambda text: None)
    assert stages.passes(works[0], Sampling("azr")) == [(0.0, 1), (0.6, 16)]
    assert stages.passes(works[0], Sampling("azr", averaged=0)) == [(0.0, 1)]
    assert stages.passes(works[0], Sampling("azr", averaged=4)) == [(0.0, 1), (0.6, 4)]
    assert stages.passes(works[1], Sampling("azr")) == [(0.0, 1)]
    assert stages.passes(works[0], Sampling("azr", 8, 1.0)) == [(1.0, 8)]


def test_the_groups_are_the_papers():
    assert stages.names_of("code,humanevalplus") == ["humanevalplus", "mbppplus", "lcb"]
    assert stages.names_of("math") == ["aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench"]
    assert stages.names_of("reason") == ["lcb_execution", "cruxeval_i", "cruxeval_o"]
    assert len(stages.names_of("all")) == 12


# ---- in training ----------------------------------------------------------------------------------


def test_training_evaluates_on_benchmarks(data, executor, tmp_path, capsys):
    cfg = replace(config.parse(["--preset", "nano", "--device", "cpu"])[0], eval_every=1, eval_tasks=["cruxeval_o"],
                  eval_data=str(data), eval_limit=2, max_new_tokens=8, workers=1, require="weak")
    works = selfplay.benchmarks_of(cfg, executor, print)
    run = train.Training(cfg, tmp_path, load_policy(NANO, lora_rank=4), None, executor, tasks.Style("compact"),
                         tasks.Buffers(10), benchmarks=works)
    run.kv_gb = 1.0
    assert selfplay.evaluations(run, None) == {"eval": {"cruxeval_o": 0.0}} and len(works[0].items) == 2
    failed = judges.Judgement(False, "error", "lost twice", infra=True)
    kind = replace(works[0].kind, find=lambda *rest: "1", judge=lambda pairs, *rest: [failed] * len(pairs))
    run.benchmarks = [replace(works[0], kind=kind)]
    assert selfplay.evaluations(run, None) == {"eval": {}}
    assert "2 of 2 answers to CRUXEval-O could not be scored" in capsys.readouterr().err
    with pytest.raises(config.UserError, match="--eval_tasks: .*no such file"):
        selfplay.benchmarks_of(replace(cfg, eval_tasks=["mbppplus"]), executor, print)
