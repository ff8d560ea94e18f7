"""Rollout: continuous batching here against transformers' generate and llama.cpp, each at its best."""
import random
import statistics

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

import cards
import sampler
from model import Policy
from speed.measure import both_models, limits, peak_memory, seconds


def workload(args, vocabulary: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, the length of each of its n responses). Six headers of a third of the shortest to half the longest
    prompt, as three types and two roles have; response lengths are lognormal: most short, a heavy tail."""
    rng = random.Random(args.seed)
    headers = [[rng.randrange(3, vocabulary) for _ in range(args.prompt_max // 2)] for _ in range(6)]
    low, high = args.prompt_min, args.prompt_max
    work = []
    for i in range(args.prompts):
        length = round(low * (high / low) ** (i / max(1, args.prompts - 1)))
        header = headers[i % 6][:length // 2]
        prompt = header + [rng.randrange(3, vocabulary) for _ in range(length - len(header))]
        work.append((prompt, [max(4, min(args.response_max, round(rng.lognormvariate(0, 0.9) * args.response_median)))
                              for _ in range(args.n)]))
    return work


def ours(policy: Policy, work: list, args, **switches) -> sampler.Rollout:
    longest = max(len(prompt) for prompt, _ in work) + args.response_max
    rollout = sampler.start_rollout(policy, args.slots, longest, args.response_max, seed=args.seed, kv_gb=args.kv_gb,
                              **switches)
    for prompt, lengths in sorted(work, key=lambda item: -len(item[0])):
        sampler.add(rollout, prompt, len(lengths), lengths)
    while not sampler.idle(rollout):
        for request, j, sample in sampler.advance(rollout):
            assert len(sample.ids) == request.limits[j]
    return rollout


class Lengths(StoppingCriteria):
    """Ends row b after its own number of tokens; `generate` then pads it until the whole batch is done."""
    def __init__(self, prompt: int, lengths: list[int], device: str):
        self.ends_B = prompt + torch.tensor(lengths, device=device)

    def __call__(self, ids_BT, scores, **kwargs):
        return ids_BT.shape[1] >= self.ends_B


def baseline(plain: torch.nn.Module, work: list, args, batch: int, cache: str | None = None) -> None:
    """transformers' generate, prompts of like length together and padded on the left, n samples per prompt."""
    rows = [(prompt, length) for prompt, lengths in sorted(work, key=lambda item: -len(item[0])) for length in lengths]
    options = {"cache_implementation": cache} if cache else {}
    for start in range(0, len(rows), batch):
        part = rows[start:start + batch]
        width = max(len(prompt) for prompt, _ in part)
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in part], device=args.device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in part], device=args.device)
        lengths = [length for _, length in part]
        config = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0,
                                  eos_token_id=None, max_new_tokens=max(lengths), **options)
        stop = StoppingCriteriaList([Lengths(width, lengths, args.device)])
        made = plain.generate(ids, attention_mask=mask, generation_config=config, stopping_criteria=stop)
        assert made.shape[1] == width + config.max_new_tokens, "generate stopped before its time"


def continuous(plain: torch.nn.Module, work: list, args) -> None:
    """transformers' continuous batching: paged, shares prefixes, every request has its own length."""
    from transformers import ContinuousBatchingConfig
    rows = [(prompt, length) for prompt, lengths in work for length in lengths]
    config = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0, eos_token_id=-1,
                              max_new_tokens=args.response_max)
    blocks = sum(len(prompt) + length for prompt, length in rows) // 32 + len(rows) + 8
    with plain.continuous_batching_context_manager(generation_config=config, continuous_batching_config=
                                                   ContinuousBatchingConfig(page_size=32, num_blocks=blocks,
                                                                            max_batch_tokens=2048)) as manager:
        for prompt, length in rows:
            manager.add_request(prompt, max_new_tokens=length)
        made, finished = 0, 0
        while finished < len(rows):
            result = manager.get_result(timeout=5)
            if result is None and not manager.is_running():
                raise RuntimeError("its manager stopped")
            if result is not None and result.is_finished():
                finished, made = finished + 1, made + len(result.generated_tokens)
    assert made == sum(length for _, length in rows), "continuous batching made other lengths"


def llamacpp_trials(plain: torch.nn.Module, args) -> dict:
    """llama.cpp's trials by name, none where its packages are not installed, or do not run."""
    try:
        from speed import llamacpp
        model = llamacpp.load(plain)
    except Exception as error:
        print(f"  llama.cpp: left out ({type(error).__name__}: {str(error)[:90]})")
        return {}

    def generating(batch: int, flash: bool):
        def run(part: list) -> None:
            made = llamacpp.generate(model, plain.dtype, part, batch, flash, seed=args.seed)
            assert [[len(ids) for ids in responses] for responses in made] == [lengths for _, lengths in part]
        return run
    return {f"llama.cpp, batch {batch}{', flash attention' if flash else ''}": generating(batch, flash)
            for batch in args.batches for flash in (False, True)}


def trials_of(plain: torch.nn.Module, args) -> dict:
    """What transformers has to choose from, by name: each runs a part of the work."""
    def generating(batch: int, attention: str = "sdpa", cache: str | None = None):
        def run(part: list) -> None:
            plain.set_attn_implementation(attention)
            baseline(plain, part, args, batch, cache)
        return run
    # sdpa with bf16, a mask and grouped queries is slow on CPUs; there "eager" can be the better baseline.
    trials = {f"generate, batch {batch}, {attention}": generating(batch, attention) for batch in args.batches
              for attention in args.attention}
    if args.device == "cuda":
        trials["generate, static cache"] = generating(args.batches[-1], cache="static")
    if args.continuous:
        trials["continuous batching"] = lambda part: continuous(plain, part, args)
    return trials


def try_out(trials: dict, part: list, args) -> dict[str, float]:
    """Useful tokens a second of every trial that runs here, on a part of the work: enough to choose the best by."""
    rates, tokens = {}, useful_tokens(part)
    for name, trial in trials.items():
        try:
            rates[name] = tokens / seconds(args.device, lambda: trial(part))
            print(f"  on a quarter of the work, {name}: {rates[name]:,.1f} useful tokens/s", flush=True)
        except Exception as error:  # a baseline that does not run here is said so and left out
            print(f"  {name}: does not run here ({type(error).__name__}: {str(error)[:90]})", flush=True)
    return rates


def useful_tokens(work: list) -> int:
    return sum(sum(lengths) for _, lengths in work)


def shares(policy: Policy, work: list, args, took: float) -> dict:
    """Which part of the machine's limits the useful work takes: bytes that must be moved, and operations."""
    copy, matmul = limits(args.device, policy.dtype)
    layers, useful = cards.layer_weights(policy), useful_tokens(work)
    head = policy.config.vocab_size * policy.config.hidden_size
    flops = 2 * (useful * (layers + head) + sum(len(prompt) for prompt, _ in work) * layers)
    steps = useful / min(args.slots, args.prompts * args.n)  # at least: as if no slot were ever empty
    rows = [(prompt, range(length)) for prompt, lengths in work for length in lengths]
    moved = cards.sampling_bytes(policy, steps, rows)
    return {"bandwidth_share": moved / copy / took, "compute_share": flops / matmul / took,
            "copy_gb_per_second": copy / 1e9, "matmul_gflops": matmul / 1e9}


def rollout(args) -> dict:
    policy, plain = both_models(args)
    work = workload(args, policy.config.vocab_size)
    useful, figures = useful_tokens(work), {}
    print(f"rollout: {args.prompts} prompts of {args.prompt_min}-{args.prompt_max} tokens"
          f" ({sum(len(prompt) for prompt, _ in work):,} in all), n = {args.n}, responses of"
          f" {useful / args.prompts / args.n:.0f} tokens on average, at most"
          f" {max(max(lengths) for _, lengths in work)}; {useful:,} useful tokens, {args.dtype}")
    if args.compile:
        figures["compile_seconds"] = seconds(args.device, lambda: ours(policy, work[:1], args))
    trials = trials_of(plain, args)
    others = llamacpp_trials(plain, args) if args.device == "cpu" and args.llamacpp else {}
    torch.manual_seed(args.seed)
    with torch.no_grad():  # continuous batching refuses inference mode; generate sets no_grad itself
        baseline(plain, [(prompt[:8], [2, 2]) for prompt, _ in work[:1]], args, 2)  # warm up
        figures["trials"] = rates = try_out(trials | others, work[::4], args)
        best = [max(rates.keys() & group, key=rates.get, default=None) for group in (trials, others)]
        sides = [lambda: ours(policy, work, args),
                 *(lambda trial=(trials | others)[name]: trial(work) for name in best if name)]
        times = [[] for _ in sides]
        for _ in range(args.repeats):
            for side, mine in zip(sides, times):
                mine.append(seconds(args.device, side))
        figures["peak_memory_gb"] = peak_memory(args.device, sides[0]) / 2**30
    took, *slower = map(statistics.median, times)
    figures |= {"tokens_per_second": useful / took, "seconds": times[0], "useful_tokens": useful, "slots": args.slots}
    figures |= shares(policy, work, args, took)
    for side, ratio, name, theirs, spent in zip(("baseline", "llamacpp"), ("ratio", "llamacpp_ratio"), best, slower,
                                                times[1:]):
        figures |= {ratio: theirs / took, side: name, f"{side}_tokens_per_second": useful / theirs,
                    f"{side}_seconds": spent}
    show(figures)
    return figures


def show(figures: dict) -> None:
    f = figures
    print(f"  ours, {f['slots']} slots: {f['tokens_per_second']:,.1f} useful tokens/s, {f['ratio']:.2f} times"
          f" {f['baseline']} ({f['baseline_tokens_per_second']:,.1f})")
    if "llamacpp" in f:
        print(f"  and {f['llamacpp_ratio']:.2f} times {f['llamacpp']} ({f['llamacpp_tokens_per_second']:,.1f})")
    print(f"  limits: {f['copy_gb_per_second']:.1f} GB/s, {f['matmul_gflops']:,.0f} GFLOP/s; ours uses"
          f" {f['bandwidth_share']:.0%} and {f['compute_share']:.0%} of them (useful work only); memory beside the"
          f" weights {f['peak_memory_gb']:.2f} GB")
