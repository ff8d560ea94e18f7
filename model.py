"""
The policy: one network that proposes and solves, and the one forward pass that both samples from it and trains it.

transformers loads weights, configuration and tokenizer, peft adds the LoRA adapters, bitsandbytes quantises the frozen
weights to NF4 on request. The forward pass below is our own and reads those modules' tensors in place, so there is no
second copy of the weights, and sampling, prefill and the update run through the same lines: the log-prob that was
sampled is the log-prob that is trained, up to rounding. Families: Qwen2/2.5, Qwen3, Llama 3 (tests compare with
transformers).

Order of reading: `load_policy`, `forward`, `generate`, `logprobs`.

Dimension suffixes: B rows, T positions, N response tokens of a whole batch, D model width, H heads, K key/value heads,
C head width, V vocabulary, L layers. logp_N is one log-prob per response token.
"""
import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

FAMILIES = {"qwen2": "Qwen2/Qwen2.5", "qwen3": "Qwen3", "llama": "Llama 3"}
STATIC_ROPE = {"default", "llama3", "linear", "yarn"}  # inverse frequencies that do not depend on the text's length
LOGIT_BUDGET = 2**26   # logits held at once in `logprobs`: 256 MB of fp32, 440 tokens of Qwen's vocabulary
PREFILL_TOKENS = 8192  # prompt tokens per prefill call

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
    adapter_on: bool = True      # False: the forward pass leaves the LoRA matrices out

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
                dtype: torch.dtype | None = None) -> Policy:
    """Loads a hub name or a folder (Hugging Face format). `adapter` is a folder written by `save_policy`; with
    lora_rank 0 all weights are trained and `adapter` holds all of them. `dtype` is that of the frozen weights and of
    the activations: bf16 on CUDA and fp32 on a CPU if not given. Raises ModelError."""
    local = Path(name).expanduser()
    if local.is_dir():
        name = str(local)
    elif name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise ModelError(f"--model {name}: no such folder; give a folder with config.json and weights, or a hub name"
                         " like Qwen/Qwen2.5-Coder-3B")
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    source = str(adapter) if adapter and lora_rank == 0 else name
    options = {"dtype": torch.float32 if lora_rank == 0 else dtype}
    try:
        config = AutoConfig.from_pretrained(name)
        check_family(name, config)
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
        model = add_adapter(model, lora_rank, lora_alpha, adapter, seed)
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


def add_adapter(model: nn.Module, rank: int, alpha: float, adapter: Path | None, seed: int) -> nn.Module:
    """LoRA on all linear layers of the blocks (attention-only is worse at any rank; Thinking Machines, LoRA Without
    Regret, 2025), master weights in fp32."""
    import peft
    if adapter:
        model = peft.PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    else:
        torch.manual_seed(seed)
        model = peft.get_peft_model(model, peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none",
                                                          target_modules="all-linear", task_type="CAUSAL_LM"))
    config = model.peft_config["default"]
    config.target_modules = sorted(config.target_modules)  # a set, whose order would differ from save to save
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
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
    """Prompt text to ids, with a beginning-of-text token where the tokenizer puts one (Llama does, Qwen does not, though
    it may name one). A chat template has written its own."""
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
    """Keys and values of the rows in flight; row b holds positions 0..pos_b of its own text and nothing else."""
    k_LBKTC: Tensor
    v_LBKTC: Tensor


def forward(policy: Policy, ids_BT: Tensor, pos_BT: Tensor, cache: Cache | None = None, length: int = 0,
            keep: list | None = None) -> Tensor:
    """Token ids at their positions -> final hidden states, [B, T, D] in `policy.dtype`.

    Without a cache the rows are whole texts, padded on the right: attention is causal, so nothing real attends to
    padding. `keep` receives each layer's (keys, values), [B, K, T, C]. With a cache T is 1: the token's keys and
    values are written at its position and it attends to positions 0..pos of its row, within the first `length`.
    """
    decoder = policy.decoder
    x_BTD = F.embedding(ids_BT, decoder.embed_tokens.weight).to(policy.dtype)
    rope = rotary(decoder.rotary_emb, pos_BT, policy.dtype)
    mask = None
    if cache is not None:
        mask = (torch.arange(length, device=ids_BT.device) <= pos_BT)[:, None, None, :]  # [B, 1, 1, length]
    for index, layer in enumerate(decoder.layers):
        if policy.checkpoint_layers and torch.is_grad_enabled():
            x_BTD = checkpoint(block, policy, layer, index, x_BTD, rope, pos_BT, None, 0, None, None,
                               use_reentrant=False)
        else:
            x_BTD = block(policy, layer, index, x_BTD, rope, pos_BT, cache, length, mask, keep)
    return rms_norm(decoder.norm, x_BTD)


def block(policy: Policy, layer: nn.Module, index: int, x_BTD: Tensor, rope: tuple, pos_BT: Tensor, cache: Cache | None,
          length: int, mask: Tensor | None, keep: list | None) -> Tensor:
    attention, mlp, on = layer.self_attn, layer.mlp, policy.adapter_on
    B, T, _ = x_BTD.shape
    h = rms_norm(layer.input_layernorm, x_BTD)
    q, k, v = (linear(projection, h, on).view(B, T, -1, attention.head_dim)
               for projection in (attention.q_proj, attention.k_proj, attention.v_proj))
    if hasattr(attention, "q_norm"):  # Qwen3
        q, k = rms_norm(attention.q_norm, q), rms_norm(attention.k_norm, k)
    q, k, v = rotate(q.transpose(1, 2), rope), rotate(k.transpose(1, 2), rope), v.transpose(1, 2)  # [B, heads, T, C]
    if keep is not None:
        keep.append((k, v))
    if cache is not None:
        rows, positions = torch.arange(B, device=k.device), pos_BT[:, 0]
        cache.k_LBKTC[index][rows, :, positions] = k[:, :, 0]
        cache.v_LBKTC[index][rows, :, positions] = v[:, :, 0]
        k, v = cache.k_LBKTC[index][:B, :, :length], cache.v_LBKTC[index][:B, :, :length]
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=cache is None, enable_gqa=True)
    x_BTD = x_BTD + linear(attention.o_proj, o.transpose(1, 2).reshape(B, T, -1), on)
    h = rms_norm(layer.post_attention_layernorm, x_BTD)
    return x_BTD + linear(mlp.down_proj, F.silu(linear(mlp.gate_proj, h, on)) * linear(mlp.up_proj, h, on), on)


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


def rms_norm(module: nn.Module, x: Tensor) -> Tensor:
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
# Sampling

@dataclass
class Sample:
    """One response. `ids` ends with the stop token if there was one; ids and logps go to the update as they are."""
    ids: list[int]
    logps: list[float]  # log-prob of each id under the distribution it was drawn from (temperature 0: under T = 1)
    finish: str         # "stop" or "length"


@torch.inference_mode()
def generate(policy: Policy, prompts: list[list[int]], n: int | list[int] = 1, max_new_tokens: int = 256,
             temperature: float = 1.0, seed: int = 0, slots: int = 64, kv_gb: float = 4.0,
             progress=None) -> list[list[Sample]]:
    """n responses to each prompt (or n[i] to prompts[i]): result[i][j] is the j-th sample of prompts[i]. The seed fixes
    all draws.

    A queue feeds `slots` rows (fewer where their keys and values would not fit into kv_gb). Each prompt is prefilled
    once and its keys and values are copied to its n rows. Rows have their own positions, so nothing is padded in
    decoding; a finished row's place is taken by the last live row, and free places are refilled from the queue. Only
    temperature shapes the distribution: top-p and top-k would bias the ratio in the update. `progress` is called with
    the tokens made so far.
    """
    if not prompts:
        return []
    longest = max(map(len, prompts)) + max_new_tokens
    if min(map(len, prompts)) == 0 or longest > policy.max_length:
        raise ValueError(f"prompts must have 1 to {policy.max_length - max_new_tokens} tokens here, not"
                         f" {longest - max_new_tokens}")
    counts = [n] * len(prompts) if isinstance(n, int) else n
    samples = [[Sample([], [], "length") for _ in range(count)] for count in counts]
    # Longest first: prompts prefilled together are of like length, and the most expensive ones do not come last.
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    queue = [(i, j) for i in order for j in range(counts[i])][::-1]  # pop() takes the next
    cache = new_cache(policy, min(slots, len(queue)), longest, kv_gb)
    slots = cache.k_LBKTC.shape[1]
    noise = torch.Generator(policy.device).manual_seed(seed)
    tok_B = torch.zeros(slots, dtype=torch.long, device=policy.device)
    pos_B = torch.zeros(slots, dtype=torch.long, device=policy.device)
    rows: list[Sample] = []           # rows[b] is written by slot b; slots len(rows).. are free
    positions: list[int] = []         # pos_B on the host, for the live length
    half: dict[int, tuple] = {}       # the prompt whose samples did not all find a slot: its keys and values
    made = 0
    while rows or queue:
        free = slots - len(rows)
        if queue and (free * 8 >= slots or not rows):  # refill an eighth at a time: prefilling one by one is slow
            wanted: dict[int, list[int]] = {}
            for i, j in (queue.pop() for _ in range(min(free, len(queue)))):
                wanted.setdefault(i, []).append(j)
            for i, (k_LKTC, v_LKTC) in prefill(policy, prompts, wanted, half):
                last = len(prompts[i]) - 1
                for j in wanted[i]:
                    b = len(rows)
                    cache.k_LBKTC[:, b, :, :last] = k_LKTC
                    cache.v_LBKTC[:, b, :, :last] = v_LKTC
                    tok_B[b], pos_B[b] = prompts[i][last], last  # the first step runs the prompt's last token
                    rows.append(samples[i][j])
                    positions.append(last)
                half = {i: (k_LKTC, v_LKTC)} if queue and queue[-1][0] == i else {}
        live, length = len(rows), max(positions) + 1
        new_B, logp_B = decode_step(policy, tok_B[:live], pos_B[:live], cache, length, temperature, noise)
        tok_B[:live] = new_B
        pos_B[:live] += 1
        made += live
        done = []
        for b, (token, logp) in enumerate(zip(new_B.tolist(), logp_B.tolist())):
            rows[b].ids.append(token)
            rows[b].logps.append(logp)
            positions[b] += 1
            if token in policy.stop_ids:
                rows[b].finish = "stop"
                done.append(b)
            elif len(rows[b].ids) == max_new_tokens:
                done.append(b)
        for b in reversed(done):  # from the back, so that the row moved in is a live one
            last = len(rows) - 1
            if b != last:
                used = positions[last]
                cache.k_LBKTC[:, b, :, :used] = cache.k_LBKTC[:, last, :, :used]
                cache.v_LBKTC[:, b, :, :used] = cache.v_LBKTC[:, last, :, :used]
                tok_B[b], pos_B[b] = tok_B[last].clone(), pos_B[last].clone()
                rows[b], positions[b] = rows[last], positions[last]
            rows.pop()
            positions.pop()
        if progress:
            progress(made)
    return samples


def new_cache(policy: Policy, slots: int, length: int, kv_gb: float) -> Cache:
    config = policy.config
    kv_heads, width = config.num_key_value_heads, policy.decoder.layers[0].self_attn.head_dim
    row_bytes = 2 * len(policy.decoder.layers) * kv_heads * length * width * policy.dtype.itemsize
    slots = max(1, min(slots, int(kv_gb * 2**30 / row_bytes)))
    shape = (len(policy.decoder.layers), slots, kv_heads, length, width)
    return Cache(*(torch.zeros(shape, dtype=policy.dtype, device=policy.device) for _ in range(2)))


def prefill(policy: Policy, prompts: list[list[int]], wanted: dict[int, list], known: dict[int, tuple]):
    """Yields (prompt, its keys and values), [L, K, T-1, C] each, for every wanted prompt, PREFILL_TOKENS at a time so
    that few are held at once. The last token is left to the first decode step: all sampling happens in one place."""
    missing = [i for i in wanted if i not in known]
    yield from ((i, known[i]) for i in wanted if i in known)
    while missing:
        count = max(1, PREFILL_TOKENS // len(prompts[missing[0]]))  # sorted: the first is the longest
        part, missing = missing[:count], missing[count:]
        kept: list = []
        if len(prompts[part[0]]) > 1:
            forward(policy, *pad([prompts[i][:-1] for i in part], policy.device), keep=kept)
        for b, i in enumerate(part):
            last = len(prompts[i]) - 1
            yield i, tuple(torch.stack([layer[which][b, :, :last] for layer in kept]) if last else 0.0
                           for which in (0, 1))


def decode_step(policy: Policy, tok_B: Tensor, pos_B: Tensor, cache: Cache, length: int, temperature: float,
                noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """One token for every live row: (ids_B, logp_B). Tensors in, tensors out, no reads back: the unit to compile."""
    hidden_BD = forward(policy, tok_B[:, None], pos_B[:, None], cache, length)[:, 0]
    logits_BV = logits_of(policy, hidden_BD, temperature or 1.0)
    if temperature == 0:
        new_B = logits_BV.argmax(-1)
    else:  # argmax of logits plus Gumbel noise is a draw from their softmax
        new_B = (logits_BV - torch.empty_like(logits_BV).exponential_(generator=noise).log_()).argmax(-1)
    return new_B, pick_logp(logits_BV, new_B)


# ----------------------------------------------------------------------------------------------------------------
# Log-probs: the sampler and the update go through the same two functions

def logits_of(policy: Policy, hidden_ND: Tensor, temperature: float) -> Tensor:
    """fp32 logits divided by the temperature, [N, V]."""
    return linear(policy.head, hidden_ND, policy.adapter_on).float() / temperature


def pick_logp(logits_NV: Tensor, ids_N: Tensor) -> Tensor:
    return logits_NV.gather(-1, ids_N[:, None])[:, 0] - logits_NV.logsumexp(-1)


def logprobs(policy: Policy, rows: list[tuple[list[int], list[int]]],
             temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(logp_N, entropy_N) of the response tokens of all rows, one row after the other; differentiable.

    A row is (prompt ids, response ids). Logits exist for LOGIT_BUDGET numbers at a time and are recomputed in the
    backward pass, so that no [B, T, V] tensor is ever held (7.4 GB for 12k tokens of Qwen's vocabulary)."""
    ids_BT, pos_BT = pad([prompt + response for prompt, response in rows], policy.device)
    hidden_BTD = forward(policy, ids_BT, pos_BT)
    # The hidden state at position t predicts the token at t + 1.
    row_N = [b for b, (_, response) in enumerate(rows) for _ in response]
    at_N = [len(prompt) - 1 + t for prompt, response in rows for t in range(len(response))]
    ids_N = torch.tensor([token for _, response in rows for token in response], device=policy.device)
    hidden_ND = hidden_BTD[torch.tensor(row_N, device=policy.device), torch.tensor(at_N, device=policy.device)]
    size = max(1, LOGIT_BUDGET // policy.head.weight.shape[0])
    parts = [checkpoint(score, policy, hidden, ids, temperature, use_reentrant=False) if torch.is_grad_enabled()
             else score(policy, hidden, ids, temperature)
             for hidden, ids in zip(hidden_ND.split(size), ids_N.split(size))]
    return torch.cat([logp for logp, _ in parts]), torch.cat([entropy for _, entropy in parts])


def score(policy: Policy, hidden_ND: Tensor, ids_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits_NV = logits_of(policy, hidden_ND, temperature)
    entropy_N = logits_NV.logsumexp(-1) - (logits_NV.softmax(-1) * logits_NV).sum(-1)
    return pick_logp(logits_NV, ids_N), entropy_N


def pad(rows: list[list[int]], device) -> tuple[Tensor, Tensor]:
    """(ids_BT, pos_BT), padded on the right with id 0, which causal attention never lets a real token see."""
    width = max(map(len, rows))
    ids_BT = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    return ids_BT, torch.arange(width, device=device).expand(len(rows), width)
