"""
The policy: one network that proposes and solves, and the one forward pass that both samples from it and trains it.

transformers loads weights, configuration and tokenizer, peft adds the LoRA adapters, bitsandbytes quantises the frozen
weights to NF4 on request. The forward pass below is our own. Sampling, prefill and the update run through the same
lines: the log-prob that was sampled is the log-prob that is trained, up to rounding. The update reads the modules'
tensors in place; sampling reads them stacked and, on a CPU, from a second copy (`pack`). Families: Qwen2/2.5, Qwen3,
Llama 3 (tests compare with transformers).

As a command (interop.py): python model.py export runs/NAME OUT [--merge], python model.py chat runs/NAME.

Order of reading: `load_policy`, `forward`, `pack`, `start_rollout` to `generate`, `logprobs`.

Dimension suffixes: B rows, T positions, N response tokens of a whole batch, D model width, H heads, K key/value heads,
C head width, V vocabulary, L layers. logp_N is one log-prob per response token.
"""
import logging
import random
import warnings
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

FAMILIES = {"qwen2": "Qwen2/Qwen2.5", "qwen3": "Qwen3", "llama": "Llama 3"}
STATIC_ROPE = {"default", "llama3", "linear", "yarn"}  # inverse frequencies that do not depend on the text's length
LOGIT_BUDGET = 2**25   # logits held at once in `logprobs`: 128 MB of fp32, 220 tokens of Qwen's vocabulary
PREFILL_TOKENS = 8192  # prompt tokens per prefill call
SHORTEST_PREFIX, MOST_PREFIXES = 32, 16  # tokens of a shared beginning worth a call of its own; beginnings kept
BF16_WIDTH = 512       # on avx512_bf16 sampling gains a factor 1.5 at width 896 and nothing at 128 (nano)
CHUNK = 128            # tokens whose probabilities `draw` adds up first

# The libraries tell of retries, optional kernels and their own deprecations; none of it is the user's to act on, and
# what fails is raised.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
for noisy in ("huggingface_hub", "bitsandbytes"):
    logging.getLogger(noisy).setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


class ModelError(Exception):
    """The model cannot be loaded or used; the text is one line for the user."""


# ----------------------------------------------------------------------------------------------------------------
# Loading

@dataclass
class Policy:
    """The network and what the forward pass needs to know of it."""
    model: nn.Module             # transformers' model, or peft's wrapper around it
    tokenizer: object
    decoder: nn.Module           # the part with embed_tokens, layers, norm, rotary_emb
    head: nn.Module              # lm_head
    config: object
    stop_ids: frozenset[int]
    dtype: torch.dtype           # of activations; trained weights are always fp32
    max_length: int              # positions that the model knows
    checkpoint_layers: bool = False  # recompute each layer in the backward pass: less memory, a third more time
    share_prompts: int = 2048    # `logprobs`: tokens up to which responses to one prompt share it in a row; 0: never
    adapter_on: bool = True      # False: the forward pass leaves the LoRA matrices out
    compile: bool = False        # torch.compile for the layers, in sampling and in the update
    stacks: dict = field(default_factory=dict)  # weights that `stack` has put side by side

    @property
    def device(self) -> torch.device:
        return self.decoder.embed_tokens.weight.device

    def trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]


@contextmanager
def adapter_off(policy: Policy):
    """Inside, `policy` is the model it was before training: the reference for KL and for before/after tables."""
    was, policy.adapter_on = policy.adapter_on, False
    try:
        yield policy
    finally:
        policy.adapter_on = was


def load_policy(name: str, device: str = "cpu", lora_rank: int = 16, lora_alpha: float = 32.0,
                load_in_4bit: bool = False, adapter: Path | None = None, seed: int = 0,
                dtype: torch.dtype | str | None = None, norms: bool = False) -> Policy:
    """Loads a hub name or a folder (Hugging Face format). `adapter` is a folder written by `save_policy`; with
    lora_rank 0 all weights are trained and `adapter` holds all of them. `norms`: the adapter has its own weights for
    the layers' norms. `dtype` is that of the frozen weights and of
    the activations: bf16 on CUDA and fp32 on a CPU if not given; "auto" is bf16 also on a CPU that multiplies it in
    hardware, from BF16_WIDTH on. Raises ModelError."""
    local = Path(name).expanduser()
    if local.is_dir():
        name = str(local)
    elif name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise ModelError(f"--model {name}: no such folder; give a folder with config.json and weights, or a hub name"
                         " like Qwen/Qwen2.5-Coder-3B")
    source = str(adapter) if adapter and lora_rank == 0 else name
    try:
        config = AutoConfig.from_pretrained(name)
        check_family(name, config)
        if not isinstance(dtype, torch.dtype):
            pays = device.startswith("cuda") or (dtype == "auto" and config.hidden_size >= BF16_WIDTH and bf16_pays())
            dtype = torch.bfloat16 if pays else torch.float32
        options = {"dtype": torch.float32 if lora_rank == 0 else dtype}
        tokenizer = AutoTokenizer.from_pretrained(name)
        if load_in_4bit:
            options |= quantised(dtype)
        model = AutoModelForCausalLM.from_pretrained(source, config=config, device_map={"": device}, **options)
    except (ModelError, torch.OutOfMemoryError):
        raise
    except ImportError as error:
        raise ModelError(f"a package is missing ({error}); pip install -r requirements.txt") from error
    except Exception as error:  # transformers, tokenizers, safetensors and the hub client share no base class
        first = str(error).strip().split("\n")[0][:200]
        if local.is_dir():
            raise ModelError(f"--model {name}: cannot be loaded ({type(error).__name__}: {first}); the folder needs"
                             " config.json, tokenizer files and intact *.safetensors weights") from error
        raise ModelError(f"--model {name}: the model hub did not give it ({type(error).__name__}: {first.rstrip('.')});"
                         " either pass a local folder with --model DIR, or run the built-in tiny model with"
                         " --preset nano") from error
    model.requires_grad_(False)
    if lora_rank == 0:
        model.requires_grad_(True)
    else:
        model = add_adapter(model, lora_rank, lora_alpha, adapter, seed, norms)
    base = model.get_base_model() if lora_rank else model
    model.eval()
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            # On some CPUs bitsandbytes repacks weights in evaluation mode into a form without a right gradient.
            module.train()
    limit = min(config.max_position_embeddings, tokenizer.model_max_length or 1 << 60)
    return Policy(model, tokenizer, base.model, base.lm_head, config, stop_ids(name, config, tokenizer), dtype,
                  limit)


def check_family(name: str, config) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    odd = None
    if config.model_type not in FAMILIES:
        odd = f"its type is {config.model_type!r}"
    elif "sliding_attention" in (getattr(config, "layer_types", None) or []):
        odd = "it uses sliding-window attention"
    elif rope.get("rope_type", "default") not in STATIC_ROPE:
        odd = f"its rotary embedding is of type {rope['rope_type']!r}"
    elif getattr(config, "hidden_act", "silu") != "silu":
        odd = f"its activation is {config.hidden_act!r}"
    if odd:
        raise ModelError(f"--model {name}: not supported, {odd}; supported families: {', '.join(FAMILIES.values())}")


def quantised(dtype: torch.dtype) -> dict:
    """from_pretrained's options for frozen NF4 weights (bitsandbytes)."""
    try:
        import bitsandbytes  # noqa: F401  # not needed, and not there, on every machine
    except ImportError as error:
        raise ModelError("--load_in_4bit needs the bitsandbytes package: pip install bitsandbytes") from error
    from transformers import BitsAndBytesConfig
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                                      bnb_4bit_compute_dtype=dtype)}


def add_adapter(model: nn.Module, rank: int, alpha: float, adapter: Path | None, seed: int,
                norms: bool = False) -> nn.Module:
    """LoRA on all linear layers of the blocks (attention-only is worse at any rank; Thinking Machines, LoRA Without
    Regret, 2025), master weights in fp32. With `norms`, copies of the norms' weights too: behind a norm with frozen
    weights and a frozen head, LoRA can hardly make a small model more certain of what it knows."""
    import peft
    if adapter:
        config = peft.PeftConfig.from_pretrained(str(adapter))
        config.inference_mode = False
    else:
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules="all-linear",
                                 task_type="CAUSAL_LM", modules_to_save=["norm"] if norms else None)
    torch.manual_seed(seed)
    model = peft.get_peft_model(model, config)
    config = model.peft_config["default"]
    config.target_modules = sorted(config.target_modules)  # a set, whose order would differ from save to save
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if adapter:  # only now: PeftModel.from_pretrained reads the norms into the model's dtype, which may be bf16
        peft.set_peft_model_state_dict(model, peft.load_peft_weights(str(adapter), device=str(model.device)))
    return model


def save_policy(policy: Policy, folder: Path) -> None:
    """The adapter in peft's format, or all weights where there is none."""
    # peft would ask the model hub, at every save, whether the vocabulary has grown.
    options = {"save_embedding_layers": False} if hasattr(policy.model, "peft_config") else {}
    policy.model.save_pretrained(str(folder), **options)


def stop_ids(name: str, config, tokenizer) -> frozenset[int]:
    """Every id that ends a response: Qwen2.5-Instruct alone has two."""
    found = [config.eos_token_id, tokenizer.eos_token_id]
    try:
        found.append(GenerationConfig.from_pretrained(name).eos_token_id)
    except OSError:
        pass  # the file is optional
    flat = [i for entry in found for i in (entry if isinstance(entry, list) else [entry]) if i is not None]
    if not flat:
        raise ModelError(f"--model {name}: neither its configuration nor its tokenizer names an end-of-text token")
    return frozenset(flat)


def encode(policy: Policy, text: str, chat: bool = False) -> list[int]:
    """Prompt text to ids, with a beginning-of-text token where the tokenizer puts one (Llama does, Qwen does not,
    though it may name one). A chat template has written its own."""
    return policy.tokenizer(text, add_special_tokens=not chat)["input_ids"]


def decode(policy: Policy, ids: list[int]) -> str:
    """Response ids to text, without the token that ended it. For reading and rewards only, never for training."""
    return policy.tokenizer.decode(ids[:-1] if ids and ids[-1] in policy.stop_ids else ids)


def chat_template(policy: Policy):
    """The function that wraps a question as one user turn and opens the assistant's."""
    if policy.tokenizer.chat_template is None:
        raise ModelError("--prompt chat: this model's tokenizer has no chat template; use --prompt r1")
    return lambda text: policy.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)


# ----------------------------------------------------------------------------------------------------------------
# The forward pass

@dataclass
class Cache:
    """Keys and values of the rows in flight, a tensor per layer; row b holds positions 0..pos_b of its own text and
    nothing else."""
    k_L: list[Tensor]  # each [slots, K, length, C]
    v_L: list[Tensor]


def forward(policy: Policy, ids_BT: Tensor, pos_BT: Tensor, cache: Cache | None = None, length: int = 0,
            keep: list | None = None, packed: list[dict] | None = None, prefix: list | None = None,
            mask: Tensor | None = None) -> Tensor:
    """Token ids at their positions -> final hidden states, [B, T, D] in `policy.dtype`.

    Without a cache the rows are whole texts, padded on the right: attention is causal, so nothing real attends to
    padding; `mask`, [B, 1, T, T], is for rows that are more than one text. `keep` receives each layer's (keys,
    values), [B, K, T, C]; `prefix` is what one call for a text that all rows begin with has kept, [1, K, S, C], and the
    rows then hold what follows it. With a cache T is 1: the token's keys and values are written at its position and it
    attends to positions 0..pos of its row, within the first `length`. `packed` is from `pack`."""
    decoder, device = policy.decoder, ids_BT.device
    x_BTD = F.embedding(ids_BT, decoder.embed_tokens.weight).to(policy.dtype)
    rope = rotary(decoder.rotary_emb, pos_BT, policy.dtype)
    if cache is not None:
        mask = (torch.arange(length, device=device) <= pos_BT)[:, None, None, :]  # [B, 1, 1, length]
    elif prefix is not None:
        columns = torch.arange(prefix[0][0].shape[2] + ids_BT.shape[1], device=device)
        mask = columns <= pos_BT[:1, :, None]  # [1, T, S + T]; all rows have the same positions
    run = compiled_block() if policy.compile else block
    for index, layer in enumerate(decoder.layers):
        weights = packed[index] if packed else None
        if policy.checkpoint_layers and torch.is_grad_enabled():
            x_BTD, _, _ = checkpoint(run, policy, layer, x_BTD, rope, mask, use_reentrant=False)
        elif cache is not None:
            x_BTD, _, _ = run(policy, layer, x_BTD, rope, mask, weights, (cache.k_L[index], cache.v_L[index]), pos_BT)
        else:
            x_BTD, k, v = run(policy, layer, x_BTD, rope, mask, weights, prefix[index] if prefix else None)
            if keep is not None:
                keep.append((k, v))
    return rms_norm(decoder.norm, x_BTD, policy.adapter_on)


def block(policy: Policy, layer: nn.Module, x_BTD: Tensor, rope: tuple, mask: Tensor | None = None,
          weights: dict | None = None, past: tuple | None = None, pos_BT: Tensor | None = None) -> tuple:
    """One layer: (x_BTD, the keys and the values of these tokens). `past` is the layer's cache if there is pos_BT, else
    its part of the prefix."""
    attention, mlp, on = layer.self_attn, layer.mlp, policy.adapter_on
    B, T, _ = x_BTD.shape
    h = rms_norm(layer.input_layernorm, x_BTD, on)
    if weights is None:
        q, k, v = (linear(projection, h, on) for projection in (attention.q_proj, attention.k_proj, attention.v_proj))
    else:
        C = attention.head_dim
        q, k, v = packed_linear(weights["qkv"], h).split((attention.config.num_attention_heads * C,
                                                          attention.config.num_key_value_heads * C,
                                                          attention.config.num_key_value_heads * C), dim=-1)
    q, k, v = (part.view(B, T, -1, attention.head_dim) for part in (q, k, v))
    if hasattr(attention, "q_norm"):  # Qwen3
        q, k = rms_norm(attention.q_norm, q, on), rms_norm(attention.k_norm, k, on)
    q, k, v = rotate(q.transpose(1, 2), rope), rotate(k.transpose(1, 2), rope), v.transpose(1, 2)  # [B, heads, T, C]
    if pos_BT is not None:
        rows, positions = torch.arange(B, device=k.device), pos_BT[:, 0]
        past[0][rows, :, positions] = k[:, :, 0]
        past[1][rows, :, positions] = v[:, :, 0]
        # The query heads that share a key/value head stand in for time: [B, K, G, C]. enable_gqa is the same
        # sum, but with a mask and bf16 on a CPU it takes 77 ms in place of 6 (64 rows of 800 positions, one layer).
        q = q.reshape(B, k.shape[1], -1, q.shape[-1])
        K = tuple(layer[:B, :, :mask.shape[-1]] for layer in past)
        o = F.scaled_dot_product_attention(q, *K, attn_mask=mask).reshape(B, 1, -1)
    else:
        K = k, v
        if past is not None:
            K = tuple(torch.cat((old.expand(B, -1, -1, -1), new), dim=2) for old, new in zip(past, K))
        o = F.scaled_dot_product_attention(q, *K, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        o = o.transpose(1, 2).reshape(B, T, -1)
    if weights is None:
        x_BTD = x_BTD + linear(attention.o_proj, o, on)
        h = rms_norm(layer.post_attention_layernorm, x_BTD, on)
        h = F.silu(linear(mlp.gate_proj, h, on)) * linear(mlp.up_proj, h, on)
        return x_BTD + linear(mlp.down_proj, h, on), k, v
    x_BTD = x_BTD + packed_linear(weights["o"], o)
    gate, up = packed_linear(weights["gate_up"], rms_norm(layer.post_attention_layernorm, x_BTD, on)).chunk(2, dim=-1)
    return x_BTD + packed_linear(weights["down"], F.silu(gate) * up), k, v


@cache
def compiled_block():
    """`block`, compiled once for all layers, row counts and lengths: compile time does not grow with depth."""
    return torch.compile(block, dynamic=True)


def linear(module: nn.Module, x: Tensor, adapter_on: bool) -> Tensor:
    """A plain, quantised or LoRA-wrapped linear layer, read in place."""
    base = getattr(module, "base_layer", module)
    if type(base) is nn.Linear:  # trained weights are fp32 masters and are cast here; frozen ones have the dtype
        bias = None if base.bias is None else base.bias.to(x.dtype)
        y = F.linear(x, base.weight.to(x.dtype), bias)
    else:
        y = base(x)  # bitsandbytes: dequantises block by block
    if base is module or not adapter_on:
        return y
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    return y + F.linear(F.linear(x, a.to(x.dtype)), b.to(x.dtype)) * module.scaling["default"]


def rms_norm(module: nn.Module, x: Tensor, adapter_on: bool) -> Tensor:
    """A norm, or the adapter's copy of it."""
    if hasattr(module, "modules_to_save"):
        module = module.modules_to_save["default"] if adapter_on else module.original_module
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + module.variance_epsilon)
    return module.weight.to(x.dtype) * wide.to(x.dtype)


def rotary(module: nn.Module, pos_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin, [B, 1, T, C], from transformers' inverse frequencies (llama3 scaling is already in them)."""
    angle = pos_BT[:, None, :, None].float() * module.inv_freq.float()
    angle = torch.cat((angle, angle), dim=-1)
    return ((angle.cos() * module.attention_scaling).to(dtype), (angle.sin() * module.attention_scaling).to(dtype))


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rope
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


# ----------------------------------------------------------------------------------------------------------------
# Weights for sampling: a second, faster copy

STACKS = {"qkv": ("q_proj", "k_proj", "v_proj"), "o": ("o_proj",), "gate_up": ("gate_proj", "up_proj"),
          "down": ("down_proj",)}


def pack(policy: Policy, merge: bool, rows: int) -> list[dict] | None:
    """The weights as they are now, laid out for sampling: one dict of stacks per layer and one for the head; None for
    NF4, whose modules are used as they are. Layers that read the same input become one matmul. `merge` adds the LoRA
    product to a fresh copy (never in place, which drifts); without it the A matrices are stacked under the weights and
    one block-diagonal B follows, so that a layer's 7 adapters cost 4 small matmuls. On a CPU oneDNN reorders each
    stack for `rows` rows, which makes the matmuls of 0.5B at 16 to 64 rows 1.2 to 1.7 times (bf16) and 1.5 to 4 times
    (fp32) as fast."""
    if any(type(module).__name__ == "Linear4bit" for module in policy.decoder.modules()):
        return None
    packed = []
    for index, layer in enumerate(policy.decoder.layers):
        parts = {**layer.self_attn._modules, **layer.mlp._modules}
        packed.append({name: stack(policy, [parts[part] for part in names], merge, rows, (index, name))
                       for name, names in STACKS.items()})
    return packed + [{"head": stack(policy, [policy.head], merge, rows, "head")}]


def stack(policy: Policy, modules: list[nn.Module], merge: bool, rows: int, key) -> tuple:
    """(weight, bias, up): y = x weight^T + bias, and where `up` is, the last columns of y are A x and up takes them."""
    bases = [getattr(module, "base_layer", module) for module in modules]
    weights, up = [base.weight for base in bases], None
    out, dtype, frozen = sum(map(len, weights)), policy.dtype, not weights[0].requires_grad
    if policy.adapter_on and bases[0] is not modules[0]:
        down = [module.lora_A["default"].weight for module in modules]
        ups = [module.lora_B["default"].weight * module.scaling["default"] for module in modules]
        if merge:
            weights = [weight.float() + b @ a for weight, a, b in zip(weights, down, ups)]
        else:
            weights, up = weights + down, torch.block_diag(*ups).to(dtype)
    biases = [torch.zeros(len(base.weight), device=policy.device) if base.bias is None else base.bias for base in bases]
    bias = None if all(base.bias is None for base in bases) else torch.cat(biases).to(dtype)
    if bias is not None and up is not None:
        bias = F.pad(bias, (0, up.shape[1]))
    if onednn(policy):
        return torch.ops.mkldnn._reorder_linear_weight(torch.cat([w.to(dtype) for w in weights]), rows), bias, up
    if merge or not frozen or bases[0].weight.dtype != dtype or len(weights) == 1:
        return (weights[0].to(dtype) if len(weights) == 1 else torch.cat([w.to(dtype) for w in weights])), bias, up
    # Nothing but A changes, so the stack takes the place of the modules' own storage and costs no memory.
    # Room for A even where it is switched off now: the stack is made once.
    low = sum(len(m.lora_A["default"].weight) for m, base in zip(modules, bases) if m is not base)
    if key not in policy.stacks:
        buffer = torch.cat([base.weight.data for base in bases] + [weights[0].new_zeros(low, weights[0].shape[1])])
        for base, part in zip(bases, buffer[:out].split([len(base.weight) for base in bases])):
            base.weight.data = part
        policy.stacks[key] = buffer
    if up is None:
        return policy.stacks[key][:out], bias, up
    policy.stacks[key][out:] = torch.cat(weights[len(bases):]).to(dtype)
    return policy.stacks[key], bias, up


def onednn(policy: Policy) -> bool:
    """Whether oneDNN's reordered weights are to be had: not under compilation, which does not know the layout."""
    return (policy.device.type == "cpu" and not policy.compile and torch.backends.mkldnn.is_available()
            and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
            and (policy.dtype == torch.float32 or bf16_pays()))


def bf16_pays() -> bool:
    """Whether this CPU multiplies bf16 in hardware (2 to 3 times fp32 on avx512_bf16, more with amx)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def packed_linear(stack: tuple, x: Tensor) -> Tensor:
    weight, bias, up = stack
    if weight.is_mkldnn:
        y = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    else:
        y = F.linear(x, weight, bias)
    return y if up is None else y[..., :len(up)] + F.linear(y[..., len(up):], up)


# ----------------------------------------------------------------------------------------------------------------
# Sampling: a rollout is fed with `add` while `advance` decodes

@dataclass
class Sample:
    """One response. `ids` ends with the stop token if there was one; ids and logps go to the update as they are."""
    ids: list[int]
    logps: list[float]  # log-prob of each id under the distribution it was drawn from (temperature 0: under T = 1)
    finish: str         # "stop" or "length"


@dataclass(eq=False)
class Request:
    """n responses wanted to one prompt."""
    prompt: list[int]
    limits: list[int]            # most tokens of each response
    tag: object                  # the caller's
    uniform_NT: Tensor | None    # what the draws of each token are made from: samples do not depend on the schedule
    waiting: int                 # responses not finished


@dataclass(eq=False)
class Draft:
    """One response in the making. `sample` holds tokens only where the row had to leave its slot for a while."""
    request: Request
    index: int
    sample: Sample
    since: int = 0  # steps the rollout had made when the draft took its slot

    def text(self) -> list[int]:
        return self.request.prompt + self.sample.ids


@dataclass(eq=False)
class Rollout:
    """All state of one continuous batch. Rows 0..len(rows)-1 are live and rows[b] is written by slot b; the state of a
    slot is on the device and read back every `read_every` steps."""
    policy: Policy
    slots: int
    max_length: int              # longest prompt + response
    temperature: float
    seed: int
    kv_bytes: float
    read_every: int              # decode steps between two readings of the done flags
    share_prefix: bool
    graphs: dict | None          # (rows, length) -> captured CUDA graph; None: no graphs
    packed: list[dict] | None
    stops: Tensor
    cache: Cache
    tok_B: Tensor                # the token to run next
    pos_B: Tensor                # its position
    count_B: Tensor              # tokens made
    limit_B: Tensor              # tokens wanted at most
    done_B: Tensor
    uniform_BN: Tensor           # column t decides token t
    ids_BN: Tensor               # the responses so far; one column more than tokens, for rows that are done
    logp_BN: Tensor
    queue: deque = field(default_factory=deque)
    rows: list[Draft] = field(default_factory=list)
    prefixes: dict[tuple, list] = field(default_factory=dict)
    half: tuple = (None, None)   # the request whose samples did not all find a slot: its keys and values
    requests: int = 0
    steps: int = 0
    made: int = 0                # tokens decoded, with those that rows made past their ends

    def length(self) -> int:
        """Positions that the cache has room for."""
        return self.cache.k_L[0].shape[2]


@torch.no_grad()  # not inference mode: stacks may take the place of the modules' weights, which gradients go through
def start_rollout(policy: Policy, slots: int = 64, max_length: int = 4096, max_new_tokens: int = 1024,
                  temperature: float = 1.0, seed: int = 0, kv_gb: float = 4.0, merge: bool | None = None,
                  packed: bool = True, share_prefix: bool = True, graphs: bool | None = None,
                  read_every: int | None = None) -> Rollout:
    """An empty rollout that samples from the policy as it is now.

    `max_length` bounds prompt + response, `max_new_tokens` the response. Switches, None being what pays: `merge` LoRA
    into the sampling weights (fp32 on a CPU, where that is exact enough), `packed` weights, `share_prefix`,
    CUDA `graphs`, `read_every` steps (1 on a CPU, where reading is free; 8 on CUDA)."""
    cuda = policy.device.type == "cuda"
    if merge is None:
        merge = policy.dtype == torch.float32 and not cuda
    if graphs is None:
        graphs = cuda and packed and policy.compile  # --compile False leaves both out
    weights = pack(policy, merge, slots) if packed else None

    def zeros(*shape, dtype=torch.long) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=policy.device)
    layers, columns = len(policy.decoder.layers), max_new_tokens + 1
    rollout = Rollout(policy, slots, max_length, temperature, seed, kv_gb * 2**30, read_every or (8 if cuda else 1),
                      share_prefix, {} if graphs and weights else None, weights,
                      torch.tensor(sorted(policy.stop_ids), dtype=torch.long, device=policy.device),
                      Cache([None] * layers, [None] * layers),
                      zeros(slots), zeros(slots), zeros(slots), zeros(slots), ~zeros(slots, dtype=torch.bool),
                      zeros(slots, columns, dtype=torch.float64), zeros(slots, columns),
                      zeros(slots, columns, dtype=torch.float32))
    # With graphs the worst case at once if it fits; else rows start short and the cache grows, at the cost of slots.
    at_once = rollout.graphs is not None and capacity(rollout, max_length) == slots
    resize(rollout, max_length if at_once else bucket(rollout, 1))
    return rollout


def add(rollout: Rollout, prompt: list[int], n: int = 1, limit: int | list[int] | None = None, tag=None,
        key: str | None = None) -> Request:
    """Queues n responses to a prompt; `limit` is the most tokens of each, or of all. Their draws are fixed by the
    rollout's seed and `key` (the request's number if not given). Raises ValueError."""
    width = rollout.ids_BN.shape[1] - 1
    limits = limit if isinstance(limit, list) else [limit or width] * n
    if not prompt or len(prompt) + max(limits) > rollout.max_length or not 0 < min(limits) <= max(limits) <= width:
        raise ValueError(f"prompts must have 1 to {rollout.max_length - max(limits)} tokens here, not {len(prompt)}")
    request = Request(prompt, limits, tag, None, n)
    if rollout.temperature:
        source = random.Random(f"{rollout.seed} {rollout.requests if key is None else key}")
        noise = torch.Generator().manual_seed(source.getrandbits(63))
        request.uniform_NT = torch.rand(n, max(limits), generator=noise, dtype=torch.float64)
    rollout.requests += 1
    rollout.queue.extend(Draft(request, j, Sample([], [], "length")) for j in range(n))
    return request


def idle(rollout: Rollout) -> bool:
    return not rollout.rows and not rollout.queue


@torch.inference_mode()
def advance(rollout: Rollout) -> list[tuple[Request, int, Sample]]:
    """Refills free slots from the queue, decodes `read_every` tokens for every live row, and returns what finished as
    (request, which of its responses, sample). What it does depends on the calls so far and never on time."""
    refill(rollout)
    if not rollout.rows:
        return []
    live, top = len(rollout.rows), max(position(rollout, draft) for draft in rollout.rows) + rollout.read_every
    top = min(top, rollout.max_length)  # a row that would go on beyond it is done by then
    if top > rollout.length():
        make_room(rollout, bucket(rollout, top))
        live = len(rollout.rows)
    rows, length = live, min(top, rollout.length())
    if rollout.graphs is not None or rollout.policy.compile:
        rows, length = min(rollout.slots, max(2, 1 << (live - 1).bit_length())), bucket(rollout, length)
        rows, length = min(rows, rollout.cache.k_L[0].shape[0]), min(length, rollout.length())
    for _ in range(rollout.read_every):
        if rollout.graphs is None:
            decode_step(rollout, rows, length)
        else:
            replay(rollout, rows, length)
    rollout.steps += rollout.read_every
    rollout.made += live * rollout.read_every
    return harvest(rollout)


def position(rollout: Rollout, draft: Draft) -> int:
    """Of the token that the draft's row runs next, known without reading the device; a row that is done may be short of
    it."""
    return len(draft.request.prompt) + len(draft.sample.ids) - 1 + rollout.steps - draft.since


def bucket(rollout: Rollout, length: int) -> int:
    """A length from 256, 512, 768, 1024, 1280, 1536, 1920, ...: graphs and reallocations are few, and a quarter of
    what is read is wasted at most once rows are long."""
    size = 256
    while size < length:
        size += max(256, size // 4 // 128 * 128)
    return min(size, rollout.max_length)


def capacity(rollout: Rollout, length: int) -> int:
    """Rows of that length that fit into the memory for keys and values; at least one."""
    policy = rollout.policy
    row = (2 * len(policy.decoder.layers) * policy.config.num_key_value_heads * length
           * policy.decoder.layers[0].self_attn.head_dim * policy.dtype.itemsize)
    return max(1, min(rollout.slots, int(rollout.kv_bytes / row)))


def resize(rollout: Rollout, length: int) -> None:
    """A cache of as many rows of `length` as fit, layer by layer so that old and new never both exist in full."""
    policy, rows, live = rollout.policy, capacity(rollout, length), len(rollout.rows)
    shape = (rows, policy.config.num_key_value_heads, length, policy.decoder.layers[0].self_attn.head_dim)
    for layers in (rollout.cache.k_L, rollout.cache.v_L):
        for index, old in enumerate(layers):
            layers[index] = torch.zeros(shape, dtype=policy.dtype, device=policy.device)
            if live:
                used = min(length, old.shape[2])
                layers[index][:live, :, :used] = old[:live, :, :used]
    if rollout.graphs:
        rollout.graphs.clear()  # they hold the old addresses


def make_room(rollout: Rollout, length: int) -> None:
    """A longer cache. Rows that no longer fit, the shortest, go back to the queue with what they have; running them
    through the model again later is cheaper than to keep slots empty for the worst case."""
    fits = capacity(rollout, length)
    order = sorted(range(len(rollout.rows)), key=lambda b: position(rollout, rollout.rows[b]))
    leave = sorted(order[:max(0, len(rollout.rows) - fits)])
    for b in reversed(leave):
        draft = rollout.rows[b]
        draft.sample = read_sample(rollout, b)
        rollout.queue.appendleft(draft)
    drop_rows(rollout, leave)
    resize(rollout, length)


def refill(rollout: Rollout) -> None:
    """Drafts from the queue into free slots, an eighth of the slots at a time: prefilling one by one is slow."""
    rows, length, drafts, queue = rollout.rows, rollout.length(), [], rollout.queue
    if not queue or (rows and (capacity(rollout, length) - len(rows)) * 8 < capacity(rollout, length)):
        return
    if not rows and capacity(rollout, length) < rollout.slots:
        length = bucket(rollout, 1)
    while queue:
        needed = len(queue[0].text()) + rollout.read_every
        longer = length if needed <= length else bucket(rollout, needed)
        if len(rows) + len(drafts) >= capacity(rollout, longer):
            break
        length = longer
        drafts.append(queue.popleft())
    if drafts and length != rollout.length():
        resize(rollout, length)
    groups: dict[tuple, list[Draft]] = {}  # the fresh samples of a request share their prefill
    for draft in drafts:
        groups.setdefault((id(draft.request), -1 if not draft.sample.ids else draft.index), []).append(draft)
    groups = list(groups.values())
    known = [i for i, group in enumerate(groups) if group[0].request is rollout.half[0] and not group[0].sample.ids]
    missing = [i for i in range(len(groups)) if i not in known]
    found = prefill(rollout, [groups[i][0].text()[:-1] for i in missing])
    for i, layers in [(i, rollout.half[1]) for i in known] + [(missing[m], layers) for m, layers in found]:
        place(rollout, groups[i], layers)
    rollout.half = (None, None)
    if groups and queue and queue[0].request is groups[-1][0].request and not queue[0].sample.ids:
        b, last = rows.index(groups[-1][0]), len(queue[0].request.prompt) - 1
        rollout.half = (queue[0].request, [(k[b, :, :last].clone(), v[b, :, :last].clone())
                                           for k, v in zip(rollout.cache.k_L, rollout.cache.v_L)])


def place(rollout: Rollout, group: list[Draft], layers: list[tuple]) -> None:
    """Drafts with one text into the next free slots; the first step runs the text's last token."""
    text, first = group[0].text(), len(rollout.rows)
    last, made, slots = len(text) - 1, len(group[0].sample.ids), slice(first, first + len(group))
    for index, (k, v) in enumerate(layers):
        rollout.cache.k_L[index][slots, :, :last] = k
        rollout.cache.v_L[index][slots, :, :last] = v
    rollout.tok_B[slots], rollout.pos_B[slots], rollout.count_B[slots] = text[-1], last, made
    rollout.done_B[slots] = False
    limits = [draft.request.limits[draft.index] for draft in group]
    rollout.limit_B[slots] = torch.tensor(limits, device=rollout.tok_B.device)
    if rollout.temperature:
        uniform_NT = group[0].request.uniform_NT[[draft.index for draft in group]]
        rollout.uniform_BN[slots, :uniform_NT.shape[1]] = uniform_NT.to(rollout.tok_B.device)
    if made:
        rollout.ids_BN[first, :made] = torch.tensor(group[0].sample.ids, device=rollout.tok_B.device)
        rollout.logp_BN[first, :made] = torch.tensor(group[0].sample.logps, device=rollout.tok_B.device)
    for draft in group:
        draft.since = rollout.steps
        rollout.rows.append(draft)


def prefill(rollout: Rollout, texts: list[list[int]]):
    """Yields (index of a text, its keys and values [K, T, C] per layer), texts of like length together, at most
    PREFILL_TOKENS at a time so that few are held at once."""
    policy = rollout.policy
    prefixes = [find_prefix(rollout, text, texts) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: (prefixes[i], -len(texts[i])))
    while order:
        prefix, longest = prefixes[order[0]], len(texts[order[0]]) - len(prefixes[order[0]])
        if not longest:  # a prompt of one token
            yield order.pop(0), []
            continue
        count = 1
        while (count < min(len(order), PREFILL_TOKENS // longest) and prefixes[order[count]] == prefix
               and 4 * (len(texts[order[count]]) - len(prefix)) >= 3 * longest):  # a quarter is padding at most
            count += 1
        part, order, kept = order[:count], order[count:], []
        ids_BT, pos_BT = pad([texts[i][len(prefix):] for i in part], policy.device)
        before = rollout.prefixes.get(prefix)
        forward(policy, ids_BT, pos_BT + len(prefix), keep=kept, packed=rollout.packed, prefix=before)
        for b, i in enumerate(part):
            own = len(texts[i]) - len(prefix)
            yield i, [tuple(part[b, :, :own] if before is None else
                            torch.cat((before[index][which][0], part[b, :, :own]), dim=1)
                            for which, part in enumerate(layer)) for index, layer in enumerate(kept)]


def find_prefix(rollout: Rollout, text: list[int], texts: list[list[int]]) -> tuple:
    """The beginning that `text` shares with others, () if there is none; its keys and values are in the rollout's
    store, where a new one goes. Of all beginnings that the waiting texts have in common with this one, the one that
    saves most tokens: instructions, rather than instructions and an example that two of them share."""
    if not rollout.share_prefix:
        return ()
    known = [prefix for prefix in rollout.prefixes if len(prefix) < len(text) and tuple(text[:len(prefix)]) == prefix]
    if known or len(rollout.prefixes) >= MOST_PREFIXES:
        return max(known, key=len, default=())
    waiting = {id(draft.request): draft.request.prompt for draft in rollout.queue}
    others = (other for other in (*texts, *waiting.values()) if other is not text)
    shared = sorted((common(text[:-1], other) for other in others), reverse=True)
    saved, length = max(((number * length, length) for number, length in enumerate(shared, 1)), default=(0, 0))
    if length < SHORTEST_PREFIX:
        return ()
    prefix, kept = tuple(text[:length]), []
    forward(rollout.policy, *pad([list(prefix)], rollout.policy.device), keep=kept, packed=rollout.packed)
    rollout.prefixes[prefix] = kept
    return prefix


def common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def decode_step(rollout: Rollout, rows: int, length: int) -> None:
    """One token for each of the first `rows` slots, written on the device; nothing is read back. Rows that are done
    stand still: what they write, they write again."""
    tok_B, pos_B, count_B, done_B = (state[:rows] for state in (rollout.tok_B, rollout.pos_B, rollout.count_B,
                                                                rollout.done_B))
    hidden_BD = forward(rollout.policy, tok_B[:, None], pos_B[:, None], rollout.cache, length, packed=rollout.packed)
    head = rollout.packed[-1]["head"] if rollout.packed else None
    logits_BV = logits_of(rollout.policy, hidden_BD[:, 0], rollout.temperature or 1.0, head)
    if rollout.temperature:
        new_B, logp_B = draw(logits_BV, rollout.uniform_BN[:rows].gather(1, count_B[:, None]))
    else:
        new_B = logits_BV.argmax(-1)
        logp_B = pick_logp(logits_BV, new_B)
    rollout.ids_BN[:rows].scatter_(1, count_B[:, None], new_B[:, None])
    rollout.logp_BN[:rows].scatter_(1, count_B[:, None], logp_B[:, None])
    live_B = ~done_B
    tok_B.copy_(new_B)
    pos_B += live_B
    count_B += live_B
    done_B |= live_B & ((new_B[:, None] == rollout.stops).any(-1) | (count_B >= rollout.limit_B[:rows]))


def draw(logits_BV: Tensor, uniform_B1: Tensor) -> tuple[Tensor, Tensor]:
    """(ids_B, logp_B): a draw from the softmax by one uniform number a row, in two stages of inversion: first which
    CHUNK of the vocabulary, then which token in it. Gumbel noise for every logit took half of a decode step of 0.5B on
    a CPU, and noise from outside the step is new in every replay of a graph. Overwrites the logits."""
    B, V = logits_BV.shape
    p_BV = logits_BV.sub_(logits_BV.amax(-1, keepdim=True)).exp_()
    whole = V // CHUNK * CHUNK
    sums_BC = p_BV[:, :whole].reshape(B, -1, CHUNK).sum(-1)
    if whole < V:
        sums_BC = torch.cat((sums_BC, p_BV[:, whole:].sum(-1, keepdim=True)), dim=-1)
    below_BC = sums_BC.double().cumsum(-1)
    total_B1 = below_BC[:, -1:]
    target_B1 = uniform_B1 * total_B1
    chunk_B1 = (below_BC <= target_B1).sum(-1, keepdim=True).clamp_(max=sums_BC.shape[1] - 1)
    rest_B1 = target_B1 - (below_BC - sums_BC).gather(1, chunk_B1)
    ids_BC = chunk_B1 * CHUNK + torch.arange(CHUNK, device=logits_BV.device)
    inner_BC = (p_BV.gather(1, ids_BC.clamp(max=V - 1)) * (ids_BC < V)).double().cumsum(-1)
    rest_B1 = torch.minimum(rest_B1, inner_BC[:, -1:] * (1 - 1e-9))  # the two sums differ by rounding
    new_B1 = chunk_B1 * CHUNK + (inner_BC <= rest_B1).sum(-1, keepdim=True)
    logp_B1 = p_BV.gather(1, new_B1).log() - total_B1.log()
    return new_B1[:, 0], logp_B1[:, 0].float()


def replay(rollout: Rollout, rows: int, length: int) -> None:
    """`decode_step` as a CUDA graph, captured at the first use of a (rows, length)."""
    if (rows, length) not in rollout.graphs:
        state = rollout.tok_B, rollout.done_B
        was = [tensor.clone() for tensor in state]
        rollout.done_B.fill_(True)  # a first run compiles and warms up, and every row stands still
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                decode_step(rollout, rows, length)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            decode_step(rollout, rows, length)
        for tensor, before in zip(state, was):
            tensor.copy_(before)
        rollout.graphs[rows, length] = graph
    rollout.graphs[rows, length].replay()


def read_sample(rollout: Rollout, b: int) -> Sample:
    count = int(rollout.count_B[b])
    ids = rollout.ids_BN[b, :count].tolist()
    stopped = ids and ids[-1] in rollout.policy.stop_ids
    return Sample(ids, rollout.logp_BN[b, :count].tolist(), "stop" if stopped else "length")


def harvest(rollout: Rollout) -> list[tuple[Request, int, Sample]]:
    finished, done = [], rollout.done_B[:len(rollout.rows)].nonzero()[:, 0].tolist()
    for b in done:
        draft, sample = rollout.rows[b], read_sample(rollout, b)
        draft.request.waiting -= 1
        if not draft.request.waiting:
            draft.request.uniform_NT = None
        finished.append((draft.request, draft.index, sample))
    drop_rows(rollout, done)
    return finished


def drop_rows(rollout: Rollout, gone: list[int]) -> None:
    """Frees slots; the last live rows move into them, so that live rows stay together."""
    live = len(rollout.rows) - len(gone)
    holes = [b for b in gone if b < live]
    movers = [b for b in range(live, len(rollout.rows)) if b not in set(gone)]
    if holes:
        used = max(position(rollout, rollout.rows[b]) for b in movers)
        for layers in (rollout.cache.k_L, rollout.cache.v_L):
            for layer in layers:
                layer[holes, :, :used] = layer[movers, :, :used]
        for state in (rollout.tok_B, rollout.pos_B, rollout.count_B, rollout.limit_B, rollout.done_B,
                      rollout.uniform_BN, rollout.ids_BN, rollout.logp_BN):
            state[holes] = state[movers]
        for hole, mover in zip(holes, movers):
            rollout.rows[hole] = rollout.rows[mover]
    rollout.done_B[live:live + len(gone)] = True
    rollout.pos_B[live:live + len(gone)] = 0
    del rollout.rows[live:]


def generate(policy: Policy, prompts: list[list[int]], n: int | list[int] = 1, max_new_tokens: int = 256,
             temperature: float = 1.0, seed: int = 0, slots: int = 64, kv_gb: float = 4.0,
             progress=None, **switches) -> list[list[Sample]]:
    """n responses to each prompt (or n[i] to prompts[i]): result[i][j] is the j-th sample of prompts[i]. The seed fixes
    all draws.

    A queue feeds `slots` rows. Each prompt is prefilled once and its keys and values are copied to its n rows. Rows
    have their own positions, so nothing is padded in decoding; a finished row's place is taken by the last live row,
    and free places are refilled from the queue. Only temperature shapes the distribution: top-p and top-k would bias
    the ratio in the update. `progress` is called with the tokens made so far; `switches` go to `start_rollout`."""
    if not prompts:
        return []
    longest = max(map(len, prompts)) + max_new_tokens
    if min(map(len, prompts)) == 0 or longest > policy.max_length:
        raise ValueError(f"prompts must have 1 to {policy.max_length - max_new_tokens} tokens here, not"
                         f" {longest - max_new_tokens}")
    counts = [n] * len(prompts) if isinstance(n, int) else n
    samples = [[None] * count for count in counts]
    rollout = start_rollout(policy, min(slots, max(1, sum(counts))), longest, max_new_tokens, temperature, seed, kv_gb,
                            **switches)
    # Longest first: prompts prefilled together are of like length, and the most expensive ones do not come last.
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        if counts[i]:
            add(rollout, prompts[i], counts[i], tag=i)
    while not idle(rollout):
        for request, j, sample in advance(rollout):
            samples[request.tag][j] = sample
        if progress:
            progress(rollout.made)
    return samples


# ----------------------------------------------------------------------------------------------------------------
# Log-probs: the sampler and the update go through the same two functions

def logits_of(policy: Policy, hidden_ND: Tensor, temperature: float, packed: tuple | None = None) -> Tensor:
    """fp32 logits divided by the temperature, [N, V]."""
    y_NV = packed_linear(packed, hidden_ND) if packed else linear(policy.head, hidden_ND, policy.adapter_on)
    return y_NV.float() if temperature == 1 else y_NV.float() / temperature


def pick_logp(logits_NV: Tensor, ids_N: Tensor) -> Tensor:
    return logits_NV.gather(-1, ids_N[:, None])[:, 0] - logits_NV.logsumexp(-1)


def logprobs(policy: Policy, rows: list[tuple[list[int], list[int]]],
             temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(logp_N, entropy_N) of the response tokens of all rows, one row after the other; differentiable.

    A row is (prompt ids, response ids). Rows with the same prompt share it: their texts are laid side by side, see
    `side_by_side`. Logits exist for LOGIT_BUDGET numbers at a time, so that no [B, T, V] tensor is ever held (7.4 GB
    for 12k tokens of Qwen's vocabulary)."""
    texts, place = side_by_side(rows, policy.share_prompts), {}
    ids, pos, part = [], [], []
    for b, text in enumerate(texts):
        prompt = rows[text[0]][0]
        ids.append(list(prompt)), pos.append(list(range(len(prompt)))), part.append([0] * len(prompt))
        for number, i in enumerate(text, 1):
            response = rows[i][1]
            # The hidden state before a token predicts it: the prompt's last one for the response's first token.
            place[i] = [(b, len(prompt) - 1), *((b, t) for t in range(len(ids[b]), len(ids[b]) + len(response) - 1))]
            ids[b] += response
            pos[b] += range(len(prompt), len(prompt) + len(response))
            part[b] += [number] * len(response)
    ids_BT, pos_BT, part_BT = (fill(lists, policy.device) for lists in (ids, pos, part))
    mask = None
    if max(map(len, texts)) > 1:
        order = torch.arange(ids_BT.shape[1], device=policy.device)
        shown = (part_BT[:, None, :] == 0) | (part_BT[:, None, :] == part_BT[:, :, None])
        mask = (shown & (order <= order[:, None]))[:, None]
    hidden_BTD = forward(policy, ids_BT, pos_BT, mask=mask)
    at_N2 = torch.tensor([spot for i in range(len(rows)) for spot in place[i]], device=policy.device)
    ids_N = torch.tensor([token for _, response in rows for token in response], device=policy.device)
    hidden_ND = hidden_BTD[at_N2[:, 0], at_N2[:, 1]]
    size = max(1, LOGIT_BUDGET // policy.head.weight.shape[0])
    parts = []
    for hidden, ids in zip(hidden_ND.split(size), ids_N.split(size)):
        if policy.head.weight.requires_grad and torch.is_grad_enabled():
            parts.append(checkpoint(score, policy, hidden, ids, temperature, use_reentrant=False))
        elif hidden.requires_grad and type(policy.head) is nn.Linear:
            parts.append(FrozenHead.apply(hidden, policy, ids, temperature))
        else:
            parts.append(score(policy, hidden, ids, temperature))
    return torch.cat([logp for logp, _ in parts]), torch.cat([entropy for _, entropy in parts])


def side_by_side(rows: list[tuple[list[int], list[int]]], longest: int) -> list[list[int]]:
    """Row indices by text: rows of the same prompt go into one text of up to `longest` tokens, the prompt once and the
    responses after it, each blind to the others and at the positions that it has alone. With 8 short answers to a
    prompt the update then has a third of the tokens. Beyond a few thousand the mask costs more than the prompt."""
    texts, latest, length = [], {}, {}
    for i, (prompt, response) in enumerate(rows):
        number = latest.get(tuple(prompt))
        if number is None or length[number] + len(response) > longest:
            number = latest[tuple(prompt)] = len(texts)
            texts.append([])
            length[number] = len(prompt)
        texts[number].append(i)
        length[number] += len(response)
    return texts


def score(policy: Policy, hidden_ND: Tensor, ids_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits_NV = logits_of(policy, hidden_ND, temperature)
    entropy_N = logits_NV.logsumexp(-1) - (logits_NV.softmax(-1) * logits_NV).sum(-1)
    return pick_logp(logits_NV, ids_N), entropy_N


class FrozenHead(torch.autograd.Function):
    """`score` under a head that is not trained. The log-prob of a token depends on its own hidden state alone, so its
    gradient is made while the logits are there: two matmuls with the vocabulary where recomputing takes three."""

    @staticmethod
    def forward(ctx, hidden_ND, policy, ids_N, temperature):
        logits_NV = logits_of(policy, hidden_ND, temperature)
        lse_N = logits_NV.logsumexp(-1)
        logp_N = logits_NV.gather(-1, ids_N[:, None])[:, 0] - lse_N
        p_NV = (logits_NV - lse_N[:, None]).exp_()
        entropy_N = lse_N - torch.bmm(p_NV[:, None], logits_NV[:, :, None])[:, 0, 0]
        del logits_NV
        p_NV[torch.arange(len(ids_N), device=ids_N.device), ids_N] -= 1
        slope_ND = (p_NV.to(hidden_ND.dtype) @ policy.head.weight) * (-1 / temperature)
        ctx.save_for_backward(hidden_ND, ids_N, slope_ND)
        ctx.policy, ctx.temperature = policy, temperature
        ctx.set_materialize_grads(False)
        return logp_N, entropy_N

    @staticmethod
    def backward(ctx, grad_logp_N, grad_entropy_N):
        hidden_ND, ids_N, slope_ND = ctx.saved_tensors
        grad_ND = torch.zeros_like(slope_ND)
        if grad_logp_N is not None:
            grad_ND = (grad_logp_N[:, None] * slope_ND).to(slope_ND.dtype)
        if grad_entropy_N is not None:  # only with an entropy bonus: worth recomputing
            with torch.enable_grad():
                leaf_ND = hidden_ND.detach().requires_grad_()
                _, entropy_N = score(ctx.policy, leaf_ND, ids_N, ctx.temperature)
                grad_ND = grad_ND + torch.autograd.grad(entropy_N, leaf_ND, grad_entropy_N)[0]
        return grad_ND, None, None, None


def update_bytes(policy: Policy) -> float:
    """Roughly the memory that a token takes in the update, besides the logits: what `logprobs` keeps of it for the
    backward pass."""
    D, I, L = policy.config.hidden_size, policy.config.intermediate_size, policy.config.num_hidden_layers
    layer = 14 * D + 6 * I  # numbers that a layer keeps, counted from `block`; a wrong guess costs a halving
    return policy.dtype.itemsize * (L * D + layer if policy.checkpoint_layers else L * layer)


def pad(rows: list[list[int]], device) -> tuple[Tensor, Tensor]:
    """(ids_BT, pos_BT), padded on the right with id 0, which causal attention never lets a real token see."""
    ids_BT = fill(rows, device)
    return ids_BT, torch.arange(ids_BT.shape[1], device=device).expand(ids_BT.shape)


def fill(rows: list[list[int]], device) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)


if __name__ == "__main__":
    import sys

    import interop
    sys.exit(interop.main(sys.argv[1:]))
