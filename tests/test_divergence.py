import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from esscher import Ragged, Samples, estimate_kl, kl, kl_estimators, sequence_logprobs
from esscher.divergence.estimators import of_log_ratios
from esscher.estimate import clustered_mean
from strategies import finite_logprob, groups_over, logprob, ragged, two_columns

estimators = st.sampled_from(["k1", "k2", "k3", "abs"])
levels = st.sampled_from(["token", "sequence"])


@given(ragged(logprob))
def test_sequence_logprobs_are_sums(rows):
    assert sequence_logprobs(rows) == pytest.approx(oracle.sequence_logprobs(rows), rel=1e-14)


@given(ragged(logprob, np.float32))
def test_float32_is_summed_in_float64(rows):
    assert sequence_logprobs(rows) == pytest.approx(oracle.sequence_logprobs(rows), rel=1e-14)


@given(two_columns(), estimators, levels)
def test_kl_equals_50_digits(columns, estimator, level):
    expected = oracle.kl(*columns, estimator, level)
    # At sequence level the log-ratio is a difference of two sums: their rounding is all the error there may be.
    scale = [1e-14 * (1 + max(map(abs, row), default=0)) for row in columns[0]]
    scale = [s + 1e-14 * max(map(abs, row), default=0) for s, row in zip(scale, columns[1], strict=True)]
    for got, want, slack in zip(kl(*columns, estimator, level=level), expected, scale, strict=True):
        exact = got == pytest.approx(want, rel=1e-12)
        assert exact or abs(got - want) <= slack * 100 * (1 + abs(want)), (got, want)


@given(two_columns(dtype=np.float32))
def test_token_k3_is_never_negative(columns):
    assert (kl(*columns, "k3") >= 0).all()


@given(two_columns(values=finite_logprob), estimators, levels, st.integers(1, 8))
def test_threads_do_not_change_a_bit(columns, estimator, level, threads):
    alone = kl(*columns, estimator, level=level, threads=1)
    assert np.array_equal(alone, kl(*columns, estimator, level=level, threads=threads))
    assert np.array_equal(sequence_logprobs(columns[0], threads=1), sequence_logprobs(columns[0], threads=threads))


@given(two_columns(), st.randoms(use_true_random=False))
def test_order_does_not_change_a_bit(columns, random):
    order = list(range(len(columns[0])))
    random.shuffle(order)
    shuffled = [column.take(np.array(order, dtype=np.int64)) for column in columns]
    assert np.array_equal(kl(*columns, "k3")[order], kl(*shuffled, "k3"))


@given(two_columns(dtype=np.float32))
def test_mixed_precision_is_computed_in_the_wider_one(columns):
    policy, prior = columns
    wide = Ragged(policy.values.astype(np.float64), policy.offsets)
    assert np.array_equal(kl(policy, prior, "k3"), kl(wide, prior, "k3"))


def test_a_prior_that_forbids_gives_an_infinite_kl():
    policy, prior = Ragged.from_rows([[-1.0, -1.0]]), Ragged.from_rows([[-1.0, -np.inf]])
    for level in ("token", "sequence"):
        assert kl(policy, prior, "k1", level=level).tolist() == [np.inf]
        assert kl(policy, prior, "k3", level=level).tolist() == [np.inf]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[np.nan]], [[-1.0]]), ValueError, r"policy_logprobs\[0\] is NaN: a log-prob is at most 0"),
        (([[-1.0]], [[0.5]]), ValueError, r"prior_logprobs\[0\] is 0.5: a log-prob is at most 0"),
        (([[-1.0]], [[-1.0], []]), ValueError, "prior_logprobs has 2 entries, policy_logprobs has 1"),
        (([[-np.inf]], [[-np.inf]]), ValueError, "token 0 is -inf under both policy and prior"),
        (([[-1.0]], [[-1.0]], "k4"), ValueError, "estimator is 'k4': it must be one of k1, k2, k3, abs"),
    ],
)
def test_bad_log_probs(arguments, error, message):
    columns = [Ragged.from_rows(rows) if isinstance(rows, list) else rows for rows in arguments]
    with pytest.raises(error, match=message):
        kl(*columns)


def test_single_log_ratios_are_estimated_as_the_kernel_does():
    rng = np.random.default_rng(0)
    d = np.concatenate([rng.normal(size=2000) * 10.0 ** rng.uniform(-9, 2, 2000), [0.0, -0.0, 1e-300, 2.0**-5, -800.0]])
    rows = np.arange(len(d) + 1)
    kernel = kl_estimators(Ragged(np.minimum(d, 0.0), rows), Ragged(np.minimum(-d, 0.0), rows))
    for ours, theirs in zip(of_log_ratios(d), kernel, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-13, abs=0)
    assert [list(values) for values in of_log_ratios(np.array([np.inf, -np.inf]))] == [
        [np.inf, -np.inf],
        [np.inf, np.inf],
        [np.inf, np.inf],
        [np.inf, np.inf],
    ]


def test_bad_level_dtype_and_threads():
    rows = Ragged.from_rows([[-1.0]])
    with pytest.raises(ValueError, match='level is "batch": it must be one of token, sequence'):
        kl(rows, rows, level="batch")
    with pytest.raises(TypeError, match="int64"):
        kl(Ragged.from_rows([[-1]]), Ragged.from_rows([[-1]]))
    with pytest.raises(TypeError, match="int64"):
        sequence_logprobs(Ragged.from_rows([[-1]]))
    with pytest.raises(ValueError, match="threads is 0: it must be 1 to 1024"):
        kl(rows, rows, threads=0)


@given(st.data())
def test_clustered_mean_is_the_sandwich(data):
    n = data.draw(st.integers(1, 12))
    groups = np.unique(data.draw(groups_over(n)))
    values = np.array(data.draw(st.lists(st.floats(-1e3, 1e3), min_size=n, max_size=n)))
    value, stderr = clustered_mean(values, groups)
    expected = oracle.clustered_mean(values.tolist(), groups)
    assert value == pytest.approx(expected[0], rel=1e-12, abs=1e-9)
    assert stderr == pytest.approx(expected[1], rel=1e-9, abs=1e-9, nan_ok=True)


def test_infinite_values_have_no_standard_error():
    groups = np.array([0, 1, 2])
    assert clustered_mean(np.array([1.0, -np.inf]), groups) == pytest.approx((-np.inf, np.nan), nan_ok=True)
    assert clustered_mean(np.array([np.inf, -np.inf]), groups) == pytest.approx((np.nan, np.nan), nan_ok=True)
    assert clustered_mean(np.empty(0), np.array([0])) == pytest.approx((np.nan, np.nan), nan_ok=True)


def test_huge_values_do_not_overflow():
    value, stderr = clustered_mean(np.array([1e308, 1e308, -1e308, 1e308]), np.arange(5))
    assert value == pytest.approx(0.5e308)
    assert stderr == pytest.approx(0.5e308)


def test_stderr_of_completions_that_repeat_is_that_of_the_prompts():
    """Eight copies of a completion say no more than one."""
    rng = np.random.default_rng(0)
    policy, prior = -rng.exponential(size=(20, 1)), -rng.exponential(size=(20, 1))

    def estimate(copies):
        return estimate_kl(
            Samples(
                prompts=Ragged.from_rows([[1]] * 20),
                completions=Ragged.from_rows([[1]] * 20 * copies),
                groups=np.arange(21) * copies,
                policy_logprobs=Ragged.from_rows(list(policy.repeat(copies, axis=0))),
                prior_logprobs=Ragged.from_rows(list(prior.repeat(copies, axis=0))),
            ),
            "k1",
        )

    assert estimate(8).value == pytest.approx(estimate(1).value)
    assert estimate(8).stderr == pytest.approx(estimate(1).stderr)


def test_a_missing_column_is_named():
    samples = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[2]]), [0, 1])
    with pytest.raises(ValueError, match="samples have no policy_logprobs"):
        estimate_kl(samples)
