"""Known faults of samples are named, and nothing is said of samples without them."""

from dataclasses import replace

import numpy as np
import pytest

from esscher import Ragged, Samples, Tilt, compare, evaluate, prototype
from esscher.divergence import estimate_kl
from esscher.faults import warn_of_samples

END, PAD, START = 2, 0, 1
SENTINELS = [-9999.0, -100.0, -1000.0, -10000.0, -1e9, -65504.0, *(float(np.finfo(np.float32).min) for _ in range(1))]


def drawn(prompts=8, each=8, seed=0, terminated=True):
    """Completions of 3 to 12 tokens that end with the end token, and log-probs with all their digits."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 13, prompts * each)
    rows = [np.append(rng.integers(10, 60, length - 1), END) for length in lengths]
    prior = -rng.exponential(size=lengths.sum())
    policy = np.minimum(prior + 0.2 * rng.normal(size=len(prior)), -1e-4)
    return Samples(
        prompts=Ragged.from_rows([[START, 3 + p, 4] for p in range(prompts)]),
        completions=Ragged.from_rows(rows),
        groups=np.arange(prompts + 1) * each,
        policy_logprobs=Ragged.from_lengths(policy.astype(np.float32), lengths),
        prior_logprobs=Ragged.from_lengths(prior.astype(np.float32), lengths),
        rewards=rng.normal(size=len(rows)),
        terminated=np.full(len(rows), True) if terminated else None,
    )


def with_values(samples, name, value, tokens):
    column = getattr(samples, name)
    values = column.values.copy()
    values[tokens] = value
    return replace(samples, **{name: Ragged(values, column.offsets)})


def with_rows(rows, **columns):
    return Samples(
        Ragged.from_rows([[START, 5]]), Ragged.from_rows(rows), [0, len(rows)], rewards=np.arange(len(rows)), **columns
    )


def padded(rows, width, pad):
    return [[*row, *[pad] * (width - len(row))] for row in rows]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_said_of_samples_without_a_fault(seed):
    assert warn_of_samples(drawn(seed=seed)) == ()
    assert warn_of_samples(drawn(seed=seed, terminated=False)) == ()


@pytest.mark.parametrize("name", ["policy_logprobs", "prior_logprobs"])
@pytest.mark.parametrize("value", SENTINELS)
def test_values_that_stand_for_no_log_prob_are_named(name, value):
    (said,) = warn_of_samples(with_values(drawn(), name, value, [5, 77]))
    row, token = drawn().completions.locate(5)
    assert said.startswith(f"{name} holds {value:g} at 2 tokens, in 2 of 64 completions (the first at [{row}][{token}]")


def test_the_least_number_of_bfloat16_and_several_values_are_named():
    lowest = -3.3895313892515355e38
    samples = with_values(with_values(drawn(), "prior_logprobs", lowest, [1, 2, 3]), "prior_logprobs", -100.0, [9])
    assert warn_of_samples(samples)[0].startswith(
        f"prior_logprobs holds {lowest:g} at 3 tokens and -100 at 1 token, in "
    )


@pytest.mark.parametrize("value", [-1.0, -20.0, -50.0])
def test_a_whole_number_that_comes_back_is_named(value):
    (said,) = warn_of_samples(with_values(drawn(), "policy_logprobs", value, np.arange(0, 60, 6)))
    assert said.startswith(f"policy_logprobs holds {value:g} at 10 tokens")


def test_whole_numbers_are_no_accident_among_numbers_of_16_bits():
    samples = drawn(40, 16)
    values = samples.prior_logprobs.values
    coarse = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    assert (coarse == -1).sum() >= 5
    assert warn_of_samples(replace(samples, prior_logprobs=Ragged(coarse, samples.completions.offsets))) == ()


def test_a_sentinel_is_told_wherever_the_column_is_read():
    good = drawn()
    bad = with_values(good, "policy_logprobs", -9999.0, [5])
    policy = "policy_logprobs holds -9999 at 1 token"
    for told in (
        evaluate(bad),
        evaluate(bad, Tilt(1.0)),
        estimate_kl(bad),
        estimate_kl(bad, "k3", level="sequence"),
        estimate_kl(bad, preset="verl"),
        estimate_kl(bad, preset="disco", log_potential=good.rewards),
    ):
        assert sum(warning.startswith(policy) for warning in told.warnings) == 1
    bad = with_values(good, "prior_logprobs", -9999.0, [5])
    prior = "prior_logprobs holds -9999 at 1 token"
    for told in (prototype(bad), evaluate(bad, Tilt(1.0), proposal="prior"), compare(good, {"a": bad})):
        assert sum(prior in warning for warning in told.warnings) == 1


def test_one_above_zero_stays_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"policy_logprobs\[\d+\]\[\d+\] is 1.0: a log-prob is at most 0"):
        with_values(drawn(), "policy_logprobs", 1.0, [5])


@pytest.mark.parametrize("name", ["policy", "prior"])
def test_rows_and_columns_of_zeros_are_named(name):
    samples = drawn()
    row = slice(*samples.completions.offsets[3:5])
    (said,) = warn_of_samples(with_values(samples, f"{name}_logprobs", 0.0, row))
    assert said.startswith(f"1 of 64 completions have {name} log-probs of exactly 0 at every token")
    (said,) = warn_of_samples(with_values(samples, f"{name}_logprobs", 0.0, slice(None)))
    assert said.startswith(f"64 of 64 completions have {name} log-probs of exactly 0")


def test_a_column_of_zeros_is_named_where_rows_have_one_token():
    zeros, ones = Ragged.from_rows([[0.0], [0.0]]), Ragged.from_rows([[-0.3], [-0.7]])
    (said,) = warn_of_samples(with_rows([[5], [6]], policy_logprobs=ones, prior_logprobs=zeros))
    assert said.startswith("2 of 2 completions have prior log-probs of exactly 0 at every token")
    assert (
        warn_of_samples(with_rows([[5], [6]], policy_logprobs=ones, prior_logprobs=Ragged.from_rows([[0.0], [-1.5]])))
        == ()
    )


def test_zeros_of_kl_and_entropy_are_named_where_log_probs_speak_against_them():
    zeros = Ragged(np.zeros_like(drawn().prior_logprobs.values), drawn().completions.offsets)
    (said,) = warn_of_samples(replace(drawn(), token_kl=zeros))
    assert said.startswith("token_kl is exactly 0 at every token, but by the log-probs policy and prior differ at ")
    (said,) = warn_of_samples(replace(drawn(), policy_entropy=zeros))
    assert said.startswith(
        "policy_entropy is exactly 0 at every token, but by the log-probs the policy was not certain"
    )
    assert warn_of_samples(replace(drawn(), token_kl=zeros, policy_logprobs=drawn().prior_logprobs)) == ()


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("pad", [END, PAD])
def test_padding_that_is_kept_is_named(pad, terminated):
    samples = drawn(terminated=terminated)
    rows = [row.tolist() for row in samples.completions]
    width = max(map(len, rows))
    longer = Samples(
        samples.prompts,
        Ragged.from_rows(padded(rows, width, pad)),
        samples.groups,
        rewards=samples.rewards,
        terminated=samples.terminated,
    )
    (said,) = warn_of_samples(longer)
    behind = sum(width - len(row) for row in rows)
    on = sum(width - len(row) > (pad == PAD) for row in rows)
    first = next(i for i, row in enumerate(rows) if width - len(row) > (pad == PAD))
    assert said.startswith(f"{on} of 64 completions go on after their end (the first is completion {first}, ")
    assert f"the token {pad} is repeated" in said
    # A pad that is not the end token is itself too many; of it, one a row is not seen to be repeated.
    seen = behind if pad == END else behind - on - sum(width - len(row) == 1 for row in rows)
    assert f"{seen} of {width * 64} tokens" in said
    assert any("go on after their end" in warning for warning in evaluate(longer).warnings)
    assert any("go on after their end" in warning for warning in prototype(longer).warnings)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([[END]] * 6, id="single tokens"),
        pytest.param([[7, 7, 7], [7, 7], [7], [7, 7, 7, 7]], id="one token from the first place on"),
        pytest.param([[5, 8, 8, 8, 2], [8, 8, 8, 2], [6, 5, 8, 8, 2]], id="repetition before the end"),
        pytest.param([[5, 8, 8, 8], [6, 5, 8, 8, 8], [8, 9, 3, 2]], id="a word that others follow elsewhere"),
        pytest.param([[5, 6, 6, 6, 6], [5, 7, 4, 3, 3], [5, 6, 9, 2]], id="each its own repetition"),
        pytest.param([[5, 9, 9], [6, 5, 9, 9], [4, 3, 2]], id="twice, as in a last word"),
    ],
)
def test_natural_repetition_is_not_padding(rows):
    assert warn_of_samples(with_rows(rows)) == ()


def test_a_policy_that_repeats_itself_until_it_is_cut_off_has_no_end():
    rows = padded([[5], [6, 7], [4, 3, 5]], 12, 9)
    assert warn_of_samples(with_rows(rows, terminated=np.zeros(3, bool))) == ()
    assert len(warn_of_samples(with_rows(rows))) == 1


def test_a_start_token_too_many_is_named():
    samples = drawn()
    prompts = [[START, *row] if p in (2, 5) else row.tolist() for p, row in enumerate(samples.prompts)]
    doubled = replace(samples, prompts=Ragged.from_rows(prompts))
    (said,) = warn_of_samples(doubled)
    assert said.startswith(
        "2 of 8 prompts begin with the token 1 twice, the others with it once (the first of them is p"
    )
    assert "prompt 2, counted from 0" in said
    assert said in evaluate(doubled).warnings


@pytest.mark.parametrize(
    "prompts",
    [
        pytest.param([[1, 1, 5], [1, 1, 6], [1, 1, 7]], id="all of them"),
        pytest.param([[1, 3], [1, 1], [2, 4], [5, 6]], id="no common start"),
        pytest.param([[1], [1, 2], [1, 3], [1, 4]], id="one token"),
        pytest.param([[1, 1], [1, 2]], id="too few to tell"),
    ],
)
def test_other_starts_are_none(prompts):
    n = len(prompts)
    samples = Samples(Ragged.from_rows(prompts), Ragged.from_rows([[7 + i, END] for i in range(n)]), np.arange(n + 1))
    assert warn_of_samples(samples) == ()


def test_rewards_that_are_all_equal_are_told():
    (said,) = warn_of_samples(replace(drawn(), rewards=np.full(64, 0.5)))
    assert said.startswith("All 64 rewards are 0.5: the reward prefers no completion to another")
    assert said in evaluate(replace(drawn(), rewards=np.full(64, 0.5)), Tilt(0.1)).warnings
    (said,) = warn_of_samples(replace(drawn(), rewards=np.repeat(np.arange(8.0), 8)))
    assert said.startswith("Within every prompt all completions have the same reward")
    one_each = Samples(Ragged.from_rows([[1], [3]]), Ragged.from_rows([[7], [8]]), [0, 1, 2], rewards=[1.0, 1.0])
    assert warn_of_samples(one_each)[0].startswith("All 2 rewards are 1")
    assert warn_of_samples(replace(one_each, rewards=[1.0, 2.0])) == ()
