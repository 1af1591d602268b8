"""What is no `Ragged`, `Padded` or `Samples` is told how to become one, wherever columns and samples are taken."""

import numpy as np
import pytest

from esscher import (
    Padded,
    Ragged,
    Samples,
    Tilt,
    aggregate_logprobs,
    best_of_n_rewards,
    compare,
    concatenate,
    distinct,
    estimate_diversity,
    estimate_kl,
    estimate_kls,
    evaluate,
    exponential_weights,
    frontier,
    importance,
    kl,
    kl_estimators,
    prototype,
    rarefied_distinct,
    self_bleu,
    sequence_logprobs,
    top_ngrams,
)
from esscher.wire.codec import encode_logprob_pair, encode_samples, encode_tokens

LOGPROBS = Ragged.from_rows([[-1.0, -2.0], [-3.0, -4.0]])
IDS = Ragged.from_rows([[1, 2], [3, 4]])
PROMPTS = Ragged.from_rows([[1], [2]])
SAMPLES = Samples(PROMPTS, IDS, [0, 1, 2], LOGPROBS, LOGPROBS, rewards=[0.0, 1.0])
# Per argument: what takes it. The first take `Padded` too, the second do not.
LOGPROB_COLUMNS = {
    "logprobs": [sequence_logprobs, aggregate_logprobs],
    "policy_logprobs": [lambda x: kl_estimators(x, LOGPROBS), lambda x: kl_estimators(x, x), lambda x: kl(x, x)],
    "prior_logprobs": [lambda x: kl_estimators(LOGPROBS, x), lambda x: kl(LOGPROBS, x)],
}
COLUMNS = {
    "policy_logprobs": [
        lambda x: Samples(PROMPTS, IDS, [0, 1, 2], policy_logprobs=x),
        lambda x: encode_logprob_pair(x, LOGPROBS),
    ],
    "prior_logprobs": [lambda x: encode_logprob_pair(LOGPROBS, x)],
    "token_kl": [lambda x: Samples(PROMPTS, IDS, [0, 1, 2], token_kl=x)],
    "proposal_logprobs": [lambda x: estimate_kl(SAMPLES, proposal_logprobs=x)],
    "prompts": [lambda x: Samples(x, IDS, [0, 1, 2])],
    "completions": [lambda x: Samples(PROMPTS, x, [0, 1, 2]), lambda x: estimate_diversity(x, [0, 2])],
    "token_ids": [
        lambda x: distinct(x, 2),
        lambda x: rarefied_distinct(x, 2, [0, 2], 1),
        self_bleu,
        lambda x: top_ngrams(x, 2, 3),
    ],
}
SAMPLES_TAKEN = {
    "samples": [
        estimate_kl,
        lambda x: estimate_kl(x, preset="trl-grpo"),
        estimate_kls,
        evaluate,
        lambda x: evaluate(x, Tilt(1.0)),
        prototype,
        encode_samples,
        encode_tokens,
    ],
    r"parts\[1\]": [lambda x: concatenate([SAMPLES, x])],
    "prior": [lambda x: compare(x, {"a": SAMPLES})],
    r"policies\['a'\]": [lambda x: compare(SAMPLES, {"a": x})],
}


def calls(table):
    return [pytest.param(name, call, id=f"{name}-{i}") for name, takes in table.items() for i, call in enumerate(takes)]


def arrays(dimensions):
    """The same numbers as an array of NumPy and as a tensor, which may want a gradient."""
    torch = pytest.importorskip("torch")
    array = -np.arange(4.0).reshape((4,) if dimensions == 1 else (2, 2))
    return [array, torch.tensor(array), torch.tensor(array, requires_grad=True), torch.tensor(array).bfloat16()]


@pytest.mark.parametrize(("name", "call"), calls(LOGPROB_COLUMNS))
def test_two_dimensions_without_a_mask_are_to_be_padded(name, call):
    for array in arrays(2):
        with pytest.raises(TypeError, match=rf"^{name} is \w+ of 2 dimensions.*make it Padded\({name}, mask=mask\)"):
            call(array)


@pytest.mark.parametrize(("name", "call"), calls(COLUMNS))
def test_two_dimensions_are_to_be_ragged_where_padded_will_not_do(name, call):
    for array in (*arrays(2), Padded(np.zeros((2, 2)), lengths=[2, 2])):
        with pytest.raises(
            TypeError, match=rf"^{name} is \w+ of 2 dim.*Ragged.from_padded\({name}, mask=mask\), as Padded"
        ):
            call(array)


@pytest.mark.parametrize(("name", "call"), calls(LOGPROB_COLUMNS) + calls(COLUMNS))
def test_one_dimension_is_to_be_divided(name, call):
    for array in arrays(1):
        with pytest.raises(
            TypeError, match=rf"^{name} is \w+ of 1 dimension: .*make it Ragged.from_lengths\({name}, l"
        ):
            call(array)


@pytest.mark.parametrize("wrong", [[-1.0], [[-1.0, -2.0], [-3.0]], [np.zeros(2)], "text", 3, {}], ids=repr)
@pytest.mark.parametrize(("name", "call"), calls(LOGPROB_COLUMNS) + calls(COLUMNS))
def test_anything_else_is_to_be_made_of_rows(name, call, wrong):
    with pytest.raises(
        TypeError, match=rf"^{name} is {type(wrong).__name__}: it must be Ragged.*Ragged.from_rows\(rows\)"
    ):
        call(wrong)


@pytest.mark.parametrize(
    "wrong", [None, np.zeros(2), [SAMPLES], {"a": SAMPLES}, LOGPROBS], ids=lambda w: type(w).__name__
)
@pytest.mark.parametrize(("name", "call"), calls(SAMPLES_TAKEN))
def test_samples_are_asked_for(name, call, wrong):
    with pytest.raises(TypeError, match=rf"^{name} is {type(wrong).__name__}: it must be Samples"):
        call(wrong)


PER_SAMPLE = {
    "rewards": [
        lambda x: exponential_weights(x, 1.0),
        frontier,
        lambda x: best_of_n_rewards(x, [0, 2], [1]),
        lambda x: Samples(PROMPTS, IDS, [0, 1, 2], rewards=x),
    ],
    "log_target": [lambda x: importance(x, [0.0, 0.0])],
    "log_proposal": [lambda x: importance([0.0, 0.0], x)],
    "terminated": [lambda x: Samples(PROMPTS, IDS, [0, 1, 2], terminated=x)],
}


@pytest.mark.parametrize("wrong", [LOGPROBS, Padded(np.zeros((2, 2)), lengths=[2, 2])], ids=lambda w: type(w).__name__)
@pytest.mark.parametrize(("name", "call"), calls(PER_SAMPLE))
def test_tokens_are_not_a_number_for_each_sample(name, call, wrong):
    with pytest.raises(TypeError, match=rf"^{name} is {type(wrong).__name__}: it has one number for each sample; seq"):
        call(wrong)


@pytest.mark.parametrize("wrong", [[[0.0, 1.0], [2.0]], ["a", "b"], "text"], ids=repr)
@pytest.mark.parametrize(("name", "call"), calls(PER_SAMPLE))
def test_what_is_no_number_for_each_sample_is_named(name, call, wrong):
    with pytest.raises(TypeError, match=rf"^{name} (is no array of numbers, one for each|has dtype )"):
        call(wrong)


def test_tensors_are_numbers_for_each_sample():
    torch = pytest.importorskip("torch")
    expected = exponential_weights([0.0, 1.0], 1.0).weights
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64):
        assert np.array_equal(exponential_weights(torch.tensor([0, 1], dtype=dtype), 1.0).weights, expected)
    wanting = torch.tensor([0.0, 1.0], requires_grad=True)
    assert np.array_equal(exponential_weights(wanting, 1.0).weights, expected)
    assert Samples(PROMPTS, IDS, [0, 1, 2], rewards=wanting).rewards.tolist() == [0.0, 1.0]
