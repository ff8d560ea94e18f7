"""The llama.cpp trials of `rollout`, on a CPU, by llama-cpp-python's low-level calls: a transformers model of the
qwen2 family becomes a GGUF file of the same dtype, without a vocabulary; every prompt is prefilled once, its keys and
values are copied to its responses, and `width` responses are decoded together, each as long as it should be and then
replaced by the next. Needs the packages llama-cpp-python and gguf."""
import ctypes
import logging
import os
import re
import tempfile
from collections import deque
from pathlib import Path

import llama_cpp as C
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter

NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
         "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
DTYPES = {torch.float32: GGMLQuantizationType.F32, torch.bfloat16: GGMLQuantizationType.BF16}
# llama-cpp-python numbers the levels otherwise than llama.cpp does: at ERROR it would print warnings.
logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)


def write_gguf(plain: torch.nn.Module, path: Path) -> None:
    """Matrices in the model's dtype, norms and biases in fp32, as llama.cpp wants them."""
    config = plain.config
    if config.model_type != "qwen2" or plain.dtype not in DTYPES:
        raise ValueError(f"no GGUF of {config.model_type} in {plain.dtype}: only of qwen2 in float32 or bfloat16")
    if config.rope_parameters["rope_type"] != "default" or {*config.layer_types} != {"full_attention"}:
        raise ValueError("no GGUF of scaled positions or sliding windows")
    writer = GGUFWriter(path, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config.vocab_size)
    for name, weight in plain.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = re.sub("|".join(map(re.escape, sorted(NAMES, key=len, reverse=True))), lambda m: NAMES[m[0]], name)
        if weight.ndim == 2:  # as bytes: numpy has no bfloat16
            writer.add_tensor(name, weight.contiguous().view(torch.uint8).numpy(), raw_dtype=DTYPES[weight.dtype])
        else:
            writer.add_tensor(name, weight.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load(plain: torch.nn.Module) -> int:
    """llama.cpp's model with the weights of `plain`, whose logits it is held to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.gguf")
        write_gguf(plain, path)
        model = C.llama_model_load_from_file(str(path).encode(), C.llama_model_default_params())
    if not model:
        raise RuntimeError("llama.cpp does not load the file")
    ids, V = list(range(3, 15)), plain.config.vocab_size
    context = open_context(model, plain.dtype, len(ids), 1, len(ids), False)
    wanted_NV = plain(torch.tensor([ids])).logits[0].float()
    made_NV = decode(context, [(token, position, 0, True) for position, token in enumerate(ids)], V)
    off = float((torch.from_numpy(made_NV) - wanted_NV).norm() / wanted_NV.norm())
    C.llama_free(context)
    if not off < (1e-4 if plain.dtype == torch.float32 else 0.1):
        raise RuntimeError(f"its logits are {off:.1%} off")
    return model


def open_context(model: int, dtype: torch.dtype, positions: int, sequences: int, batch: int, flash: bool) -> int:
    """A context for sequences of so many positions each and calls of at most `batch` tokens."""
    params = C.llama_context_default_params()
    params.n_ctx, params.n_seq_max = sequences * -(-positions // 256) * 256, sequences
    params.n_batch, params.n_outputs_max = batch, batch if sequences == 1 else sequences  # a row of logits each
    params.n_threads = params.n_threads_batch = os.cpu_count()
    params.type_k = params.type_v = DTYPES[dtype]
    params.kv_unified = False  # in a common buffer every response would be masked against all others': slower
    params.flash_attn_type = int(flash)
    if not (context := C.llama_init_from_model(model, params)):
        raise RuntimeError("llama.cpp makes no context")
    return context


def decode(context: int, rows: list[tuple[int, int, int, bool]], vocabulary: int) -> np.ndarray:
    """Runs rows of (token, position, sequence, whether its logits are wanted), sorted by sequence: llama.cpp computes
    together only what has consecutive numbers. The logits (valid until the next call) are in the rows' order."""
    token_N, position_N, sequence_N = np.array([row[:3] for row in rows], np.int32).T.copy()
    wanted_N, count_N = np.array([row[3] for row in rows], np.int8), np.ones(len(rows), np.int32)
    address_N = sequence_N.ctypes.data + sequence_N.itemsize * np.arange(len(rows), dtype=np.uintp)

    def pointer(array_N: np.ndarray, kind: type):
        return array_N.ctypes.data_as(ctypes.POINTER(kind))
    status = C.llama_decode(context, C.llama_batch(
        len(rows), pointer(token_N, C.llama_token), None, pointer(position_N, C.llama_pos),
        pointer(count_N, ctypes.c_int32), pointer(address_N, ctypes.POINTER(C.llama_seq_id)),
        pointer(wanted_N, ctypes.c_int8)))
    if status:
        raise RuntimeError(f"llama_decode returns {status}")
    return np.ctypeslib.as_array(C.llama_get_logits(context), (int(wanted_N.sum()), vocabulary))


def sample(logits_NV: np.ndarray, rng: torch.Generator) -> list[int]:
    """T = 1, the whole vocabulary; llama.cpp's samplers would take a row a call and copy it, three times as large."""
    total_NV = torch.from_numpy(logits_NV)
    total_NV = (total_NV - total_NV.amax(1, keepdim=True)).exp_().cumsum(1)
    drawn_N1 = torch.rand(len(total_NV), 1, generator=rng) * total_NV[:, -1:]
    return torch.searchsorted(total_NV, drawn_N1, right=True)[:, 0].clamp_(max=total_NV.shape[1] - 1).tolist()


def generate(model: int, dtype: torch.dtype, work: list[tuple[list[int], list[int]]], width: int, flash: bool = False,
             draw=sample, seed: int = 0) -> list[list[list[int]]]:
    """For each (prompt, lengths) of `work` responses of these lengths."""
    rng, V = torch.Generator().manual_seed(seed), C.llama_vocab_n_tokens(C.llama_model_get_vocab(model))
    spare = list(range(width, width + width // min(len(lengths) for _, lengths in work) + 2))  # sequences of prompts
    batch = max(2048, width + max(len(prompt) for prompt, _ in work))
    context = open_context(model, dtype, max(len(prompt) + max(lengths) for prompt, lengths in work), spare[-1] + 1,
                           batch, flash)
    memory = C.llama_get_memory(context)
    queue = deque(sorted(range(len(work)), key=lambda i: -len(work[i][0])))
    made: list[list[list[int]]] = [[] for _ in work]
    active: list[tuple[list[int], int, int]] = []  # sequence 0, 1, ...: response, where it starts, how long it gets
    ready: deque[tuple[int, int, list]] = deque()  # a prefilled prompt's sequence, its length, (response, how long)s
    while queue or active:
        rows = [(response[-1], start + len(response) - 1, sequence, True)
                for sequence, (response, start, _) in enumerate(active)]
        new, free = [], width - len(active)  # none is free while a response is ready
        while queue and free > 0 and spare and len(rows) + len(work[queue[0]][0]) <= batch:
            i, sequence = queue.popleft(), spare.pop(0)
            prompt, lengths = work[i]
            rows += [(token, at, sequence, at == len(prompt) - 1) for at, token in enumerate(prompt)]
            new.append((i, sequence))
            free -= len(lengths)
        logits_NV = decode(context, rows, V)
        if active:
            for (response, _, _), token in zip(active, draw(logits_NV[:len(active)], rng)):
                response.append(token)
        for row_V, (i, sequence) in zip(logits_NV[len(active):], new):
            prompt, lengths = work[i]
            made[i] = [[token] for token in draw(row_V[None].repeat(len(lengths), 0), rng)]
            ready.append((sequence, len(prompt), list(zip(made[i], lengths))))
        ended = [sequence for sequence, (response, _, length) in enumerate(active) if len(response) == length]
        while ready and (ended or len(active) < width):
            source, start, waiting = ready[0]
            response, length = waiting.pop()
            if length > 1:
                sequence = ended.pop(0) if ended else len(active)
                active[sequence:sequence + 1] = [(response, start, length)]
                C.llama_memory_seq_cp(memory, source, sequence, -1, -1)
            if not waiting:
                ready.popleft()
                C.llama_memory_seq_rm(memory, source, -1, -1)
                spare = sorted([*spare, source])
        for sequence in reversed(ended):  # nothing is left for its place: the last one moves there, see `decode`
            last = active.pop()
            if sequence < len(active):
                active[sequence] = last
                C.llama_memory_seq_cp(memory, len(active), sequence, -1, -1)
            C.llama_memory_seq_rm(memory, len(active), -1, -1)
    C.llama_free(context)
    return made
