"""Generated inputs: ragged batches with the rows that break things (empty, one token, -inf, huge values)."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from esscher import Ragged

finite_logprob = st.one_of(st.floats(-30, 0), st.sampled_from([0.0, -1e-300, -1e-8, -1e-3, -745.0, -1e6]))
logprob = st.one_of(finite_logprob, st.just(-np.inf))
log_weight = st.one_of(st.floats(-50, 50), st.sampled_from([-np.inf, 0.0, 1e5, -1e5, 700.0]))


@st.composite
def lengths(draw, max_rows=8, max_length=12):
    return draw(st.lists(st.integers(0, max_length), max_size=max_rows))


@st.composite
def ragged(draw, values=finite_logprob, dtype=np.float64, **sizes):
    sizes = draw(lengths(**sizes))
    flat = draw(st.lists(values, min_size=sum(sizes), max_size=sum(sizes)))
    return Ragged.from_lengths(np.array(flat, dtype=dtype), np.array(sizes, dtype=np.int64))


@st.composite
def two_columns(draw, values=finite_logprob, dtype=np.float64):
    """Two columns with the same rows."""
    first = draw(ragged(values, dtype))
    flat = draw(st.lists(values, min_size=len(first.values), max_size=len(first.values)))
    return first, Ragged(np.array(flat, dtype=dtype), first.offsets)


@st.composite
def tokens(draw, vocabulary=4, max_rows=9, max_length=14):
    """Token ids from a vocabulary small enough that n-grams repeat."""
    return draw(ragged(st.integers(0, vocabulary - 1), np.uint32, max_rows=max_rows, max_length=max_length))


@st.composite
def groups_over(draw, n):
    """Offsets that divide n items into groups, empty ones included."""
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=4)))
    return np.array([0, *cuts, n], dtype=np.int64)
