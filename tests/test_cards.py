"""What work is counted as, and what is chosen by the memory that is free."""
from types import SimpleNamespace

import pytest
import torch

import cards
import train
from model import Policy, load_policy
from speed.measure import SHAPES, shape_config


@pytest.fixture
def policy(tiny):
    return load_policy(tiny(), lora_rank=4)


def of_shape(shape: str, compile: bool = True):
    """As much of a policy as the arithmetic reads."""
    config = shape_config(shape)
    layer = SimpleNamespace(self_attn=SimpleNamespace(head_dim=config.hidden_size // config.num_attention_heads))
    return SimpleNamespace(config=config, dtype=torch.bfloat16, compile=compile,
                           decoder=SimpleNamespace(layers=[layer]))


def test_work_is_counted_from_the_weights(policy):
    linear = [module for module in policy.decoder.layers.modules() if type(module) is torch.nn.Linear]
    frozen = [module for module in linear if not module.weight.requires_grad]  # all but the adapters'
    weights, head = sum(module.weight.numel() for module in frozen), policy.head.weight.numel()
    assert cards.layer_weights(policy) == weights
    rows = [([1] * 10, [1] * 3), ([1] * 10, [1] * 5), ([2] * 4, [1] * 2)]  # the first two share their prompt
    assert cards.update_flops(policy, rows) == 4 * (weights * (10 + 8 + 4 + 2) + head * 10)
    assert cards.update_flops(policy, rows, True) - cards.update_flops(policy, rows) == 2 * weights * 24
    kv = 2 * 2 * 2 * 8 * 4  # two layers of two heads of 8 numbers, in fp32
    assert cards.sampling_bytes(policy, 7, rows[:1]) == 7 * 4 * (weights + head) + kv * 3 * (10 + 1.5)


def test_shares_are_told_of_known_cards_alone(policy, monkeypatch):
    rows = [([1] * 10, [1] * 3)]
    told = lambda: cards.shares(policy, {"update": 2.0, "rollout": 4.0}, 7, rows, rows)
    assert told() == {}
    monkeypatch.setattr(Policy, "device", property(lambda policy: torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card of tomorrow")
    assert told() == {}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert told() == {"mfu": cards.update_flops(policy, rows) / 2 / 989e12,
                      "sampling_bandwidth": cards.sampling_bytes(policy, 7, rows) / 4 / 4.8e12}


@pytest.mark.parametrize("shape, free, micro, wanted, found", [
    ("0.5b", 120, 16384, None, (False, 16384)), ("0.5b", 12, 16384, None, (True, 16384)),
    ("0.5b", 12, 4096, None, (False, 4096)), ("3b", 120, 16384, None, (False, 16384)),
    ("3b", 48, 16384, None, (True, 16384)), ("3b", 12, 16384, False, (False, 16384)),
    ("3b", 120, 16384, True, (True, 16384)), ("0.5b", 200, 0, None, (False, cards.MOST_MICRO_TOKENS)),
    ("7b", 10, 0, None, (True, 17_700))])
def test_layers_are_kept_where_a_micro_batch_fits(shape, free, micro, wanted, found, monkeypatch):
    monkeypatch.setattr(cards, "free_bytes", lambda policy: free * 2**30)
    recompute, tokens = cards.plan_update(of_shape(shape), wanted, micro)
    assert recompute == found[0] and tokens == pytest.approx(found[1], rel=0.1)


def test_merging_is_for_small_models_that_fit(monkeypatch):
    for free, shapes in ((140, {"nano", "0.5b"}), (4, {"nano"})):
        monkeypatch.setattr(cards, "free_bytes", lambda policy: free * 2**30)
        assert {shape for shape in SHAPES if cards.merging_pays(of_shape(shape))} == shapes


def test_merging_ends_where_it_moves_the_sampler_too_far(capsys):
    def run(merge, wanted):
        policy = SimpleNamespace(merge=merge, device_memory=object())
        return SimpleNamespace(cfg=SimpleNamespace(merge=wanted), policy=policy)
    for merge, wanted, kl, ends in ((True, None, 2e-3, True), (True, None, 5e-4, False), (True, True, 2e-3, False),
                                    (None, None, 2e-3, False)):
        one = run(merge, wanted)
        assert train.stop_merging(one, {"kl_sampler_trainer": kl}) == ends
        assert (one.policy.merge, one.policy.device_memory is None) == ((False, True) if ends else (merge, False))
    assert capsys.readouterr().out.count("beside the weights") == 1
    assert not train.stop_merging(run(True, None), {"skipped_updates": 1})
