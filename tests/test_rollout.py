"""The sampler: every switch on = off, fed while it runs = all at once, and what is recorded of a
sample is what the update recomputes."""
import copy
import importlib.util
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import model as M
import sampler as S
from benchmarks import selfplay
from model import load_policy, logprobs
from sampler import add, advance, draw, generate, idle, start_rollout
from test_model import prompts_of, sampled_logps, trained_like

FAMILIES = {"qwen2": {}, "qwen3": dict(head_dim=16), "llama": {}}
SWITCHES = [dict(packed=False), dict(merge=False), dict(merge=True), dict(share_prefix=False),
            dict(read_every=1), dict(read_every=5), dict(read_every=5, ahead=2), dict(read_every=2, ahead=2),
            dict(read_every=5, ahead=2, kv_gb=1e-6), dict(kv_gb=1e-6), dict(slots=3)]


@pytest.fixture(scope="module")
def policy(tiny):
    return trained_like(load_policy(tiny(), lora_rank=4))


@pytest.fixture
def endless(policy):
    """Responses end by their limits alone."""
    was, policy.stop_ids = policy.stop_ids, frozenset()
    yield policy
    policy.stop_ids = was


def headed(lengths, header=80, seed=0):
    """Prompts that share a header, as those of one task type do; long enough to be run once."""
    [head] = prompts_of([header], seed + 100)
    return [head + prompt for prompt in prompts_of(lengths, seed)]


def run(rollout):
    found = {}
    while not idle(rollout):
        for request, j, sample in advance(rollout):
            found[request.tag, j] = sample
    return found


def same(a, b):
    assert [s.ids for group in a for s in group] == [s.ids for group in b for s in group]
    assert [s.finish for group in a for s in group] == [s.finish for group in b for s in group]
    torch.testing.assert_close(sampled_logps(a), sampled_logps(b), rtol=1e-4, atol=1e-4)


# ---- switches ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_every_switch_changes_nothing_but_speed(tiny, family):
    """Drawn with temperature: a sample depends on its request's numbers, not on who else is in the batch."""
    policy = trained_like(load_policy(tiny(family, **FAMILIES[family]), lora_rank=4))
    prompts = headed([3, 17, 9, 30]) + prompts_of([1, 2, 5])
    for temperature in (0, 0.8) if family == "qwen2" else (0.8,):
        wanted = generate(policy, prompts, n=3, max_new_tokens=12, temperature=temperature, seed=1)
        for switches in SWITCHES:
            same(wanted, generate(policy, prompts, n=3, max_new_tokens=12, temperature=temperature, seed=1, **switches))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("merge", [True, False])
def test_sampled_logprob_is_the_recomputed_one_merged_and_unmerged(tiny, merge, dtype):
    policy = trained_like(load_policy(tiny(), lora_rank=4, dtype=dtype))
    prompts = headed([3, 17, 9])
    samples = generate(policy, prompts, n=4, max_new_tokens=12, seed=1, merge=merge)
    with torch.no_grad():
        logp, _ = logprobs(policy, [(p, s.ids) for p, group in zip(prompts, samples) for s in group])
    difference = logp - sampled_logps(samples)
    bound = 1e-6 if dtype == torch.float32 else 1e-2 if merge else 1e-3
    assert float((difference.exp() - 1 - difference).mean()) < bound


def test_the_policy_says_whether_to_merge(tiny):
    policy = load_policy(tiny(), lora_rank=4)
    for policy.merge, switches, merged in ((None, {}, True), (False, {}, False), (True, {}, True),
                                           (True, dict(merge=False), False)):
        assert (start_rollout(policy, **switches).packed.layers_L[0]["o"].up is None) == merged


def test_packing_follows_the_adapter_and_leaves_the_weights_alone(tiny):
    policy = trained_like(load_policy(tiny(), lora_rank=4))
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    prompts = prompts_of([9, 14])
    for merge in (True, False):
        first = generate(policy, prompts, max_new_tokens=8, temperature=0, merge=merge)
        same(first, generate(policy, prompts, max_new_tokens=8, temperature=0, packed=False))
        with M.adapter_off(policy):
            same(generate(policy, prompts, max_new_tokens=8, temperature=0, merge=merge),
                 generate(policy, prompts, max_new_tokens=8, temperature=0, packed=False))
    for name, p in policy.model.named_parameters():
        assert torch.equal(p, before[name])
    trained_like(policy, std=0.3)
    assert [g[0].ids for g in generate(policy, prompts, max_new_tokens=8, temperature=0)] != [g[0].ids for g in first]
    logprobs(policy, [(prompts[0], first[0][0].ids)])[0].sum().backward()  # the weights can still be trained through


def test_stacks_take_the_place_of_the_weights(tiny, monkeypatch):
    """As on CUDA: where nothing is reordered, unmerged stacks are the modules' own storage."""
    monkeypatch.setattr(M, "onednn", lambda policy: False)
    policy = trained_like(load_policy(tiny(), lora_rank=4))
    prompts, plain = prompts_of([9, 14]), trained_like(load_policy(tiny(), lora_rank=4))
    wanted = generate(plain, prompts, max_new_tokens=8, temperature=0, packed=False)
    for _ in range(2):
        same(wanted, generate(policy, prompts, max_new_tokens=8, temperature=0, merge=False))
    # A first rollout without the adapter, as when a finished run is evaluated: the stacks need room for it all the same.
    late = trained_like(load_policy(tiny(), lora_rank=4))
    with M.adapter_off(late), M.adapter_off(plain):
        same(generate(plain, prompts, max_new_tokens=8, temperature=0, packed=False),
             generate(late, prompts, max_new_tokens=8, temperature=0, merge=False))
    same(wanted, generate(late, prompts, max_new_tokens=8, temperature=0, merge=False))
    attention = policy.decoder.layers[0].self_attn
    assert (attention.q_proj.base_layer.weight.untyped_storage().data_ptr()
            == attention.k_proj.base_layer.weight.untyped_storage().data_ptr())
    rows = [(prompts[0], wanted[0][0].ids)]
    grads = []
    for one in (policy, plain):
        logprobs(one, rows)[0].sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in one.trained()]))
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compilation_changes_nothing_and_never_happens_again(tiny):
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    from torch._dynamo.utils import counters
    policy = trained_like(load_policy(tiny(), lora_rank=4))
    def work(seed):
        rng = random.Random(seed)
        return headed([rng.randint(1, 200) for _ in range(9)]) + prompts_of([1, 9, 150], seed)
    wanted = [generate(policy, work(seed), n=2, max_new_tokens=100, seed=seed, slots=6) for seed in range(3)]
    policy.compile = True
    rows = list(zip(prompts_of([5, 9, 2]), prompts_of([7, 3, 12], seed=9)))

    def step(seed, rows):
        """All uses of the layers: sampling and reading, with the adapter and without, alone and beside each other."""
        same(wanted[seed], generate(policy, work(seed), n=2, max_new_tokens=100, seed=seed, slots=6))
        with M.adapter_off(policy):
            generate(policy, work(seed)[:2], max_new_tokens=5)
        for texts in (rows[:1], [(rows[0][0], response) for _, response in rows], rows):
            for policy.checkpoint_layers in (True, False):
                policy.model.zero_grad()
                logprobs(policy, texts)[0].sum().backward()
            with torch.no_grad(), M.adapter_off(policy):
                logprobs(policy, texts)
        return torch.cat([p.grad.flatten() for p in policy.trained()])
    compiled = step(0, rows)
    warm = counters["stats"]["unique_graphs"]
    for seed in (1, 2):
        step(seed, list(zip(prompts_of([6, 30, 3], seed), prompts_of([20, 2, 9], seed + 9))))
    assert counters["stats"]["unique_graphs"] == warm
    policy.compile = False
    policy.model.zero_grad()
    logprobs(policy, rows)[0].sum().backward()
    torch.testing.assert_close(compiled, torch.cat([p.grad.flatten() for p in policy.trained()]), rtol=1e-3, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: make cuda")
def test_graphs_on_cuda_change_nothing_and_noise_differs_between_replays(tiny):
    policy = trained_like(load_policy(tiny(), "cuda", lora_rank=4, dtype=torch.float32))
    prompts = headed([3, 17, 9, 30])
    wanted = generate(policy, prompts, n=3, max_new_tokens=40, seed=1, graphs=False)
    same(wanted, generate(policy, prompts, n=3, max_new_tokens=40, seed=1, graphs=True))


class Recorded:
    """Stands in for a CUDA graph: runs what was captured, on the memory that was captured."""
    captured = []

    def __init__(self, rollout, rows):
        self.rollout = copy.copy(rollout)
        self.rollout.cache_L, self.rows = list(rollout.cache_L), rows
        self.captured.append((rollout.length(), rows))

    def replay(self):
        S.decode_step(self.rollout, self.rows, self.rollout.length())


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(S, "capture", Recorded)
    monkeypatch.setattr(M, "onednn", lambda policy: False)
    monkeypatch.setattr(Recorded, "captured", [])
    return Recorded.captured


@pytest.mark.parametrize("merge", [True, False])
def test_a_second_rollout_captures_nothing_and_samples_from_the_changed_weights(tiny, recorded, merge):
    policy, plain = (trained_like(load_policy(tiny(), lora_rank=4)) for _ in range(2))
    switches = dict(max_new_tokens=30, temperature=0.8, slots=6, merge=merge)
    for seed in range(3):
        prompts = headed([3, 17, 9, 30], seed=seed)
        wanted = generate(plain, prompts, n=3, seed=seed, graphs=False, **switches)
        same(wanted, generate(policy, prompts, n=3, seed=seed, graphs=True, read_every=4, ahead=seed, **switches))
        with M.adapter_off(plain), M.adapter_off(policy):
            same(generate(plain, prompts, seed=seed, graphs=False, **switches),
                 generate(policy, prompts, seed=seed, graphs=True, **switches))
        if seed == 0:
            once, memory = list(recorded), policy.device_memory
            assert [rows for _, rows in once] == [6, 4, 2, 4, 2]  # the largest first; without the adapter anew
        assert recorded == once and policy.device_memory is memory
        for one in (policy, plain):
            trained_like(one, std=0.1 * (seed + 2))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: make cuda")
@pytest.mark.parametrize("merge, compiled", [(True, False), (False, False), (False, True)])
def test_graphs_outlive_a_rollout_on_cuda(tiny, merge, compiled):
    policy = trained_like(load_policy(tiny(), "cuda", lora_rank=4, dtype=torch.float32))
    policy.compile = compiled
    graphs, switches = None, dict(max_new_tokens=30, temperature=0.8, slots=40, merge=merge)
    for seed in range(3):
        prompts = headed([3, 17, 9, 30], seed=seed)
        wanted = generate(policy, prompts, n=12, seed=seed, graphs=False, **switches)
        same(wanted, generate(policy, prompts, n=12, seed=seed, graphs=True, **switches))
        graphs = graphs or list(policy.device_memory.graphs)
        assert list(policy.device_memory.graphs) == graphs and len(graphs) == 6  # 2, 4, 8, 16, 32, 40 rows
        trained_like(policy, std=0.1 * (seed + 2))


def test_memory_is_taken_over_by_smaller_rollouts_and_given_up_for_larger_ones(policy, recorded):
    prompts = prompts_of([5, 20, 9])

    def filled(graphs):
        rollout = start_rollout(policy, slots, 20 + new, new, seed=1, graphs=graphs)
        for i, prompt in enumerate(prompts):
            add(rollout, prompt, 2, tag=i)
        return rollout
    for slots, new, kept in ((4, 20, False), (3, 10, True), (4, 40, False), (8, 20, False)):
        before = policy.device_memory
        rollout = filled(True)
        assert (rollout.memory is before) == kept
        with pytest.raises(ValueError):
            add(rollout, prompts[0], 1, new + 1)
        other = start_rollout(policy, 2, 30, 10, graphs=True)
        assert other.memory is not rollout.memory  # it is in use
        policy.device_memory = rollout.memory
        assert {key: s.ids for key, s in run(rollout).items()} == {key: s.ids for key, s in run(filled(False)).items()}


@pytest.mark.parametrize("ahead", [0, 2])
def test_rows_keep_their_keys_when_the_memory_is_laid_out_anew(endless, recorded, ahead):
    prompts, endless.device_memory = prompts_of([200, 210, 220, 190]), None
    wanted = generate(endless, prompts, max_new_tokens=200, seed=1, graphs=False)
    per_position = 2 * 2 * 2 * 8 * 4
    same(wanted, generate(endless, prompts, max_new_tokens=200, seed=1, graphs=True, slots=4, ahead=ahead, read_every=5,
                          kv_gb=4 * 256 * per_position / 2**30))
    assert {length for length, _ in recorded} == {256, 420}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_decoding_with_the_kernel_gives_the_same_samples(tiny):
    """In a process of its own: Triton reads TRITON_INTERPRET when it is first imported."""
    script = """if True:
        import sys
        sys.path[:0] = [".", "tests"]
        import model as M
        from sampler import generate
        from test_model import prompts_of, trained_like
        policy = trained_like(M.load_policy(sys.argv[1], lora_rank=4))
        prompts = prompts_of([3, 17])
        plain, kernel = [], []
        for into, has in ((plain, False), (kernel, True)):
            M.has_kernel = lambda x: has
            into += [s for group in generate(policy, prompts, 2, 4, seed=1) for s in group]
        assert [s.ids for s in plain] == [s.ids for s in kernel]
        assert max(abs(a - b) for x, y in zip(plain, kernel) for a, b in zip(x.logps, y.logps)) < 1e-4
        assert "cuda_attention" in sys.modules
    """
    subprocess.run([sys.executable, "-c", script, tiny()], check=True, cwd=Path(M.__file__).parent,
                   env=os.environ | {"TRITON_INTERPRET": "1"})


# ---- feeding ----------------------------------------------------------------------------------------------------

@pytest.mark.quick
def test_fed_while_running_equals_all_at_once(endless):
    prompts = headed([3, 17, 9, 30, 8]) + prompts_of([1, 2])
    whole = start_rollout(endless, 4, 200, 20, seed=3)
    for i, prompt in enumerate(prompts):
        add(whole, prompt, 2, 3 + 2 * i, tag=i)
    wanted = run(whole)
    fed, found, waiting = start_rollout(endless, 4, 200, 20, seed=3), {}, list(enumerate(prompts))
    while waiting or not idle(fed):
        if waiting and fed.steps % 3 == 0:
            i, prompt = waiting.pop(0)
            add(fed, prompt, 2, 3 + 2 * i, tag=i)
        for request, j, sample in advance(fed):
            found[request.tag, j] = sample
        fed.steps += idle(fed)  # time passes though nothing is to be done
    assert {key: s.ids for key, s in found.items()} == {key: s.ids for key, s in wanted.items()}


def test_what_advance_does_depends_on_the_calls_alone(endless):
    def trace():
        rollout, events = start_rollout(endless, 3, 100, 9, seed=5, read_every=2), []
        for step in range(30):
            if step % 4 == 0:
                add(rollout, prompts_of([4 + step], step)[0], 2, [3, 9], tag=step)
            events.append([(r.tag, j, s.ids, s.logps) for r, j, s in advance(rollout)])
        return events
    assert trace() == trace()


@pytest.mark.quick
def test_rows_end_at_their_own_limits_and_overrun_is_dropped(endless):
    prompts, limits = prompts_of([5, 9]), [[1, 4, 7], [2, 16, 3]]
    for read_every in (1, 4, 8):
        rollout = start_rollout(endless, 4, 64, 16, seed=1, read_every=read_every)
        for i, prompt in enumerate(prompts):
            add(rollout, prompt, 3, limits[i], tag=i)
        found = run(rollout)
        assert {key: len(s.ids) for key, s in found.items()} == {(i, j): limits[i][j] for i in (0, 1) for j in range(3)}
        assert all(len(s.logps) == len(s.ids) and s.finish == "length" for s in found.values())


def test_a_stop_within_a_reading_ends_the_response_there(policy):
    prompts = prompts_of([5] * 6)
    for read_every in (1, 8):
        groups = generate(policy, prompts, n=8, max_new_tokens=40, seed=0, read_every=read_every)
        samples = [sample for group in groups for sample in group]
        assert any(s.finish == "stop" for s in samples)
        assert not any(policy.stop_ids & set(s.ids[:-1]) for s in samples)


def test_requests_that_do_not_fit_are_refused(policy):
    rollout = start_rollout(policy, 2, 30, 10)
    for prompt, limit in (([], 5), ([3] * 25, 6), ([3], 11), ([3], [0])):
        with pytest.raises(ValueError, match="prompts must have"):
            add(rollout, prompt, 1, limit)
    assert idle(rollout) and advance(rollout) == []


# ---- memory -----------------------------------------------------------------------------------------------------

def test_rows_that_lose_their_slot_come_back_unchanged(endless):
    """Keys and values for two long rows only: the others are put off, and their tokens stay what they were."""
    prompts = prompts_of([200, 210, 220, 190])
    wanted = generate(endless, prompts, max_new_tokens=200, seed=1)
    row = S.capacity
    bytes_per_position = 2 * 2 * 2 * 8 * 4
    rollout = start_rollout(endless, 4, 420, 200, seed=1, kv_gb=4 * 256 * bytes_per_position / 2**30)
    assert row(rollout, 256) == 4 and row(rollout, 420) == 2
    for i in sorted(range(4), key=lambda i: -len(prompts[i])):
        add(rollout, prompts[i], 1, tag=i)
    found, seen = {}, set()
    while not idle(rollout):
        seen.add(len(rollout.rows))
        for request, j, sample in advance(rollout):
            found[request.tag] = sample
    assert {4, 2} <= seen
    for i in range(4):
        assert found[i].ids == wanted[i][0].ids
        torch.testing.assert_close(torch.tensor(found[i].logps), torch.tensor(wanted[i][0].logps), rtol=1e-4, atol=1e-4)


def test_the_cache_grows_with_the_rows(endless):
    rollout = start_rollout(endless, 2, 500, 400)
    add(rollout, [5] * 20, 1)
    assert rollout.length() == 256
    run(rollout)
    assert rollout.length() == 500


def test_a_shared_header_is_run_once(endless, monkeypatch):
    tokens = []
    original = M.forward
    def spy(policy, ids, pos, cache=None, *rest, **options):
        if cache is None:
            tokens.append(ids.numel())
        return original(policy, ids, pos, cache, *rest, **options)
    monkeypatch.setattr(S, "forward", spy)
    prompts = headed([10, 10, 10, 10, 10, 10], header=100)
    generate(endless, prompts, n=2, max_new_tokens=2)
    assert sum(tokens) == 100 + 6 * 9  # each prompt's last token is left to the first step
    tokens.clear()
    generate(endless, prompts, n=2, max_new_tokens=2, share_prefix=False)
    assert sum(tokens) == 6 * 109


# ---- drawing ----------------------------------------------------------------------------------------------------

def test_draws_follow_the_softmax_across_chunks():
    torch.manual_seed(0)
    logits, n = torch.randn(1, 300) * 2, 40000  # two whole chunks and a rest
    ids, logp = draw(logits.expand(n, -1).clone(), torch.rand(n, 1, dtype=torch.float64))
    p = logits[0].softmax(-1)
    torch.testing.assert_close(logp, logits[0].log_softmax(-1)[ids], rtol=1e-5, atol=1e-5)
    counts = Counter(ids.tolist())
    likely = [i for i in range(300) if p[i] * n >= 5]
    chi = sum((counts[i] - n * float(p[i])) ** 2 / (n * float(p[i])) for i in likely)
    assert chi < len(likely) + 4 * (2 * len(likely)) ** 0.5


@pytest.mark.parametrize("vocabulary", [154, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_draw_is_the_inverse_of_the_distribution_at_its_number(vocabulary, temperature, dtype):
    torch.manual_seed(0)
    logits, uniform = (torch.randn(300, vocabulary) * 4).to(dtype), torch.rand(300, 1, dtype=torch.float64)
    logp = (logits.double() / temperature).log_softmax(-1)
    wanted = (logp.exp().cumsum(-1) <= uniform).sum(-1)
    ids, drawn_logp = draw(logits.clone(), uniform, temperature)
    assert torch.equal(ids, wanted)
    torch.testing.assert_close(drawn_logp, logp.gather(1, ids[:, None])[:, 0].float(), rtol=1e-5, atol=2e-6)


@pytest.mark.quick
def test_draws_at_the_ends_and_of_impossible_tokens():
    logits = torch.full((3, 300), float("-inf"))
    logits[:, [0, 140, 290]] = 0.0
    ids, logp = draw(logits, torch.tensor([[0.0], [0.5], [1 - 2.0**-53]], dtype=torch.float64))
    assert ids.tolist() == [0, 140, 290]
    torch.testing.assert_close(logp, torch.full((3,), -1.0986123))
    logits = torch.full((1, 300), float("-inf"))
    logits[:, 140] = 0.0
    assert draw(logits, torch.zeros(1, 1, dtype=torch.float64))[0].tolist() == [140]


def test_noise_differs_between_steps_and_samples(endless):
    [group] = generate(endless, prompts_of([5]), n=6, max_new_tokens=30, seed=0, temperature=5.0)
    assert len({tuple(s.ids) for s in group}) == 6 and all(len(set(s.ids)) > 10 for s in group)


def test_a_response_ends_with_the_token_that_completes_a_stop(endless):
    """Wherever it begins, also inside a token, however often the device is read: the tokens up to there are those of
    the response without the stop, and nothing behind them is kept."""
    prompts, decode = headed([3, 9, 14, 5]), endless.tokenizer.decode
    whole = generate(endless, prompts, 3, 40, seed=1, slots=12)
    texts = [["".join(decode([id]) for id in sample.ids) for sample in group] for group in whole]
    stop = next(text[20:24] for text in texts[0] if len(text) > 24)
    for switches in (dict(read_every=1), dict(read_every=5), dict(read_every=8, slots=3), dict(kv_gb=1e-6),
                     dict(read_every=8, ahead=2, slots=3), dict(read_every=3, ahead=2, kv_gb=1e-6)):
        stopped = generate(endless, prompts, 3, 40, seed=1, stops=(stop, "never this text"), **{"slots": 12} | switches)
        for sample, full in zip((s for group in stopped for s in group), (s for group in whole for s in group)):
            pieces = [decode([id]) for id in full.ids]
            wanted = next((n for n in range(1, 41) if stop in "".join(pieces[:n])), 40)
            assert sample.ids == full.ids[:wanted]
            assert sample.finish == ("stop" if stop in "".join(pieces) else "length")
            assert len(sample.logps) == wanted
    assert any(s.finish == "stop" for group in stopped for s in group)


def test_an_answer_made_to_begin_otherwise_is_the_greedy_one_without_that_token(policy, tokenizer):
    """What `not_first` samples: the likeliest other token, and after it what greedy decoding makes of it."""
    prompts = [[5, 9, 30], [7], [40] * 12]
    first = [sample.ids[0] for (sample,) in S.generate(policy, prompts, 1, 1, 0.0)]
    for prompt, chosen in zip(prompts, first):
        (other,) = selfplay.other_tokens(policy, [prompt], chosen)
        with torch.no_grad():
            logits_V = policy.model(torch.tensor([prompt])).logits[0, -1]
        assert logits_V.topk(2).indices.tolist() == [chosen, other]
    absent = next(number for number in range(len(tokenizer)) if number not in first)
    assert selfplay.other_tokens(policy, prompts, absent) == first, "of unlike lengths together"
