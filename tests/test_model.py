"""model.py against transformers, and the seams between sampling and training."""
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

import model as M
import sampler as S
from model import ModelError, adapter_off, forward, load_policy, logits_of, logprobs, pad
from nano import make
from sampler import generate

LLAMA3 = dict(rope_theta=10000.0, rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0,
                                                   "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                                   "original_max_position_embeddings": 16})
FAMILIES = {"qwen2": {}, "qwen2 untied": dict(tie_word_embeddings=False), "qwen3": dict(head_dim=16), "llama": LLAMA3,
            "llama untied": dict(tie_word_embeddings=False, attention_bias=True)}


def trained_like(policy, std: float = 0.1):
    """LoRA starts at zero effect; a test needs adapters that do something."""
    torch.manual_seed(1)
    for parameter in policy.trained():
        torch.nn.init.normal_(parameter, std=std)
    return policy


@pytest.fixture(scope="module")
def policy(tiny):
    return trained_like(load_policy(tiny(), lora_rank=4))


VOCABULARY = len(make.make_tokenizer())  # of the tiny models of conftest.py


def prompts_of(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def all_rows(prompts, samples):
    return [(prompt, sample.ids) for prompt, group in zip(prompts, samples) for sample in group]


def sampled_logps(samples):
    return torch.tensor([logp for group in samples for sample in group for logp in sample.logps])


# ---- the forward pass -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", [True, False])
def test_logits_equal_transformers(tiny, family, adapter, norms):
    policy = trained_like(load_policy(tiny(family.split()[0], **FAMILIES[family]), lora_rank=4, norms=norms))
    ids = torch.tensor(prompts_of([40, 40]))
    with torch.no_grad():
        if adapter:
            wanted = policy.model(input_ids=ids).logits
            ours = logits_of(policy, forward(policy, ids, torch.arange(40).expand(2, -1)), 1.0)
        else:
            with policy.model.disable_adapter(), adapter_off(policy):
                wanted = policy.model(input_ids=ids).logits
                ours = logits_of(policy, forward(policy, ids, torch.arange(40).expand(2, -1)), 1.0)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def test_adapter_changes_the_logits(policy):
    ids, pos = pad(prompts_of([9]), "cpu")
    with torch.no_grad():
        on = forward(policy, ids, pos)
        with adapter_off(policy):
            off = forward(policy, ids, pos)
    assert (on - off).abs().max() > 0.01


@pytest.mark.quick
def test_padding_is_never_attended(policy):
    texts = prompts_of([3, 17, 9])
    with torch.no_grad():
        together = forward(policy, *pad(texts, "cpu"))
        for row, text in enumerate(texts):
            alone = forward(policy, *pad([text], "cpu"))[0]
            torch.testing.assert_close(together[row, :len(text)], alone, rtol=1e-4, atol=1e-4)


def test_nf4_equals_transformers_on_the_cpu(tiny):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    try:
        policy = trained_like(load_policy(tiny(hidden_size=64, intermediate_size=128), lora_rank=4, load_in_4bit=True))
        ids, pos = pad(prompts_of([20]), "cpu")
        with torch.no_grad():
            wanted = policy.model(input_ids=ids).logits
    except (ModelError, RuntimeError, NotImplementedError) as error:
        pytest.skip(f"bitsandbytes has no NF4 here: {error}")
    assert type(policy.decoder.layers[0].mlp.up_proj.base_layer).__name__ == "Linear4bit"
    with torch.no_grad():
        torch.testing.assert_close(logits_of(policy, forward(policy, ids, pos), 1.0), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["qwen2", "llama"])  # with and without biases
def test_nf4_gradients_are_those_of_the_dequantised_weights_also_after_sampling(tiny, family):
    """On some CPUs bitsandbytes repacks the weights in the first pass without gradients."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    folder = tiny(family, hidden_size=64, intermediate_size=128)
    rows = list(zip(prompts_of([5, 9]), prompts_of([7, 4], seed=9)))
    try:
        policy = trained_like(load_policy(folder, lora_rank=4, load_in_4bit=True))
        generate(policy, prompts_of([5]), max_new_tokens=3)
    except (ModelError, RuntimeError, NotImplementedError) as error:
        pytest.skip(f"bitsandbytes has no NF4 here: {error}")
    quantised = torch.cat([g.flatten() for g in loss_gradients(policy, rows)])
    plain = trained_like(load_policy(folder, lora_rank=4))
    from bitsandbytes.functional import dequantize_4bit
    layers = dict(policy.model.named_modules())
    for name, module in plain.model.named_modules():
        if name.endswith("base_layer"):
            weight = layers[name].weight
            module.weight.data = dequantize_4bit(weight.data, weight.quant_state).reshape(module.weight.shape).float()
    wanted = torch.cat([g.flatten() for g in loss_gradients(plain, rows)])
    assert torch.cosine_similarity(quantised, wanted, dim=0) > 0.999


def test_bf16_ratio_stays_near_one(tiny):
    """The CUDA precision, here on the CPU: sampler and trainer differ by rounding only."""
    policy = trained_like(load_policy(tiny(), lora_rank=4, dtype=torch.bfloat16))
    assert {p.dtype for p in policy.trained()} == {torch.float32}
    prompts = prompts_of([6, 30, 11])
    samples = generate(policy, prompts, n=4, max_new_tokens=16, seed=0)
    logp, _ = logprobs(policy, all_rows(prompts, samples))
    difference = logp.detach() - sampled_logps(samples)
    assert float((difference.exp() - difference - 1).mean()) < 1e-3
    logp.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.trained())


@pytest.mark.slow
def test_real_checkpoint_equals_transformers_and_itself():
    """Needs Qwen2.5-Coder-0.5B-Instruct in the folder that AZR_REAL_MODEL names."""
    folder = os.environ.get("AZR_REAL_MODEL", "")
    if not Path(folder, "config.json").is_file():
        pytest.skip("AZR_REAL_MODEL names no folder with a real checkpoint")
    policy = load_policy(folder, lora_rank=8)
    prompts = [M.encode(policy, text) for text in ("def add(a, b):\n    return", "The three primary colours are")]
    with torch.no_grad():
        for prompt in prompts:
            ids, pos = pad([prompt], "cpu")
            torch.testing.assert_close(logits_of(policy, forward(policy, ids, pos), 1.0),
                                       policy.model(input_ids=ids).logits, rtol=1e-3, atol=1e-3)
        samples = generate(policy, prompts, n=2, max_new_tokens=12, seed=0)
        logp, _ = logprobs(policy, all_rows(prompts, samples))
    difference = logp - sampled_logps(samples)
    assert float((difference.exp() - difference - 1).mean()) < 1e-6
    ids = torch.tensor([prompts[0]])
    greedy = policy.model.generate(ids, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(ids))
    greedy = greedy[0, len(prompts[0]):]
    assert generate(policy, prompts[:1], max_new_tokens=12, temperature=0)[0][0].ids == greedy.tolist()


# ---- sampling ---------------------------------------------------------------------------------------------------

@pytest.mark.quick
@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_logprob_is_the_recomputed_one(tiny, family):
    policy = trained_like(load_policy(tiny(family.split()[0], **FAMILIES[family]), lora_rank=4))
    prompts = prompts_of([1, 2, 30, 11, 5])
    samples = generate(policy, prompts, n=3, max_new_tokens=20, temperature=0.7, seed=3, slots=4)
    with torch.no_grad():
        logp, _ = logprobs(policy, all_rows(prompts, samples), temperature=0.7)
        wrong, _ = logprobs(policy, all_rows(prompts, samples), temperature=1.0)
    torch.testing.assert_close(logp, sampled_logps(samples), rtol=1e-4, atol=1e-4)
    assert (wrong - logp).abs().max() > 0.01, "temperature must matter, or this test shows nothing"


@pytest.mark.quick
def test_greedy_equals_transformers_generate_for_ragged_prompts_and_few_slots(policy):
    prompts = prompts_of([4, 25, 1, 9, 9, 16, 2], seed=5)
    ours = generate(policy, prompts, max_new_tokens=15, temperature=0, slots=3)
    for prompt, [sample] in zip(prompts, ours):
        wanted = policy.model.generate(torch.tensor([prompt]), max_new_tokens=15, do_sample=False,
                                       attention_mask=torch.ones(1, len(prompt)))[0, len(prompt):].tolist()
        assert sample.ids == wanted
        assert sample.finish == ("stop" if wanted[-1] in policy.stop_ids else "length")


def test_the_seed_fixes_the_samples_and_only_the_seed_changes_them(policy):
    prompts = prompts_of([6, 3])
    draw = lambda seed: [s.ids for group in generate(policy, prompts, n=4, max_new_tokens=10, seed=seed) for s in group]
    assert draw(1) == draw(1) != draw(2)


def test_the_n_samples_of_a_prompt_differ(policy):
    [group] = generate(policy, prompts_of([5]), n=8, max_new_tokens=12, seed=0)
    assert len({tuple(sample.ids) for sample in group}) > 1


def test_samples_follow_the_softmax(policy):
    """First tokens of many samples against the model's own probabilities: chi-square over the likely tokens."""
    [prompt], n = prompts_of([7]), 4000
    counts = Counter(sample.ids[0] for sample in generate(policy, [prompt], n=n, max_new_tokens=1, seed=0, slots=500)[0])
    with torch.no_grad():
        p_V = logits_of(policy, forward(policy, *pad([prompt], "cpu"))[:, -1], 1.0).softmax(-1)[0]
    likely = [i for i in range(len(p_V)) if p_V[i] * n >= 5]
    chi = sum((counts[i] - n * float(p_V[i])) ** 2 / (n * float(p_V[i])) for i in likely)
    free = len(likely)
    assert free >= 5 and chi < free + 4 * (2 * free) ** 0.5  # four standard deviations of chi-square


@pytest.mark.quick
def test_every_stop_id_ends_a_response_and_is_kept_in_it(policy):
    prompts = prompts_of([5] * 6)
    was, policy.stop_ids = policy.stop_ids, frozenset()
    try:
        free = generate(policy, prompts, max_new_tokens=12, seed=0)
        policy.stop_ids = stops = frozenset({free[0][0].ids[3], free[1][0].ids[5]})
        cut = generate(policy, prompts, n=4, max_new_tokens=12, seed=0)
    finally:
        policy.stop_ids = was
    ended = [sample for group in cut for sample in group if sample.finish == "stop"]
    assert {sample.ids[-1] for sample in ended} <= stops and ended
    for group in cut:
        for sample in group:
            assert not stops & set(sample.ids[:-1]) and len(sample.ids) == len(sample.logps)
            assert sample.finish == "stop" or len(sample.ids) == 12


def test_memory_limit_only_costs_slots(policy):
    prompts = prompts_of([8, 12, 3])
    wide = generate(policy, prompts, max_new_tokens=6, temperature=0)
    tight = generate(policy, prompts, max_new_tokens=6, temperature=0, kv_gb=1e-9)
    assert [g[0].ids for g in wide] == [g[0].ids for g in tight]


def test_each_unique_prompt_is_prefilled_once(policy, monkeypatch):
    seen = []
    original = M.forward
    def spy(policy, ids, pos, cache=None, *rest, **options):
        if cache is None:
            seen.append(ids.shape[0])
        return original(policy, ids, pos, cache, *rest, **options)
    monkeypatch.setattr(S, "forward", spy)
    generate(policy, prompts_of([8, 12, 3]), n=5, max_new_tokens=4, slots=4)
    assert sum(seen) == 3


def test_prompts_that_do_not_fit_are_refused(policy):
    with pytest.raises(ValueError, match="prompts must have"):
        generate(policy, [[5] * 600], max_new_tokens=10)
    with pytest.raises(ValueError, match="prompts must have"):
        generate(policy, [[]], max_new_tokens=10)
    assert generate(policy, []) == []


# ---- log-probs --------------------------------------------------------------------------------------------------

def loss_gradients(policy, rows):
    policy.model.zero_grad()
    logp, entropy = logprobs(policy, rows)
    (logp.sum() + 0.1 * entropy.sum()).backward()
    return [parameter.grad.clone() for parameter in policy.trained()]


@pytest.mark.quick
def test_chunks_and_layer_checkpoints_change_no_gradient(policy, monkeypatch):
    rows = list(zip(prompts_of([5, 9, 2]), prompts_of([7, 1, 12], seed=9)))
    plain = loss_gradients(policy, rows)
    sizes = []
    original = M.logits_of
    monkeypatch.setattr(M, "logits_of", lambda p, h, *rest: sizes.append(len(h)) or original(p, h, *rest))
    monkeypatch.setitem(M.LOGIT_BUDGET, "cpu", VOCABULARY * 6)
    policy.checkpoint_layers = True
    try:
        chunked = loss_gradients(policy, rows)
    finally:
        policy.checkpoint_layers = False
    assert max(sizes) == 6, "logits must only exist for a chunk at a time"
    for a, b in zip(plain, chunked):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_entropy_is_that_of_the_full_distribution(policy):
    rows = list(zip(prompts_of([5]), prompts_of([4], seed=9)))
    with torch.no_grad():
        _, entropy = logprobs(policy, rows, temperature=0.8)
        ids, pos = pad([rows[0][0] + rows[0][1]], "cpu")
        p = (policy.model(input_ids=ids).logits[0, 4:8] / 0.8).softmax(-1)
    torch.testing.assert_close(entropy, -(p * p.log()).sum(-1), rtol=1e-4, atol=1e-4)


# ---- loading and saving -----------------------------------------------------------------------------------------

def test_only_the_adapter_is_trained_and_it_is_fp32(policy):
    names = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert names and all("lora_" in name for name in names)
    assert len(names) == 2 * 7 * 2  # A and B of seven linear layers in two blocks
    assert {parameter.dtype for parameter in policy.trained()} == {torch.float32}


def test_norms_train_beside_lora_and_switch_off_with_it(tiny):
    """Their copies are what the sampler reads too."""
    policy, frozen = load_policy(tiny("qwen3"), lora_rank=4, norms=True), load_policy(tiny("qwen3"), lora_rank=4)
    names = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert sum("lora" not in name for name in names) == 4 * 2 + 1  # two of a block, two of its queries and keys, the final one
    prompts = prompts_of([9])
    trained_like(policy, std=0.3)
    samples = generate(policy, prompts, 2, 8)
    logp, _ = logprobs(policy, all_rows(prompts, samples))
    torch.testing.assert_close(logp.detach(), sampled_logps(samples), rtol=1e-4, atol=1e-4)
    logp.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in policy.trained())
    with adapter_off(policy):
        off, _ = logprobs(policy, all_rows(prompts, samples))
    assert torch.equal(off, logprobs(frozen, all_rows(prompts, samples))[0]) and not torch.allclose(off, logp)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="FlexAttention's backward pass needs CUDA: make cuda")])])
def test_flex_attention_gives_the_numbers_of_the_dense_mask(tiny, device):
    wide = tiny(hidden_size=64)  # FlexAttention on CUDA wants heads of 16 and more
    policy = trained_like(load_policy(wide, device, lora_rank=4, dtype=torch.float32))
    prompts, responses = prompts_of([90, 20]), prompts_of([1, 7, 120, 3, 5], seed=1)
    rows, found = [(prompts[i % 2], response) for i, response in enumerate(responses)], []
    for policy.flex in (False, True):
        policy.model.zero_grad()
        with torch.set_grad_enabled(device == "cuda"):
            logp, entropy = logprobs(policy, rows)
        if device == "cuda":
            (torch.linspace(-1, 1, len(logp), device=device) * logp).sum().backward()
        found.append([logp.detach(), entropy.detach(), *(p.grad for p in policy.trained() if p.grad is not None)])
    for dense, flex in zip(*found, strict=True):
        torch.testing.assert_close(dense, flex, rtol=1e-3, atol=1e-4)


@pytest.mark.quick
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_responses_that_share_their_prompt_get_the_same_gradient(tiny, family, recompute):
    policy = trained_like(load_policy(tiny(family.split()[0], **FAMILIES[family]), lora_rank=4))
    policy.checkpoint_layers = recompute
    prompts, responses = prompts_of([9, 20]), prompts_of([1, 7, 12, 3, 5], seed=1)
    rows = [(prompts[i % 2], response) for i, response in enumerate(responses)]
    weight = torch.linspace(-1, 1, sum(map(len, responses)))

    def measure(longest):
        policy.share_prompts = longest
        policy.model.zero_grad()
        logp, entropy = logprobs(policy, rows)
        (weight * logp).sum().backward()
        return [logp.detach(), entropy.detach(), *(parameter.grad.clone() for parameter in policy.trained())]
    assert M.side_by_side(rows, 0) == [[0], [1], [2], [3], [4]]
    assert M.side_by_side(rows, 1000) == [[0, 2, 4], [1, 3]]
    assert M.side_by_side(rows, 23) == [[0, 2], [1], [3], [4]]  # 9 + 1 + 12; 20 + 7 is too long alone
    for longest in (23, 1000):
        for shared, alone in zip(measure(longest), measure(0)):
            torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank, norms", [(4, False), (4, True), (0, False)])
def test_saved_weights_load_bit_equal(tiny, tmp_path, rank, norms, dtype):
    folder = tiny()
    before = trained_like(load_policy(folder, lora_rank=rank, norms=norms, dtype=dtype))
    M.save_policy(before, tmp_path / "policy")
    after = load_policy(folder, lora_rank=rank, adapter=tmp_path / "policy", dtype=dtype)
    assert len(before.trained()) == len(after.trained()) > 0
    for a, b in zip(before.trained(), after.trained()):
        assert torch.equal(a, b)


def test_the_adapter_loads_with_plain_peft(tiny, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    folder = tiny()
    policy = trained_like(load_policy(folder, lora_rank=4))
    M.save_policy(policy, tmp_path / "adapter")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter")
    ids, pos = pad(prompts_of([11]), "cpu")
    with torch.no_grad():
        torch.testing.assert_close(logits_of(policy, forward(policy, ids, pos), 1.0), plain(input_ids=ids).logits,
                                   rtol=1e-4, atol=1e-4)


def test_decode_drops_the_stop_token_only(policy, tokenizer):
    ids = tokenizer("<think>x")["input_ids"]
    assert M.decode(policy, ids + [tokenizer.eos_token_id]) == M.decode(policy, ids) == "<think>x"


def edit_config(folder, **changes):
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize("changes, message", [
    (dict(model_type="gpt2"), "supported families: Qwen2/Qwen2.5, Qwen3, Llama 3"),
    (dict(hidden_act="gelu"), "activation"),
    (dict(use_sliding_window=True, sliding_window=8, max_window_layers=0, layer_types=["sliding_attention"] * 2), "sliding"),
    (dict(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "rotary"),
])
def test_unsupported_models_are_named(tiny, changes, message):
    with pytest.raises(ModelError, match=message):
        load_policy(edit_config(tiny(), **changes))


def test_missing_folders_hub_names_and_broken_weights_say_what_to_do(tiny, tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        load_policy("/nowhere/model")
    with pytest.raises(ModelError, match="--preset nano"):
        load_policy("Qwen/no-network-here")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_policy(str(tmp_path / "empty"))
    broken = shutil.copytree(tiny(), tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:2000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_policy(str(broken))
