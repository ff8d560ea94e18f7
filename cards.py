"""
What a step costs at least, and what the hardware can do and hold. From the first two come `mfu` and
`sampling_bandwidth` in metrics.jsonl; from the last the choices that nobody should have to make: merged LoRA for
sampling, layers kept or recomputed, tokens of a micro-batch.
"""
import torch

from model import Policy, nf4, side_by_side
from sandbox import host

# By the name that CUDA gives it: dense bf16 TFLOP/s with sums in fp32, GB/s of memory (data sheets).
CARDS = {"NVIDIA H200": (989, 4800), "NVIDIA H100 80GB HBM3": (989, 3350), "NVIDIA H100 NVL": (835, 3938),
         "NVIDIA H100 PCIe": (756, 2039), "NVIDIA A100-SXM4-80GB": (312, 2039), "NVIDIA A100-SXM4-40GB": (312, 1555),
         "NVIDIA A100 80GB PCIe": (312, 1935), "NVIDIA A100-PCIE-40GB": (312, 1555), "NVIDIA L40S": (362, 864),
         "NVIDIA RTX A6000": (155, 768), "NVIDIA RTX 6000 Ada Generation": (364, 960),
         "NVIDIA GeForce RTX 3090": (71, 936), "NVIDIA GeForce RTX 4090": (165, 1008),
         "NVIDIA GeForce RTX 5090": (209, 1792)}
# Merged, 256, 128 and 32 rows decode 1.16, 1.23 and 1.30 times as fast on an H200 at 0.5B (0.36e9 weights in layers),
# but 0.68, 1.09 and 0.92 times at 3B (2.8e9), and the copy takes memory from the update.
MERGE_BELOW, MERGE_SHARE = 1e9, 0.1  # weights in layers; the copy's share of free memory
MERGE_KL = 1e-3            # of sampler and trainer, above which merged weights in bf16 are too far from those trained
MOST_MICRO_TOKENS = 65536  # with --micro_tokens 0; larger passes are no faster
KEEP_FROM = 8192           # with --micro_tokens 0: layers are kept if so many tokens fit


# ----------------------------------------------------------------------------------------------------------------
# Work

def layer_weights(policy: Policy) -> int:
    """Numbers in the linear layers of all blocks, without adapters."""
    config, C = policy.config, policy.decoder.layers[0].self_attn.head_dim
    D, H, K, I = (config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.intermediate_size)
    return config.num_hidden_layers * (2 * D * H * C + 2 * D * K * C + 3 * D * I)


def update_flops(policy: Policy, rows: list[tuple[list[int], list[int]]], recompute: bool = False) -> float:
    """Of one forward and backward pass over rows of (prompt, response) as `logprobs` lays them out: for each weight and
    token 2 forward, 2 for the gradient of the input, 2 for that of weights which are trained, 2 for recomputing layers.
    Attention and adapters are left out."""
    texts = side_by_side(rows, policy.share_prompts)
    responses = sum(len(response) for _, response in rows)
    tokens = responses + sum(len(rows[text[0]][0]) for text in texts)
    each = 6 if policy.head.weight.requires_grad else 4
    head = policy.config.vocab_size * policy.config.hidden_size
    return tokens * layer_weights(policy) * (each + 2 * recompute) + responses * head * each


def kv_bytes(policy: Policy) -> int:
    """Keys and values of one position."""
    config, C = policy.config, policy.decoder.layers[0].self_attn.head_dim
    return 2 * policy.dtype.itemsize * config.num_hidden_layers * config.num_key_value_heads * C


def decode_weight_bytes(policy: Policy) -> float:
    """What a decode step reads of the weights. NF4: 4 bits and a scale of 32 bits for 64 weights."""
    each = 0.5625 if nf4(policy) else policy.dtype.itemsize
    return layer_weights(policy) * each + policy.config.vocab_size * policy.config.hidden_size * policy.dtype.itemsize


def sampling_bytes(policy: Policy, steps: float, rows: list[tuple[list[int], list[int]]]) -> float:
    """What decoding the rows in so many steps has to read: all weights a step, and for each token what is before it."""
    positions = sum(len(response) * (len(prompt) + len(response) / 2) for prompt, response in rows)
    return steps * decode_weight_bytes(policy) + positions * kv_bytes(policy)


def shares(policy: Policy, seconds: dict[str, float], steps: int, sampled: list, trained: list) -> dict[str, float]:
    """The shares of the card's limits that a step came to; its phases count as a whole, with all that is waited for in
    them. Nothing on a CPU or an unknown card."""
    card = CARDS.get(torch.cuda.get_device_name()) if policy.device.type == "cuda" else None
    if not card:
        return {}
    return {"mfu": update_flops(policy, trained) / seconds["update"] / (1e12 * card[0]),
            "sampling_bandwidth": sampling_bytes(policy, steps, sampled) / seconds["rollout"] / (1e9 * card[1])}


# ----------------------------------------------------------------------------------------------------------------
# Memory

def free_bytes(policy: Policy) -> int:
    if policy.device.type == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return host.memory()[1]


def update_bytes(policy: Policy, recompute: bool) -> float:
    """Roughly the memory that a token takes in the update, besides the logits: what `logprobs` keeps of it for the
    backward pass. Compiled layers keep half as much (12,288 tokens of 0.5B took 1.0 MB each)."""
    D, I, L = policy.config.hidden_size, policy.config.intermediate_size, policy.config.num_hidden_layers
    layer = (14 * D + 6 * I) / (2 if policy.compile else 1)  # numbers kept in model.block; a guess
    return policy.dtype.itemsize * (L * D + layer if recompute else L * layer)


def plan_update(policy: Policy, recompute: bool | None, micro_tokens: int) -> tuple[bool, int]:
    """(whether to recompute layers in the backward pass, tokens of a micro-batch), what is None or 0 by the memory that
    is free now: layers are kept where that leaves room for the micro-batch, which saves a third of the time."""
    fit = {choice: int(0.6 * free_bytes(policy) / update_bytes(policy, choice)) for choice in (False, True)}
    if recompute is None:
        recompute = fit[False] < (micro_tokens or KEEP_FROM)
    return recompute, micro_tokens or max(1, min(MOST_MICRO_TOKENS, fit[recompute]))


def merging_pays(policy: Policy) -> bool:
    """Whether to sample from a copy of the weights with LoRA merged, before anything else has taken memory on CUDA."""
    weights = layer_weights(policy)
    return weights < MERGE_BELOW and weights * policy.dtype.itemsize < MERGE_SHARE * free_bytes(policy)
