"""
The sampler's draw with logits in the matmul's dtype, read once. To replace `sampler.draw`.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 128


def draw(logits_BV: Tensor, uniform_B1: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(ids_B, logp_B): a draw from softmax(logits / temperature) by one uniform number a row, in two stages of
    inversion: first which CHUNK of the vocabulary, then which token in it. Each chunk's maximum and its sum of
    exponentials below it come from one reading of the logits; of the second stage's only one chunk a row is read.
    Gumbel noise for every logit took half of a decode step of 0.5B on a CPU, and noise from outside the step is new in
    every replay of a graph. May overwrite the logits."""
    V = logits_BV.shape[1]
    x_BV = logits_BV.float() if temperature == 1 else logits_BV.float() / temperature
    if V % CHUNK:
        x_BV = F.pad(x_BV, (0, -V % CHUNK), value=float("-inf"))
    x_BCW = x_BV.unflatten(1, (-1, CHUNK))
    top_BC1 = x_BCW.amax(-1, keepdim=True).clamp_(min=-1e30)
    p_BCW = x_BCW.sub_(top_BC1).exp_()  # of each token within its chunk, its most likely one having 1
    shift_BC = (top_BC1 - top_BC1.amax(1, keepdim=True))[..., 0]
    sum_BC = (p_BCW.sum(-1) * shift_BC.exp()).double()
    below_BC = sum_BC.cumsum(-1)
    total_B1 = below_BC[:, -1:]
    target_B1 = uniform_B1 * total_B1
    chunk_B1 = (below_BC <= target_B1).sum(-1, keepdim=True).clamp_(max=sum_BC.shape[1] - 1)
    rest_B1 = target_B1 - (below_BC - sum_BC).gather(1, chunk_B1)
    p_BW = p_BCW.gather(1, chunk_B1[..., None].expand(-1, -1, CHUNK))[:, 0]
    shift_B1 = shift_BC.gather(1, chunk_B1)
    inner_BW = p_BW.double().cumsum(-1)
    rest_B1 = torch.minimum(rest_B1 / shift_B1.exp(), inner_BW[:, -1:] * (1 - 1e-9)).clamp_(min=0)  # rounding
    place_B1 = (inner_BW <= rest_B1).sum(-1, keepdim=True)
    logp_B1 = p_BW.gather(1, place_B1).log() + shift_B1 - total_B1.log()
    return (chunk_B1 * CHUNK + place_B1)[:, 0], logp_B1[:, 0].float()
