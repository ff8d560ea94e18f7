"""Every number between a verdict and a gradient, against tables, hand computations and definitions written out."""
import itertools
import math

import numpy as np
import pytest
import torch

import rewards
from rewards import advantages, kl_k3, learnability, policy_loss, propose_reward, solve_reward, token_weights, trr_pp

pytestmark = pytest.mark.quick

TYPES, ROLES = ("deduction", "abduction", "induction"), ("propose", "solve")
SIX_GROUPS = list(itertools.product(TYPES, ROLES))


def doubles(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ----------------------------------------------------------------------------------------------------------------
# Rewards

def reward_of(well_formed: bool, valid: bool, solved: int | None, extreme: float = 0.0, **options) -> float:
    """As train.py puts the two together, for 8 probes."""
    return propose_reward(well_formed, learnability(solved, 8, extreme) if valid else None, **options)


@pytest.mark.parametrize("well_formed, valid, solved, paper, official", [
    (False, False, None, -1.0, -1.0),
    (False, True, 4, -1.0, -1.0),   # bad format wins over a fine task
    (False, True, 0, -1.0, -1.0),
    (True, False, None, -1.0, -1.0),
    (True, True, 0, 0.0, -0.5),     # never solved
    (True, True, 1, 7 / 8, 7 / 8),
    (True, True, 4, 4 / 8, 4 / 8),
    (True, True, 7, 1 / 8, 1 / 8),
    (True, True, 8, 0.0, -0.5),     # always solved
])
def test_proposers_reward(well_formed, valid, solved, paper, official):
    assert reward_of(well_formed, valid, solved) == paper
    assert reward_of(well_formed, valid, solved, extreme=-0.5) == official


@pytest.mark.parametrize("well_formed, wanted", [(True, -0.5), (False, -1.0)])
def test_invalid_but_well_formed_proposals_may_cost_less(well_formed, wanted):
    assert reward_of(well_formed, False, None, invalid=-0.5) == wanted
    assert reward_of(True, True, 2, invalid=-0.5) == 0.75


@pytest.mark.parametrize("well_formed, correct, wanted", [
    (True, True, 1.0), (True, False, -0.5), (False, True, -1.0), (False, False, -1.0)])
def test_solvers_reward(well_formed, correct, wanted):
    assert solve_reward(well_formed, correct) == wanted


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 10])
def test_learnability_is_extreme_at_both_ends_and_falls_with_the_solve_rate_between(n):
    for extreme in (0.0, -0.5):
        values = [learnability(k, n, extreme) for k in range(n + 1)]
        assert values[0] == values[-1] == extreme
        assert values[1:-1] == sorted(values[1:-1], reverse=True) == [1 - k / n for k in range(1, n)]
        assert all(0 < value < 1 for value in values[1:-1])


def test_graded_learnability_is_the_spread_of_an_answer():
    assert [learnability(k, 4, graded=True) for k in range(5)] == [0, 0.75, 1, 0.75, 0]
    assert learnability(0, 4, -0.5, graded=True) == learnability(4, 4, -0.5, graded=True) == -0.5


def test_proposals_of_different_difficulty_get_different_rewards():
    """A mean over the batch in place of each task's own solve rate would make them equal."""
    assert len({reward_of(True, True, k) for k in range(1, 8)}) == 7


# ----------------------------------------------------------------------------------------------------------------
# Advantages

def test_task_relative_advantages_by_hand():
    groups = [("deduction", "solve"), ("deduction", "propose")] * 2 + [("deduction", "solve")] * 2
    values = doubles(1, 0, -0.5, 0.5, -0.5, 1)  # solve: mean 1/4, std 3/4; propose: mean 1/4, std 1/4
    wanted = doubles(1, -1, -1, 1, -1, 1)
    torch.testing.assert_close(trr_pp(values, groups, torch.ones(6)), wanted)
    torch.testing.assert_close(advantages("trr++", values.tolist(), groups, [None] * 6, [3] * 6), wanted)


def random_rows(count: int = 120, seed: int = 0):
    """(rewards, groups, lengths): six groups of different size, level and spread, mixed."""
    rng = np.random.default_rng(seed)
    groups = SIX_GROUPS + [SIX_GROUPS[i] for i in rng.choice(6, count - 6, p=[0.3, 0.1, 0.1, 0.1, 0.2, 0.2])]
    level = {group: (i - 3.0, 0.1 + i) for i, group in enumerate(SIX_GROUPS)}
    values = [float(rng.normal(*level[group])) for group in groups]
    return values, groups, rng.integers(1, 200, count).tolist()


def test_each_type_and_role_has_a_baseline_of_its_own():
    values, groups, lengths = random_rows()
    adv = advantages("trr++", values, groups, [None] * len(values), lengths).numpy()
    for group in SIX_GROUPS:
        mine = np.array([other == group for other in groups])
        part = np.array(values)[mine]
        np.testing.assert_allclose(adv[mine], (part - part.mean()) / part.std())
        assert abs(adv[mine].mean()) < 1e-9 and abs(adv[mine].std() - 1) < 1e-9
    # Shifting or scaling one group's rewards changes nothing, for it or for the others.
    other = [10 * value + 100 if group == SIX_GROUPS[2] else value for value, group in zip(values, groups)]
    np.testing.assert_allclose(advantages("trr++", other, groups, [None] * len(values), lengths).numpy(), adv)


@pytest.mark.parametrize("kind", ["trr++", "reinforce++", "grpo"])
def test_advantages_follow_their_rows_through_any_order(kind):
    values, groups, lengths = random_rows()
    tasks = [i % 10 if role == "solve" else None for i, (_, role) in enumerate(groups)]
    adv = advantages(kind, values, groups, tasks, lengths)
    order = np.random.default_rng(1).permutation(len(values)).tolist()
    shuffled = advantages(kind, *[[column[i] for i in order] for column in (values, groups, tasks, lengths)])
    torch.testing.assert_close(shuffled, adv[order])


@pytest.mark.parametrize("whitening", ["response", "token"])
@pytest.mark.parametrize("kind", ["trr++", "reinforce++", "grpo"])
@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3, -0.5, -1.0, 1.0, 0.0, 0.875, 1e-9])
def test_equal_rewards_give_no_advantage_at_all(value, kind, whitening):
    """Not even one of rounding over rounding: sums of 0.1 are not exact."""
    for count in (1, 2, 3, 7, 64, 100):
        groups, lengths = [("deduction", "solve")] * count, [1 + 7 * i for i in range(count)]
        adv = advantages(kind, [value] * count, groups, [i % 3 for i in range(count)], lengths, whitening)
        assert adv.tolist() == [0.0] * count


def test_a_group_of_equal_rewards_leaves_the_others_theirs():
    groups = [("deduction", "solve")] * 3 + [("induction", "solve")] * 2
    adv = advantages("trr++", [0.1, 0.1, 0.1, 1.0, -0.5], groups, [None] * 5, [5] * 5)
    torch.testing.assert_close(adv, doubles(0, 0, 0, 1, -1))


def test_small_but_real_differences_are_not_taken_for_rounding():
    adv = advantages("trr++", [0.5, 0.501], [("deduction", "propose")] * 2, [None] * 2, [1, 1])
    torch.testing.assert_close(adv, doubles(-1, 1))


def test_token_whitening_counts_every_response_as_often_as_it_has_tokens():
    values, groups, lengths = random_rows()
    adv = advantages("trr++", values, groups, [None] * len(values), lengths, "token").numpy()
    for group in SIX_GROUPS:
        mine = np.array([other == group for other in groups])
        part = np.array(values)[mine]
        tokens = np.repeat(part, np.array(lengths)[mine])  # the official code whitens after spreading the reward
        np.testing.assert_allclose(adv[mine], (part - tokens.mean()) / tokens.std())
    equal_lengths = [advantages("trr++", values, groups, [None] * len(values), [17] * len(values), whitening)
                     for whitening in ["response", "token"]]
    torch.testing.assert_close(*equal_lengths)


def test_response_whitening_does_not_look_at_lengths():
    values, groups, lengths = random_rows()
    one, other = (advantages("trr++", values, groups, [None] * len(values), n) for n in (lengths, lengths[::-1]))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_reinforce_has_one_baseline_for_all_rows():
    values, groups, lengths = random_rows()
    adv = advantages("reinforce++", values, groups, [None] * len(values), lengths).numpy()
    np.testing.assert_allclose(adv, (np.array(values) - np.mean(values)) / np.std(values))


def test_grpo_compares_probes_of_a_task_and_proposers_with_their_group():
    """Two types with tasks of the same name, tasks of different difficulty, proposers without siblings."""
    rows = [(("deduction", "solve"), "a", 1.0), (("deduction", "solve"), "a", -0.5),
            (("deduction", "solve"), "b", -0.5), (("deduction", "solve"), "b", -0.5),
            (("induction", "solve"), "a", -1.0), (("induction", "solve"), "a", -0.5),
            (("deduction", "propose"), None, 0.875), (("deduction", "propose"), None, 0.125),
            (("induction", "propose"), None, -1.0), (("induction", "propose"), None, 0.0)]
    groups, tasks, values = zip(*rows)
    adv = advantages("grpo", list(values), list(groups), list(tasks), [4] * len(rows))
    torch.testing.assert_close(adv, doubles(1, -1, 0, 0, -1, 1, 1, -1, -1, 1))


# ----------------------------------------------------------------------------------------------------------------
# Token weights

LENGTHS = [4, 1, 3, 8, 2]
GROUPS = [("deduction", "solve"), ("deduction", "solve"), ("deduction", "propose"), ("induction", "solve"),
          ("induction", "solve")]


@pytest.mark.parametrize("kind, wanted", [
    ("response", [1 / 20, 1 / 5, 1 / 15, 1 / 40, 1 / 10]),    # every response 1/5, shared by its tokens
    ("token", [1 / 18] * 5),                                  # every token alike
    ("group", [1 / 15, 1 / 15, 1 / 9, 1 / 30, 1 / 30]),       # every group 1/3, shared by its 5, 3 and 10 tokens
])
def test_token_weights_by_hand(kind, wanted):
    weights = token_weights(kind, GROUPS, LENGTHS)
    torch.testing.assert_close(weights, torch.tensor(wanted))


@pytest.mark.parametrize("kind", ["response", "token", "group"])
def test_token_weights_sum_to_one_over_all_tokens(kind):
    _, groups, lengths = random_rows()
    assert float(token_weights(kind, groups, lengths) @ torch.tensor(lengths).float()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", ["response", "token", "group"])
def test_the_solve_weight_multiplies_the_solvers_rows_only(kind):
    plain, weighted = token_weights(kind, GROUPS, LENGTHS), token_weights(kind, GROUPS, LENGTHS, solve_weight=2.5)
    factors = torch.tensor([2.5 if role == "solve" else 1.0 for _, role in GROUPS])
    torch.testing.assert_close(weighted, plain * factors)


# ----------------------------------------------------------------------------------------------------------------
# The loss. Rows of logits stand for the network: gradients with respect to them are the whole story.

def token_rows(count: int = 12, seed: int = 0):
    """(logits [tokens, vocabulary], ids, old log-probs, advantage, weight per row, lengths): a small batch."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=generator)
    logits = torch.randn(int(lengths.sum()), 6, generator=generator, dtype=torch.float64)
    ids = torch.randint(0, 6, (len(logits), 1), generator=generator)
    adv_R = torch.randn(count, generator=generator, dtype=torch.float64)
    groups = [SIX_GROUPS[i % 6] for i in range(count)]
    return logits, ids, adv_R, lengths, groups


def log_probs(logits, ids):
    return logits.log_softmax(-1).gather(-1, ids)[:, 0]


@pytest.mark.parametrize("kind", ["response", "token", "group"])
def test_micro_batching_does_not_change_the_gradient(kind):
    logits, ids, adv_R, lengths, groups = token_rows()
    weight_N = token_weights(kind, groups, lengths.tolist()).double().repeat_interleave(lengths)
    adv_N, row_N = adv_R.repeat_interleave(lengths), torch.arange(len(lengths)).repeat_interleave(lengths)
    gradients = []
    for parts in ([range(12)], [[i] for i in range(12)], [[3, 0, 11], [1, 2, 4, 5, 6], [7, 8, 9, 10]]):
        leaf = logits.clone().requires_grad_()
        for part in parts:
            mine = torch.isin(row_N, torch.tensor(list(part)))
            logp_N = log_probs(leaf[mine], ids[mine])
            policy_loss(logp_N, logp_N.detach(), adv_N[mine], weight_N[mine])[0].backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


def test_on_policy_the_gradient_is_that_of_reinforce():
    logits, ids, adv_R, lengths, groups = token_rows()
    weight_N = token_weights("response", groups, lengths.tolist()).double().repeat_interleave(lengths)
    adv_N = adv_R.repeat_interleave(lengths)
    logp_N = log_probs(logits, ids).requires_grad_()
    loss, clipped_N = policy_loss(logp_N, logp_N.detach(), adv_N, weight_N)
    loss.backward()
    torch.testing.assert_close(logp_N.grad, -weight_N * adv_N)
    assert not clipped_N.any()


def step(adv: float, logp: float = -1.0, old: float = -1.0, weight: float = 1.0, **clip):
    """(loss, gradient with respect to the log-prob, clipped) of one token."""
    logp_N = torch.tensor([logp], dtype=torch.float64, requires_grad=True)
    loss, clipped_N = policy_loss(logp_N, doubles(old), doubles(adv), doubles(weight), **clip)
    loss.backward()
    return loss.item(), logp_N.grad.item(), clipped_N.item()


def test_a_flipped_advantage_flips_the_gradient_and_none_gives_none():
    assert step(0.7)[1] == pytest.approx(-0.7) and step(-0.7)[1] == pytest.approx(0.7)
    assert step(0.0) == (0.0, 0.0, False)
    assert step(0.7, weight=0.25)[1] == pytest.approx(-0.7 / 4)


def test_a_step_down_the_gradient_makes_good_responses_likelier_and_bad_ones_rarer():
    for adv in (1.0, -1.0):
        logits = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
        logp_N = log_probs(logits, torch.tensor([[2]]))
        policy_loss(logp_N, logp_N.detach(), doubles(adv), doubles(1.0))[0].backward()
        after = log_probs(logits.detach() - 0.1 * logits.grad, torch.tensor([[2]]))
        assert (after.item() - logp_N.item()) * adv > 0


def test_equal_rewards_give_no_gradient():
    groups, lengths = [("deduction", "solve")] * 6, [3] * 6
    adv_N = advantages("trr++", [0.1] * 6, groups, [None] * 6, lengths).repeat_interleave(3)
    logp_N = torch.full((18,), -1.0, dtype=torch.float64, requires_grad=True)
    policy_loss(logp_N, logp_N.detach(), adv_N, torch.ones(18))[0].backward()
    assert logp_N.grad.abs().max() == 0


@pytest.mark.parametrize("adv, ratio, stopped", [
    (1.0, 1.25, True), (1.0, 1.15, False), (1.0, 0.5, False),     # likelier already: stop; rarer: still pull it back
    (-1.0, 0.75, True), (-1.0, 0.85, False), (-1.0, 2.0, False),  # rarer already: stop; likelier: still push it down
])
def test_the_clip_stops_what_has_moved_far_enough_and_nothing_else(adv, ratio, stopped):
    loss, gradient, clipped = step(adv, logp=-1 + math.log(ratio))
    assert clipped is stopped
    assert gradient == (0 if stopped else pytest.approx(-ratio * adv))
    assert loss == pytest.approx(-adv * (min(max(ratio, 0.8), 1.2) if stopped else ratio))


def test_both_sides_of_the_clip_can_be_set():
    assert step(1.0, logp=-1 + math.log(1.25), clip_high=0.28)[2] is False
    assert step(-1.0, logp=-1 + math.log(0.75), clip_high=0.28)[2] is True
    assert step(-1.0, logp=-1 + math.log(0.75), clip_low=0.28)[2] is False
    assert step(1.0, logp=-1 + math.log(1.25), clip_low=0.28)[2] is True


@pytest.mark.parametrize("difference", [-1e4, -100.0, 100.0, 1e4])
@pytest.mark.parametrize("adv", [1.0, -1.0])
def test_broken_log_probs_keep_loss_and_gradient_finite(adv, difference):
    loss, gradient, _ = step(adv, logp=difference, old=0.0)
    assert math.isfinite(loss) and gradient == 0  # beyond any ratio that a policy can have, nothing is learned
    assert math.isfinite(kl_k3(doubles(difference), doubles(0.0)).item())


# ----------------------------------------------------------------------------------------------------------------
# KL

def test_the_kl_estimate_is_never_negative_and_zero_where_policies_agree():
    difference = torch.linspace(-30, 30, 601, dtype=torch.float64)
    estimate = kl_k3(difference, torch.zeros_like(difference))
    assert (estimate >= 0).all() and (estimate[difference.abs() > 0.05] > 0).all()
    assert kl_k3(difference, difference).abs().max() == 0


def test_the_kl_estimate_is_unbiased_and_its_direction_is_policy_from_reference():
    policy, reference = doubles(0.5, 0.3, 0.15, 0.05), doubles(0.1, 0.2, 0.3, 0.4)
    expectation = (policy * kl_k3(policy.log(), reference.log())).sum()
    torch.testing.assert_close(expectation, (policy * (policy / reference).log()).sum())
    assert abs(expectation - (reference * (reference / policy).log()).sum()) > 0.01
