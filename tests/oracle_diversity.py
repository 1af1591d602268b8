"""The obvious implementation of each diversity metric, by enumeration of all subsets where there are subsets."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np

from oracle import ngrams


def entropy(rows, n, weights=None):
    """Entropy of the distribution of n-grams, each occurrence as likely as its row's weight says."""
    masses = _masses(rows, n, weights)
    total = math.fsum(masses.values())
    return math.fsum(m / total * math.log(total / m) for m in masses.values() if m) if total else math.nan


def weighted_distinct(rows, n, weights):
    """The sum of min(1, mass) over that of the mass, at the scale where weights add up to ESS, exactly."""
    weights = [Fraction(float(w)) for w in weights]
    if not any(weights):
        return math.nan
    scale = sum(weights) / sum(w * w for w in weights)
    masses = _masses(rows, n, [scale * w for w in weights])
    total = sum(masses.values())
    return float(sum(min(Fraction(1), m) for m in masses.values()) / total) if total else math.nan


def rarefied(rows, n, m, weights=None):
    """Different n-grams over n-grams, both averaged over all sets of m rows by the products of their weights."""
    weights = [Fraction(1)] * len(rows) if weights is None else [Fraction(float(w)) for w in weights]
    grams = [ngrams(row, n) for row in rows]
    different = total = Fraction(0)
    for subset in itertools.combinations(range(len(rows)), m):
        weight = math.prod(weights[i] for i in subset)
        different += weight * len({gram for i in subset for gram in grams[i]})
        total += weight * sum(len(grams[i]) for i in subset)
    return float(different / total) if total else math.nan


def top_ngrams(rows, n, k, weights):
    """The heaviest n-grams with their counts and weights, ties in order of appearance."""
    masses, counts = _masses(rows, n, weights), _masses(rows, n, None)
    heaviest = sorted((gram for gram in masses if masses[gram]), key=lambda gram: -masses[gram])
    return [(gram, int(counts[gram]), masses[gram]) for gram in heaviest[:k]]


def vendi_score(rows, n, weights):
    """exp of the von Neumann entropy of sqrt(p_i p_j) K_ij, from a dense matrix of counts."""
    counts = [Counter(ngrams(row, n)) or Counter(["short"]) for row in rows]
    p = np.array([float(w) for w in weights]) / float(np.sum(weights))
    dots = np.array([[sum(a[gram] * b[gram] for gram in a) for b in counts] for a in counts], dtype=float)
    norms = np.sqrt(np.diag(dots))
    eigenvalues = np.linalg.eigvalsh(dots / np.outer(norms, norms) * np.sqrt(np.outer(p, p)))
    return math.exp(-sum(x * math.log(x) for x in eigenvalues if x > 1e-15))


def _masses(rows, n, weights):
    """By n-gram, in order of appearance: the sum of the weights of its occurrences."""
    weights = [1] * len(rows) if weights is None else weights
    masses = {}
    for row, weight in zip(rows, weights, strict=True):
        for gram in ngrams(row, n):
            masses[gram] = masses.get(gram, 0) + weight
    return masses
