"""What rounding left beyond 0 is read as 0, and counted; what is further beyond is an error."""

from dataclasses import replace

import numpy as np
import pytest

from esscher import Padded, Ragged, Samples, evaluate, kl_estimators, sequence_logprobs
from esscher.divergence import PRESETS, estimate_kl
from esscher.samples import token_column
from esscher.wire.codec import decode_samples, encode_samples

LENGTHS = [40, 7, 13, 20]
DTYPES = ("float16", "float32", "float64", "bfloat16")


def column(above, dtype="float64"):
    """Log-probs of four completions, with a value above 0 at every fourth token."""
    values = -np.random.default_rng(0).exponential(size=sum(LENGTHS))
    values[::4] = above
    if dtype != "bfloat16":
        return Ragged.from_lengths(values.astype(dtype), LENGTHS)
    torch = pytest.importorskip("torch")
    return Ragged(torch.tensor(values, dtype=torch.bfloat16), np.cumsum([0, *LENGTHS]))


def samples(above=0.0, below=0.0):
    spread = np.random.default_rng(1).exponential(size=sum(LENGTHS))
    spread[::3] = below
    rows = Ragged.from_lengths(np.arange(sum(LENGTHS)), LENGTHS)
    return Samples(
        prompts=Ragged.from_rows([[1, 3], [1, 4]]),
        completions=rows,
        groups=[0, 2, 4],
        policy_logprobs=column(above),
        prior_logprobs=Ragged(column(above).values[::-1].copy(), rows.offsets),
        rewards=[0.0, 1.0, 2.0, 0.5],
        token_kl=Ragged(spread, rows.offsets),
        policy_entropy=Ragged(spread, rows.offsets),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("above", [1e-7, 9e-5])
def test_kernels_read_what_rounding_left_as_zero(above, dtype):
    rounded, exact, other = column(above, dtype), column(0.0, dtype), column(0.0, dtype)
    assert np.array_equal(sequence_logprobs(rounded), sequence_logprobs(exact))
    for level in ("token", "sequence"):
        for precision in ("f64", "mixed"):
            got = kl_estimators(rounded, other, level=level, precision=precision)
            expected = kl_estimators(exact, other, level=level, precision=precision)
            assert all(map(np.array_equal, got, expected))


def test_padded_rows_are_read_alike():
    values = np.array([[-1.0, 1e-6, 7.0], [5e-5, -2.0, -0.5]])
    mask = np.array([[1, 1, 0], [1, 0, 1]])
    assert sequence_logprobs(Padded(values, mask=mask)).tolist() == [-1.0, -0.5]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("above", [1.1e-4, 1.0, np.inf, np.nan])
def test_what_is_further_above_zero_stays_an_error(above, dtype):
    with pytest.raises(ValueError, match=r"logprobs\[0\] is .*at most 0"):
        sequence_logprobs(column(above, dtype))
    with pytest.raises(ValueError, match=r"a\[0\]\[0\] is .*at most 0"):
        token_column("a", column(above, dtype), column(0.0), "log-prob", highest=0.0)


@pytest.mark.parametrize("name", ["token_kl", "policy_entropy"])
def test_what_is_further_below_zero_stays_an_error(name):
    wrong = Ragged(np.full(sum(LENGTHS), -1.1e-4), samples().completions.offsets)
    with pytest.raises(ValueError, match=rf"{name}\[0\]\[0\] is -0.00011: a {name} is at least 0"):
        replace(samples(), **{name: wrong})


def test_negative_zero_and_minus_infinity_stay():
    values = np.array([-0.0, -np.inf, 1e-6])
    kept = token_column("a", Ragged.from_lengths(values, [3]), Ragged.from_lengths([1, 2, 3], [3]), "x", highest=0.0)
    assert np.signbit(kept.values[0])
    assert kept.values[1] == -np.inf
    assert sequence_logprobs(Ragged.from_lengths(values, [2, 1])).tolist() == [-np.inf, 0.0]


@pytest.mark.parametrize("preset", [None, *(preset for preset in PRESETS if preset != "disco")])
def test_every_estimate_is_that_of_zeros(preset):
    got, expected = (estimate_kl(each, preset=preset) for each in (samples(9e-5), samples()))
    assert got.value == expected.value
    assert np.array_equal(got.per_sequence, expected.per_sequence)
    assert any(
        said.startswith("20 of 80 values of policy_logprobs are above 0 by up to 9e-05") for said in got.warnings
    )
    assert not any("read as 0" in said for said in expected.warnings)


def test_a_report_counts_each_column_once_and_is_otherwise_that_of_zeros():
    got, expected = evaluate(samples(1e-7, -1e-9)), evaluate(samples())
    notes = [said for said in got.warnings if "read as 0" in said]
    assert [note.split(" are ")[0] for note in notes] == [
        "20 of 80 values of policy_logprobs",
        "20 of 80 values of prior_logprobs",
        "27 of 80 values of token_kl",
        "27 of 80 values of policy_entropy",
    ]
    assert "token_kl are below 0 by up to 1e-09" in notes[2]
    assert [said for said in got.warnings if said not in notes] == list(expected.warnings)
    assert {name: kl.value for name, kl in got.kl.items()} == {name: kl.value for name, kl in expected.kl.items()}


def test_the_wire_carries_what_is_counted():
    sent = samples(1e-7, -1e-9)
    arrived = decode_samples(encode_samples(sent))
    counted = [[said for said in evaluate(each).warnings if "read as 0" in said] for each in (sent, arrived)]
    assert counted[0] == counted[1]
