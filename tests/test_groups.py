"""Groups: sums, means and extremes of neighbours, and one rule for those that are empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from esscher.groups import Groups, as_filled_groups, as_groups

SIZES = st.lists(st.integers(0, 5), max_size=8)


@st.composite
def grouped(draw, dtype=np.float64):
    sizes = draw(SIZES)
    elements = st.floats(-1e6, 1e6) if dtype == np.float64 else None
    return Groups.from_sizes(sizes), draw(arrays.arrays(dtype, sum(sizes), elements=elements))


def each(groups, values):
    return [values[a:b] for a, b in zip(groups.offsets[:-1], groups.offsets[1:], strict=True)]


@given(grouped())
def test_what_is_said_of_groups_is_said_of_each_alone(found):
    groups, values = found
    parts = each(groups, values)
    of_nothing = {"sums": 0.0, "means": np.nan, "largest": np.nan, "smallest": np.nan}
    for name, one in {"sums": np.sum, "means": np.mean, "largest": np.max, "smallest": np.min}.items():
        expected = [one(part) if len(part) else of_nothing[name] for part in parts]
        np.testing.assert_allclose(getattr(groups, name)(values), expected, rtol=1e-12, atol=1e-9)
    assert groups.of.tolist() == [p for p, part in enumerate(parts) for _ in part]
    assert groups.place.tolist() == [i for part in parts for i in range(len(part))]
    np.testing.assert_array_equal(groups.spread(groups.largest(values)), groups.largest(values)[groups.of])


@given(grouped(np.bool_))
def test_flags_are_counted(found):
    groups, flags = found
    assert groups.sums(flags).tolist() == [int(part.sum()) for part in each(groups, flags)]
    assert groups.sums(flags).dtype == np.int64


@given(grouped(), st.data())
def test_groups_are_taken_in_any_order(found, data):
    groups, values = found
    order = data.draw(st.lists(st.integers(0, len(groups.sizes) - 1), max_size=5)) if len(groups.sizes) else []
    entries, taken = groups.take(np.array(order, np.int64))
    parts = each(groups, values)
    np.testing.assert_array_equal(values[entries], np.concatenate([parts[p] for p in order]) if order else [])
    assert taken.sizes.tolist() == [len(parts[p]) for p in order]


def test_columns_of_features_are_summed_by_row():
    groups, features = Groups([0, 2, 2, 3]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert groups.sums(features).tolist() == [[4.0, 6.0], [0.0, 0.0], [5.0, 6.0]]
    np.testing.assert_array_equal(groups.means(features), [[2.0, 3.0], [np.nan, np.nan], [5.0, 6.0]])


def test_groups_read_as_the_array_of_their_offsets():
    groups = Groups([0, 2, 5])
    assert np.array_equal(groups, [0, 2, 5])
    assert (len(groups), groups[1], groups.tolist(), list(groups)) == (3, 2, [0, 2, 5], [0, 2, 5])
    assert np.diff(groups).tolist() == [2, 3]
    copied = np.array(groups)
    copied[0] = 7
    assert groups[0] == 0


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([], "is empty: offsets start with 0"),
        ([1, 2], r"\[0\] is 1: offsets start with 0"),
        ([0, 3, 2, 4], r"\[2\] is 2, below the 3 before it"),
    ],
)
def test_broken_offsets_are_refused(offsets, message):
    with pytest.raises(ValueError, match=message):
        Groups(np.array(offsets, np.int64))


def test_groups_that_do_not_fit_are_refused():
    assert as_groups(None, 3).tolist() == [0, 3]
    kept = Groups([0, 1, 3])
    assert as_groups(kept, 3) is kept
    with pytest.raises(ValueError, match="groups ends at 3, but there are 4 values"):
        as_groups(kept, 4)
    with pytest.raises(ValueError, match="mine: group 1 is empty"):
        as_filled_groups([0, 2, 2], 2, "mine")
