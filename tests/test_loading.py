"""Loading: what is not as it was asked for is named in one line, and what loads is what transformers and peft have."""
import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch

import damaged
import loading
import model as M
import runfolder
from config import Config
from model import ModelError, adapter_off, forward, load_policy, logits_of, logprobs, pad
from runs import TINY, run_train
from sampler import generate
from test_model import all_rows, prompts_of, sampled_logps, trained_like


@pytest.fixture(scope="module")
def whole(tiny) -> Path:
    return Path(tiny())


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 600
    return text


@pytest.mark.parametrize("name", damaged.MODELS)
def test_a_damaged_model_is_named_in_one_line(whole, tmp_path, name):
    damage, says = damaged.MODELS[name]
    damage(folder := shutil.copytree(whole, tmp_path / "model"))
    with pytest.raises(ModelError, match=says) as error:
        load_policy(str(folder), lora_rank=4)
    assert str(folder) in one_line(error)


@pytest.mark.parametrize("name", damaged.ADAPTERS)
def test_a_damaged_adapter_is_named_in_one_line(whole, tmp_path, name):
    make, says = damaged.ADAPTERS[name]
    make(whole, folder := tmp_path / "adapter")
    with pytest.raises(ModelError, match=says) as error:
        load_policy(str(whole), adapter=folder)
    assert str(folder) in one_line(error)


def plain_logits(model_folder, folder, ids):
    """Of transformers and peft alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(model_folder).eval()
        before = base(ids).logits
        return before, PeftModel.from_pretrained(base, folder).eval()(ids).logits


@pytest.mark.parametrize("family", ["qwen2", "llama untied"])
@pytest.mark.parametrize("name", damaged.GOOD_ADAPTERS)
def test_adapters_of_others_are_what_peft_has_in_sampling_and_training(tiny, tmp_path, name, family):
    model_folder = tiny(family.split()[0], tie_word_embeddings=family == "qwen2")
    damaged.adapter(**damaged.GOOD_ADAPTERS[name])(model_folder, tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft's, that biases stay when it is switched off
        policy = load_policy(model_folder, adapter=tmp_path / "adapter")
    prompts = prompts_of([9, 14])
    ids, pos = pad(prompts[:1], "cpu")
    before, after = plain_logits(model_folder, tmp_path / "adapter", ids)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(policy, forward(policy, ids, pos), 1.0), after, rtol=1e-4, atol=1e-4)
        if "bias" not in name:  # peft keeps trained biases in the base
            with adapter_off(policy):
                off = logits_of(policy, forward(policy, ids, pos), 1.0)
            torch.testing.assert_close(off, before, rtol=1e-4, atol=1e-4)
    assert (after - before).abs().max() > 0.01
    for merge in (False, True):
        samples = generate(policy, prompts, n=3, max_new_tokens=8, merge=merge)
        logp, entropy = logprobs(policy, all_rows(prompts, samples))
        torch.testing.assert_close(logp.detach(), sampled_logps(samples), rtol=1e-4, atol=1e-4)
    (logp.sum() + 0.1 * entropy.sum()).backward()
    assert policy.trained() and all(parameter.grad.abs().sum() > 0 for parameter in policy.trained())


# ---- the base that a run was trained from -------------------------------------------------------------------------

def test_another_base_of_the_same_shape_is_refused_and_a_copy_is_not(tiny, tmp_path):
    base = Path(tiny())
    policy = load_policy(str(base), lora_rank=4)
    M.save_policy(policy, tmp_path / "policy")
    other = shutil.copytree(base, tmp_path / "other")
    damaged.weights(lambda held: held[damaged.LAYER].mul_(1.01))(other)
    with pytest.raises(ModelError, match="not the model that") as error:
        load_policy(str(other), adapter=tmp_path / "policy")
    one_line(error)
    copy = shutil.copytree(base, tmp_path / "copy")
    from transformers import AutoModelForCausalLM
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(copy, max_shard_size="20KB")
    (copy / damaged.WEIGHTS).unlink()
    assert load_policy(str(copy), adapter=tmp_path / "policy").base == policy.base
    (tmp_path / "policy" / "base.json").unlink()  # of an earlier version
    load_policy(str(other), adapter=tmp_path / "policy")


def test_all_weights_of_another_base_are_refused_too(tiny, tmp_path):
    base, other = tiny(), tiny(rms_norm_eps=1e-5)
    damaged.weights(lambda held: held[damaged.LAYER].mul_(1.01))(Path(other))
    M.save_policy(load_policy(base, lora_rank=0), tmp_path / "policy")
    with pytest.raises(ModelError, match="not the model that"):
        load_policy(other, lora_rank=0, adapter=tmp_path / "policy")


# ---- the probe ------------------------------------------------------------------------------------------------------

def test_the_probe_finds_what_no_check_has_a_name_for(tiny, monkeypatch):
    folder = tiny("llama")
    plain = M.rotary
    monkeypatch.setattr(M, "rotary", lambda module, pos, dtype: plain(module, pos // 2, dtype))
    with pytest.raises(ModelError, match="our logits differ from transformers' by .*--no_probe") as error:
        load_policy(folder)
    one_line(error)
    load_policy(folder, probed=False)
    monkeypatch.setattr(M, "rotary", lambda *a: 1 / 0)
    with pytest.raises(ModelError, match="the forward pass fails"):
        load_policy(folder)


@pytest.mark.parametrize("options", [{}, dict(dtype=torch.bfloat16), dict(lora_rank=0), dict(norms=True),
                                     dict(lora_rank=0, dtype=torch.bfloat16)])
def test_the_probe_changes_nothing(tiny, options):
    folder = tiny("qwen3", tie_word_embeddings=False)
    probed, plain = load_policy(folder, **options), load_policy(folder, probed=False, **options)
    assert [p.requires_grad for p in probed.model.parameters()] == [p.requires_grad for p in plain.model.parameters()]
    assert all(map(torch.equal, probed.model.state_dict().values(), plain.model.state_dict().values()))
    assert probed.adapter_on and not any(p.grad is not None for p in probed.model.parameters())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")])
def test_a_lack_of_memory_is_not_called_a_damaged_model(error):
    with pytest.raises(type(error), match="memory"), loading.one_line("m: cannot be loaded", "copy it again"):
        raise error


def test_log_probs_that_are_not_finite_stop_sampling_with_one_line(tiny):
    policy = load_policy(tiny())
    policy.decoder.layers[0].mlp.up_proj.base_layer.weight.data[0, 0] = float("inf")
    for temperature in (0.0, 1.0):
        with pytest.raises(ModelError, match="log-probs in sampling are not finite") as error:
            generate(policy, prompts_of([5]), max_new_tokens=3, temperature=temperature)
        one_line(error)


# ---- chat templates -------------------------------------------------------------------------------------------------

def with_template(tiny, text: str):
    folder = tiny()
    (Path(folder) / "chat_template.jinja").write_text(text)
    return load_policy(folder)


@pytest.mark.parametrize("template, says", [
    ("{{ raise_exception('system only') }}", "chat template fails .*system only"),
    ("{% for m in messages %", "chat template fails"), ("{{ messages[0]['content'][0]['text'] }}", "chat template"),
    ("nothing", "leaves the question out")])
def test_chat_templates_that_do_not_work_are_named(tiny, template, says):
    with pytest.raises(ModelError, match=says) as error:
        M.chat_template(with_template(tiny, template))
    one_line(error)


def test_a_template_that_tells_the_date_tells_the_same_one_tomorrow(tiny):
    wrap = M.chat_template(with_template(tiny, "Today is {{ strftime_now('%d %b %Y') }}.{{ messages[0]['content'] }}"))
    assert wrap("why?") == "Today is 26 Jul 2024.why?"


# ---- 4 bits ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def stored_in_nf4(tiny, tmp_path_factory) -> Path:
    """A checkpoint as transformers saves it after loading in 4 bits."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    plain, folder = Path(tiny(hidden_size=64, intermediate_size=128)), tmp_path_factory.mktemp("nf4")
    shutil.copytree(plain, folder, dirs_exist_ok=True)
    (folder / damaged.WEIGHTS).unlink()
    options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16,
                                 bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=options, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_stored_in_nf4_trains_and_goes_on(stored_in_nf4, tmp_path, dtype):
    policy = load_policy(str(stored_in_nf4), dtype=dtype)
    assert type(policy.decoder.layers[0].mlp.up_proj.base_layer).__name__ == "Linear4bit"
    samples = generate(policy, prompts_of([5, 9]), max_new_tokens=4)
    logp, _ = logprobs(policy, all_rows(prompts_of([5, 9]), samples))
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(logp.detach(), sampled_logps(samples), rtol=tolerance, atol=tolerance)
    logp.sum().backward()
    assert any(p.grad.abs().sum() > 0 for p in policy.trained())
    M.save_policy(policy, tmp_path / "policy")
    load_policy(str(stored_in_nf4), adapter=tmp_path / "policy", dtype=dtype)
    with pytest.raises(ModelError, match="--lora_rank 0"):
        load_policy(str(stored_in_nf4), lora_rank=0)


@torch.no_grad()
@pytest.mark.parametrize("stored", [False, True])
def test_a_run_in_nf4_is_exported_and_asked_on_the_weights_it_was_trained_on(tiny, stored_in_nf4, tmp_path, stored):
    from transformers import AutoModelForCausalLM
    from tools import export
    base = str(stored_in_nf4) if stored else tiny(hidden_size=64, intermediate_size=128)
    policy = trained_like(load_policy(base, lora_rank=4, load_in_4bit=not stored))
    run = saved_run(policy, Config(preset="nano", model=base, name="tried", prompt="compact", lora_rank=4,
                                   load_in_4bit=not stored), tmp_path / "run")
    ids, pos = pad(prompts_of([20]), "cpu")
    wanted = logits_of(policy, forward(policy, ids, pos), 1.0)
    asked, _ = export.load_run(run)
    torch.testing.assert_close(logits_of(asked, forward(asked, ids, pos), 1.0), wanted, rtol=1e-4, atol=1e-4)
    export.export(run, tmp_path / "out", merge=True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    off = float((merged(ids).logits - wanted).norm() / wanted.norm())
    assert off < (0.03 if stored else 1e-4), "in bf16 as stored, or in fp32"
    assert not hasattr(merged.config, "quantization_config")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "NF4" in card and "stand for" in card
    export.export(run, tmp_path / "adapter")
    assert 'bnb_4bit_quant_type="nf4"' in (tmp_path / "adapter" / "README.md").read_text()


def saved_run(policy, config: Config, folder: Path) -> Path:
    (folder / "checkpoint").mkdir(parents=True)
    M.save_policy(policy, folder / "checkpoint" / "policy")
    (folder / "checkpoint" / "checksums.json").write_text(json.dumps(runfolder.checksums(folder / "checkpoint")))
    (folder / "config.json").write_text(json.dumps(vars(config)))
    return folder


def test_a_run_whose_model_moved_is_exported_and_asked_with_model(tiny, tmp_path, monkeypatch, capsys):
    from tools import __main__ as command, chat, export
    base, other = Path(tiny()), tiny(rms_norm_eps=1e-5)
    damaged.weights(lambda held: held[damaged.LAYER].mul_(1.01))(Path(other))
    run = saved_run(load_policy(str(base), lora_rank=4),
                    Config(preset="nano", model=str(base), prompt="compact", lora_rank=4, max_new_tokens=4),
                    tmp_path / "run")
    moved = shutil.move(base, tmp_path / "moved")
    lines = iter(["solve", None])
    monkeypatch.setattr(chat, "read_message", lambda: next(lines))
    for argv in (["export", str(run), str(tmp_path / "out")], ["chat", str(run)]):
        assert command.main(argv) == 2
        told = capsys.readouterr().err
        assert "is not there; give its folder with --model" in told and told.count("\n") == 1
        assert command.main([*argv, "--model", other]) == 2
        told = capsys.readouterr().err
        assert "not the model that" in told and told.count("\n") == 1
        assert command.main([*argv, "--model", str(moved)]) == 0
        capsys.readouterr()
    saved = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert saved[export.BASE] == str(moved)


# ---- as a user meets it ---------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize("name", ["names of torch.compile", "more tokens than rows", "gptq", "a shard is missing"])
def test_train_ends_with_one_line_and_the_name_stays_free(whole, tmp_path, name):
    damage, says = damaged.MODELS[name]
    damage(folder := shutil.copytree(whole, tmp_path / "model"))
    done = run_train(tmp_path, *TINY, "--model", str(folder), "--name", "a")
    assert done.returncode == 2 and re.search(says, done.stderr) and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("train.py: --model ")
    assert not (tmp_path / "runs" / "a").exists()


def test_an_adapter_that_lies_deeper_in_a_run_is_pointed_at(tmp_path):
    (tmp_path / "checkpoint" / "policy").mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="a run's folder"):
        loading.find(str(tmp_path))
    for folder in (tmp_path, tmp_path / "checkpoint"):
        with pytest.raises(ModelError, match="adapter_config.json there; give .*checkpoint/policy$"):
            loading.read_adapter_config(folder)
