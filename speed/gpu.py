"""
The engine on one CUDA card, in parts of at most three minutes; every figure is a JSON line in --out as soon as it is
there, so that nothing is lost when the time runs out.

    python -m speed gpu                        # everything, about 8 minutes
    python -m speed gpu --part decode-3b       # one part, or several
    python -m speed gpu --dry                  # every part with tiny shapes, on a CPU too: does it run at all?

Weights are random in the shapes of Qwen2.5-Coder, adapters of rank 16 with both matrices filled; nothing stops early.
"""
import gc
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

import cards
import sampler
import train
from command import Parser, whole
from config import PRESETS, Config
from model import Policy, add_adapter, logprobs
from speed.measure import limits, shape_config
from tasks import Buffers

PARTS = {}  # name: (function, shape, seconds)
STEPS = 12  # timed calls of `advance`, after three that warm up


def part(*shapes: str, limit: int = 170):
    """Registers `function(shape, dry)`, a generator of figures, as NAME or NAME-SHAPE."""
    def register(function):
        name = function.__name__
        for shape in shapes or ("",):
            PARTS[f"{name}-{shape}" if len(shapes) > 1 else name] = (function, shape, limit)
        return function
    return register


# ----------------------------------------------------------------------------------------------------------------
# What parts share

def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def random_policy(shape: str, dry: bool, nf4: bool = False) -> Policy:
    config = shape_config("nano" if dry else shape)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device() == "cuda" else torch.float32
    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False)
        if nf4:
            quantise(model)
        model = add_adapter(model, 16, 32.0, None, 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    base = model.get_base_model()  # not in evaluation mode: nothing in it asks for that but NF4 on a CPU
    return Policy(model, None, base.model, base.lm_head, config, frozenset(), dtype, config.max_position_embeddings,
                  compile=device() == "cuda" and not nf4)


def quantise(model: torch.nn.Module) -> None:
    """The linear layers of all blocks in NF4, one after the other."""
    import bitsandbytes
    for module in list(model.model.layers.modules()):
        for name, linear in module.named_children():
            if type(linear) is torch.nn.Linear:
                small = bitsandbytes.nn.Linear4bit(linear.in_features, linear.out_features, linear.bias is not None,
                                                   linear.weight.dtype, quant_type="nf4", device="meta")
                small.weight = bitsandbytes.nn.Params4bit(linear.weight.data.cpu(), False, quant_type="nf4")
                small.bias = linear.bias
                setattr(module, name, small.to(device()))  # quantises


def clock() -> float:
    if device() == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(work) -> tuple[float, object]:
    start = clock()
    result = work()
    return clock() - start, result


def compiled() -> dict:
    """What torch.compile has done so far in this process."""
    from torch._dynamo.utils import counters
    return {"graphs_compiled": counters["stats"].get("unique_graphs", 0),
            "graph_breaks": sum(counters["graph_break"].values()),
            "recompile_limit_hit": sum(n for key, n in counters["unimplemented"].items() if "recompile" in str(key))}


def peak() -> dict:
    if device() == "cpu":
        return {}
    return {"peak_gb": torch.cuda.max_memory_allocated() / 2**30,
            "reserved_gb": torch.cuda.max_memory_reserved() / 2**30}


def tokens(rng: random.Random, policy: Policy, count: int) -> list[int]:
    return [rng.randrange(3, policy.config.vocab_size) for _ in range(count)]


def rates(dry: bool) -> tuple[float, float]:
    """(bytes/s, FLOP/s) of this card."""
    return limits(device(), torch.bfloat16) if device() == "cuda" and not dry else (1e10, 1e11)


def graph_ms(work, copies: int = 8, repeats: int = 20) -> float:
    """Milliseconds of one call inside a CUDA graph."""
    if device() == "cpu":
        return 1e3 * timed(work)[0]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph, begin, end = torch.cuda.CUDAGraph(), torch.cuda.Event(True), torch.cuda.Event(True)
    with torch.cuda.graph(graph):
        for _ in range(copies):
            work()
    graph.replay()
    begin.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / repeats / copies


# ----------------------------------------------------------------------------------------------------------------
# Attention alone

@part()
def attention(_, dry: bool):
    """One layer of decode attention over ragged rows, inside a graph: the kernel with several split and block sizes,
    and SDPA with a mask."""
    import cuda_attention
    bandwidth, _ = rates(dry)
    for shape, H, K, C, B, T in (("0.5b", 14, 2, 64, 256, 2048), ("3b", 16, 2, 128, 128, 4096),
                                 ("7b", 28, 4, 128, 64, 2048), ("3b few", 16, 2, 128, 8, 4096)):
        B, T = (2, 128) if dry else (B, T)
        torch.manual_seed(0)
        dtype = torch.bfloat16 if device() == "cuda" else torch.float32
        pos = (torch.rand(B, device=device()) ** 2 * (T * 0.85) + T * 0.1).long()
        pos[0] = T - 1
        q = torch.randn(B, H, C, device=device(), dtype=dtype)
        new_k, new_v = (torch.randn(B, K, C, device=device(), dtype=dtype) for _ in range(2))
        k, v = (torch.randn(B, K, T, C, device=device(), dtype=dtype) for _ in range(2))

        def sdpa(k=k, v=v, q=q):
            mask = (torch.arange(T, device=device()) <= pos[:, None])[:, None, None, :]
            return F.scaled_dot_product_attention(q.view(B, K, -1, C), k, v, attn_mask=mask).view(B, H, C)
        useful = float((pos + 1).sum()) * 2 * K * C * k.element_size()
        row = {"case": f"{shape}: {B} rows, mean {float(pos.float().mean()):.0f} of {T}",
               "floor_ms": 1e3 * useful / bandwidth, "sdpa_ms": graph_ms(sdpa), "chosen": cuda_attention.sizes(B, K, T)}

        def ours(split=0, block=0, splits=0):
            return cuda_attention.decode_attention(q, new_k, new_v, k, v, pos, splits, split, block)
        o = ours()
        right = sdpa(k.float(), v.float(), q.float())  # the kernel has written the new keys and values by now
        row |= {"error": float((o.float() - right).norm() / right.norm()), "kernel_ms": graph_ms(ours)}
        yield row
        for split, block in ((128, 64), (256, 64), (256, 128), (512, 64), (512, 128), (1024, 128)):
            if not dry or split == 128:
                yield {"case": row["case"], "split": split, "block": block, "ms": graph_ms(lambda: ours(split, block))}
        yield {"case": row["case"], "splits": 1, "ms": graph_ms(lambda: ours(splits=1))}


# ----------------------------------------------------------------------------------------------------------------
# Sampling

def full_rollout(policy: Policy, slots: int, length: int, new: int, rng: random.Random, **switches):
    """A rollout whose slots are all taken, rows of a tenth to most of `length`, most of them short."""
    rollout = sampler.start_rollout(policy, slots, length, new, 1.0, 0, 60.0, **switches)
    room = length - new - length // 10
    for _ in range(slots):
        sampler.add(rollout, tokens(rng, policy, length // 10 + int(room * rng.random() ** 2)), 1, new)
    return rollout


@part("0.5b", "3b", "7b")
def decode(shape: str, dry: bool):
    """Milliseconds of a decode step through `advance`, merged and unmerged, against the reading of weights and of the
    rows' keys and values."""
    policy, (bandwidth, _) = random_policy(shape, dry), rates(dry)
    weights = cards.decode_weight_bytes(policy)
    for merge in (False, True):
        for rows in (2, 3) if dry else (256, 128, 32):
            rng, length, new = random.Random(0), 64 if dry else 2048, 16 if dry else 160
            start, rollout = timed(lambda: full_rollout(policy, rows, length, new, rng, merge=merge))
            first, _ = timed(lambda: sampler.advance(rollout))
            for _ in range(2):
                sampler.advance(rollout)
            steps, seconds = rollout.steps, []
            for _ in range(1 if dry else STEPS):
                seconds.append(timed(lambda: sampler.advance(rollout))[0])
            each = statistics.median(seconds) / ((rollout.steps - steps) / len(seconds))
            held = sum(sampler.position(rollout, draft) for draft in rollout.rows)
            kv = held * cards.kv_bytes(policy)
            yield {"shape": shape, "rows": len(rollout.rows), "mean": held / max(1, len(rollout.rows)), "merge": merge,
                   "would_merge": cards.merging_pays(policy), "ms": 1e3 * each, "tokens_per_second": rows / each,
                   "limit_ms": 1e3 * (weights + kv) / bandwidth, "share_of_limit": (weights + kv) / bandwidth / each,
                   "start_seconds": start, "first_advance": first, **compiled(), **peak()}
            del rollout


@part("0.5b", "3b")
def profile(shape: str, dry: bool):
    """Kernels of 8 decode steps of 256 rows, by time, merged and unmerged."""
    from torch.profiler import ProfilerActivity, profile as record
    policy = random_policy(shape, dry)
    for merge in (False, True):
        rollout = full_rollout(policy, 2 if dry else 256, 64 if dry else 2048, 40, random.Random(0), merge=merge)
        for _ in range(2):
            sampler.advance(rollout)
        cuda, steps = device() == "cuda", rollout.steps
        with record(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
            sampler.advance(rollout)
            clock()
        spent = lambda event: event.self_device_time_total if cuda else event.self_cpu_time_total
        events, steps = sorted(seen.key_averages(), key=spent, reverse=True), rollout.steps - steps
        yield {"shape": shape, "merge": merge, "ms_per_step": sum(map(spent, events)) / 1e3 / steps,
               "launches_per_step": sum(event.count for event in events if spent(event)) / steps,
               "kernels": [(round(spent(event) / 1e3 / steps, 4), event.count / steps, event.key[:90])
                           for event in events[:24]]}
        del rollout


@part("0.5b", "3b")
def yardstick(shape: str, dry: bool):
    """nano-vllm's: 256 requests, 100 to 1,024 tokens in and out, nothing shared. Rollouts as in training, of which the
    first compiles and captures; one that reads only what is done; one merged or not, as training does not.
    `in_steps` and `in_refill` are the shares of the time in which the device decoded and prefilled."""
    policy, rng = random_policy(shape, dry), random.Random(0)
    policy.merge = cards.merging_pays(policy)
    count, low, high = (5, 4, 20) if dry else (256, 100, 1024)
    work = [(tokens(rng, policy, rng.randint(low, high)), rng.randint(low, high)) for _ in range(count)]
    useful = sum(new for _, new in work)
    switches = [{}, {}, {}, {"ahead": 0}, {"merge": not policy.merge}, {"merge": not policy.merge}]
    for number, switch in enumerate(switches):
        before = compiled()["graphs_compiled"]
        start, rollout = timed(lambda: sampler.start_rollout(policy, count, 2 * high, high, 1.0, number, 60.0,
                                                             **switch))
        def run():
            for prompt, new in sorted(work, key=lambda item: -len(item[0])):
                sampler.add(rollout, prompt, 1, new)
            while not sampler.idle(rollout):
                sampler.advance(rollout)
        with Measured("replay" if device() == "cuda" else "decode_step") as steps, Measured("refill") as refills:
            took, _ = timed(run)
        yield {"shape": shape, "rollout": number, "merge": policy.merge, **switch, "seconds": start + took,
               "start_seconds": start, "tokens": useful, "tokens_per_second": useful / (start + took),
               "steps": rollout.steps, "in_steps": steps.seconds() / took, "in_refill": refills.seconds() / took,
               "compiled_now": compiled()["graphs_compiled"] - before, **compiled(), **peak()}
        del rollout


class Measured:
    """Inside, events surround every call of one of sampler.py's functions; `seconds` adds up the device's time between
    them."""
    def __init__(self, name: str):
        self.name, self.function, self.pairs = name, getattr(sampler, name), []

    def __enter__(self):
        setattr(sampler, self.name, self.around)
        return self

    def around(self, *args):
        begin = mark()
        self.function(*args)
        self.pairs.append((begin, mark()))

    def __exit__(self, *_):
        setattr(sampler, self.name, self.function)

    def seconds(self) -> float:
        clock()
        return sum(begin.elapsed_time(end) / 1e3 if device() == "cuda" else end - begin for begin, end in self.pairs)


def mark():
    if device() == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(True)
    event.record()
    return event


@part()
def generate(_, dry: bool):
    """transformers' generate, 128 rows of 400 tokens, 48 more: what one would otherwise run."""
    from transformers import GenerationConfig
    config = shape_config("nano" if dry else "0.5b")
    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    rows, prompt, new = (2, 8, 4) if dry else (128, 400, 48)
    ids = torch.randint(3, config.vocab_size, (rows, prompt), device=device())

    def run(count: int) -> float:
        options = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0,
                                   eos_token_id=None, max_new_tokens=count)
        return timed(lambda: model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=options))[0]
    run(4)
    each = (run(8 + new) - run(8)) / new
    yield {"rows": rows, "ms": 1e3 * each, "tokens_per_second": rows / each}


# ----------------------------------------------------------------------------------------------------------------
# Update and whole steps

@part("0.5b", "3b")
def update(shape: str, dry: bool):
    """8 prompts of 512 tokens with a response of 1,024 each; 8 answers of 128 to one prompt, and to each of ten, with
    and without FlexAttention. Layers kept and recomputed."""
    policy, rng, (_, matmul) = random_policy(shape, dry), random.Random(0), rates(dry)
    long, short = ((24, 16), (24, 4)) if dry else ((512, 1024), (512, 128))

    def answers(prompts: int, each: int, lengths: tuple[int, int]) -> list:
        asked = [tokens(rng, policy, lengths[0]) for _ in range(prompts)]
        return [(prompt, tokens(rng, policy, lengths[1])) for prompt in asked for _ in range(each)]
    cases = [("8 prompts", answers(8, 1, long), False), ("one prompt", answers(1, 8, short), False)]
    cases += [("ten prompts", answers(2 if dry else 10, 8, short), flex) for flex in (False, True)]
    for policy.checkpoint_layers in (False, True):
        for case, texts, policy.flex in cases:
            row = {"shape": shape, "case": case, "recompute": policy.checkpoint_layers, "flex": policy.flex}
            try:
                yield row | measured_update(policy, texts, matmul, dry)
            except (torch.OutOfMemoryError, NotImplementedError, ValueError) as error:  # flex: not on a CPU
                yield row | {"failed": str(error)[:200]}


def measured_update(policy: Policy, texts: list, matmul: float, dry: bool) -> dict:
    def run():
        if policy.flex and device() == "cpu":  # no backward pass there
            with torch.no_grad():
                return logprobs(policy, texts)
        logprobs(policy, texts)[0].mean().backward()
        policy.model.zero_grad()
    before = compiled()["graphs_compiled"]
    first, _ = timed(run)
    if device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
    again = compiled()["graphs_compiled"]
    # New lengths, as every micro-batch has: what is compiled anew for them is in `compiled_later`.
    texts = [(prompt[3:], response[i % 2:]) for i, (prompt, response) in enumerate(texts)]
    run()
    seconds = statistics.median(timed(run)[0] for _ in range(1 if dry else 4))
    done, wanted = (cards.update_flops(policy, texts, recompute) for recompute in (policy.checkpoint_layers, False))
    return {"first_seconds": first, "seconds": seconds,
            "tokens_per_second": sum(len(p) + len(r) for p, r in texts) / seconds, "tflops": done / seconds / 1e12,
            "mfu": wanted / seconds / matmul, "compiled_first": again - before,
            "compiled_later": compiled()["graphs_compiled"] - again, **peak()}


@part("3b")
def step(shape: str, dry: bool):
    """The sampling and the gradient of a step with the paper's sizes, without executor: 3 x 64 proposals, 8 probes of
    each, 3 x 64 solutions, responses of 400 tokens on average; proposals and solutions are trained on. Twice; what the
    second compiles is in `compiled_now`."""
    policy, rng = random_policy(shape, dry), random.Random(0)
    batch, mean, most, probes = (2, 6, 20, 2) if dry else (192, 400, 2048, 8)
    length = lambda: min(most, max(4, round(rng.lognormvariate(0, 0.9) * mean * 0.67)))
    prompt = lambda: tokens(rng, policy, round(mean * rng.uniform(0.75, 2.0)))
    for number in range(2):
        before = compiled()["graphs_compiled"]
        rollout, texts = sampler.start_rollout(policy, 4 if dry else 256, 2 * mean + most, most, 1.0, number, 60.0), []

        def sample():
            for count, kept in ((batch, True), (batch, False), (batch, True)):
                for _ in range(count):
                    n = 1 if kept else probes
                    sampler.add(rollout, prompt(), n, [length() for _ in range(n)], tag=kept)
                while not sampler.idle(rollout):
                    texts.extend((request.prompt, result.ids) for request, _, result in sampler.advance(rollout)
                                 if request.tag)
        sampled, _ = timed(sample)
        made = rollout.made
        del rollout
        texts.sort(key=lambda text: -len(text[0]) - len(text[1]))
        policy.checkpoint_layers, micro = cards.plan_update(policy, None, 16384)

        def learn():
            start = 0
            while start < len(texts):
                rows = max(1, micro // sum(map(len, texts[start])))
                logprobs(policy, texts[start:start + rows])[0].mean().backward()
                start += rows
            policy.model.zero_grad()
        learned, _ = timed(learn)
        yield {"shape": shape, "step": number, "sampling_seconds": sampled, "update_seconds": learned,
               "seconds": sampled + learned, "rows_decoded": made, "trained": len(texts),
               "recompute": policy.checkpoint_layers, "compiled_now": compiled()["graphs_compiled"] - before,
               **compiled(), **peak()}


@part("1.5b", "3b", "7b", "7b-nf4")
def memory(shape: str, dry: bool):
    """Sampling and update of a preset, by train.py's own functions, with the process held to 24 and to 48 GB: peaks by
    phase, and what was chosen."""
    preset, _, form = shape.partition("-")
    for limit in (24, 48):
        policy, rng, cuda = random_policy(preset, dry, form == "nf4"), random.Random(0), device() == "cuda"
        small = dict(max_new_tokens=8, max_prompt_tokens=24, slots=4) if dry else {}
        cfg = Config(**PRESETS[preset] | {"device": device()} | small)
        run = train.Training(cfg, Path("."), policy, train.make_optimizer(cfg, policy), None, None, Buffers(1))
        prompt = min(1024, cfg.max_prompt_tokens)
        row, new = {"shape": shape, "limit_gb": limit}, [cfg.max_new_tokens] * 2 + [min(400, cfg.max_new_tokens)] * 30
        if cuda:
            torch.cuda.empty_cache()
            whole = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, 0.97 * limit * 2**30 / whole))
            cards.free_bytes = lambda _: int(0.97 * limit * 2**30) - torch.cuda.memory_allocated()
            run.kv_gb = cards.free_bytes(policy) / 2**31
            torch.cuda.reset_peak_memory_stats()
        try:
            rollout = train.open_rollout(run)
            for _ in range(cfg.slots):
                sampler.add(rollout, tokens(rng, policy, prompt), 1, cfg.max_new_tokens)
            for _ in range(4):
                sampler.advance(rollout)
            row |= {"kv_gb": run.kv_gb, "live_rows": len(rollout.rows), "sampling": peak()}
            rollout = None
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            rows = [train.Row("solve", "solve", "deduction", "", tokens(rng, policy, prompt), advantage=1.0,
                              sample=sampler.Sample(tokens(rng, policy, n), [0.0] * n, "length")) for n in new]
            seconds, _ = timed(lambda: train.update(run, rows))
            row |= {"update": peak(), "update_seconds": seconds}
        except torch.OutOfMemoryError as error:
            row["out_of_memory"] = str(error)[:200]
        rollout = None
        yield row | {"micro_tokens": run.micro_tokens, "recompute": policy.checkpoint_layers}
        del policy, run
        gc.collect()  # torch.OutOfMemoryError and graphs hold each other
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(1.0)


@part("0.5b", "3b")
def start(shape: str, dry: bool):
    """A first rollout and a first update in a process of its own, twice, with an empty folder for compiled code at the
    first: what the kept folder saves. `compile_seconds` is all beyond the same work done again."""
    with tempfile.TemporaryDirectory() as folder:
        places = {f"{name}_CACHE_DIR": f"{folder}/{name}" for name in ("TORCHINDUCTOR", "TRITON")}
        for number in (1, 2):
            code = f"from speed import gpu; gpu.start_once({shape!r}, {dry})"
            child = subprocess.run([sys.executable, "-c", code], env=os.environ | places, capture_output=True,
                                   text=True)
            if child.returncode:
                raise RuntimeError(child.stderr[-2000:])
            yield {"shape": shape, "start": number} | json.loads(child.stdout.splitlines()[-1])


def start_once(shape: str, dry: bool) -> None:
    policy, rng, seconds = random_policy(shape, dry), random.Random(0), []
    rows, length = (4, 64) if dry else (256, 2048)
    texts = [(tokens(rng, policy, length // 4), tokens(rng, policy, length // 4)) for _ in range(4)]
    for _ in range(2):
        def work():
            rollout = full_rollout(policy, rows, length, 16, random.Random(0))
            sampler.advance(rollout)

        def learn():
            logprobs(policy, texts)[0].mean().backward()
        seconds.append([timed(work)[0], timed(learn)[0]])
    first, again = seconds
    print(json.dumps(rounded({"first_rollout": first[0], "first_update": first[1],
                              "compile_seconds": sum(first) - sum(again), **compiled()})))


# ----------------------------------------------------------------------------------------------------------------
# The command

def run_part(name: str, dry: bool, out: str) -> int:
    function, shape, _ = PARTS[name]
    start = time.perf_counter()
    try:
        with Path(out).open("a") as file:
            for figures in function(shape, dry):
                line = json.dumps({"part": name, "at": round(time.perf_counter() - start, 1)} | rounded(figures))
                print(line, flush=True)
                file.write(line + "\n")
                file.flush()
        return 0
    except Exception:
        traceback.print_exc(limit=12)
        return 1


def rounded(figures: dict) -> dict:
    return {key: rounded(value) if isinstance(value, dict) else float(f"{value:.4g}") if isinstance(value, float)
            and math.isfinite(value) else value for key, value in figures.items()}


def in_its_own_process(name: str, args, seconds: float) -> bool:
    """Whether the part ended well within its time. What it compiles, captures and breaks is its own."""
    command = [sys.executable, "-m", "speed.gpu", "--part", name, "--here", "--out", args.out]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        print(f"{name}: stopped after {seconds:.0f} s", flush=True)
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its compiler's workers too
            process.wait()


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m speed gpu", description=__doc__.split("\n\n")[0])
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="NAME",
                        help=f"of {', '.join(PARTS)}; all if not given")
    parser.add_argument("--out", default="runs/gpu.jsonl", help="the file that figures are added to")
    parser.add_argument("--limit", type=whole(20), default=480, help="seconds for all parts together")
    parser.add_argument("--dry", action="store_true", help="tiny shapes, to see that everything runs")
    parser.add_argument("--here", action="store_true", help="one part, in this process and without a time limit")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available() and not args.dry:
        parser.error("no CUDA device here; --dry runs the parts with tiny shapes")
    if args.dry and device() == "cpu" and "TRITON_INTERPRET" not in os.environ:  # Triton reads it when it is imported
        return subprocess.call([sys.executable, "-m", "speed.gpu", *(sys.argv[1:] if argv is None else argv)],
                               env=os.environ | {"TRITON_INTERPRET": "1"})
    if args.here or args.dry:
        return max([run_part(name, args.dry, args.out) for name in args.part])
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    card = torch.cuda.get_device_name() if device() == "cuda" else "cpu"
    with Path(args.out).open("a") as file:
        file.write(json.dumps({"commit": commit, "card": card, "torch": torch.__version__, "dry": args.dry}) + "\n")
    failed, end = [], time.monotonic() + args.limit
    for name in args.part:
        seconds = min(PARTS[name][2], end - time.monotonic())
        if seconds < 20 or not in_its_own_process(name, args, seconds):
            failed.append(name)
    print(f"results in {args.out}" + (f"; not finished: {', '.join(failed)}" if failed else ""), flush=True)
    return len(failed) > 0


if __name__ == "__main__":
    raise SystemExit(main())
