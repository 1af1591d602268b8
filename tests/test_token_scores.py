"""Scores from logits, against log-softmax in float64."""

import numpy as np
import pytest
import torch

from esscher import token_scores


def logits(rng, tokens, vocabulary, scale):
    return (scale * rng.standard_normal((tokens, vocabulary))).astype(np.float32)


def exact(values):
    return torch.log_softmax(torch.from_numpy(values).double(), dim=1).numpy()


def assert_scores(got, policy, prior, ids):
    log_policy, log_prior = exact(policy), exact(prior)
    rows = np.arange(len(ids))
    expected = (
        log_policy[rows, ids],
        -(np.exp(log_policy) * log_policy).sum(1),
        log_prior[rows, ids],
        (np.exp(log_policy) * (log_policy - log_prior)).sum(1),
    )
    for name, column, want in zip(got._fields, got, expected, strict=True):
        assert column == pytest.approx(want, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("vocabulary", [1, 2, 7, 50, 2047, 2049, 50_257])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 10.0, 1000.0])
def test_scores_equal_log_softmax(vocabulary, scale):
    rng = np.random.default_rng(vocabulary)
    policy = logits(rng, 5, vocabulary, scale)
    prior = policy + logits(rng, 5, vocabulary, 0.1 * scale) + np.float32(3.0)
    ids = rng.integers(0, vocabulary, 5)
    got = token_scores(policy, ids, prior)
    assert_scores(got, policy, prior, ids)
    alone = token_scores(policy, ids)
    assert np.array_equal(alone.logprobs, got.logprobs)
    assert np.array_equal(alone.entropy, got.entropy)
    assert alone.prior_logprobs is alone.kl is None


def test_bfloat16_is_read_as_it_is():
    rng = np.random.default_rng(0)
    policy, prior = (torch.from_numpy(logits(rng, 4, 3001, 3.0)).bfloat16() for _ in range(2))
    ids = torch.tensor([0, 5, 3000, 7])
    assert_scores(token_scores(policy, ids, prior), policy.float().numpy(), prior.float().numpy(), ids.numpy())


def test_equal_models_have_no_kl():
    policy = logits(np.random.default_rng(0), 3, 40_000, 5.0)
    assert token_scores(policy, [0, 1, 2], policy).kl == pytest.approx(np.zeros(3), abs=1e-7)
    assert (token_scores(policy, [0, 1, 2], policy + np.float32(1e-3)).kl >= 0).all()


def test_what_only_the_prior_forbids_makes_the_kl_infinite():
    policy = np.array([[0.0, 0.0, -np.inf], [0.0, -90.0, 0.0]], np.float32)
    prior = np.array([[0.0, 1.0, -np.inf], [0.0, -np.inf, 0.0]], np.float32)
    got = token_scores(policy, [2, 1], prior)
    assert got.logprobs[0] == -np.inf
    assert got.kl[0] == pytest.approx(np.log((1 + np.e) / 2) - 0.5, rel=1e-6)
    assert got.kl[1] == np.inf
    assert got.entropy == pytest.approx(np.log([2.0, 2.0]), rel=1e-6)


def test_threads_and_batch_change_no_bit():
    rng = np.random.default_rng(0)
    policy, prior = logits(rng, 33, 5000, 4.0), logits(rng, 33, 5000, 4.0)
    ids = rng.integers(0, 5000, 33)
    one = token_scores(policy, ids, prior, threads=1)
    for threads in (2, 5, 16):
        for a, b in zip(one, token_scores(policy, ids, prior, threads=threads), strict=True):
            assert np.array_equal(a, b)
    alone = [token_scores(policy[i : i + 1], ids[i : i + 1], prior[i : i + 1]) for i in range(33)]
    for field in one._fields:
        assert np.array_equal(getattr(one, field), np.concatenate([getattr(score, field) for score in alone]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros(3, np.float32), [0]), ValueError, "logits has 1 dimensions"),
        ((np.zeros((1, 3)), [0]), TypeError, "logits has dtype float64: it must be float32, bfloat16 or float16"),
        ((np.zeros((1, 3), np.uint16), [0]), TypeError, "logits has dtype uint16"),
        ((np.zeros((2, 3), np.float32), [0]), ValueError, "logits has 6 entries, token_ids times vocabulary has 3"),
        ((np.zeros((1, 3), np.float32), [3]), ValueError, r"token_ids\[0\] is 3: the vocabulary has 3 tokens"),
        ((np.zeros((1, 3), np.float32), [-1]), ValueError, r"token_ids\[0\] is -1"),
        ((np.zeros((1, 3), np.float32), [0.0]), TypeError, "token_ids has dtype float64"),
        ((np.array([[0, np.nan]], np.float32), [0]), ValueError, r"logits\[0, 1\] is NaN"),
        ((np.array([[0, np.inf]], np.float32), [0]), ValueError, r"logits\[0, 1\] is inf"),
        ((np.full((1, 2), -np.inf, np.float32), [0]), ValueError, r"logits\[0\] is -inf throughout"),
        ((np.zeros((1, 6), np.float32), [0], np.zeros((2, 3), np.float32)), ValueError, "vocabulary of prior_logits"),
        (
            (np.zeros((1, 2), np.float32), [0], torch.zeros((1, 2), dtype=torch.bfloat16)),
            TypeError,
            "must have the same dtype",
        ),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        token_scores(*arguments)
