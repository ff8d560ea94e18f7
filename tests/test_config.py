"""Options: what is wrong is said in one line, and --help has a line for each."""
import json
import subprocess
import sys
from dataclasses import fields, replace

import pytest

import config as config_module
import train
from config import PRESETS, Config, UserError, check, parse, read_config
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


def test_options_read_as_they_are_written():
    cfg, line = parse(["--preset", "nano", "--no_train_propose", "--batch-size=7", "--wandb", "--example", "no"])
    assert (cfg.train_propose, cfg.batch_size, cfg.wandb, cfg.example) == (False, 7, True, False)
    assert parse(["--preset", "nano", "--no-train-propose"])[0].train_propose is False
    assert "preset nano, as asked" in line and cfg.device == "cpu"


def test_a_preset_on_a_cpu_has_sizes_for_it():
    assert parse(["--preset", "0.5b", "--device", "cpu"])[0].batch_size == config_module.ON_CPU["0.5b"]["batch_size"]
    assert parse(["--preset", "0.5b", "--device", "cpu", "--batch_size", "9"])[0].batch_size == 9
    assert config_module.PRESETS["0.5b"]["batch_size"] > config_module.ON_CPU["0.5b"]["batch_size"]


def test_help_has_a_line_an_option_with_the_defaults_of_the_preset(capsys):
    with pytest.raises(SystemExit):
        parse(["--preset", "nano", "--help"])
    lines = capsys.readouterr().out.splitlines()
    for f in fields(Config):
        (line,) = [line for line in lines if line.strip().split(" ")[0] == f"--{f.name}"]
        assert f.metadata["help"] in line
    assert any("--batch_size N" in line and "[32]" in line for line in lines)
    assert not any("--no_" in line and not line.startswith("Defaults") for line in lines[:-2])


def test_runs_of_earlier_versions_are_read_in_todays_words(tmp_path):
    saved = vars(config()) | {"reuse_probes": True, "stream": None, "weight_decay": 0.0, "solve_tasks": "this"}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert read_config(tmp_path).solve_tasks == "probes"
    (tmp_path / "config.json").write_text(json.dumps(saved | {"warp": 9}))
    with pytest.raises(UserError, match="warp"):
        read_config(tmp_path)
    with pytest.raises(UserError, match="is not a run folder"):
        read_config(tmp_path / "nowhere")


def test_an_option_says_where_it_may_differ():
    scopes = {f.name: (f.metadata["on_resume"], f.metadata["per_run"]) for f in fields(Config)}
    assert scopes["lr"] == (False, False) and scopes["seed"] == (False, True)
    assert scopes["steps"] == (True, False) and scopes["slots"] == (True, True)


@pytest.mark.parametrize("words, says", [
    (["--extreme_reward", "nan"], "finite"), (["--invalid_reward", "-inf"], "finite"), (["--memory_mb", "1"], "at least 64"),
    (["--cpu_seconds", "1e300"], "an hour"), (["--slots", "1000000000000"], "65536"), (["--model="], "--model"),
    (["--max_new_tokens", "1"], "--max_new_tokens"),
    (["--heldout_tasks", "start"], "no such file"), (["--eval_every", "0", "--eval_tasks", "humaneval"], "--eval_every")])
def test_values_that_cannot_work_are_refused_before_anything_starts(words, says):
    with pytest.raises(UserError, match=says):
        parse(["--preset", "nano", *words])


def test_negative_numbers_in_any_notation_are_values():
    assert parse(["--preset", "nano", "--invalid_reward", "-5e-1"])[0].invalid_reward == -0.5
    assert parse(["--preset", "nano", "--invalid_reward", "-.5", "--seed", "-3"])[0].seed == -3


def test_runs_from_before_the_stop_go_on_without_it(tmp_path):
    saved = vars(config())
    del saved["stop_at_answer"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert read_config(tmp_path).stop_at_answer is False
