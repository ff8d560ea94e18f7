"""
Statistics of evaluations: short, exact where that is cheap. Problems are the units, not samples (Miller 2024,
arXiv 2411.00640); intervals hold for these problems' population and say nothing about the spread between training runs.
"""
import math
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np

DRAWS = 10_000  # of the bootstrap, with a fixed seed
EMPTY = 1e-9    # an interval as narrow tells that all values were equal, and not that the mean is known


def wilson(correct: float, count: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927), in [0, 1]; stays sensible for few items and for none or all
    correct."""
    z, p = 1.96, correct / count
    middle, spread = p + z * z / (2 * count), z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def standard_error(values: list[float], clusters: list[str], weights: list[float] | None = None) -> float:
    """Of the (weighted) mean of one value per problem, where problems of a cluster are not independent."""
    weights = weights or [1.0] * len(values)
    mean, sums = float(np.average(values, weights=weights)), defaultdict(float)
    for value, cluster, weight in zip(values, clusters, weights, strict=True):
        sums[cluster] += weight * (value - mean)
    return math.sqrt(sum(total * total for total in sums.values())) / sum(weights)


def bootstrap(values: list[float], clusters: list[str], weights: list[float] | None = None,
              seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the (weighted) mean, whole clusters drawn. Empty where all values are equal."""
    numbers = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    sums, counts = np.zeros(len(numbers)), np.zeros(len(numbers))
    for value, cluster, weight in zip(values, clusters, weights or [1.0] * len(values), strict=True):
        sums[numbers[cluster]] += weight * value
        counts[numbers[cluster]] += weight
    generator, means = np.random.default_rng(seed), []
    for _ in range(20):
        drawn = generator.integers(len(numbers), size=(DRAWS // 20, len(numbers)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def interval(values: list[float], clusters: list[str], weights: list[float] | None = None) -> tuple[float, float]:
    """95% interval of the (weighted) mean of one value in [0, 1] per problem: Wilson's, with as many independent
    verdicts as would have the standard error that the values have; where that is 0, with as many as clusters."""
    mean, distinct = float(np.average(values, weights=weights)), len(set(clusters))
    if independent(set(values), clusters, weights):
        return wilson(sum(values), len(values))
    error = standard_error(values, clusters, weights) * math.sqrt(distinct / max(1, distinct - 1))
    count = mean * (1 - mean) / error ** 2 if error > 1e-9 else distinct
    return wilson(mean * count, count)


def independent(values: set, clusters: list[str], weights: list[float] | None) -> bool:
    """Whether the closed forms hold: single verdicts of problems that share nothing and count alike."""
    return weights is None and len(set(clusters)) == len(clusters) and values <= {0.0, 1.0}


SMALL = 25  # discordant pairs, below which the normal approximation behind Newcombe's interval is not good enough


def change_interval(pairs: list[tuple[float, float]], clusters: list[str],
                    weights: list[float] | None = None) -> tuple[float, float]:
    """95% interval of the (weighted) mean change of (before, after) per problem. For independent single verdicts
    Newcombe's, and where few differ not narrower than the exact one, so that it agrees with the exact p beside it. Else
    the bootstrap's, which is made to hold 0 where the exact p of few clusters cannot exclude it; where that is empty,
    as where nothing changed, Newcombe's of as many problems as there are clusters."""
    if independent({value for pair in pairs for value in pair}, clusters, weights):
        low, high = newcombe(pairs)
        gained, lost = (sum(sign * (b - a) > 0 for a, b in pairs) for sign in (1, -1))
        if lost + gained < SMALL:
            least, most = exact(gained, lost + gained)
            scale = (lost + gained) / len(pairs)
            low, high = min(low, scale * (2 * least - 1)), max(high, scale * (2 * most - 1))
        return low, high
    changes: dict[str, float] = defaultdict(float)
    for (was, now), cluster, weight in zip(pairs, clusters, weights or [1.0] * len(pairs), strict=True):
        changes[cluster] += weight * (now - was)
    lost, gained = (sum(sign * by > 1e-9 for by in changes.values()) for sign in (-1, 1))
    low, high = bootstrap([b - a for a, b in pairs], clusters, weights)
    if high - low < EMPTY:
        low, high = newcombe(pairs, weights, len(changes))
    if lost + gained < SMALL and mcnemar(lost, gained) > 0.05:
        low, high = min(low, 0.0), max(high, 0.0)
    return low, high


def newcombe(pairs: list[tuple[float, float]], weights: list[float] | None = None,
             count: int | None = None) -> tuple[float, float]:
    """Newcombe's interval (1998, method 10) of a paired difference, made of two Wilson intervals, as if the pairs'
    (weighted) means were those of `count` problems."""
    count = count or len(pairs)
    both = count * float(np.average([a * b for a, b in pairs], weights=weights))
    before, after = (min(count, count * float(np.average(side, weights=weights))) for side in zip(*pairs))
    product = both * (count - before - after + both) - (before - both) * (after - both)
    product = max(0.0, product - count / 2) if product > 0 else product
    scale = math.sqrt(before * (count - before) * after * (count - after))
    phi, change = product / scale if scale else 0.0, (after - before) / count
    (low_a, high_a), (low_b, high_b) = ((total / count - low, high - total / count)
                                        for total in (before, after) for low, high in [wilson(total, count)])

    def spread(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))
    return change - spread(low_b, high_a), change + spread(high_b, low_a)


def exact(successes: int, count: int) -> tuple[float, float]:
    """95% interval of a proportion by Clopper and Pearson (1934): all shares of which an exact two-sided test says that
    they are not excluded."""
    def at_least(share: float, least: int) -> float:
        return sum(math.comb(count, i) * share ** i * (1 - share) ** (count - i) for i in range(least, count + 1))

    def where(tail: Callable[[float], float]) -> float:  # a growing function reaches 0.025
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if tail(middle) < 0.025 else (low, middle)
        return low
    return (where(lambda share: at_least(share, successes)) if successes else 0.0,
            1 - where(lambda share: at_least(share, count - successes)) if successes < count else 1.0)


def verdict(changes: dict[str, tuple[float, float, float]]) -> str:
    """Changes (value, low, high) by task type, shares, in words and points: "It got better: deduction +18 [14, 22];
    induction no change (+0 [-3, 4]); mean +9 [7, 12]". "No change": the interval holds 0."""
    def said(name: str, change: float, low: float, high: float) -> str:
        ends = [100 * value for value in (change, low, high)]
        fine = high - low < 0.04 or any(end and abs(end) < 0.5 for end in ends[1:])  # +5 [0, 9] would leave a doubt
        first, *others = (f"{round(end, 1) + 0:{sign}.1f}" if fine else f"{round(end):{sign}d}"
                          for end, sign in zip(ends, "+--"))
        numbers = f"{first} [{', '.join(others)}]"
        return (f"{name} no change ({numbers})" if low <= 0 <= high else
                f"{name} {'' if change > 0 else 'worse, '}{numbers}")
    if not changes:
        return "Nothing was compared"
    _, low, high = changes.get("mean") or max(changes.values(), key=lambda change: abs(change[0]))
    head = "It got better" if low > 0 else "It got worse" if high < 0 else "No change on the whole"
    return f"{head}: {'; '.join(said(name, *change) for name, change in changes.items())}"


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate, from n >= k samples of one problem, that one of k is correct (Chen et al. 2021)."""
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided p that b problems lost and c gained are fair coin throws."""
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    return min(1.0, 2 * tail / 2 ** (b + c))


def holm(ps: list[float]) -> list[float]:
    """Holm's adjusted p values, in the order given."""
    adjusted, worst = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = worst
    return adjusted


def macro_error(errors: list[float]) -> float:
    """Standard error of the mean of several tasks' scores."""
    return math.sqrt(sum(error * error for error in errors)) / len(errors)


def shares(reasons: list[str]) -> dict[str, float]:
    return {reason: count / len(reasons) for reason, count in sorted(Counter(reasons).items())}
