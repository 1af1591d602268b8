"""What each estimator of the KL is unbiased for, as a number and as a loss: by enumeration, without sampling."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from esscher import kl_estimators
from esscher.lm.tabular import TabularLM

PROMPTS, VOCABULARY, DEPTH = 3, 4, 3
LEVELS = ("token", "sequence")
FIGURES = Path(__file__).parent.parent / "docs" / "figures.py"


class World(NamedTuple):
    """Every completion of a policy, and where each of its tokens is in the tables of policy and prior."""

    every: object  # Samples
    prior_logprobs: object  # Ragged
    policy_logits: np.ndarray  # [prompts, nodes, vocabulary]
    prior_logits: np.ndarray
    index: tuple  # tables, nodes and tokens, each [N, longest]
    mask: np.ndarray  # [N, longest]

    def estimates(self, level="token"):
        """The package's estimators of each completion, `exact` and the control variate among them."""
        columns = kl_estimators(self.every.policy_logprobs, self.prior_logprobs, level=level)._asdict()
        control = columns["k3"] - columns["k1"]
        return columns | {"control": control, "exact": self.exact()}

    def exact(self):
        """The KL over the whole vocabulary at each token, summed over the completion."""
        policy, prior = log_softmax(self.policy_logits), log_softmax(self.prior_logits)
        at_node = (np.exp(policy) * (policy - prior)).sum(-1)
        return (at_node[self.index[:2]] * self.mask).sum(1)

    def mean(self, values, log_probs=None):
        """The exact mean of every prompt, under the policy or what `log_probs` says."""
        log_probs = self.log_policy if log_probs is None else log_probs
        return np.add.reduceat(np.exp(log_probs) * values, self.every.groups[:-1])

    def variance(self, values):
        return self.mean(values**2) - self.mean(values) ** 2

    @property
    def log_policy(self):
        return self.every.policy_logprobs.to_padded(fill=0.0).sum(1)

    @property
    def log_prior(self):
        return self.prior_logprobs.to_padded(fill=0.0).sum(1)

    @property
    def kl(self):
        return self.mean(self.log_policy - self.log_prior)


def world_of(policy_logits, prior_logits):
    policy, prior = TabularLM(policy_logits), TabularLM(prior_logits)
    every = policy.completions()
    tokens = every.completions.to_padded(fill=0).astype(np.int64)
    nodes = np.zeros_like(tokens)
    for t in range(1, tokens.shape[1]):
        nodes[:, t] = np.minimum(nodes[:, t - 1] * (policy.vocabulary_size - 1) + tokens[:, t - 1], 10**9)
    mask = np.arange(tokens.shape[1]) < every.completions.lengths[:, None]
    index = (np.repeat(every.groups.of[:, None], tokens.shape[1], axis=1), np.where(mask, nodes, 0), tokens)
    prior_logprobs = prior.logprobs(every.prompts, every.completions, every.groups)
    return World(every, prior_logprobs, np.asarray(policy_logits), np.asarray(prior_logits), index, mask)


def random_world(seed, spread=0.8):
    rng = np.random.default_rng(seed)
    nodes = sum((VOCABULARY - 1) ** k for k in range(DEPTH))
    prior = rng.normal(np.linspace(0.3, -0.6, VOCABULARY), 1.0, size=(PROMPTS, nodes, VOCABULARY))
    return world_of(prior + rng.normal(0.0, spread, size=prior.shape), prior)


def log_softmax(logits):
    return torch.log_softmax(torch.tensor(logits), -1).numpy()


WORLD = random_world(1)


# The number -----------------------------------------------------------------------------------------------------------


def test_the_enumeration_is_whole():
    assert WORLD.mean(np.ones(len(WORLD.every))) == pytest.approx(np.ones(PROMPTS), abs=1e-12)
    assert WORLD.kl.min() > 0.1


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["k1", "k3", "exact"])
def test_unbiased(name, level):
    assert WORLD.mean(WORLD.estimates(level)[name]) == pytest.approx(WORLD.kl, abs=1e-12)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["k2", "abs"])
def test_biased(name, level):
    bias = WORLD.mean(WORLD.estimates(level)[name]) - WORLD.kl
    assert np.abs(bias).min() > 1e-4
    assert np.abs(bias).max() > 0.02


def test_abs_counts_noise_as_distance():
    """It is too large always: by as much as k1 is below 0 on average, times two."""
    for level in LEVELS:
        estimates = WORLD.estimates(level)
        assert (WORLD.mean(estimates["abs"]) > WORLD.kl).all()
    below = np.minimum(WORLD.estimates("sequence")["k1"], 0.0)
    assert WORLD.mean(WORLD.estimates("sequence")["abs"]) - WORLD.kl == pytest.approx(-2 * WORLD.mean(below))


def test_the_control_has_mean_zero_whatever_the_level():
    for level in LEVELS:
        assert WORLD.mean(WORLD.estimates(level)["control"]) == pytest.approx(np.zeros(PROMPTS), abs=1e-12)


def with_best_coefficient(world, level):
    """Variance of k1 + c control at the best c of each prompt, in which k1 is c = 0 and k3 is c = 1."""
    k1, control = (world.estimates(level)[name] for name in ("k1", "control"))
    covariance = world.mean(k1 * control) - world.mean(k1) * world.mean(control)
    return world.variance(k1) - covariance**2 / world.variance(control)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("spread", [0.1, 0.8, 3.0])
def test_the_control_variate_never_varies_more_than_k1_or_k3(level, spread):
    for seed in range(20):
        world = random_world(seed, spread)
        least = with_best_coefficient(world, level)
        for name in ("k1", "k3"):
            assert (least <= world.variance(world.estimates(level)[name]) * (1 + 1e-9)).all()


@pytest.mark.parametrize(("completions", "bias"), [(64, -0.05), (512, -0.01)])
def test_a_coefficient_fitted_to_the_same_completions_costs_a_bias_that_falls_as_one_over_n(completions, bias):
    """In the world of the page, over 1,000 batches; within four standard errors of that mean."""
    figures = runpy.run_path(str(FIGURES))
    world = world_of(*figures["world"]())
    probability = np.exp(world.log_policy) / len(world.every.prompts)
    kl, k1 = world.kl.mean(), world.estimates()["k1"]
    rows = np.random.default_rng(0).choice(len(k1), size=(1000, completions), p=probability / probability.sum())
    k1, control = k1[rows], world.estimates()["control"][rows]
    fitted = -((k1 - k1.mean(1, keepdims=True)) * control).sum(1) / (control**2).sum(1)
    relative = (k1.mean(1) + fitted * control.mean(1)) / kl - 1
    assert relative.mean() == pytest.approx(bias, abs=0.005 + 4 * relative.std() / 1000**0.5)
    assert relative.mean() < -4 * relative.std() / 1000**0.5


def variances(world):
    token, sequence = world.estimates("token"), world.estimates("sequence")
    unbiased = [token["k1"], token["k3"], sequence["k3"]]
    rest = [world.variance(values) for values in unbiased]
    return world.variance(token["exact"]), np.min(rest, axis=0), with_best_coefficient(world, "token")


def test_exact_varies_least_of_the_unbiased_in_most_worlds_but_not_in_all():
    results = [variances(random_world(seed, spread)) for seed in range(100) for spread in (0.1, 0.8, 2.0)]
    exact, rest, control_variate = (np.concatenate(columns) for columns in zip(*results, strict=True))
    assert (exact < rest).mean() > 0.99
    assert (exact < control_variate).mean() > 0.95
    assert not (exact < control_variate).all()


def test_k1_can_vary_less_than_exact():
    """Where what one token costs, the next gives back: the sum of both hardly varies, but exact sees only prefixes."""
    tiny = 1e-9
    policy = np.log([[[tiny, 0.5, 0.5], [0.2, 0.3, 0.5], [tiny, 1.0, tiny]]])
    prior = np.log([[[tiny, 0.25, 0.75], [0.2, 0.3, 0.5], [tiny, 1 / 3, 2 / 3]]])
    world = world_of(policy, prior)
    estimates = world.estimates()
    assert world.mean(estimates["exact"]) == pytest.approx(world.mean(estimates["k1"]), abs=1e-9)
    assert world.variance(estimates["k1"]) < 1e-6
    assert world.variance(estimates["exact"]) > 0.25


def test_k3_explodes_where_the_policy_hardly_goes_and_the_prior_likes_to():
    """Its variance holds (prior / policy)^2 of a token that comes once in 10,000; that of k1 only log^2."""
    world = world_of(np.log([[[1e-4, 0.9999]]]), np.log([[[0.5, 0.5]]]))
    estimates = world.estimates()
    assert world.mean(estimates["k3"]) == pytest.approx(world.mean(estimates["k1"]), abs=1e-12)
    assert world.variance(estimates["k3"]) == pytest.approx(2490, rel=0.01)
    assert world.variance(estimates["k1"]) == pytest.approx(0.0085, rel=0.01)
    # Until that token comes, k3 shows a quarter of the KL.
    assert estimates["k3"][1] == pytest.approx(0.193, abs=1e-3)
    assert world.kl[0] == pytest.approx(0.692, abs=1e-3)


def test_k1_is_negative_in_many_samples_and_k3_in_none():
    d = WORLD.estimates("sequence")["k1"]
    assert (WORLD.mean(d < 0) > 0.25).all()
    assert (WORLD.estimates("token")["k3"] >= 0).all()


def test_on_samples_of_the_prior_k1_is_minus_the_forward_kl_and_k3_does_not_show_it():
    forward = WORLD.mean(WORLD.log_prior - WORLD.log_policy, WORLD.log_prior)
    assert WORLD.mean(WORLD.estimates()["k1"], WORLD.log_prior) == pytest.approx(-forward, abs=1e-12)
    assert (forward > 0.1).all()
    assert (WORLD.mean(WORLD.estimates()["k3"], WORLD.log_prior) > 0.1).all()


def test_the_mean_of_token_means_is_not_the_kl_per_token():
    """Short completions count as much as long ones, and here they are what differs."""
    lengths = WORLD.every.completions.lengths
    per_token = WORLD.kl / WORLD.mean(lengths)
    assert np.abs(WORLD.mean(WORLD.estimates()["k1"] / lengths) / per_token - 1).max() > 0.05


# Samples of an older policy -------------------------------------------------------------------------------------------

OLD_LOGITS = WORLD.policy_logits + np.random.default_rng(3).normal(0.0, 0.5, size=WORLD.policy_logits.shape)
OLD = TabularLM(OLD_LOGITS)
OLD_TOKENS = OLD.logprobs(WORLD.every.prompts, WORLD.every.completions, WORLD.every.groups).to_padded(fill=0.0)
OLD_LOG_PROB = OLD_TOKENS.sum(1)
TOKEN_LOG_WEIGHTS = WORLD.every.policy_logprobs.to_padded(fill=0.0) - OLD_TOKENS


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["k1", "k3", "exact"])
def test_an_older_policys_samples_are_biased_unless_weighted(name, level):
    values = WORLD.estimates(level)[name]
    assert np.abs(WORLD.mean(values, OLD_LOG_PROB) - WORLD.kl).max() > 0.02
    weights = np.exp(WORLD.log_policy - OLD_LOG_PROB)
    assert WORLD.mean(weights * values, OLD_LOG_PROB) == pytest.approx(WORLD.kl, abs=1e-12)


def token_estimates(name):
    d = (WORLD.every.policy_logprobs.to_padded(fill=0.0) - WORLD.prior_logprobs.to_padded(fill=0.0)) * WORLD.mask
    return {"k1": d, "k3": np.expm1(-d) + d}[name]


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_weights_of_single_tokens_do_not_suffice_and_those_of_the_prefix_do(name):
    single = (np.exp(TOKEN_LOG_WEIGHTS) * token_estimates(name)).sum(1)
    assert np.abs(WORLD.mean(single, OLD_LOG_PROB) - WORLD.kl).max() > 0.005
    prefix = (np.exp(TOKEN_LOG_WEIGHTS.cumsum(axis=1)) * token_estimates(name)).sum(1)
    assert WORLD.mean(prefix, OLD_LOG_PROB) == pytest.approx(WORLD.kl, abs=1e-12)


# The loss -------------------------------------------------------------------------------------------------------------


def of_tokens(logits):
    """Log-prob of each token of each completion [N, longest]; 0 behind the end."""
    return torch.log_softmax(logits, -1)[WORLD.index] * torch.tensor(WORLD.mask)


def of_log_ratio(name, d):
    return {"k1": d, "k2": d**2 / 2, "k3": torch.expm1(-d) + d, "abs": d.abs()}[name]


def gradient(loss):
    """The gradient of a loss with respect to the policy's logits."""
    logits = torch.tensor(WORLD.policy_logits, requires_grad=True)
    return torch.autograd.grad(loss(logits), logits)[0].numpy()


PRIOR_TOKENS = torch.tensor(WORLD.prior_logprobs.to_padded(fill=0.0))
PRIOR_LOG_PROB = PRIOR_TOKENS.sum(1)


def as_loss(name, level):
    """The expected gradient of an estimator where sampled completions are taken as given, as a trainer does."""

    def loss(logits):
        d = of_tokens(logits) - PRIOR_TOKENS
        values = of_log_ratio(name, d).sum(1) if level == "token" else of_log_ratio(name, d.sum(1))
        return (torch.exp(of_tokens(logits).sum(1)).detach() * values).sum()

    return gradient(loss)


def reverse_kl(logits):
    log_policy = of_tokens(logits).sum(1)
    return (log_policy.exp() * (log_policy - PRIOR_LOG_PROB)).sum()


def forward_kl(logits):
    return (PRIOR_LOG_PROB.exp() * (PRIOR_LOG_PROB - of_tokens(logits).sum(1))).sum()


def at_visited_prefixes(of_next_token):
    """The gradient of a divergence of next tokens at the prefixes that the policy visits, these taken as given."""
    prior = torch.log_softmax(torch.tensor(WORLD.prior_logits), -1)

    def loss(logits):
        policy = torch.log_softmax(logits, -1)
        at_tokens = of_next_token(policy, prior).sum(-1)[WORLD.index[:2]] * torch.tensor(WORLD.mask)
        return (of_tokens(logits).sum(1).exp().detach() * at_tokens.sum(1)).sum()

    return gradient(loss)


def reverse(policy, prior):
    return policy.exp() * (policy - prior)


def forward(policy, prior):
    return prior.exp() * (prior - policy)


REVERSE, FORWARD = gradient(reverse_kl), gradient(forward_kl)


def near(gradient):
    return pytest.approx(gradient, abs=1e-12)


@pytest.mark.parametrize(("kl", "true"), [(reverse_kl, REVERSE), (forward_kl, FORWARD)])
def test_the_true_gradients_are_finite_differences(kl, true):
    rng = np.random.default_rng(0)
    logits, step = torch.tensor(WORLD.policy_logits), 1e-5
    for _ in range(3):
        way = rng.normal(size=true.shape)
        up, down = (float(kl(logits + torch.tensor(sign * step * way))) for sign in (1, -1))
        assert (up - down) / (2 * step) == pytest.approx((way * true).sum(), abs=1e-8)


@pytest.mark.parametrize("level", LEVELS)
def test_k1_as_a_loss_has_no_gradient(level):
    assert as_loss("k1", level) == near(np.zeros_like(REVERSE))
    assert np.abs(REVERSE).max() > 0.05


def test_k1_as_a_penalty_of_the_reward_has_the_gradient_of_the_reverse_kl():
    """As score function: log-ratio, taken as given, times the gradient of the completion's log-prob."""

    def loss(logits):
        log_policy = of_tokens(logits).sum(1)
        return ((log_policy - PRIOR_LOG_PROB) * log_policy.exp()).detach() @ log_policy

    assert gradient(loss) == near(REVERSE)


def test_sequence_k2_as_a_loss_has_the_gradient_of_the_reverse_kl():
    assert as_loss("k2", "sequence") == near(REVERSE)


def test_sequence_k3_as_a_loss_has_the_gradient_of_the_forward_kl():
    assert as_loss("k3", "sequence") == near(FORWARD)
    assert np.abs(FORWARD - REVERSE).max() > 0.02


def test_token_k2_as_a_loss_has_that_of_exact_as_a_loss_the_reverse_kl_of_next_tokens():
    """Both take the prefixes as given: that other first tokens lead elsewhere, neither sees."""
    got = as_loss("k2", "token")
    assert got == near(at_visited_prefixes(reverse))
    assert np.abs(got - REVERSE).max() > 0.02


def test_token_k3_as_a_loss_has_that_of_the_forward_kl_of_next_tokens_where_the_policy_goes():
    got = as_loss("k3", "token")
    assert got == near(at_visited_prefixes(forward))
    assert np.abs(got - FORWARD).max() > 0.02
    assert np.abs(got - REVERSE).max() > 0.02


def test_token_k3_times_a_ratio_of_one_has_the_gradient_of_token_k2():
    """The ratio is 1, and its gradient the score: so the sample counts as drawn from the policy, token by token."""

    def loss(logits):
        tokens = of_tokens(logits)
        weighted = torch.exp(tokens - tokens.detach()) * of_log_ratio("k3", tokens - PRIOR_TOKENS)
        return (tokens.sum(1).exp().detach() * weighted.sum(1)).sum()

    assert gradient(loss) == near(as_loss("k2", "token"))


@pytest.mark.parametrize("level", LEVELS)
def test_k1_with_control_variate_as_a_loss_has_c_times_the_gradient_of_k3(level):
    def loss(logits):
        d = of_tokens(logits) - PRIOR_TOKENS
        d = d if level == "token" else d.sum(1, keepdim=True)
        values = (d + 0.3 * torch.expm1(-d)).sum(1)
        return (of_tokens(logits).sum(1).exp().detach() * values).sum()

    assert gradient(loss) == near(0.3 * as_loss("k3", level))


@pytest.mark.parametrize("level", LEVELS)
def test_abs_as_a_loss_has_neither(level):
    got = as_loss("abs", level)
    for true in (REVERSE, FORWARD):
        assert np.abs(got - true).max() > 0.02


def test_token_k2_misses_nothing_at_the_last_token():
    """Where nothing comes after, its gradient is that of the reverse KL: what it misses is what comes after."""
    last = WORLD.policy_logits.shape[1] - (VOCABULARY - 1) ** (DEPTH - 1)
    assert as_loss("k2", "token")[:, last:] == near(REVERSE[:, last:])
    assert np.abs(REVERSE[:, last:]).max() > 0.01
