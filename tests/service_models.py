"""A model, samples and requests for the tests of the service."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np

from esscher import Ragged, Samples
from esscher.lm.tabular import TabularLM
from esscher.server.models import Models
from esscher.wire.codec import encode_samples
from esscher.wire.parts import count_tokens

PROMPTS, VOCABULARY, DEPTH = 4, 5, 6


def tabular(seed=7):
    return TabularLM.random(np.random.default_rng(seed), prompts=PROMPTS, vocabulary=VOCABULARY, depth=DEPTH)


class Lengths:
    """A reward that can be told from the tokens: how many there are, and whether they ended by themselves."""

    name = "lengths"

    def __call__(self, samples):
        ended = 0 if samples.terminated is None else samples.terminated
        return samples.completions.lengths + 0.5 * ended


def models():
    """A prior, a policy that is another, and a reward."""
    return Models(prior=tabular(), policy=tabular(8), reward=Lengths())


def draw(seed, prompts=3, n=4):
    """Samples with every column, token columns in float32."""
    rng = np.random.default_rng(seed)
    rows = Ragged.from_rows(rng.integers(PROMPTS, size=(prompts, 1)))
    samples = tabular().sample(rows, n, DEPTH, rng)
    policy = samples.policy_logprobs

    def column(values):
        return Ragged(values.astype(np.float32), policy.offsets)

    return dataclasses.replace(
        samples,
        policy_logprobs=column(policy.values),
        prior_logprobs=column(np.minimum(policy.values - rng.normal(0.2, 0.5, len(policy.values)), 0)),
        rewards=rng.normal(size=len(samples)),
        token_kl=column(rng.exponential(size=len(policy.values))),
        policy_entropy=column(rng.exponential(size=len(policy.values))),
    )


def oracle(samples, models):
    """What models say of samples, column by column, in float64."""
    tokens = (samples.prompts, samples.completions, samples.groups)
    columns = {"prior_logprobs": models.prior.logprobs(*tokens).values}
    if models.policy is not None:
        scores = models.policy.token_scores(*tokens, models.prior)
        columns |= {"policy_logprobs": scores.logprobs, "policy_entropy": scores.entropy, "token_kl": scores.kl}
    if models.reward is not None:
        columns["rewards"] = models.reward(samples)
    return columns


def expected_logprobs(samples):
    """What a server with the tabular model answers: the model's log-probs as the wire's float32."""
    logprobs = tabular().logprobs(samples.prompts, samples.completions, samples.groups)
    return logprobs.values.astype(np.float32)


def cost(samples):
    """Tokens that a model reads to score samples."""
    return count_tokens(samples).of(0, len(samples))


class Gated:
    """A tabular model, whose calls wait until the gate is open, and are recorded."""

    def __init__(self, *, is_open=False, error=None, model=None):
        model = tabular() if model is None else model
        self.name, self.vocabulary_size, self.start_token_id = "gated", model.vocabulary_size, model.start_token_id
        self.end_token_ids, self.max_tokens = model.end_token_ids, model.max_tokens
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.calls, self.methods = [], []
        self.error = error
        self._model = model
        if is_open:
            self.gate.set()

    def logprobs(self, prompts, completions, groups):
        self._enter("logprobs", completions)
        return self._model.logprobs(prompts, completions, groups)

    def token_scores(self, prompts, completions, groups, prior=None):
        self._enter("token_scores" if prior is None else "token_scores with prior", completions)
        return self._model.token_scores(prompts, completions, groups, getattr(prior, "_model", prior))

    def sample(self, *arguments):
        return self._model.sample(*arguments)

    def wait_until_called(self):
        assert self.entered.acquire(timeout=30)

    def _enter(self, method, completions):
        self.calls.append(completions)
        self.methods.append(method)
        self.entered.release()
        assert self.gate.wait(timeout=30)
        if self.error is not None:
            raise self.error


def assert_equal(a, b):
    """Two records hold the same: numbers to the last bit, NaN equal to NaN, dtypes too."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, strict=True)
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_equal(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert_equal(tuple(a.values()), tuple(b.values()))
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, float):
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


def _cut(name, count):
    def break_it(message):
        setattr(message, name, getattr(message, name)[:-count])

    return break_it


def _set(name, values):
    def break_it(message):
        del getattr(message, name)[:]
        getattr(message, name).extend(values)

    return break_it


def _append(name, value):
    return lambda message: getattr(message, name).append(value)


def _column(name, values):
    return lambda message: setattr(
        message, name, np.full(len(message.completion_token_ids) // 4, values, "<f4").tobytes()
    )


def _mask(change):
    def break_it(message):
        ones = np.ones(len(message.completion_token_ids) // 4, np.uint8)
        message.action_mask = change(ones).astype(np.uint8).tobytes()

    return break_it


# How a request is broken, and the words that its error must hold.
HOSTILE = {
    "empty": (lambda message: message.Clear(), "completions is empty"),
    "no completions": (lambda message: message.ClearField("completion_token_ids"), "completion_token_ids"),
    "truncated prompts": (_cut("prompt_token_ids", 4), "prompt_token_ids .* prompt_lengths"),
    "truncated completions": (_cut("completion_token_ids", 8), "completion_token_ids .* completion_lengths"),
    "misaligned prompts": (_cut("prompt_token_ids", 1), "prompt_token_ids has .* multiple of 4"),
    "misaligned completions": (_cut("completion_token_ids", 3), "completion_token_ids has .* multiple of 4"),
    "misaligned log-probs": (_cut("policy_logprobs", 2), "policy_logprobs has .* multiple of 4"),
    "truncated log-probs": (_cut("prior_logprobs", 4), "prior_logprobs .* completion_lengths"),
    "truncated token_kl": (_cut("token_kl", 4), "token_kl .* completion_lengths"),
    "truncated policy_entropy": (_cut("policy_entropy", 4), "policy_entropy .* completion_lengths"),
    "one length more": (_append("completion_lengths", 1), "completion_lengths sum"),
    "an empty completion": (_append("completion_lengths", 0), "group_sizes sum"),
    "largest lengths": (_set("completion_lengths", [2**32 - 1] * 3), f"sum to {3 * (2**32 - 1)}"),
    "lengths that overflow 32 bits to 0": (_set("completion_lengths", [2**31, 2**31]), "each prompt has a completion"),
    "largest prompt lengths": (_set("prompt_lengths", [2**32 - 1] * 3), f"sum to {3 * (2**32 - 1)}"),
    "largest group sizes": (_set("group_sizes", [2**32 - 1] * 3), f"group_sizes sum to {3 * (2**32 - 1)}"),
    "no group sizes": (_set("group_sizes", []), "group_sizes has 0 entries"),
    "a group too many": (_append("group_sizes", 1), "group_sizes has 4 entries"),
    "an empty group": (_set("group_sizes", [12, 0, 0]), r"groups\[1\] has no completions"),
    "one reward short": (lambda message: message.rewards.pop(), "rewards has shape"),
    "one terminated more": (_append("terminated", True), "terminated has shape"),
    "a NaN reward": (_set("rewards", [float("nan")] * 12), r"rewards\[0\] is nan"),
    "a NaN log-prob": (_column("prior_logprobs", np.nan), r"prior_logprobs\[0\]\[0\] is nan"),
    "a positive log-prob": (_column("policy_logprobs", 0.5), r"policy_logprobs\[0\]\[0\] is 0.5"),
    "a negative KL": (_column("token_kl", -1.0), r"token_kl\[0\]\[0\] is -1"),
    "a mask one short": (_mask(lambda mask: mask[:-1]), "action_mask has .* completion_lengths sum"),
    "a mask of other bytes": (_mask(lambda mask: 2 * mask), r"action_mask\[0\] is 2: a mask is 0 or 1"),
    "a mask of nothing": (_mask(lambda mask: 0 * mask), "policy_logprobs has .* the actions of action_mask sum to 0"),
    "log-probs of all beside a mask": (_mask(lambda mask: np.r_[0, mask[1:]]), "policy_logprobs has .* the actions of"),
    "unknown tokens": (lambda message: setattr(message, "tokens", 9), "tokens is 9, which is not known here"),
}


def hostile(kind):
    """A request broken in one way."""
    message = encode_samples(draw(0))
    HOSTILE[kind][0](message)
    return message


def bad_samples():
    """Samples that keep every rule but the model's: token ids outside its vocabulary."""
    return Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[1, VOCABULARY, 2]]), [0, 1])
