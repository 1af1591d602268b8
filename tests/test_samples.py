from dataclasses import replace

import numpy as np
import pytest

from esscher import Ragged, Samples, concatenate

PROMPTS = Ragged.from_rows([[1, 2], [3]])
COMPLETIONS = Ragged.from_rows([[5, 6], [7], [8, 9, 2]])
LOGPROBS = Ragged.from_rows([[-1.0, -0.5], [0.0], [-np.inf, -2.0, -0.1]])


def column_with(value):
    return Ragged(np.array([-1.0, -0.5, 0.0, -1.0, value, -0.1]), COMPLETIONS.offsets)


def samples(**columns):
    return Samples(PROMPTS, COMPLETIONS, [0, 2, 3], **columns)


def test_columns_are_named():
    full = samples(policy_logprobs=LOGPROBS, rewards=[1, 2, 3], terminated=[True, False, True])
    assert full.columns == ("policy_logprobs", "rewards", "terminated")
    assert full.groups.of.tolist() == [0, 0, 1]
    assert full.completions.values.dtype == np.uint32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"completions": Ragged.from_rows([]), "groups": [0, 0, 0]}, "completions is empty"),
        ({"completions": Ragged.from_rows([[5], [], [8]])}, r"completions\[1\] has no tokens"),
        ({"groups": [0, 3]}, "groups has 2 entries, but there are 2 prompts"),
        ({"groups": [0, 0, 3]}, r"groups\[0\] has no completions"),
        ({"groups": [0, 2, 1]}, r"groups\[2\] is 1, below the 2"),
        ({"groups": [0, 1, 2]}, "groups ends at 2"),
        ({"completions": Ragged.from_rows([[5, -6], [7], [8]])}, "completions: token 1 is -6"),
        ({"prompts": Ragged.from_rows([[1], [2**32]])}, "prompts: token 1 is 4294967296"),
        ({"policy_logprobs": Ragged.from_rows([[-1.0], [-1.0]])}, "policy_logprobs has 2 rows, completions has 3"),
        ({"prior_logprobs": Ragged.from_rows([[-1.0], [-1.0], [-1.0]])}, r"prior_logprobs row 0 has 1 tokens"),
        ({"policy_logprobs": column_with(np.nan)}, r"policy_logprobs\[2\]\[1\] is nan: a log-prob is at most 0"),
        ({"prior_logprobs": column_with(1e-3)}, r"prior_logprobs\[2\]\[1\] is 0.001: a log-prob is at most 0"),
        ({"token_kl": column_with(-1.0)}, r"token_kl\[0\]\[0\] is -1.0: a token_kl is at least 0"),
        ({"rewards": [0.0, np.nan, 1.0]}, r"rewards\[1\] is nan"),
        ({"rewards": [0.0, 1.0, np.inf]}, r"rewards\[2\] is inf"),
        ({"rewards": [0.0]}, r"rewards has shape \(1,\), but there are 3 completions"),
        ({"terminated": [[True, True, False]]}, r"terminated has shape \(1, 3\)"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    arguments = {"prompts": PROMPTS, "completions": COMPLETIONS, "groups": [0, 2, 3]} | changes
    with pytest.raises(ValueError, match=message):
        Samples(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"completions": [[5], [6], [7]]}, "completions is list: it must be Ragged"),
        ({"completions": Ragged.from_rows([[5.0], [6.0], [7.0]])}, "completions has dtype float64"),
        ({"policy_logprobs": [-1.0]}, "policy_logprobs is list"),
        ({"policy_logprobs": COMPLETIONS}, "policy_logprobs has dtype"),
        ({"rewards": ["a", "b", "c"]}, "rewards has dtype"),
        ({"terminated": ["stop", "length", "stop"]}, "terminated has dtype"),
    ],
)
def test_what_has_the_wrong_type_is_named(changes, message):
    arguments = {"prompts": PROMPTS, "completions": COMPLETIONS, "groups": [0, 2, 3]} | changes
    with pytest.raises(TypeError, match=message):
        Samples(**arguments)


def test_rewards_of_minus_infinity_are_legal():
    assert samples(rewards=[0.0, -np.inf, 1.0]).rewards[1] == -np.inf


def test_concatenate_is_the_inverse_of_cutting():
    whole = samples(policy_logprobs=LOGPROBS, rewards=[1.0, 2.0, 3.0], terminated=[True, False, True])
    first = Samples(
        PROMPTS.take([0]), COMPLETIONS.take([0, 1]), [0, 2], LOGPROBS.take([0, 1]), None, [1.0, 2.0], [True, False]
    )
    second = Samples(PROMPTS.take([1]), COMPLETIONS.take([2]), [0, 1], LOGPROBS.take([2]), None, [3.0], [True])
    joined = concatenate([first, second])
    assert joined.groups.tolist() == whole.groups.tolist()
    assert joined.rewards.tolist() == whole.rewards.tolist()
    assert np.array_equal(joined.policy_logprobs.values, whole.policy_logprobs.values)
    assert np.array_equal(joined.completions.offsets, whole.completions.offsets)


def test_concatenate_drops_nothing_in_silence():
    with pytest.raises(ValueError, match=r"parts\[1\] has the columns \(\), parts\[0\] \('rewards',\)"):
        concatenate([samples(rewards=[1, 2, 3]), samples()])
    with pytest.raises(ValueError, match="parts is empty"):
        concatenate([])


def test_samples_can_be_changed_by_replacing_columns():
    assert replace(samples(), rewards=[1, 2, 3]).columns == ("rewards",)


@pytest.mark.parametrize("dtype", [bool, int, np.uint8, float])
def test_ones_and_zeros_are_whether_completions_ended(dtype):
    assert samples(terminated=np.array([1, 0, 1], dtype)).terminated.tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"terminated\[1\] is 2: it is True or False, or 1 or 0"):
        samples(terminated=[1, 2, 0])


def test_a_needed_column_is_there_or_named_with_the_reason():
    rows = Ragged.from_rows([[5, 6], [7]])
    samples = Samples(Ragged.from_rows([[1]]), rows, [0, 2], rewards=[1, 0])
    assert samples.need("rewards", why="they are averaged").dtype == np.float64
    for column in ("policy_logprobs", "prior_logprobs", "terminated", "token_kl", "policy_entropy"):
        with pytest.raises(ValueError, match=f"samples have no {column}: this test asks"):
            samples.need(column, why="this test asks")
    with pytest.raises(ValueError, match="samples have no prior_logprobs: "):
        _ = samples.prior_log_prob
    logprobs = Ragged.from_rows([[-1.0, -0.5], [-2.0]])
    assert Samples(samples.prompts, rows, [0, 2], policy_logprobs=logprobs).policy_log_prob.tolist() == [-1.5, -2.0]
