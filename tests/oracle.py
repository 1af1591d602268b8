"""The obvious implementation of each kernel: slow, readable, and independent of the Rust one."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
from mpmath import mp


def sequence_logprobs(rows):
    return [math.fsum(float(value) for value in row) for row in rows]


def estimator_at(name, d):
    """k1, k2, k3, abs of one log-ratio, in 50 digits."""
    with mp.workdps(50):
        d = mp.mpf(d)
        values = {"k1": d, "k2": d * d / 2, "k3": mp.expm1(-d) + d, "abs": abs(d)}
        return values[name]


def kl(policy_rows, prior_rows, name, level):
    values = []
    for policy, prior in zip(policy_rows, prior_rows, strict=True):
        ratios = [mp.mpf(float(a)) - mp.mpf(float(b)) for a, b in zip(policy, prior, strict=True)]
        if level == "sequence":
            ratios = [mp.fsum(ratios)]
        values.append(float(mp.fsum(estimator_at(name, d) for d in ratios)))
    return values


def normalise(log_ratios):
    """Self-normalised log-weights, log Z and ESS of one group, in 50 digits."""
    with mp.workdps(50):
        weights = [mp.exp(mp.mpf(value)) for value in log_ratios]
        total = mp.fsum(weights)
        if total == 0:
            return [-np.inf] * len(weights), -np.inf, 0.0
        log_weights = [float(mp.log(w / total)) if w else -np.inf for w in weights]
        ess = total**2 / mp.fsum(w**2 for w in weights)
        return log_weights, float(mp.log(total / len(weights))), float(ess)


def over(reward, beta):
    """reward / beta in 50 digits."""
    with mp.workdps(50):
        return mp.mpf(float(reward)) / mp.mpf(beta)


def ngrams(row, n):
    """All n-grams of a row; None is a gap, which none spans."""
    row = [None if token is None else int(token) for token in row]
    windows = (tuple(row[i : i + n]) for i in range(len(row) - n + 1))
    return [window for window in windows if None not in window]


def length(row):
    return sum(token is not None for token in row)


def distinct(rows, n):
    grams = [gram for row in rows for gram in ngrams(row, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def self_bleu(rows, n, smoothing):
    """Mean over rows of BLEU-n against all others, as NLTK computes it, from its definition."""
    if len(rows) < 2:
        return math.nan
    rows = [list(row) for row in rows]
    return math.fsum(_bleu(row, rows[:i] + rows[i + 1 :], n, smoothing) for i, row in enumerate(rows)) / len(rows)


def _bleu(row, others, n, smoothing):
    precisions = [_precision(row, others, order) for order in range(1, n + 1)]
    own = length(row)
    closest = min(map(length, others), key=lambda other: (abs(other - own), other))
    return _score(own, closest, precisions, smoothing)


def _score(own, closest, precisions, smoothing):
    if precisions[0][0] == 0:
        return 0.0
    penalty = 1.0 if own > closest else math.exp(1 - closest / own)
    zero = {"none": lambda _: 2.2250738585072014e-308, "method1": lambda total: 0.1 / total}[smoothing]
    logs = [math.log(Fraction(m, t) if m else zero(t)) for m, t in precisions]
    return penalty * math.exp(math.fsum(logs) / len(logs))


def _precision(row, others, order):
    counts = Counter(ngrams(row, order))
    limits = [Counter(ngrams(other, order)) for other in others]
    matches = sum(min(count, max(limit[gram] for limit in limits)) for gram, count in counts.items())
    return matches, max(1, sum(counts.values()))


def fast_self_bleu(rows, n, smoothing):
    """As `self_bleu`, for many rows: the largest count elsewhere is the second largest, or the largest."""
    if len(rows) < 2:
        return math.nan
    lengths = Counter(map(length, rows))
    precisions = zip(*(_all_precisions(rows, order) for order in range(1, n + 1)), strict=True)
    closest = {own: _closest_other(lengths, own) for own in lengths}
    of_rows = ((length(row), p) for row, p in zip(rows, precisions, strict=True))
    return math.fsum(_score(own, closest[own], p, smoothing) for own, p in of_rows) / len(rows)


def _all_precisions(rows, order):
    counts = [Counter(ngrams(row, order)) for row in rows]
    largest = defaultdict(lambda: [0, 0])
    for row in counts:
        for gram, count in row.items():
            largest[gram] = sorted([*largest[gram], count])[1:]
    precisions = []
    for row in counts:
        # Where a row has the largest count, the second largest is the largest elsewhere.
        matches = sum(min(count, largest[gram][largest[gram][1] != count]) for gram, count in row.items())
        precisions.append((matches, max(1, sum(row.values()))))
    return precisions


def _closest_other(lengths, own):
    others = [other for other, count in lengths.items() if other != own or count > 1]
    return min(others, key=lambda other: (abs(other - own), other))


def top_ngrams(rows, n, k):
    counts = Counter(gram for row in rows for gram in ngrams(row, n))
    return counts.most_common(k)


def resample(log_weights, uniforms):
    """Inverse of the cumulative distribution by exact rational arithmetic."""
    top = max(log_weights)
    weights = [Fraction(math.exp(value - top)) for value in log_weights]
    total = sum(weights)
    drawn = []
    for u in uniforms:
        running = Fraction(0)
        for i, weight in enumerate(weights):
            running += weight
            if running > Fraction(u) * total:
                drawn.append(i)
                break
    return drawn


def clustered_mean(values, groups):
    """Mean and sandwich standard error with the correction for each cluster's share, by loops."""
    n, mean = len(values), math.fsum(values) / len(values)
    clusters = [values[a:b] for a, b in itertools.pairwise(groups)]
    if len(clusters) == 1:
        clusters = [[value] for value in values]
    if len(clusters) == 1:
        return mean, math.nan
    squares = (math.fsum(v - mean for v in cluster) ** 2 / (1 - len(cluster) / n) for cluster in clusters)
    return mean, math.sqrt(math.fsum(squares)) / n
