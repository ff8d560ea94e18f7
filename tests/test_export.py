"""What leaves the project: exported folders and adapters in plain transformers and peft, and what the terminal shows of
runs: answers to messages, tasks."""
import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import runfolder
import tasks
from config import Config, UserError, read_config
from model import forward, load_policy, save_policy
from sampler import Sample
from tools import __main__ as command
from tools import chat, export, show

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", params=["adapter", "adapter and norms", "all weights"])
def run(request, tiny, tmp_path_factory) -> Path:
    """A run folder whose trained weights differ from the base's in every matrix."""
    older = {"reuse_probes": True, "stream": None} if request.param == "adapter" else {}  # options of earlier versions
    rank, norm_lr = (0 if request.param == "all weights" else 4), (1e-3 if "norms" in request.param else 0.0)
    config = Config(preset="nano", model=tiny(), name="tried", prompt="compact", lora_rank=rank, lora_alpha=8.0,
                    norm_lr=norm_lr, max_new_tokens=12)
    folder = tmp_path_factory.mktemp("run")
    policy = load_policy(config.model, lora_rank=rank, lora_alpha=8.0, norms=norm_lr > 0)
    torch.manual_seed(1)
    for parameter in policy.trained():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    (folder / "checkpoint").mkdir()
    save_policy(policy, folder / "checkpoint" / "policy")
    (folder / "checkpoint" / "checksums.json").write_text(json.dumps(runfolder.checksums(folder / "checkpoint")))
    (folder / "config.json").write_text(json.dumps(vars(config) | older))
    (folder / "heldout.md").write_text("Tasks of /home/me/heldout.jsonl:\n\n| type | before | after |\n|---|---|---|\n"
                                       "| deduction | 1 | 2 |\n")
    return folder


IDS = torch.tensor([[5, 9, 17, 33, 2, 40, 11]])


@torch.no_grad()
def our_logits(run: Path) -> torch.Tensor:
    policy, _ = export.load_run(run)
    hidden = forward(policy, IDS, torch.arange(IDS.shape[1])[None])
    return policy.head(hidden).float()


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@torch.no_grad()
def test_merged_folder_in_plain_transformers_gives_our_logits(run, tmp_path):
    export.export(run, tmp_path / "out", merge=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(read_config(run).model, dtype=torch.float32)
    ours = our_logits(run)
    assert close(model(IDS).logits, ours) and not close(base(IDS).logits, ours)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()


@torch.no_grad()
def test_adapter_in_plain_peft_gives_our_logits(run, tmp_path):
    if read_config(run).lora_rank == 0:
        pytest.skip("this run has no adapter")
    export.export(run, tmp_path / "out")
    for folder in (run / "checkpoint" / "policy", tmp_path / "out"):
        base = AutoModelForCausalLM.from_pretrained(read_config(run).model, dtype=torch.float32)
        assert close(peft.PeftModel.from_pretrained(base, folder)(IDS).logits, our_logits(run))
    assert close(peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(IDS).logits,
                 our_logits(run))


def test_model_card_holds_configuration_and_results(run, tmp_path):
    export.export(run, tmp_path / "out", merge=True)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    assert "| deduction | 1 | 2 |" in card and '"lora_rank"' in card
    assert "/home/me" not in card and "heldout.jsonl" in card  # a card is published
    assert str(read_config(run).model) not in card.split("## Configuration")[0]


def test_nothing_is_overwritten_and_bad_input_is_one_line(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="exists already"):
        export.export(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "mine").exists()
    (tmp_path / "out" / "config.json").write_text("[1]")
    for folder in (tmp_path / "nix", tmp_path / "out"):
        with pytest.raises(UserError, match="not a run folder"):
            export.export(folder, tmp_path / "new")


def test_a_failed_export_leaves_nothing_behind(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "card", lambda *a, **b: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.export(run, tmp_path / "out", merge=True)
    assert list(tmp_path.iterdir()) == []


def test_chat_answers_every_line(run, monkeypatch, capsys):
    lines = iter(["solve deduction", "", "x" * 3000, "solve induction"])
    monkeypatch.setattr(chat, "read_message", lambda: next(lines, None))
    chat.chat(run, None, 0.0, "cpu")
    policy, config = export.load_run(run)
    expected = show.printable(chat.reply(policy, config, "solve deduction", 12, 0.0, 0))
    said = capsys.readouterr().out
    assert said.startswith(expected + "\n") and "positions)" in said


@pytest.mark.parametrize("stopping, stops", [(True, ("</answer>",)), (False, ())])
def test_chat_ends_answers_where_training_did(run, monkeypatch, stopping, stops):
    seen = []
    monkeypatch.setattr(chat, "generate", lambda *a, **named: seen.append(named["stops"]) or [[Sample([], [], "stop")]])
    policy, config = export.load_run(run)
    chat.reply(policy, replace(config, stop_at_answer=stopping), "solve deduction", 12, 0.0, 0)
    assert seen == [stops]


def test_chat_reads_bytes_that_are_no_text(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"solve \xff\n"), encoding="utf-8"))
    chat.chat(run, None, 0.0, "cpu")
    assert capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--max_new_tokens", "0"], ["--temperature", "-1"], ["--temperature", "nan"]])
def test_options_of_chat_that_cannot_work_are_told(tmp_path, capsys, flags):
    with pytest.raises(SystemExit):
        command.main(["chat", str(tmp_path), *flags])
    assert flags[0] in capsys.readouterr().err.splitlines()[-1]


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys):
    assert command.main(["export", str(tmp_path), str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("tools export: ") and told.count("\n") == 1


@pytest.mark.quick
@pytest.mark.parametrize("argv, status", [([], 2), (["nobody"], 2), (["--help"], 0)])
def test_the_command_tells_what_there_is(capsys, argv, status):
    assert command.main(argv) == status
    said = capsys.readouterr()
    assert all(f"python -m tools {name} " in (said.err if status else said.out) for name in command.COMMANDS)


# ----------------------------------------------------------------------------------------------------------------
# show

@pytest.fixture
def shown(tmp_path) -> Path:
    """A run folder with two valid proposals among its samples."""
    folder, lines = tmp_path / "shown", (ROOT / "nano" / "heldout.jsonl").read_text().splitlines()
    folder.mkdir()
    rows = [{"step": 1, "kind": "propose", "verdict": "no f"},
            *({"step": 1, "kind": "propose", "task": json.loads(line)} for line in lines[:2])]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 2, "ta')
    return folder


def test_show_prints_a_task_and_what_the_gate_says(shown, tmp_path, capsys):
    lines = (ROOT / "nano" / "heldout.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "few.jsonl").write_text("".join(lines[:3]))

    def said_of(program: str, *flags):
        (tmp_path / "p.py").write_text(program)
        assert command.main(["show", str(tmp_path / "few.jsonl"), "--require", "weak", "--program",
                           str(tmp_path / "p.py"), *flags]) == 0
        return capsys.readouterr().out
    assert "The answer: " in said_of("def f(x):\n    return x") and "gate: valid; output 'ab'" in said_of(
        "def f(x, y):\n    return x + y", "--input", "'a', 'b'")
    assert "gate: import not allowed" in said_of("import os\ndef f(x):\n    return x")
    assert command.main(["show", str(shown), "--number", "2", "--require", "weak"]) == 0
    assert "def f(x):" in capsys.readouterr().out
    false = json.loads(lines[0]) | {"outputs": ["'neither this'"]}
    (tmp_path / "false.jsonl").write_text(json.dumps(false) + "\n")
    assert command.main(["show", str(tmp_path / "false.jsonl"), "--require", "weak"]) == 0
    assert "Not a valid task: f(" in capsys.readouterr().out
    (tmp_path / "p.py").write_bytes(b"\xff\x84")
    assert command.main(["show", str(tmp_path / "few.jsonl"), "--require", "weak", "--program",
                       str(tmp_path / "p.py"), "--input", ""]) == 0
    assert "gate: does not parse" in capsys.readouterr().out


@pytest.fixture
def answered(tmp_path) -> Path:
    """A run folder with a valid proposal, its answers, and one that the gate refused."""
    folder, line = tmp_path / "answered", (ROOT / "nano" / "heldout.jsonl").read_text().splitlines()[0]
    folder.mkdir()
    task = json.loads(line)
    row = {"step": 3, "role": "propose", "kind": "propose", "type": "deduction", "reward": 0.5, "verdict": "valid",
           "solve_rate": 0.5, "prompt": "the prompt", "text": "thought\x1b[2J</think><answer>x</answer>", "task": task}
    probe = row | {"role": "solve", "kind": "probe", "task_id": tasks.task_id(task), "solve_rate": None}
    probe.pop("task")
    rows = [row, probe | {"verdict": "correct", "reward": 1.0}, probe | {"verdict": "wrong", "reward": -0.5},
            row | {"step": 4, "type": "abduction", "verdict": "no f", "reward": -1.0, "solve_rate": None}]
    rows[-1].pop("task")
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("flags, lines", [
    ([], [1, 2, 3, 4]), (["--type", "abduction"], [4]), (["--role", "solve"], [2, 3]), (["--kind", "probe"], [2, 3]),
    (["--step", "3"], [1, 2, 3]), (["--step", "4:"], [4]), (["--reward", ":0"], [3, 4]), (["--verdict", "no f"], [4]),
    (["--verdict", "correct", "--reward", "1"], [2]), (["--solve_rate", "0.1:0.9"], [1]), (["--line", "2:3"], [2, 3]),
    (["--id", "ID"], [1, 2, 3]), (["--id", "none"], []), (["--text", "thought", "--step", ":3"], [1, 2, 3])])
def test_show_lists_what_passes_its_filters(answered, capsys, flags, lines):
    task = json.loads((answered / "samples.jsonl").read_text().splitlines()[0])["task"]
    flags = [tasks.task_id(task)[:10] if flag == "ID" else flag for flag in flags]
    assert command.main(["show", str(answered), "--list", *flags]) == 0
    head, *rows, last = capsys.readouterr().out.splitlines()
    assert [int(row.split()[0]) for row in rows] == lines and last.startswith(f"{len(lines)} responses")


def test_show_prints_a_response_whole_and_steers_no_terminal(answered, capsys):
    assert command.main(["show", str(answered), "--line", "1", "--prompt"]) == 0
    said = capsys.readouterr().out
    assert all(words in said for words in ("the prompt", "verdict: valid", "reward 0.5", "The answer: ", "[2J</think>"))
    assert "\x1b" not in said
    assert command.main(["show", str(answered), "--kind", "probe", "--number", "-1"]) == 0
    assert "verdict: wrong" in capsys.readouterr().out
    for flags in (["--kind", "probe", "--number", "9"], ["--line", "1", "--input", "3"], ["--input", "3"],
                  ["--list", "--verdict", "corect"], ["--id", "nobody"]):
        assert command.main(["show", str(answered), *flags]) == 2 and capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        command.main(["show", str(answered), "--step", "soon"])


def test_show_says_in_one_line_what_cannot_be_read(shown, tmp_path, capsys):
    damaged = shutil.copytree(shown, tmp_path / "damaged")
    lines = (damaged / "samples.jsonl").read_text().split('"task": ', 1)
    (damaged / "samples.jsonl").write_text('"task": 3, "x": '.join(lines))
    (tmp_path / "bytes").write_bytes(b"\xff\x84\n")
    for name, says, status in (("nix", "nix", 1), ("damaged", "samples.jsonl, line", 2), ("bytes", "bytes, line 1", 2)):
        assert command.main(["show", str(tmp_path / name), "--require", "weak"]) == status
        told = capsys.readouterr().err
        assert says in told and told.count("\n") == 1


@pytest.mark.quick
def test_terminal_output_cannot_steer_the_terminal():
    assert show.printable("a\x1b[2Jb\n\tc\x07") == "a�[2Jb\n\tc�"
