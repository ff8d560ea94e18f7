"""The CUDA kernels against SDPA: on a CPU through Triton's interpreter, on a card as they are."""
import importlib.util
import os
import sys

import pytest
import torch
import torch.nn.functional as F

CUDA = torch.cuda.is_available()
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if not CUDA:
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("triton was imported before TRITON_INTERPRET could be set", allow_module_level=True)
    os.environ["TRITON_INTERPRET"] = "1"

import kernels  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"
BLOCK, SPLIT = 16, 32


def inputs(positions, groups, dtype, heads=1, width=16, length=70):
    """Queries, a cache whose unwritten positions and spare slots are NaN, and positions."""
    torch.manual_seed(0)
    B, pos_B = len(positions), torch.tensor(positions, device=DEVICE)
    q = torch.randn(B, heads * groups, width, device=DEVICE, dtype=dtype)
    k, v = (torch.randn(B + 1, heads, length, width, device=DEVICE, dtype=dtype) for _ in range(2))
    for b, pos in enumerate([*positions, -1]):
        k[b, :, pos + 1:] = v[b, :, pos + 1:] = float("nan")
    return q, k, v, pos_B


def reference(q, k, v, pos_B):
    """SDPA in fp32, row by row."""
    rows = []
    for b, pos in enumerate(pos_B.tolist()):
        K, V = (x[b, :, :pos + 1].float() for x in (k, v))
        rows.append(F.scaled_dot_product_attention(q[b].float().view(K.shape[0], -1, q.shape[-1]), K, V).flatten(0, 1))
    return torch.stack(rows)


def error(o, right) -> float:
    return float((o.float() - right).norm() / right.norm())


@pytest.fixture(autouse=True)
def dirty_memory(monkeypatch):
    """What a kernel does not write is NaN."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **options: empty(*args, **options).fill_(float("nan")))


@pytest.mark.parametrize("groups", [1, 6, pytest.param(7, marks=pytest.mark.quick), 8])
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-5), (torch.bfloat16, 8e-3)])
def test_rows_of_any_length_attend_to_their_own_positions_alone(groups, dtype, bound):
    edges = [0, BLOCK - 2, BLOCK - 1, BLOCK, SPLIT - 1, SPLIT, 2 * SPLIT, 69]  # lengths 1, around a block, full
    q, k, v, pos_B = inputs(edges, groups, dtype)
    right = reference(q, k, v, pos_B)
    for splits in (0, 1):
        o = kernels.decode_attention(q, k, v, pos_B, splits, SPLIT, BLOCK)
        assert o.shape == q.shape and o.dtype == dtype
        for b, position in enumerate(edges):
            assert error(o[b], right[b]) < bound, f"position {position}, splits {splits}"


@pytest.mark.parametrize("splits", [0, 1])
def test_a_row_comes_out_the_same_to_the_bit_beside_any_others_and_in_a_longer_cache(splits):
    q, k, v, pos_B = inputs([60, 3, 69], 7, torch.float32)
    alone = kernels.decode_attention(q[:1], k[:1], v[:1], pos_B[:1], splits, SPLIT, BLOCK)
    o = kernels.decode_attention(q, k, v, pos_B, splits, SPLIT, BLOCK)
    assert torch.equal(o[:1], alone)
    longer = [F.pad(x, (0, 0, 0, 100), value=float("nan")) for x in (k, v)]
    assert torch.equal(kernels.decode_attention(q, *longer, pos_B, splits, SPLIT, BLOCK)[1:2], o[1:2])
    order = [2, 0, 1]
    moved = kernels.decode_attention(q[order], k[order], v[order], pos_B[order], splits, SPLIT, BLOCK)
    assert torch.equal(moved, o[order])


def test_queries_may_be_a_view_and_head_widths_no_power_of_two():
    q, k, v, pos_B = inputs([40, 5], 3, torch.float32, heads=2, width=24)
    wide = torch.randn(2, 11, 24, device=DEVICE)
    wide[:, 4:10] = q
    o = kernels.decode_attention(wide[:, 4:10], k, v, pos_B, 0, SPLIT, BLOCK)
    assert error(o, reference(q, k, v, pos_B)) < 1e-5
    with pytest.raises(ValueError, match="contiguous"):
        kernels.decode_attention(q, k.transpose(1, 2).contiguous().transpose(1, 2), v, pos_B)


def test_the_sizes_chosen_by_shape_give_the_same_numbers():
    q, k, v, pos_B = inputs([299, 0, 128, 127], 2, torch.float32, heads=2, length=300)
    assert error(kernels.decode_attention(q, k, v, pos_B), reference(q, k, v, pos_B)) < 1e-5
    splits = [kernels.sizes(*shape)[0] for shape in ((256, 2, 4096), (128, 2, 4096), (4, 2, 4096))]
    assert splits == sorted(splits, reverse=True) and splits[0] > splits[-1]


def test_a_compiled_function_holds_it_for_any_number_of_rows():
    @torch.compile(dynamic=True, fullgraph=True, backend="inductor" if CUDA else "aot_eager")
    def layer(q, k, v, pos_B):
        k[torch.arange(len(pos_B), device=DEVICE), :, pos_B] += 1.0
        return kernels.decode_attention(q * 2, k, v, pos_B, 0, SPLIT, BLOCK) + 1
    for positions in ([40, 5], [40, 5, 69]):
        q, k, v, pos_B = inputs(positions, 7, torch.float32)
        changed = k.clone()
        changed[torch.arange(len(pos_B), device=DEVICE), :, pos_B] += 1.0
        assert error(layer(q, k, v, pos_B), reference(q * 2, changed, v, pos_B) + 1) < 1e-5
        assert torch.equal(k[:-1].nan_to_num(), changed[:-1].nan_to_num())


@pytest.mark.skipif(not CUDA, reason="needs a CUDA graph")
def test_a_graph_holds_it_and_follows_the_positions():
    q, k, v, pos_B = inputs([69, 69], 7, torch.bfloat16)
    kernels.decode_attention(q, k, v, pos_B)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o = kernels.decode_attention(q, k, v, pos_B)
    for positions in ([69, 7], [0, 64]):
        pos_B.copy_(torch.tensor(positions))
        graph.replay()
        assert error(o, reference(q, k, v, pos_B)) < 8e-3
