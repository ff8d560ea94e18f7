"""
How fast and how large: this implementation against what one would otherwise run, in one process, on the same prompts,
weights, dtype and seed, in alternating repeats; medians and ratios.

    python bench.py rollout --model DIR        # against transformers' generate and llama.cpp, each at its best
    python bench.py update --model DIR         # against peft's forward pass and log_softmax over all logits
    python bench.py memory --shape 7b          # what fits into 24, 48 and 141 GB
    python bench.py step --model DIR           # a whole step, and how much of the executor hides under the decoding
    python bench.py executor --data DIR        # against a pebble pool and a process per program
    python bench.py all --shape nano           # random weights in the shape of a family member

Figures go to the screen, to results/bench-MACHINE.json (merged with what is there), and as one JSON object to the last
line.
"""
import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import (AutoModelForCausalLM, AutoTokenizer, GenerationConfig, Qwen2Config, StoppingCriteria,
                          StoppingCriteriaList)

import model as M
import sampler as S
import tasks
import train
from speed.executors import bench_executor
from executor import Executor
from model import Policy, add_adapter, load_policy, logprobs

HERE = Path(__file__).resolve().parent.parent
sys.path.append(str(HERE / "nano"))
import make  # noqa: E402
SHAPES = {  # vocabulary, width, layers, heads, key/value heads, MLP width, tied: Qwen2.5-Coder's configurations
    "nano": (154, 128, 4, 4, 2, 384, True), "0.5b": (151936, 896, 24, 14, 2, 4864, True),
    "1.5b": (151936, 1536, 28, 12, 2, 8960, True), "3b": (151936, 2048, 36, 16, 2, 11008, True),
    "7b": (152064, 3584, 28, 28, 4, 18944, False)}


# ----------------------------------------------------------------------------------------------------------------
# Models and the machine

def shape_config(shape: str) -> Qwen2Config:
    V, D, L, H, K, I, tied = SHAPES[shape]
    return Qwen2Config(vocab_size=V, hidden_size=D, num_hidden_layers=L, num_attention_heads=H, num_key_value_heads=K,
                       intermediate_size=I, tie_word_embeddings=tied, max_position_embeddings=32768)


def models(args) -> tuple[Policy, torch.nn.Module]:
    """The policy with a rank-16 adapter, as in training, and a plain transformers model of the same weights: without
    the adapter's matmuls, as after merging."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    if args.model:
        policy = load_policy(args.model, args.device, dtype=dtype)
        plain = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, device_map={"": args.device})
    else:
        config = shape_config(args.shape)
        torch.manual_seed(0)
        with torch.device(args.device):
            plain = AutoModelForCausalLM.from_config(config, dtype=dtype)
            ours = AutoModelForCausalLM.from_config(config, dtype=dtype)
        ours.load_state_dict(plain.state_dict())
        wrapped = add_adapter(ours.requires_grad_(False), 16, 32.0, None, 0)
        base = wrapped.get_base_model()
        policy = Policy(wrapped, None, base.model, base.lm_head, config, frozenset(), dtype,
                        config.max_position_embeddings)
    policy.stop_ids = frozenset()  # lengths are given
    policy.compile = args.compile
    plain.generation_config = GenerationConfig()  # `generate` would fill in the checkpoint's own end-of-text tokens
    return policy, plain.eval().requires_grad_(False)


def sync(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(device: str, work) -> float:
    sync(device)
    start = time.perf_counter()
    work()
    sync(device)
    return time.perf_counter() - start


def limits(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """(bytes/s of a copy, read and write counted; FLOP/s of a matmul), the best of a few."""
    source = torch.empty(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = min(seconds(device, lambda: target.copy_(source)) for _ in range(5))
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    matmul = min(seconds(device, lambda: a @ b) for _ in range(5))
    return 2 * len(source) / copy, 2 * size**3 / matmul


def peak_memory(device: str, work) -> float:
    """Bytes that `work` holds at its peak beyond what is held before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, Linux's high-water mark of resident memory
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def resident(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024.0 * int(line.split()[1])


def machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu-{os.cpu_count()}x-{platform.machine()}"
    return "".join(c if c.isalnum() else "-" for c in name.lower())


# ----------------------------------------------------------------------------------------------------------------
# Rollout

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


def ours(policy: Policy, work: list, args, **switches) -> S.Rollout:
    longest = max(len(prompt) for prompt, _ in work) + args.response_max
    rollout = S.start_rollout(policy, args.slots, longest, args.response_max, seed=args.seed, kv_gb=args.kv_gb,
                              **switches)
    for prompt, lengths in sorted(work, key=lambda item: -len(item[0])):
        S.add(rollout, prompt, len(lengths), lengths)
    while not S.idle(rollout):
        for request, j, sample in S.advance(rollout):
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


def rollout(args) -> dict:
    policy, plain = models(args)
    work = workload(args, policy.config.vocab_size)
    useful = sum(length for _, lengths in work for length in lengths)
    prefilled = sum(len(prompt) for prompt, _ in work)
    print(f"rollout: {args.prompts} prompts of {args.prompt_min}-{args.prompt_max} tokens ({prefilled:,} in all), n ="
          f" {args.n}, responses of {useful / args.prompts / args.n:.0f} tokens on average, at most"
          f" {max(max(lengths) for _, lengths in work)}; {useful:,} useful tokens, {args.dtype}")
    found = {}
    if args.compile:
        found["compile_seconds"] = seconds(args.device, lambda: ours(policy, work[:1], args))
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
    others = llamacpp_trials(plain, args) if args.device == "cpu" and args.llamacpp else {}
    seen = {}
    sample = work[::4]  # enough to choose the best baseline by
    sampled = sum(length for _, lengths in sample for length in lengths)
    torch.manual_seed(args.seed)
    with torch.no_grad():  # continuous batching refuses inference mode; generate sets no_grad itself
        baseline(plain, [(prompt[:8], [2, 2]) for prompt, _ in work[:1]], args, 2)  # warm up
        for name, trial in (trials | others).items():
            try:
                seen[name] = seconds(args.device, lambda: trial(sample))
                print(f"  on a quarter of the work, {name}: {sampled / seen[name]:,.1f} useful tokens/s", flush=True)
            except Exception as error:  # a baseline that does not run here is said so and left out
                print(f"  {name}: does not run here ({type(error).__name__}: {str(error)[:90]})", flush=True)
        best = min(seen.keys() & trials, key=seen.get)
        best_other = min(seen.keys() & others, key=seen.get, default=None)
        found["trials"] = {name: sampled / took for name, took in seen.items()}
        times, base_times, other_times = [], [], []
        for _ in range(args.repeats):
            times.append(seconds(args.device, lambda: ours(policy, work, args)))
            base_times.append(seconds(args.device, lambda: trials[best](work)))
            if best_other:
                other_times.append(seconds(args.device, lambda: others[best_other](work)))
        used = peak_memory(args.device, lambda: ours(policy, work, args))
        found["by_slots"] = {}
        for slots in sorted({max(1, args.slots // 4), max(1, args.slots // 2)}):
            took = seconds(args.device, lambda: ours(policy, work, argparse.Namespace(**vars(args) | {"slots": slots})))
            found["by_slots"][slots] = useful / took
        short = [(prompt, [max(4, length // 4) for length in lengths]) for prompt, lengths in work]
        took = seconds(args.device, lambda: ours(policy, short, args))
        found["tokens_per_second_quarter_length"] = sum(sum(lengths) for _, lengths in short) / took
    mine, theirs = statistics.median(times), statistics.median(base_times)
    copy, matmul = limits(args.device, policy.dtype)
    layers = sum(p.numel() for name, p in plain.named_parameters() if ".layers." in name)
    head = policy.config.vocab_size * policy.config.hidden_size
    flops = 2 * (useful * (layers + head) + prefilled * layers)
    steps = useful / min(args.slots, args.prompts * args.n)  # at least: as if no slot were ever empty
    kv_token = 2 * policy.dtype.itemsize * len(policy.decoder.layers) * policy.config.num_key_value_heads \
        * policy.decoder.layers[0].self_attn.head_dim
    kv_read = kv_token * sum(length * (len(prompt) + length / 2) for prompt, lengths in work for length in lengths)
    moved = steps * (layers + head) * policy.dtype.itemsize + kv_read
    found |= {"ratio": theirs / mine, "tokens_per_second": useful / mine, "baseline": best,
              "baseline_tokens_per_second": useful / theirs, "seconds": times, "baseline_seconds": base_times,
              "bandwidth_share": moved / copy / mine, "compute_share": flops / matmul / mine,
              "copy_gb_per_second": copy / 1e9, "matmul_gflops": matmul / 1e9, "peak_memory_gb": used / 2**30,
              "useful_tokens": useful, "slots": args.slots}
    if best_other:
        other = statistics.median(other_times)
        found |= {"llamacpp": best_other, "llamacpp_ratio": other / mine, "llamacpp_seconds": other_times,
                  "llamacpp_tokens_per_second": useful / other}
    print(f"  ours, {args.slots} slots: {useful / mine:,.1f} useful tokens/s, {theirs / mine:.2f} times {best}"
          f" ({useful / theirs:,.1f}); by slots {', '.join(f'{s}: {v:,.1f}' for s, v in found['by_slots'].items())}; a"
          f" quarter of the length: {found['tokens_per_second_quarter_length']:,.1f}")
    if best_other:
        print(f"  and {other / mine:.2f} times {best_other} ({useful / other:,.1f})")
    print(f"  limits: {copy / 1e9:.1f} GB/s, {matmul / 1e9:,.0f} GFLOP/s; ours uses"
          f" {100 * moved / copy / mine:.0f}% and {100 * flops / matmul / mine:.0f}% of them (useful work only); memory"
          f" beside the weights {used / 2**30:.2f} GB")
    return found


# ----------------------------------------------------------------------------------------------------------------
# Update

def update(args) -> dict:
    policy, _ = models(args)
    policy.checkpoint_layers = args.checkpoint_layers
    if args.checkpoint_layers:
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy.model.enable_input_require_grads()
        policy.model.train()
    rng = random.Random(args.seed)
    ids = lambda count: [rng.randrange(3, policy.config.vocab_size) for _ in range(count)]
    prompts = [ids(args.update_prompt) for _ in range(args.update_rows)]
    rows = [(prompt, ids(args.update_response)) for prompt in prompts for _ in range(args.update_n)]
    tokens = sum(len(prompt) + len(response) for prompt, response in rows)

    def mine() -> None:
        for first in range(0, len(rows), args.update_n):  # a prompt at a time; the baseline a response at a time
            logp_N, _ = logprobs(policy, rows[first:first + args.update_n])
            (logp_N.mean() * args.update_n).backward()
        take_gradients()

    def theirs() -> None:
        for prompt, response in rows:
            text = torch.tensor([prompt + response], device=args.device)
            logits = policy.model(input_ids=text, use_cache=False).logits[:, :-1].float()
            logp = logits.log_softmax(-1).gather(-1, text[:, 1:, None])[0, len(prompt) - 1:, 0]
            logp.mean().backward()
        take_gradients()

    gradients = {}

    def take_gradients() -> None:
        gradients["last"] = torch.cat([p.grad.flatten() for p in policy.trained()])
        policy.model.zero_grad()
    torch.manual_seed(1)
    for parameter in policy.trained():  # B starts at 0, and A's gradient with it
        torch.nn.init.normal_(parameter, std=0.01)
    held, times, base_times, peaks, base_peaks = weight_bytes(policy), [], [], [], []
    if args.compile or args.device == "cuda":
        print(f"  first pass {seconds(args.device, mine):.1f} s")
        theirs()
    for _ in range(args.repeats):
        peaks.append(peak_memory(args.device, lambda: times.append(seconds(args.device, mine))))
        my_gradient = gradients["last"]
        base_peaks.append(peak_memory(args.device, lambda: base_times.append(seconds(args.device, theirs))))
    like = float(torch.cosine_similarity(my_gradient.double(), gradients["last"].double(), dim=0))
    took, base_took, peak, base_peak = map(statistics.median, (times, base_times, peaks, base_peaks))
    found = {"ratio": base_took / took, "tokens_per_second": tokens / took,
             "baseline_tokens_per_second": tokens / base_took,
             "memory_ratio": (peak + held) / (base_peak + held), "peak_gb": peak / 2**30,
             "baseline_peak_gb": base_peak / 2**30, "weights_gb": held / 2**30, "gradient_cosine": like,
             "seconds": times, "baseline_seconds": base_times, "response_tokens": args.update_response,
             "responses_to_a_prompt": args.update_n}
    print(f"update: {args.update_rows} prompts of {args.update_prompt} tokens, {args.update_n} responses of"
          f" {args.update_response} to each, {args.dtype},"
          f" layers {'recomputed' if args.checkpoint_layers else 'kept'} in both\n"
          f"  ours {tokens / took:,.1f} tokens/s, peft and full logits {tokens / base_took:,.1f}:"
          f" {base_took / took:.2f} times; peak beside"
          f" {held / 2**30:.2f} GB of weights {peak / 2**30:.2f} against {base_peak / 2**30:.2f} GB, with weights"
          f" {found['memory_ratio']:.2f} of it; cosine of the gradients {like:.5f}")
    return found


def weight_bytes(policy: Policy) -> int:
    return sum(p.numel() * p.element_size() for p in policy.model.parameters())


# ----------------------------------------------------------------------------------------------------------------
# Memory

def memory(args) -> dict:
    """What fits into cards of 24, 48 and 141 GB, by arithmetic: weights, adapter with AdamW and gradients, keys and
    values of one slot at --length positions, the update's activations for one row of --length tokens with layers
    recomputed."""
    if args.model:
        config = load_policy(args.model).config
        V, D, L, H, K, I = (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
                            config.num_key_value_heads, config.intermediate_size)
        tied = config.tie_word_embeddings
    else:
        V, D, L, H, K, I, tied = SHAPES[args.shape]
    C, gb = D // H, 2**30
    linear = L * (2 * D * D + 2 * D * K * C + 3 * D * I)
    embedding = V * D * (1 if tied else 2)
    adapter = 16 * L * (4 * D + 2 * (D + K * C) + 3 * (D + I))
    kv = 2 * 2 * L * K * C * args.length / gb
    row = (2 * args.length * (L * D + 12 * D + 6 * I) + 3 * 4 * M.LOGIT_BUDGET) / gb
    found, trained = {}, 16 * adapter / gb
    print(f"memory of {args.model or args.shape}: adapter, gradients and AdamW {trained:.2f} GB; keys and values of a"
          f" slot of {args.length} positions {kv:.3f} GB; update of one row of {args.length} tokens {row:.2f} GB")
    for name, size in (("bf16", 2.0), ("nf4", 0.5625)):  # NF4: 4 bits and a scale of 32 bits for 64 weights
        weights = (2 * embedding + size * linear) / gb
        for card in (24, 48, 141):
            free = card * 0.93 - weights - trained  # 7%: CUDA context, fragmentation
            slots, rows = int(free * 0.9 / kv), int(free / row)
            found[f"{name}.{card}gb"] = {"weights_gb": weights, "slots": max(0, slots), "update_tokens":
                                         max(0, rows) * args.length}
            print(f"  {name}, {card} GB: weights {weights:.1f} GB; {max(0, slots)} slots in generation;"
                  f" {max(0, rows) * args.length:,} tokens per micro-batch in the update")
    if args.device == "cuda":
        policy, _ = models(args)
        policy.checkpoint_layers = True
        rng = random.Random(0)
        ids = [rng.randrange(3, V) for _ in range(args.length)]
        found["measured_update_gb"] = peak_memory("cuda", lambda: logprobs(policy, [(ids[:64], ids[64:])])[0].sum()
                                                  .backward()) / gb
        print(f"  measured: weights {weight_bytes(policy) / gb:.2f} GB, update of one row"
              f" {found['measured_update_gb']:.2f} GB")
    return found


# ----------------------------------------------------------------------------------------------------------------

# Each takes the parsed arguments and returns figures, which become NAME.key in the results.
# ----------------------------------------------------------------------------------------------------------------
# A whole step

def step(args) -> dict:
    """train.py's own step. So that the executor has the work of a policy that knows the form, whatever the weights, the
    sampled texts are replaced by tasks of nano's grammar and by right and wrong answers; lengths are drawn as in
    `rollout`. Without stream, the same code judges after sampling: what it then waits for the executor is what there is
    to hide. The baseline is generate, phase by phase, the same judging, and peft with full logits."""
    policy, plain = models(args)
    if policy.tokenizer is None:
        policy.tokenizer = AutoTokenizer.from_pretrained(HERE / "nano")
    policy.checkpoint_layers = args.checkpoint_layers
    small = policy.config.hidden_size == SHAPES["nano"][1]
    cfg = train.Config(batch_size=args.step_batch, n_probes=args.n, references=2, n_inputs=6, slots=args.slots,
                       max_new_tokens=args.response_max, max_prompt_tokens=2048, temperature=1.0, kv_gb=args.kv_gb,
                       heldout_fraction=0.0, seed=args.seed)
    style = tasks.Style("compact" if small else "r1", cfg.n_inputs)
    work, texts = [], {}
    policy.stop_ids = frozenset()  # rows end at their drawn length

    def feed(rollout, prompt: list[int], n: int, tag: list, key: str):
        rng = random.Random(f"{args.seed} {key}")
        lengths = [max(4, min(args.response_max, round(rng.lognormvariate(0, 0.9) * args.response_median)))
                   for _ in range(n)]
        work.append((tag[0].kind, prompt, lengths))
        return S.add(rollout, prompt, n, limit=lengths, tag=tag, key=key)

    def go_on(rollout):
        finished = S.advance(rollout)
        for request, number, sample in finished:
            row = request.tag[number]
            texts[id(sample.ids)] = scripted(row, random.Random(f"{row.prompt} {number}"))
        return finished
    patches = {"add": feed, "advance": go_on, "decode": lambda policy, ids: texts.pop(id(ids))}
    saved = {name: getattr(train, name) for name in patches}
    times: dict[str, list] = {name: [] for name in ("stream", "phases", "baseline", "waited", "to_hide")}
    with Executor(workers=2, require="weak") as executor, tempfile.TemporaryDirectory() as folder:
        known = tasks.load_tasks(str(HERE / "nano" / "heldout.jsonl"), executor)[:48]
        run = train.Training(cfg, Path(folder), policy, torch.optim.AdamW(policy.trained(), lr=0.0), executor, style,
                             tasks.Buffers(cfg.buffer_size), step=1, kv_gb=args.kv_gb)
        try:
            for name, patch in patches.items():
                setattr(train, name, patch)
            for _ in range(args.repeats):
                for stream in (True, False):
                    cfg.stream, run.buffers = stream, tasks.Buffers(cfg.buffer_size)
                    for task in known:
                        run.buffers.add(task)
                    executor._cache.clear()
                    work.clear()
                    sync(args.device)
                    start = time.perf_counter()
                    rows, metrics = train.train_step(run)
                    sync(args.device)
                    times["stream" if stream else "phases"].append(time.perf_counter() - start)
                    times["waited" if stream else "to_hide"].append(metrics["seconds/of it waiting"])
                trained = [row for row in rows if row.kind != "probe" and row.reward is not None]
                start = time.perf_counter()
                for kind in ("propose", "probe", "solve"):
                    part = [(prompt, lengths) for other, prompt, lengths in work if other == kind]
                    baseline(plain, part, args, args.batches[0])
                full_logits(run, trained, args.device)
                sync(args.device)
                times["baseline"].append(time.perf_counter() - start + times["to_hide"][-1])
        finally:
            for name, function in saved.items():
                setattr(train, name, function)
    took = {name: statistics.median(values) for name, values in times.items()}
    tokens = sum(sum(lengths) for _, _, lengths in work)
    found = {"ratio": took["baseline"] / took["stream"], "executor_hidden": 1 - took["waited"] / took["to_hide"],
             "stream_ratio": took["phases"] / took["stream"], "rows": sum(len(lengths) for _, _, lengths in work),
             "tokens": tokens, "seconds": times}
    print(f"step: B {cfg.batch_size} x 3 types, n {cfg.n_probes}: {found['rows']} responses, {tokens:,} tokens,"
          f" {len(trained)} trained\n  ours {took['stream']:.1f} s, judging after sampling {took['phases']:.1f} s,"
          f" baseline {took['baseline']:.1f} s: {found['ratio']:.2f} times; waited {took['waited']:.2f} s for the"
          f" executor, of {took['to_hide']:.2f}: {100 * found['executor_hidden']:.0f}% hidden")
    return found


def scripted(row: train.Row, rng: random.Random) -> str:
    """A response to the row's prompt in the right form: a task of nano's grammar, or an answer, one in two right."""
    if row.role == "propose":
        if row.type == "induction":
            values = rng.sample(range(-50, 50), 6)
            blocks = [("input", tasks.arguments((v,))) for v in values] + [("message", "a function")]
            blocks = blocks if row.reference is None else [
                ("input", tasks.arguments(row.reference.inputs[0])), *blocks[1:]]
        else:
            task = make.draw_example("solve", row.type, make.pick(make.DEPTHS, rng), rng)[0]
            blocks = [("python", task.program), ("input", tasks.arguments(task.inputs[0]))]
    else:
        wrong = rng.random() < 0.5
        answers = {"deduction": ("output", "'no'" if wrong else tasks.show(row.task.outputs[0])),
                   "abduction": ("input", "'no'" if wrong else tasks.arguments(row.task.inputs[0])),
                   "induction": ("python", tasks.IDENTITY if wrong else row.task.program)}
        blocks = [answers[row.type]]
    return " </think><answer>" + "\n".join(tasks.fence(*block) for block in blocks) + "</answer>"


def full_logits(run: train.Training, rows: list, device: str) -> None:
    """The gradient of the rows' log-probs as peft and transformers give it: a row a response, micro-batches as large as
    ours."""
    policy, shared = run.policy, run.policy.share_prompts
    policy.share_prompts = 0
    batches, policy.share_prompts = train.micro_batches(run, rows, run.cfg.micro_tokens), shared
    for micro in batches:
        ids_BT, _ = M.pad([rows[i].prompt_ids + rows[i].sample.ids for i in micro], device)
        mask_BT = torch.zeros_like(ids_BT)
        for b, i in enumerate(micro):
            mask_BT[b, :len(rows[i].prompt_ids) + len(rows[i].sample.ids)] = 1
        logits = policy.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits[:, :-1].float()
        logp_BT = logits.log_softmax(-1).gather(-1, ids_BT[:, 1:, None])[..., 0]
        logp_BT.mean().backward()
    policy.model.zero_grad()


def executor(args) -> dict:
    if not args.data:
        print("executor: left out; --data DIR names the folder that holds azr_seeds/*.jsonl, the official seed tasks")
        return {}
    return bench_executor(args)


BENCHES = {"rollout": rollout, "update": update, "memory": memory, "step": step, "executor": executor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("what", choices=(*BENCHES, "all"))
    add = parser.add_argument
    add("--model", help="a folder or a hub name")
    add("--shape", choices=SHAPES, default="nano", help="random weights of this shape, if no --model is given")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", choices=("fp32", "bf16"), help="of both sides; bf16 where it pays if not given")
    add("--compile", action=argparse.BooleanOptionalAction, help="torch.compile of our layers; on with CUDA")
    add("--repeats", type=int, default=3)
    add("--seed", type=int, default=0)
    add("--slots", type=int, help="ours, responses at once; 32 on a CPU (nano 256), 128 on CUDA")
    add("--batches", type=int, nargs="+", help="batch sizes that generate may choose from")
    add("--attention", nargs="+", help="generate's implementations to choose from: sdpa, and eager on a CPU")
    add("--continuous", action=argparse.BooleanOptionalAction, default=True,
        help="try transformers' continuous batching")
    add("--llamacpp", action=argparse.BooleanOptionalAction, default=True,
        help="try llama.cpp, on a CPU with llama-cpp-python and gguf")
    add("--kv_gb", type=float, default=4.0)
    add("--prompts", type=int, help="unique prompts")
    add("--n", type=int, default=8, help="responses to each")
    add("--prompt_min", type=int)
    add("--prompt_max", type=int)
    add("--response_median", type=int)
    add("--response_max", type=int)
    add("--update_rows", type=int, default=1)
    add("--update_n", type=int, default=1, help="responses to each prompt")
    add("--update_prompt", type=int, default=512)
    add("--update_response", type=int, default=4096)
    add("--checkpoint_layers", action=argparse.BooleanOptionalAction, default=True,
        help="update: recompute layers, on both sides")
    add("--step_batch", type=int, default=None, help="step: B; 32 for nano, 64 on CUDA, else 2")
    add("--data", default=os.environ.get("AZR_DATA"), help="executor: folder with azr_seeds/")
    add("--length", type=int, default=4096, help="memory: positions of a slot and of a row")
    args = parser.parse_args()
    cuda, name = args.device == "cuda", Path(args.model).name if args.model else args.shape
    small = name == "nano"
    sizes = (dict(step_batch=64, slots=128, prompts=64,
                  prompt_min=200, prompt_max=1500, response_median=300, response_max=4096,
                  batches=[64, 128, 256]) if cuda else
             dict(step_batch=32, slots=256, prompts=64,
                  prompt_min=30, prompt_max=240, response_median=50, response_max=400,
                  batches=[64, 128]) if small else
             dict(step_batch=2, slots=32, prompts=6,
                  prompt_min=100, prompt_max=320, response_median=24, response_max=128,
                  batches=[16, 48]))
    for flag, value in sizes.items():
        if getattr(args, flag) is None:
            setattr(args, flag, value)
    args.attention = args.attention or (["sdpa"] if cuda else ["sdpa", "eager"])
    args.compile = cuda if args.compile is None else args.compile
    args.dtype = args.dtype or ("bf16" if cuda or (not small and M.bf16_pays()) else "fp32")
    found = {}
    for what in BENCHES if args.what == "all" else [args.what]:
        found |= {f"{what}.{key}": value for key, value in BENCHES[what](args).items()}
    found = {"machine": machine(args.device), "model": name if args.model else f"random {name}",
             "dtype": args.dtype, "torch": torch.__version__, **found}
    save(found, f"{found['model']} {args.dtype}")
    print(json.dumps(found))


def save(found: dict, model: str) -> None:
    path = HERE / "results" / f"bench-{found['machine']}.json"
    path.parent.mkdir(exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[model] = kept.get(model, {}) | found
    path.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
