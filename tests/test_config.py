"""Options: what is wrong is said in one line, and --help has a line for each."""
import subprocess
import sys
from dataclasses import fields, replace

import pytest

import train
from config import PRESETS, Config, check
from runs import ROOT, config


@pytest.mark.parametrize("flags, says", [
    (["--stepz", "3"], "--stepz"), (["--steps", "three"], "steps"), (["--steps", "0"], "--steps 0"),
    (["--preset", "huge"], "choose from nano"), (["--types", "deduction", "magic"], "magic"),
    (["--prompt", "poem"], "poem"), (["--n_inputs", "5"], "even"),
    (["--advantage", "grpo", "--solve_tasks", "this"], "--solve_tasks"),
    (["--control", "shuffled", "--train_propose", "False"], "--control shuffled"),
    (["--lora_rank", "0", "--kl_coef", "0.1"], "--kl_coef"), (["--temperature", "0"], "--temperature"),
    (["--lr", "nan"], "--lr"), (["--grad_clip", "0"], "--grad_clip"), (["--device", "gpu"], "cpu or cuda"),
    (["--name", "../x"], "--name"), (["--eval_limit", "-1"], "--eval_limit"), (["--clip_low", "-3"], "--clip_low"),
    (["--seed_tasks", "nowhere.jsonl"], "no such file"), (["--lora_rank", "0", "--load_in_4bit"], "--load_in_4bit"),
])
def test_bad_flags_end_with_one_line(flags, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.run_main(["--preset", "nano", "--device", "cpu", *flags]) != 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("train.py: ") and says in err
    assert not (tmp_path / "runs").exists(), "nothing is made before the flags are right"


def test_help_reads_well():
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for field in fields(Config):
        assert f"--{field.name}" in done.stdout and field.metadata["help"]


def test_presets_name_only_real_fields():
    names = {field.name for field in fields(Config)}
    for preset in PRESETS.values():
        assert set(preset) <= names
        check(replace(config(), **preset))
