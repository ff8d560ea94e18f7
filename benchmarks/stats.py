"""
Statistics of evaluations: short, exact where that is cheap. Problems are the units, not samples (Miller 2024,
arXiv 2411.00640); intervals hold for these problems' population and say nothing about the spread between training runs.
"""
import math
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np

DRAWS = 10_000  # of the bootstrap, with a fixed seed


def wilson(correct: float, count: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927), in [0, 1]; stays sensible for few items and for none or all
    correct."""
    z, p = 1.96, correct / count
    middle, spread = p + z * z / (2 * count), z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def standard_error(values: list[float], clusters: list[str]) -> float:
    """Of the mean of one value per problem, where problems of a cluster are not independent."""
    mean, sums = sum(values) / len(values), defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    return math.sqrt(sum(total * total for total in sums.values())) / len(values)


def bootstrap(values: list[float], clusters: list[str], seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean, whole clusters drawn."""
    numbers = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    sums, counts = np.zeros(len(numbers)), np.zeros(len(numbers))
    for value, cluster in zip(values, clusters, strict=True):
        sums[numbers[cluster]] += value
        counts[numbers[cluster]] += 1
    generator, means = np.random.default_rng(seed), []
    for _ in range(20):
        drawn = generator.integers(len(numbers), size=(DRAWS // 20, len(numbers)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def interval(values: list[float], clusters: list[str]) -> tuple[float, float]:
    """95% interval of the mean of one value in [0, 1] per problem: Wilson's, with as many independent verdicts as would
    have the standard error that the values have; where it is 0, with as many as there are clusters."""
    mean, distinct = sum(values) / len(values), len(set(clusters))
    if distinct == len(values) and set(values) <= {0.0, 1.0}:
        return wilson(sum(values), len(values))
    error = standard_error(values, clusters) * math.sqrt(distinct / max(1, distinct - 1))
    count = mean * (1 - mean) / error ** 2 if error > 1e-9 else distinct
    return wilson(mean * count, count)


SMALL = 25  # discordant pairs, below which the normal approximation behind Newcombe's interval is not good enough


def change_interval(pairs: list[tuple[float, float]], clusters: list[str]) -> tuple[float, float]:
    """95% interval of the mean change of (before, after) per problem. For independent single verdicts Newcombe's, and
    where few differ not narrower than the exact one, so that it agrees with the exact p beside it. Else the bootstrap,
    which is made to hold 0 where the exact p of few clusters cannot exclude it."""
    changes: dict[str, float] = defaultdict(float)
    for (was, now), cluster in zip(pairs, clusters, strict=True):
        changes[cluster] += now - was
    lost, gained = (sum(sign * by > 1e-9 for by in changes.values()) for sign in (-1, 1))
    if len(changes) < len(pairs) or not {value for pair in pairs for value in pair} <= {0.0, 1.0}:
        low, high = bootstrap([b - a for a, b in pairs], clusters)
        if lost + gained < SMALL and mcnemar(lost, gained) > 0.05:
            low, high = min(low, 0.0), max(high, 0.0)
        return low, high
    low, high = newcombe(pairs)
    if lost + gained < SMALL:
        least, most = exact(gained, lost + gained)
        scale = (lost + gained) / len(pairs)
        low, high = min(low, scale * (2 * least - 1)), max(high, scale * (2 * most - 1))
    return low, high


def newcombe(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """95% interval of the difference of paired proportions (Newcombe 1998, method 10), made of two Wilson intervals.
    The bootstrap's would be empty where nothing changed."""
    count, before, after = len(pairs), *(sum(side) for side in zip(*pairs))
    both = sum(a * b for a, b in pairs)
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
