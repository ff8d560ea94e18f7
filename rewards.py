"""
Rewards, advantages and the policy loss: every number between a verdict and a gradient.

Order of reading: `propose_reward`, `solve_reward`, `trr_pp` and its two alternatives, `token_weights`, `policy_loss`.
Rows are responses; a group is a (type, role) pair. Suffixes as in model.py: _R one value per row, _N one per response
token.
"""
import torch
from torch import Tensor


def learnability(solved: int, n: int, extreme: float = 0.0, graded: bool = False) -> float:
    """What a task is worth of which `solved` of n probes were right, paper eq. 4: 0 if it was solved never or always,
    else 1 - rate. `extreme` is what never and always give: 0 in the paper, -0.5 in the official code. `graded` is 4
    rate (1 - rate) instead, the spread of an answer's reward: what a lucky guess in n solves is worth little."""
    if solved in (0, n):
        return extreme
    return 4 * solved * (n - solved) / n**2 if graded else 1.0 - solved / n


def propose_reward(well_formed: bool, learnability: float | None, invalid: float = -1.0) -> float:
    """Paper eq. 6 for the proposer.

        bad format                    -1
        well-formed but invalid       `invalid`: -1 in the official code; -0.5 if eq. 6's "wrong but well-formatted" is
                                      read to include proposals that fail the gate
        valid                         its task's learnability"""
    if not well_formed:
        return -1.0
    return invalid if learnability is None else learnability


def solve_reward(well_formed: bool, correct: bool) -> float:
    """Paper eq. 5 and 6 for the solver: -1 bad format, -0.5 well-formed but wrong, 1 correct."""
    if not well_formed:
        return -1.0
    return 1.0 if correct else -0.5


# ----------------------------------------------------------------------------------------------------------------
# Advantages: rewards_R -> adv_R

def whiten(rewards: Tensor, weights: Tensor) -> Tensor:
    """(r - mean) / std under the weights; all zeros where the rewards are all the same."""
    mean = (weights * rewards).sum() / weights.sum()
    std = ((weights * (rewards - mean).square()).sum() / weights.sum()).sqrt()
    # Equal rewards differ from their mean by rounding; divided by its own size that would become an advantage.
    return torch.zeros_like(rewards) if std < 1e-6 else (rewards - mean) / std


def trr_pp(rewards_R: Tensor, groups_R: list, lengths_R: Tensor, whitening: str = "response") -> Tensor:
    """Task-Relative REINFORCE++, paper eq. 8: A = (r - mean) / std, with mean and std of the row's own group. With all
    three types and both roles these are six baselines. `whitening` "response" counts each response once (paper),
    "token" by its length (official code, which whitens after spreading the reward over the tokens)."""
    weights_R = lengths_R.double() if whitening == "token" else torch.ones_like(rewards_R)
    adv_R = torch.zeros_like(rewards_R)
    for group in dict.fromkeys(groups_R):
        rows = torch.tensor([other == group for other in groups_R])
        adv_R[rows] = whiten(rewards_R[rows], weights_R[rows])
    return adv_R


def advantages(kind: str, rewards: list[float], groups: list[tuple], requests: list, lengths: list[int],
               whitening: str = "response") -> Tensor:
    """One advantage per row, [R], fp64.

    trr++         one baseline per group (type, role)
    reinforce++   one baseline for all rows
    grpo          one per request: a task's n probes against each other. A proposal is sampled once per prompt and has
                  no such siblings, so proposers keep their group's baseline: their request is None.
    """
    rewards_R, lengths_R = torch.tensor(rewards, dtype=torch.float64), torch.tensor(lengths)
    if kind == "reinforce++":
        groups = [()] * len(rewards)
    elif kind == "grpo":
        groups = list(zip(groups, requests))
    return trr_pp(rewards_R, groups, lengths_R, whitening)


def set_advantages(rows: list, kind: str, whitening: str = "response") -> None:
    """`advantages` of train.py's rows."""
    adv_R = advantages(kind, [row.reward for row in rows], [(row.type, row.role) for row in rows],
                       [row.key if row.role == "solve" else None for row in rows],
                       [len(row.sample.ids) for row in rows], whitening)
    for row, advantage in zip(rows, adv_R.tolist()):
        row.advantage = advantage


# ----------------------------------------------------------------------------------------------------------------
# Loss

def token_weights(kind: str, groups: list[tuple], lengths: list[int], solve_weight: float = 1.0) -> Tensor:
    """What each row's tokens count in the loss, [R]; fixed for a whole update before it is cut into micro-batches, so
    that the gradient does not depend on the cutting. Groups are (type, role).

    response   mean over responses of the mean over a response's tokens (paper eq. 9)
    token      mean over all tokens
    group      mean over groups of the mean over a group's tokens: what the official code amounts to
    `solve_weight` is the paper's lambda, eq. 3: it multiplies the solver's rows."""
    lengths_R = torch.tensor(lengths, dtype=torch.float64)
    if kind == "response":
        weights_R = 1 / (lengths_R * len(lengths))
    elif kind == "token":
        weights_R = torch.ones_like(lengths_R) / lengths_R.sum()
    else:
        totals = {group: sum(n for n, other in zip(lengths, groups) if other == group) for group in set(groups)}
        weights_R = torch.tensor([1 / (totals[group] * len(totals)) for group in groups], dtype=torch.float64)
    solver_R = torch.tensor([role == "solve" for _, role in groups])
    return torch.where(solver_R, weights_R * solve_weight, weights_R).float()


def policy_loss(logp_N: Tensor, old_logp_N: Tensor, adv_N: Tensor, weight_N: Tensor, clip_low: float = 0.2,
                clip_high: float = 0.2) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate, paper eq. 9: (loss, clipped_N). old_logp_N is the sampler's own record; with one
    epoch and one mini-batch the ratio is 1 up to rounding and the clip does nothing (in bf16 and NF4 rounding is
    visible, and the clip bounds what it can do)."""
    # A log-ratio beyond 20 means broken numbers, not a policy; exp must stay finite for the clip to handle it.
    ratio_N = (logp_N - old_logp_N).clamp(-20, 20).exp()
    kept_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    surrogate_N = torch.minimum(ratio_N * adv_N, kept_N * adv_N)
    clipped_N = (kept_N * adv_N < ratio_N * adv_N)
    return -(weight_N * surrogate_N).sum(), clipped_N.detach()


def kl_k3(logp_N: Tensor, reference_logp_N: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token: non-negative, unbiased, low variance. As a loss, its
    gradient in expectation is that of KL(reference || policy), which pulls towards the reference all the same."""
    difference_N = (reference_logp_N - logp_N).clamp(-20, 20)
    return torch.expm1(difference_N) - difference_N
