"""Loading: what is not as it was asked for is named in one line, and what loads is what transformers and peft have."""
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

import damaged
import loading
import model as M
from model import ModelError, adapter_off, forward, load_policy, logits_of, logprobs, pad
from runs import ROOT, TINY, run_train
from sampler import generate
from test_model import all_rows, prompts_of, sampled_logps


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
                torch.testing.assert_close(logits_of(policy, forward(policy, ids, pos), 1.0), before, rtol=1e-4, atol=1e-4)
    assert (after - before).abs().max() > 0.01
    for merge in (False, True):
        samples = generate(policy, prompts, n=3, max_new_tokens=8, merge=merge)
        logp, entropy = logprobs(policy, all_rows(prompts, samples))
        torch.testing.assert_close(logp.detach(), sampled_logps(samples), rtol=1e-4, atol=1e-4)
    (logp.sum() + 0.1 * entropy.sum()).backward()
    assert policy.trained() and all(parameter.grad.abs().sum() > 0 for parameter in policy.trained())
