import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esscher import Ragged
from strategies import ragged


@given(ragged())
def test_padding_and_back(rows):
    padded = rows.to_padded(fill=np.nan)
    again = Ragged.from_padded(padded, lengths=rows.lengths)
    assert np.array_equal(again.values, rows.values)
    assert np.array_equal(again.offsets, rows.offsets)


@given(ragged(), st.randoms(use_true_random=False))
def test_take_is_indexing(rows, random):
    order = [random.randrange(len(rows)) for _ in range(6)] if len(rows) else []
    assert [list(row) for row in rows.take(order)] == [list(rows[i]) for i in order]


@given(ragged())
def test_from_rows_is_the_inverse_of_iteration(rows):
    again = Ragged.from_rows(list(rows), dtype=np.float64)
    assert np.array_equal(again.values, rows.values)
    assert np.array_equal(again.offsets, rows.offsets)


def test_mask_may_have_holes_and_left_padding():
    rows = Ragged.from_padded([[0, 1, 2], [3, 4, 5]], mask=[[False, True, True], [True, False, True]])
    assert [row.tolist() for row in rows] == [[1, 2], [3, 5]]


def test_arrays_come_in_without_a_copy():
    values, offsets = np.arange(4.0), np.array([0, 1, 4])
    rows = Ragged(values, offsets)
    assert rows.values is values
    assert rows.offsets is offsets


def test_torch_tensors_come_in_without_a_copy():
    tensor = torch.tensor([1.0, 2.0, 3.0])
    rows = Ragged(tensor, torch.tensor([0, 2, 3]))
    tensor[0] = 9.0
    assert rows[0].tolist() == [9.0, 2.0]


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([], "offsets is empty"),
        ([1, 3], r"offsets\[0\] is 1: offsets start with 0"),
        ([0, 2, 1, 3], r"offsets\[2\] is 1, below the 2 before it"),
        ([0, 2], "offsets ends at 2, but there are 3 values"),
        ([[0, 3]], "offsets has 2 dimensions"),
    ],
)
def test_bad_offsets(offsets, message):
    with pytest.raises(ValueError, match=message):
        Ragged(np.zeros(3), offsets)


def test_offsets_must_be_integers():
    with pytest.raises(TypeError, match="offsets has dtype float64"):
        Ragged(np.zeros(3), [0.0, 3.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either lengths or mask"),
        ({"lengths": [1, 2], "mask": [[1, 1], [1, 1]]}, "give either lengths or mask"),
        ({"lengths": [1, 3]}, r"lengths\[1\] is 3"),
        ({"lengths": [1]}, "lengths has 1 entries"),
        ({"mask": [[1, 1]]}, "mask has shape"),
        ({"mask": [[1, 2], [0, 1]]}, "entries other than 0 and 1"),
    ],
)
def test_bad_padding(arguments, message):
    with pytest.raises(ValueError, match=message):
        Ragged.from_padded(np.zeros((2, 2)), **arguments)


def test_padded_needs_two_dimensions():
    with pytest.raises(ValueError, match="array has 1 dimensions"):
        Ragged.from_padded(np.zeros(3), lengths=[3])


def test_rows_need_one_dimension():
    with pytest.raises(ValueError, match=r"rows\[1\] has 2 dimensions"):
        Ragged.from_rows([[1], [[2]]])
    with pytest.raises(ValueError, match="values has 2 dimensions"):
        Ragged(np.zeros((2, 2)), [0, 4])


def test_negative_lengths():
    with pytest.raises(ValueError, match=r"lengths\[1\] is -1"):
        Ragged.from_lengths([1.0], [2, -1])


def test_row_out_of_range():
    rows = Ragged.from_rows([[1], [2, 3]])
    assert rows[-1].tolist() == [2, 3]
    with pytest.raises(IndexError, match="row 2 of 2"):
        rows[2]
