"""
Decode attention on CUDA: one new token in each row, which it writes into the cache, against that row's own positions
and no others.

A row b of a continuous batch holds positions 0..pos_b - 1 in its slot and brings the keys and values of pos_b; each of
its query heads wants o = sum_t softmax(q.k_t / sqrt(C)) v_t over them all. Every key and value is read once and used
for two multiplications per query head, so the time is that of the reading: SDPA with a mask reads the whole length of
the cache for all rows. Here:

1. Online softmax. Block by block of positions a program keeps, per query head, the largest score so far m, the sum
   l = sum_t e^(s_t - m) and the vector a = sum_t e^(s_t - m) v_t. A block with a larger maximum m' multiplies l and a
   by e^(m - m') before it adds its own. At the end o = a / l, and no row of scores was ever held (Milakov and
   Gimelshein 2018; FlashAttention). Exponentials are base 2 throughout: the scores carry a factor log2(e).
   The new token is where the program that holds the row's end starts from (m its score, l = 1, a = v), so that it is
   written into the cache on the way and never read from there.
2. Splits. A batch has rows x key/value heads pieces of work, 64 to 512 of very different lengths, and the card
   132 processors: so each is cut into splits of `split` positions (FlashDecoding). A split gives its own
   o_s = a_s / l_s and lse_s = m_s + log l_s. Since sum_t e^(s_t) over a split is e^(lse_s), the whole is
   o = sum_s w_s o_s with w = softmax(lse): `merge`. Splits that begin beyond the row's end return at once, so that a
   captured graph fits every length: the grid is that of the cache's length, the reading that of the rows'.
3. Groups. The G query heads that share a key/value head share its reading. They are the rows of a matrix product,
   which wants 16: G is padded with zeros (7 for Qwen2.5 0.5B and 7B, 6 for 1.5B, 8 for 3B).

A row's result depends on its own numbers, `split` and `block` alone, not on its slot, its neighbours or the cache's
length; with `splits=1` a row is one split, whatever its length: nothing is merged.

ms for one layer inside a graph, H100, ragged lengths (floor: the useful bytes at 3 TB/s):

                                        floor   SDPA, mask   FlexAttention   FlashAttention 2   this
    0.5B: 256 rows, mean 745 of 2,048   0.033      0.137          0.080            0.092        0.044
    3B: 128 rows, mean 1,595 of 4,096   0.070      0.208          0.169            0.207        0.083
    7B: 64 rows, mean 806 of 2,048      0.035      0.116          0.105            0.108        0.046

Only for CUDA, or for tests under TRITON_INTERPRET=1: nothing imports this file on a CPU. Dimension suffixes as in
model.py; S splits, G query heads per key/value head, GP and CP the padded G and C.
"""
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

# The interpreter multiplies the bits of bf16 as integers; under it operands are widened, which changes no product.
INTERPRETED = triton.knobs.runtime.interpret
WAVES = 1024  # programs that keep 132 processors busy, the rows being half as long as the cache


@triton.jit
def attend(q_BHC, new_k_BKC, new_v_BKC, k_BKTC, v_BKTC, pos_B, out, lse, scale, T, qb, qh, nkb, nkh, nvb, nvh, kb, kh,
           vb, vh, S: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, C: tl.constexpr, CP: tl.constexpr,
           split: tl.constexpr, block: tl.constexpr, precision: tl.constexpr, wide: tl.constexpr):
    """One split of one key/value head of one row; `out` is [B, K, S, G, C], `lse` [B, K, S, G]."""
    b, h, s = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    pos = tl.minimum(tl.load(pos_B + b).to(tl.int32), T - 1)
    first = s * split
    if first <= pos:
        last = tl.minimum(pos, first + split)
        g, c = tl.arange(0, GP), tl.arange(0, CP)
        real = (g < G)[:, None] & (c < C)[None, :]
        q = tl.load(q_BHC + b * qb + (h * G + g)[:, None] * qh + c[None, :], mask=real, other=0.0)
        k_BKTC += b * kb + h * kh
        v_BKTC += b * vb + h * vh
        m = tl.full([GP], -1e30, tl.float32)
        l = tl.zeros([GP], tl.float32)
        a = tl.zeros([GP, CP], tl.float32)
        if pos < first + split:
            new_k = tl.load(new_k_BKC + b * nkb + h * nkh + c, mask=c < C, other=0.0)
            new_v = tl.load(new_v_BKC + b * nvb + h * nvh + c, mask=c < C, other=0.0)
            tl.store(k_BKTC + pos * C + c, new_k, mask=c < C)
            tl.store(v_BKTC + pos * C + c, new_v, mask=c < C)
            m = tl.sum(q.to(tl.float32) * new_k.to(tl.float32)[None, :], 1) * scale
            l += 1.0
            a += new_v.to(tl.float32)[None, :]
        if wide:
            q = q.to(tl.float32)
        for start in range(first, last, block):
            t = start + tl.arange(0, block)
            here = (t < last)[:, None] & (c < C)[None, :]
            k = tl.load(k_BKTC + t[:, None] * C + c[None, :], mask=here, other=0.0)
            v = tl.load(v_BKTC + t[:, None] * C + c[None, :], mask=here, other=0.0)
            if wide:
                k, v = k.to(tl.float32), v.to(tl.float32)
            x = tl.dot(q, tl.trans(k), input_precision=precision) * scale
            x = tl.where((t < last)[None, :], x, -1e30)
            higher = tl.maximum(m, tl.max(x, 1))
            p = tl.exp2(x - higher[:, None])
            fade = tl.exp2(m - higher)
            a = a * fade[:, None] + tl.dot(p.to(v.dtype), v, input_precision=precision)
            l = l * fade + tl.sum(p, 1)
            m = higher
        at = ((b * tl.num_programs(1) + h) * S + s) * G + g
        tl.store(out + at[:, None] * C + c[None, :], (a / l[:, None]).to(out.dtype.element_ty), mask=real)
        if S > 1:
            tl.store(lse + at, m + tl.log2(l), mask=g < G)


@triton.jit
def merge(part_BKSGC, lse_BKSG, pos_B, out_BHC, T, H: tl.constexpr, S: tl.constexpr, SP: tl.constexpr,
          G: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, split: tl.constexpr):
    """The splits of one query head of one row, weighted by the softmax of their log-sum-exp."""
    b, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    pos = tl.minimum(tl.load(pos_B + b).to(tl.int32), T - 1)
    s, c = tl.arange(0, SP), tl.arange(0, CP)
    made = s * split <= pos  # the others were never written
    at = ((b * (H // G) + head // G) * S + s) * G + head % G
    x = tl.load(lse_BKSG + at, mask=made, other=-1e30)
    w = tl.where(made, tl.exp2(x - tl.max(x, 0)), 0.0)
    o = tl.load(part_BKSGC + at[:, None] * C + c[None, :], mask=made[:, None] & (c < C)[None, :], other=0.0)
    o = tl.sum(o * w[:, None], 0) / tl.sum(w, 0)
    tl.store(out_BHC + (b * H + head) * C + c, o.to(out_BHC.dtype.element_ty), mask=c < C)


def sizes(rows: int, heads: int, length: int) -> tuple[int, int]:
    """(split, block) for so many rows and key/value heads and a cache of `length`: the longest split that still leaves
    enough programs, since each split costs a store and a share of `merge`."""
    for split in (512, 256):
        if rows * heads * length // (2 * split) >= WAVES:
            return split, 128 if split == 512 else 64
    return 128, 64


@torch.library.custom_op("azr::decode_attention", mutates_args=("k_BKTC", "v_BKTC"))  # torch.compile can hold it
def decode_attention(q_BHC: Tensor, new_k_BKC: Tensor, new_v_BKC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor,
                     pos_B: Tensor, splits: int = 0, split: int = 0, block: int = 0) -> Tensor:
    """o_BHC of one token a row, whose keys and values go to positions pos_B of the first B slots of a cache, over
    0..pos_b; what lies beyond may be anything. No device value is read, so a CUDA graph can hold it. `splits` 1: one
    split per row; else `split` and `block` positions, both powers of two, chosen by `sizes` if not given."""
    (B, H, C), (_, K, T, _), new = q_BHC.shape, k_BKTC.shape, (q_BHC, new_k_BKC, new_v_BKC)
    if any(x.stride(-1) != 1 for x in new) or any(x.stride()[2:] != (C, 1) for x in (k_BKTC, v_BKTC)):
        raise ValueError("decode_attention: head widths and the cache's positions must be contiguous")
    chosen, per_block = sizes(B, K, T)
    split, block = split or chosen, block or per_block
    if splits == 1:
        split = triton.next_power_of_2(max(T, block))
    G, S = H // K, triton.cdiv(T, split)
    out = torch.empty((B, H, C), dtype=q_BHC.dtype, device=q_BHC.device)
    part, lse = out, out
    if S > 1:
        part = torch.empty((B, K, S, G, C), dtype=torch.float32, device=q_BHC.device)
        lse = torch.empty((B, K, S, G), dtype=torch.float32, device=q_BHC.device)
    CP, exact = max(16, triton.next_power_of_2(C)), q_BHC.dtype == torch.float32
    strides = [stride for x in (*new, k_BKTC, v_BKTC) for stride in x.stride()[:2]]
    attend[(B, K, S)](*new, k_BKTC, v_BKTC, pos_B, part, lse, math.log2(math.e) / math.sqrt(C), T, *strides, S=S, G=G,
                      GP=max(16, triton.next_power_of_2(G)), C=C, CP=CP, split=split, block=block,
                      precision="ieee" if exact else "tf32", wide=INTERPRETED, num_warps=4,
                      num_stages=1 if exact else 3)
    if S > 1:
        merge[(B, H)](part, lse, pos_B, out, T, H=H, S=S, SP=triton.next_power_of_2(S), G=G, C=C, CP=CP, split=split,
                      num_warps=1)
    return out


@decode_attention.register_fake
def _(q_BHC, new_k_BKC, new_v_BKC, k_BKTC, v_BKTC, pos_B, splits=0, split=0, block=0):
    return q_BHC.new_empty(q_BHC.shape)
