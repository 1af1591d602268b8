from __future__ import annotations

import itertools

import numpy as np
import pytest

from esscher import Ragged, sequence_logprobs
from esscher.lm.tabular import END, TabularLM

# Three tokens, two steps: the nodes are the empty prefix, "1" and "2".
TABLE = np.array(
    [
        [[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.7, 0.2, 0.1]],
        [[0.2, 0.2, 0.6], [0.4, 0.5, 0.1], [0.3, 0.3, 0.4]],
    ]
)


def tiny():
    return TabularLM(np.log(TABLE) + 3.0)


def model(seed=0, prompts=3, vocabulary=4, depth=5):
    return TabularLM.random(np.random.default_rng(seed), prompts, vocabulary, depth)


def test_logprobs_are_those_of_the_table():
    completions = Ragged.from_rows([[0], [1, 2], [2, 0], [2, 1], [1]])
    found = tiny().logprobs(Ragged.from_rows([[1], [0]]), completions, [0, 3, 5])
    expected = [[0.2], [0.2, 0.1], [0.6, 0.3], [0.2, 0.2], [0.3]]
    np.testing.assert_allclose(np.exp(found.values), np.concatenate(expected), rtol=1e-14)
    assert found.offsets.tolist() == completions.offsets.tolist()
    assert found.values.dtype == np.float64


def test_enumeration_is_every_completion_once():
    everything = tiny().completions()
    expected = [[0], [1, 0], [2, 0], [1, 1], [1, 2], [2, 1], [2, 2]]
    assert [row.tolist() for row in everything.completions] == expected * 2
    assert everything.terminated.tolist() == [True] * 3 + [False] * 4 + [True] * 3 + [False] * 4
    probabilities = np.exp(sequence_logprobs(everything.policy_logprobs))
    np.testing.assert_allclose(probabilities[:7], [0.5, 0.03, 0.14, 0.18, 0.09, 0.04, 0.02], rtol=1e-13)


@pytest.mark.parametrize(("vocabulary", "depth"), [(4, 5), (2, 7), (6, 3), (3, 1)])
def test_probabilities_of_all_completions_sum_to_one(vocabulary, depth):
    everything = model(1, 3, vocabulary, depth).completions()
    probabilities = np.exp(sequence_logprobs(everything.policy_logprobs))
    np.testing.assert_allclose(np.add.reduceat(probabilities, everything.groups[:-1]), 1.0, rtol=0, atol=1e-12)


def test_prefixes_have_tables_of_their_own():
    """The next token depends on the whole prefix and on the prompt: no two contexts share a distribution."""
    lm = model()
    prefixes = [p for length in range(4) for p in itertools.product([1, 2, 3], repeat=length)]
    rows = [[*prefix, END] for prefix in prefixes]
    found = lm.logprobs(Ragged.from_rows([[0], [1]]), Ragged.from_rows(rows * 2), [0, len(rows), 2 * len(rows)])
    ends = found.values[found.offsets[1:] - 1]
    assert len(np.unique(ends)) == 2 * len(rows)


def test_sampled_logprobs_are_rescored_logprobs():
    lm = model()
    samples = lm.sample(Ragged.from_rows([[2], [0]]), 50, 5, np.random.default_rng(0))
    rescored = lm.logprobs(samples.prompts, samples.completions, samples.groups)
    np.testing.assert_array_equal(samples.policy_logprobs.values, rescored.values)


def test_a_prefix_and_its_continuation_are_scored_as_the_whole():
    """Wherever a completion is cut in two, the second part has the log-probs after the first that it has in it."""
    lm = model()
    whole = lm.sample(Ragged.from_rows([[2], [0]]), 30, 5, np.random.default_rng(8))
    cuts = [(i, k) for i, length in enumerate(whole.completions.lengths) for k in range(length)]
    prompts = Ragged.from_rows([[2 if i < 30 else 0, *whole.completions[i][:k]] for i, k in cuts])
    rests = Ragged.from_rows([whole.completions[i][k:] for i, k in cuts])
    found = lm.logprobs(prompts, rests, np.arange(len(cuts) + 1))
    expected = np.concatenate([whole.policy_logprobs[i][k:] for i, k in cuts])
    assert set(prompts.lengths) == {1, 2, 3, 4, 5}
    np.testing.assert_array_equal(found.values, expected)


def test_a_prefix_is_continued_as_the_whole_would_go_on():
    """Token by token, each drawn after all that came before, is as all at once: the same uniforms, the same tokens."""
    lm, n, steps = model(), 40, 5
    uniforms = np.random.default_rng(9).random((n, steps))

    class Given:
        def __init__(self, columns):
            self.columns = columns

        def random(self, shape):
            assert shape == self.columns.shape
            return self.columns

    whole = lm.sample(Ragged.from_rows([[1]]), n, steps, Given(uniforms))
    rows, going = [[1] for _ in range(n)], list(range(n))
    for t in range(steps):
        step = lm.sample(Ragged.from_rows([rows[i] for i in going]), 1, 1, Given(uniforms[going, t : t + 1]))
        for i, token in zip(going, step.completions.values, strict=True):
            rows[i].append(int(token))
        going = [i for i, ended in zip(going, step.terminated, strict=True) if not ended]
    assert [row[1:] for row in rows] == [row.tolist() for row in whole.completions]


def test_prefixes_of_unequal_length_are_continued_side_by_side():
    """The frequencies of the next token after each prefix are its table's."""
    lm, n = model(), 20_000
    prompts = Ragged.from_rows([[1, 3, 2], [0], [1, 2]])
    drawn = lm.sample(prompts, n, 1, np.random.default_rng(10)).completions.values.reshape(3, n)
    tokens = Ragged.from_rows([[0], [1], [2], [3]] * 3)
    expected = n * np.exp(lm.logprobs(prompts, tokens, np.arange(4) * 4).values).reshape(3, 4)
    counts = np.array([np.bincount(row, minlength=4) for row in drawn])
    assert len(np.unique(expected.round(6))) == 12
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected * (1 - expected / n))).all()


def test_a_seed_gives_what_it_gave_before_prompts_could_have_a_prefix():
    samples = model().sample(Ragged.from_rows([[2], [0]]), 4, 5, np.random.default_rng(0))
    assert [row.tolist() for row in samples.completions] == [
        [2, 2, 0],
        [3, 0],
        [2, 0],
        [0],
        [0],
        [1, 3, 3, 3, 1],
        [2, 1, 0],
        [0],
    ]


@pytest.mark.parametrize("sampling_temperature", [1.0, 0.5, 2.0])
def test_frequencies_are_probabilities(sampling_temperature):
    """Pearson's statistic over all completions stays within five standard deviations of its mean."""
    logits = np.random.default_rng(3).normal(size=(2, 13, 4))
    n = 20_000
    samples = TabularLM(logits).sample(Ragged.from_rows([[1]]), n, 3, np.random.default_rng(5), sampling_temperature)
    everything = TabularLM(logits / sampling_temperature).completions()
    rows = [tuple(row) for row in list(everything.completions)[everything.groups[1] :]]
    expected = n * np.exp(sequence_logprobs(everything.policy_logprobs))[everything.groups[1] :]
    counts = dict.fromkeys(rows, 0)
    for row in samples.completions:
        counts[tuple(row)] += 1
    likely = expected >= 5
    statistic = ((np.array(list(counts.values())) - expected) ** 2 / expected)[likely].sum()
    assert abs(statistic - likely.sum()) < 5 * np.sqrt(2 * likely.sum())


def test_tempered_logprobs_are_those_sampled_from():
    logits = np.random.default_rng(3).normal(size=(1, 13, 4))
    samples = TabularLM(logits).sample(Ragged.from_rows([[0]]), 20, 3, np.random.default_rng(0), 0.7)
    tempered = TabularLM(logits / 0.7).logprobs(samples.prompts, samples.completions, samples.groups)
    np.testing.assert_allclose(samples.policy_logprobs.values, tempered.values, rtol=1e-13)


def test_terminated_says_which_completions_have_an_end_token():
    samples = model().sample(Ragged.from_rows([[0]]), 200, 3, np.random.default_rng(0))
    last = samples.completions.values[samples.completions.offsets[1:] - 1]
    np.testing.assert_array_equal(samples.terminated, last == END)
    assert 0 < samples.terminated.sum() < 200
    assert (samples.completions.lengths[~samples.terminated] == 3).all()
    assert (samples.completions.values == END).sum() == samples.terminated.sum()


def test_a_seed_gives_the_same_completions_again():
    first, again, other = (
        model().sample(Ragged.from_rows([[0], [1]]), 20, 5, np.random.default_rng(seed)).completions
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.values, again.values)
    assert first.values.tolist() != other.values.tolist()


def test_a_forbidden_token_is_never_drawn_and_has_no_probability():
    logits = np.random.default_rng(0).normal(size=(1, 4, 4))
    logits[..., 2] = -np.inf
    lm = TabularLM(logits[:, :1])
    assert not (lm.sample(Ragged.from_rows([[0]]), 500, 1, np.random.default_rng(0)).completions.values == 2).any()
    assert lm.completions().policy_logprobs.values[2] == -np.inf


def test_a_certain_token_has_log_prob_zero():
    lm = TabularLM([[[-800.0, 0.1]]])
    assert lm.completions().policy_logprobs.values.tolist() == [-800.1, 0.0]


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros((2, 3)), r"logits has shape \(2, 3\)"),
        (np.zeros((1, 3, 1)), "vocabulary of at least 2"),
        (np.zeros((0, 1, 3)), r"logits has shape \(0, 1, 3\)"),
        (np.zeros((1, 2, 3)), "logits has 2 nodes: with 3 tokens that is no whole tree"),
        (np.zeros((1, 0, 3)), "logits has 0 nodes"),
        ([[[0.0, np.nan]]], r"logits\[0\]\[0\]\[1\] is nan"),
        ([[[0.0, np.inf]]], r"logits\[0\]\[0\]\[1\] is inf"),
        ([[[-np.inf, -np.inf]]], r"logits\[0\]\[0\] is -inf throughout"),
    ],
)
def test_bad_tables_are_refused(logits, message):
    with pytest.raises(ValueError, match=message):
        TabularLM(logits)


@pytest.mark.parametrize(
    ("prompts", "completions", "groups", "message"),
    [
        ([[0, 1, 4]], [[1]], [0, 1], r"prompts\[0\]\[2\] is 4: after the first, .* come only tokens 1 to 3"),
        (
            [[0], [1, 2, 0]],
            [[1], [1]],
            [0, 1, 2],
            r"prompts\[1\]\[2\] is 0: after the first, .* come only tokens 1 to 3",
        ),
        ([[3, 1]], [[1]], [0, 1], r"prompts\[0\]\[0\] is 3: it names the table, 0 to 2"),
        ([[0, 1, 1, 1, 1, 1]], [[1]], [0, 1], r"prompts\[0\] has 5 tokens after the first, .* cuts sequences off at 5"),
        ([[0, 1, 1]], [[1, 1, 1, 1]], [0, 1], r"completions\[0\] has 4 tokens after the 3 of prompts\[0\]"),
        ([[]], [[1]], [0, 1], r"prompts\[0\] has no tokens"),
        ([[3]], [[1]], [0, 1], r"prompts\[0\]\[0\] is 3: .* 0 to 2"),
        ([[0]], [[1], [2, 4]], [0, 2], r"completions\[1\]\[1\] is 4: .* 0 to 3"),
        ([[0]], [[1], [2, 0, 1]], [0, 2], r"completions\[1\] goes on after its end token"),
        ([[0]], [[1, 1, 1, 1, 1, 1]], [0, 1], r"completions\[0\] has 6 tokens after the 1 of prompts\[0\]"),
        ([[0]], [[]], [0, 1], r"completions\[0\] has no tokens"),
        ([[0]], [[1]], [0, 2], "groups ends at 2"),
    ],
)
def test_bad_requests_are_refused(prompts, completions, groups, message):
    with pytest.raises(ValueError, match=message):
        model().logprobs(Ragged.from_rows(prompts), Ragged.from_rows(completions), groups)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 6}, r"prompts\[0\] has 1 tokens and max_new_tokens is 6: .* at most 6"),
        ({"sampling_temperature": 0.0}, "sampling_temperature is 0.0"),
        ({"sampling_temperature": float("nan")}, "sampling_temperature is nan"),
        ({"prompts": Ragged.from_rows([[0], [9]])}, r"prompts\[1\]\[0\] is 9"),
        ({"prompts": Ragged.from_rows([[-1]])}, r"prompts\[0\]\[0\] is -1: it names the table, 0 to 2"),
        ({"prompts": Ragged.from_rows([])}, "prompts is empty"),
        ({"prompts": Ragged.from_rows([[0], []])}, r"prompts\[1\] has no tokens"),
        ({"prompts": Ragged.from_rows([[0], [1, 0]])}, r"prompts\[1\]\[1\] is 0: after the first"),
        ({"prompts": Ragged.from_rows([[1, 2, 3, 1, 1, 3]])}, r"prompts\[0\] has 5 tokens after the first"),
        ({"prompts": Ragged.from_rows([[1, 2, 3, 1]])}, r"prompts\[0\] has 4 tokens and max_new_tokens is 3"),
    ],
)
def test_bad_sampling_is_refused(changes, message):
    arguments = {"prompts": Ragged.from_rows([[0]]), "n": 2, "max_new_tokens": 3, **changes}
    with pytest.raises(ValueError, match=message):
        model().sample(rng=np.random.default_rng(0), **arguments)


def test_prompts_that_are_not_ragged_are_refused():
    for prompts in ([[0]], Ragged.from_rows([[0.0]])):
        with pytest.raises(TypeError, match="prompts is not Ragged"):
            model().sample(prompts, 1, 1, np.random.default_rng(0))
