"""The CUDA kernels against SDPA: on a CPU through Triton's interpreter, on a card as they are."""
import importlib.util
import os
import sys

import pytest
import torch
import torch.nn.functional as F

CUDA = torch.cuda.is_available()
pytestmark = pytest.mark.cuda
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if not CUDA:
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("triton was imported before TRITON_INTERPRET could be set", allow_module_level=True)
    os.environ["TRITON_INTERPRET"] = "1"

import cuda_attention  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"
BLOCK, SPLIT = 16, 32


def inputs(positions, groups, dtype, heads=1, width=16, length=70):
    """Queries, new keys and values, positions, and a cache whose unwritten positions and spare slot are NaN."""
    torch.manual_seed(0)
    B, pos_B = len(positions), torch.tensor(positions, device=DEVICE)
    q, new_k, new_v = (torch.randn(B, heads * n, width, device=DEVICE, dtype=dtype) for n in (groups, 1, 1))
    k, v = (torch.randn(B + 1, heads, length, width, device=DEVICE, dtype=dtype) for _ in range(2))
    for b, pos in enumerate([*positions, 0]):
        k[b, :, pos:] = v[b, :, pos:] = float("nan")
    return q, new_k, new_v, k, v, pos_B


def attention(q, new_k, new_v, k, v, pos_B, *options):
    """The kernel's result on a cache of its own, which must then hold the new keys and values and no other change."""
    k, v, before = k.clone(), v.clone(), (k, v)
    o = cuda_attention.decode_attention(q, new_k, new_v, k, v, pos_B, *options)
    for old, now, new in zip(before, (k, v), (new_k, new_v)):
        wanted = old.clone()
        wanted[torch.arange(len(pos_B)), :, pos_B] = new
        assert torch.equal(now.nan_to_num(), wanted.nan_to_num())
    return o


def reference(q, new_k, new_v, k, v, pos_B):
    """SDPA in fp32, row by row."""
    rows = []
    for b, pos in enumerate(pos_B.tolist()):
        K, V = (torch.cat((x[b, :, :pos], new[b, :, None]), dim=1).float() for x, new in ((k, new_k), (v, new_v)))
        rows.append(F.scaled_dot_product_attention(q[b].float().view(K.shape[0], -1, q.shape[-1]), K, V).flatten(0, 1))
    return torch.stack(rows)


def error(o, right) -> float:
    return float((o.float() - right).norm() / right.norm())


@pytest.fixture(autouse=True)
def dirty_memory(monkeypatch):
    """What a kernel does not write is NaN."""
    empty = torch.empty

    def dirty(*args, **options):
        made = empty(*args, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made  # Inductor's own are of integers too
    monkeypatch.setattr(torch, "empty", dirty)


@pytest.mark.parametrize("groups", [1, 6, pytest.param(7, marks=pytest.mark.quick), 8])
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-5), (torch.bfloat16, 8e-3)])
def test_rows_of_any_length_attend_to_their_own_positions_alone(groups, dtype, bound):
    # Lengths 1 and 2, around a block and a split, and full.
    edges = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, SPLIT - 1, SPLIT, SPLIT + 1, 2 * SPLIT, 69]
    case = inputs(edges, groups, dtype)
    right = reference(*case)
    for splits in (0, 1):
        o = attention(*case, splits, SPLIT, BLOCK)
        assert o.shape == right.shape and o.dtype == dtype
        for b, position in enumerate(edges):
            assert error(o[b], right[b]) < bound, f"position {position}, splits {splits}"


@pytest.mark.parametrize("splits", [0, 1])
def test_a_row_comes_out_the_same_to_the_bit_beside_any_others_and_in_a_longer_cache(splits):
    case = inputs([60, 3, 69], 7, torch.float32)
    q, new_k, new_v, k, v, pos_B = case
    o = attention(*case, splits, SPLIT, BLOCK)
    assert torch.equal(attention(*(x[:1] for x in case), splits, SPLIT, BLOCK), o[:1])
    longer = [F.pad(x, (0, 0, 0, 100), value=float("nan")) for x in (k, v)]
    in_longer = attention(q, new_k, new_v, *longer, pos_B, splits, SPLIT, BLOCK)
    # A longer cache has more splits to merge, which a card adds up in another order.
    assert torch.equal(in_longer, o) if splits == 1 else error(in_longer, o) < 1e-6
    order = [2, 0, 1]
    assert torch.equal(attention(*(x[order] for x in case), splits, SPLIT, BLOCK), o[order])


def test_inputs_may_be_views_and_head_widths_no_power_of_two():
    case = inputs([40, 5], 3, torch.float32, heads=2, width=24)
    right = reference(*case)
    qkv = torch.cat(case[:3], dim=1)  # as one matmul gives them
    assert error(attention(*qkv.split([6, 2, 2], dim=1), *case[3:], 0, SPLIT, BLOCK), right) < 1e-5
    with pytest.raises(ValueError, match="contiguous"):
        cuda_attention.decode_attention(*case[:3], case[3].transpose(1, 2).contiguous().transpose(1, 2), *case[4:])


def test_the_sizes_chosen_by_shape_give_the_same_numbers():
    case = inputs([299, 0, 128, 127], 2, torch.float32, heads=2, length=300)
    assert error(attention(*case), reference(*case)) < 1e-5
    splits = [cuda_attention.sizes(*shape)[0] for shape in ((256, 2, 4096), (128, 2, 4096), (4, 2, 4096))]
    assert splits == sorted(splits, reverse=True) and splits[0] > splits[-1]


def test_a_compiled_function_holds_it_for_any_number_of_rows():
    @torch.compile(dynamic=True, fullgraph=True, backend="inductor" if CUDA else "aot_eager")
    def layer(q, *rest):
        return cuda_attention.decode_attention(q * 2, *rest, 0, SPLIT, BLOCK) + 1
    for positions in ([40, 5], [40, 5, 69]):
        q, *rest = inputs(positions, 7, torch.float32)
        right = reference(q * 2, *rest) + 1
        assert error(layer(q, *rest), right) < 1e-5
        assert torch.equal(rest[2][0, :, 40], rest[0][0])  # the cache that was given is the one written to


@pytest.mark.skipif(not CUDA, reason="needs a CUDA graph")
def test_a_graph_holds_it_and_follows_the_positions():
    case = inputs([69, 69], 7, torch.bfloat16)
    cuda_attention.decode_attention(*case)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o = cuda_attention.decode_attention(*case)
    for positions in ([69, 7], [0, 64]):
        case[-1].copy_(torch.tensor(positions))
        graph.replay()
        assert error(o, reference(*case)) < 8e-3
