"""Padded rows: the same as ragged ones, to the last bit, whatever pads them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esscher import Padded, Ragged, aggregate_logprobs, kl_estimators, sequence_logprobs, token_scores
from esscher.ragged import BFLOAT16
from strategies import finite_logprob, two_columns

GARBAGE = np.array([np.nan, np.inf, 5.0, -np.inf, -3.0])


def padded(rows, keep):
    """`rows` where `keep` [n, L] says, garbage elsewhere."""
    array = GARBAGE[np.arange(keep.size) % len(GARBAGE)].reshape(keep.shape).astype(rows.values.dtype)
    array[keep] = rows.values
    return array


@st.composite
def padding(draw, rows):
    """Where the rows lie in a padded array: at the right, at the left, in the middle, or with holes."""
    width = int(rows.lengths.max(initial=0)) + draw(st.integers(0, 80))
    keep = np.zeros((len(rows), width), dtype=bool)
    for row, length in zip(keep, rows.lengths, strict=True):
        first = draw(st.integers(0, width - int(length)))
        row[first : first + length] = True
        if draw(st.booleans()):
            np.random.default_rng(draw(st.integers(0, 9))).shuffle(row)
    return keep


@given(st.data(), st.sampled_from([np.float32, np.float64]), st.sampled_from([bool, np.int64, np.uint8, np.int32]))
def test_padding_changes_no_bit(data, dtype, mask_dtype):
    policy, prior = data.draw(two_columns(values=finite_logprob, dtype=dtype))
    keep, other = data.draw(padding(policy)), data.draw(padding(policy))
    policy_padded = Padded(padded(policy, keep), mask=keep.astype(mask_dtype))
    prior_padded = Padded(padded(prior, other), mask=other)
    for got, expected in zip(aggregate_logprobs(policy_padded), aggregate_logprobs(policy), strict=True):
        assert np.array_equal(got, expected, equal_nan=True)
    for precision in ("f64", "mixed"):
        got = kl_estimators(policy_padded, prior_padded, precision=precision)
        mixed = kl_estimators(policy_padded, prior, precision=precision)
        for a, b, c in zip(got, mixed, kl_estimators(policy, prior, precision=precision), strict=True):
            assert np.array_equal(a, c)
            assert np.array_equal(b, c)


@given(two_columns(values=finite_logprob, dtype=np.float32))
def test_lengths_are_right_padding(columns):
    rows, _ = columns
    keep = np.arange(int(rows.lengths.max(initial=0)) + 3) < rows.lengths[:, None]
    got = sequence_logprobs(Padded(padded(rows, keep), lengths=rows.lengths))
    assert np.array_equal(got, sequence_logprobs(rows))


def test_sum_mean_and_length():
    got = aggregate_logprobs(Ragged.from_rows([[-1.0, -2.0], [], [-4.0]]))
    assert got.log_prob.tolist() == [-3.0, 0.0, -4.0]
    assert got.length.tolist() == [2, 0, 1]
    assert got.mean.tolist() == pytest.approx([-1.5, np.nan, -4.0], nan_ok=True)


def test_torch_tensors_come_in_without_a_copy():
    values, mask = torch.full((2, 3), -1.0, requires_grad=True), torch.tensor([[1, 1, 0], [0, 1, 1]])
    rows = Padded(values, mask)
    assert rows.values.ctypes.data == values.data_ptr()
    assert rows.mask.ctypes.data == mask.data_ptr()
    assert sequence_logprobs(rows).tolist() == [-2.0, -2.0]


def test_bfloat16_comes_in_without_a_copy():
    values = torch.tensor([[-1.0, -0.5, 7.0], [-3.0, -0.1, -0.2]], dtype=torch.bfloat16)
    rows = Padded(values, lengths=[2, 3])
    assert rows.values.dtype == BFLOAT16
    assert rows.values.ctypes.data == values.data_ptr()
    wide = Padded(values.float(), lengths=[2, 3])
    assert np.array_equal(sequence_logprobs(rows), sequence_logprobs(wide))
    ragged = Ragged(values[1], [0, 1, 3])
    for got, expected in zip(
        kl_estimators(ragged, ragged), kl_estimators(ragged, Ragged(values[1].float(), [0, 1, 3])), strict=True
    ):
        assert np.array_equal(got, expected)


def test_arrays_that_lie_otherwise_are_copied():
    values = -np.arange(1.0, 13.0).reshape(3, 4)
    expected = sequence_logprobs(Padded(values, lengths=[4, 2, 3]))
    buffer = np.zeros(values.nbytes + 1, dtype=np.uint8)
    misaligned = buffer[1:].view(np.float64).reshape(values.shape)
    misaligned[:] = values
    assert not misaligned.flags.aligned
    for array in (np.asfortranarray(values), np.repeat(values, 2, axis=1)[:, ::2], values.astype(">f8"), misaligned):
        assert np.array_equal(sequence_logprobs(Padded(array, lengths=[4, 2, 3])), expected)
    mask = np.arange(4) < np.array([4, 2, 3])[:, None]
    assert np.array_equal(sequence_logprobs(Padded(values, mask=np.asfortranarray(mask))), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, BFLOAT16])
def test_a_mask_of_floating_point_is_that_of_booleans(dtype):
    values = -np.arange(6.0).reshape(2, 3)
    keep = np.array([[True, False, True], [False, True, True]])
    mask = keep.astype(np.float32)
    mask = (mask.view(np.uint32) >> 16).astype(np.uint16).view(BFLOAT16) if dtype == BFLOAT16 else mask.astype(dtype)
    assert (
        sequence_logprobs(Padded(values, mask=mask)).tolist() == sequence_logprobs(Padded(values, mask=keep)).tolist()
    )


def test_half_floats_are_read_as_the_equal_float32():
    rng = np.random.default_rng(0)
    policy, prior = (-rng.uniform(0, 9, (4, 5)).astype(np.float16) for _ in range(2))
    logits = rng.normal(size=(4, 7)).astype(np.float16)
    lengths = np.array([5, 1, 2, 3])

    def figures(widen):
        columns = [Padded(widen(column), lengths=lengths) for column in (policy, prior)]
        rows = [Ragged.from_padded(widen(column), lengths=lengths) for column in (policy, prior)]
        mixed = kl_estimators(columns[0], Padded(prior.astype(np.float64), lengths=lengths))
        scores = token_scores(widen(logits), [0, 1, 2, 3], widen(logits[::-1]))
        return [*kl_estimators(*columns), *kl_estimators(*rows), *mixed, *scores, sequence_logprobs(columns[0])]

    for one, other in zip(figures(lambda x: x), figures(lambda x: x.astype(np.float32)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"values": np.zeros(3), "lengths": [3]}, ValueError, "values has 1 dimensions: a padded array has two"),
        ({"values": np.zeros((2, 3))}, ValueError, "give either lengths or mask"),
        ({"values": np.zeros((2, 3)), "mask": np.ones((2, 2), bool)}, ValueError, r"mask has shape \(2, 2\)"),
        ({"values": np.zeros((2, 3)), "mask": np.ones((2, 3), complex)}, TypeError, "mask has dtype complex128"),
        ({"values": np.zeros((2, 3)), "mask": np.eye(2, 3) / 2}, ValueError, r"mask\[0, 0\] is 0.5: a mask is 0 or 1"),
        ({"values": np.zeros((2, 3)), "mask": np.full((2, 3), np.nan)}, ValueError, r"mask\[0, 0\] is nan: a mask"),
        ({"values": np.zeros((2, 3)), "mask": np.full((2, 3), 2)}, ValueError, "mask row 0 has an entry"),
        ({"values": np.zeros((2, 3)), "mask": np.full((2, 3), 2, np.uint8)}, ValueError, "mask row 0 has an entry"),
        ({"values": np.zeros((2, 3)), "lengths": [3, 4]}, ValueError, r"lengths\[1\] is 4: it must be between 0 and"),
        ({"values": np.zeros((2, 3)), "lengths": [3]}, ValueError, "lengths has 1 entries"),
        ({"values": np.zeros((2, 3), np.uint16), "lengths": [3, 3]}, TypeError, "logprobs has dtype uint16"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        sequence_logprobs(Padded(**arguments))


def test_a_bad_value_is_named_by_its_place_in_the_padded_array():
    values = np.array([[np.nan, -1.0, -1.0], [-1.0, -1.0, 0.5]], np.float32)
    keep = np.array([[False, True, True], [True, False, True]])
    with pytest.raises(ValueError, match=r"logprobs\[1, 2\] is 0.5"):
        sequence_logprobs(Padded(values, mask=keep))
    with pytest.raises(ValueError, match="row 1 of prior_logprobs has 3 tokens, of policy_logprobs 2"):
        kl_estimators(Padded(values, lengths=[0, 2]), Padded(values, lengths=[0, 3]))
