"""The new draw against the sampler's."""
import shutil

import pytest
import torch

import drawing
import sampler


@pytest.mark.parametrize("vocabulary", [154, 128, 1000, 32000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_tokens_for_the_same_numbers(vocabulary, temperature, dtype):
    torch.manual_seed(0)
    logits, uniform = (torch.randn(300, vocabulary) * 4).to(dtype), torch.rand(300, 1, dtype=torch.float64)
    ids, logp = sampler.draw(logits.float() / temperature, uniform)
    new_ids, new_logp = drawing.draw(logits.clone(), uniform, temperature)
    assert torch.equal(ids, new_ids)
    torch.testing.assert_close(logp, new_logp, rtol=1e-5, atol=2e-6)


def test_draws_at_the_ends_and_of_impossible_tokens():
    logits = torch.full((3, 600), float("-inf"))
    logits[:, [0, 140, 590]] = 0.0
    ids, logp = drawing.draw(logits.clone(), torch.tensor([[0.0], [0.5], [1 - 2.0**-53]], dtype=torch.float64))
    assert ids.tolist() == [0, 140, 590]
    torch.testing.assert_close(logp, torch.full((3,), -1.0986123))
    logits[:, 0] = float("-inf")
    assert drawing.draw(logits, torch.zeros(3, 1, dtype=torch.float64))[0].tolist() == [140] * 3


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_one_compiled_function_for_any_number_of_rows():
    from torch._dynamo.utils import counters
    compiled = torch.compile(drawing.draw)
    torch.manual_seed(0)
    for rows in (3, 2, 17, 64):
        logits, uniform = torch.randn(rows, 1000).bfloat16() * 4, torch.rand(rows, 1, dtype=torch.float64)
        torch._dynamo.mark_dynamic(logits, 0)
        torch._dynamo.mark_dynamic(uniform, 0)
        ids, logp = compiled(logits, uniform)
        wanted = drawing.draw(logits.clone(), uniform)
        assert torch.equal(ids, wanted[0])
        torch.testing.assert_close(logp, wanted[1], rtol=1e-5, atol=2e-6)
        if rows == 3:
            graphs = counters["stats"]["unique_graphs"]
    assert counters["stats"]["unique_graphs"] == graphs
