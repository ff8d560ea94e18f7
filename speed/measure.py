"""What every measurement needs: both sides' models, seconds, memory, and what the machine can do at most."""
import os
import platform
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config

from loading import add_adapter
from model import Policy, load_policy

HERE = Path(__file__).resolve().parent.parent
SHAPES = {  # vocabulary, width, layers, heads, key/value heads, MLP width, tied: Qwen2.5-Coder's configurations
    "nano": (154, 128, 4, 4, 2, 384, True), "0.5b": (151936, 896, 24, 14, 2, 4864, True),
    "1.5b": (151936, 1536, 28, 12, 2, 8960, True), "3b": (151936, 2048, 36, 16, 2, 11008, True),
    "7b": (152064, 3584, 28, 28, 4, 18944, False)}



def shape_config(shape: str) -> Qwen2Config:
    V, D, L, H, K, I, tied = SHAPES[shape]
    return Qwen2Config(vocab_size=V, hidden_size=D, num_hidden_layers=L, num_attention_heads=H, num_key_value_heads=K,
                       intermediate_size=I, tie_word_embeddings=tied, max_position_embeddings=32768)


def both_models(args) -> tuple[Policy, torch.nn.Module]:
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


def machine_name(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu-{os.cpu_count()}x-{platform.machine()}"
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def weight_bytes(policy: Policy) -> int:
    return sum(p.numel() * p.element_size() for p in policy.model.parameters())
