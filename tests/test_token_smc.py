"""Token-level sequential Monte Carlo against the exact target, by enumerating a tabular language model."""

from __future__ import annotations

import numpy as np
import pytest

from esscher import Ragged, sequence_logprobs
from esscher.inference.token_smc import token_smc
from esscher.lm.tabular import END, TabularLM
from models import alice

LONGEST, VOCABULARY = 3, 4
NODES = 1 + 3 + 9
# The model could go on for one token more than is asked for: completions are cut off, not only ended.
LOGITS = np.random.default_rng(40).normal([-0.6, 0.6, 0.1, -0.3], 0.5, size=(2, NODES + 27, VOCABULARY))
LM = TabularLM(LOGITS)
TABLE = 1


def world():
    """Every completion of up to `LONGEST` tokens, its probability and log-potential; one in six is forbidden."""
    every = TabularLM(LOGITS[TABLE:, :NODES]).completions()
    rng = np.random.default_rng(41)
    phi = 4.5 * rng.beta(1.2, 1.6, size=len(every)) - 2.0
    phi[::6] = -np.inf
    return [tuple(row.tolist()) for row in every.completions], np.exp(sequence_logprobs(every.policy_logprobs)), phi


ROWS, PRIOR, PHI = world()
FORBIDDEN = np.isneginf(PHI)
NUMBER = {row: i for i, row in enumerate(ROWS)}
Z = PRIOR @ np.exp(PHI)
TARGET = PRIOR * np.exp(PHI) / Z


def masses(values):
    """Sum of the values of all completions that begin with each prefix."""
    sums = {}
    for row, value in zip(ROWS, values, strict=True):
        for length in range(len(row) + 1):
            sums[row[:length]] = sums.get(row[:length], 0.0) + value
    return sums


PRIOR_MASS, TILTED_MASS = masses(PRIOR), masses(PRIOR * np.exp(PHI))


def value_twist(completions, finished):
    """The exact value of each prefix: the mean of exp(log-potential) over what may come of it."""
    assert [row in NUMBER for row in map(tuple, completions)] == finished.tolist()
    values = [TILTED_MASS[tuple(row)] / PRIOR_MASS[tuple(row)] for row in completions]
    return np.log(values, out=np.full(len(values), -np.inf), where=np.array(values) > 0)


def late_twist(completions, finished):
    """Nothing is known until the end."""
    return [PHI[NUMBER[tuple(row)]] if end else 0.0 for row, end in zip(completions, finished, strict=True)]


def odd_twist(completions, finished):
    """A guess that has little to do with the value, which must not bias anything."""
    guess = [0.9 * np.sin(3.0 * row.sum() + len(row)) for row in completions]
    return np.where(finished, late_twist(completions, finished), guess)


def target_model():
    """A tabular model whose law is the target: each token in proportion to the mass that begins so."""
    logits = np.full((2, NODES, VOCABULARY), -np.inf)
    logits[..., END] = 0.0
    nodes = {(): 0}
    for prefix in sorted((p for p in TILTED_MASS if p not in NUMBER), key=len):
        for token in range(VOCABULARY):
            mass = TILTED_MASS[(*prefix, token)]
            logits[TABLE, nodes[prefix], token] = np.log(mass) if mass > 0 else -np.inf
            nodes[(*prefix, token)] = nodes[prefix] * (VOCABULARY - 1) + token
    return TabularLM(logits, name="target")


def run(rng, twist, n=8, **options):
    return token_smc(LM, [TABLE], n, LONGEST, rng, log_twist=twist, **options)


def frequencies(smc):
    """Weight of the particles at each completion [completions]; those of weight 0 may be unfinished."""
    weights = np.exp(smc.log_weights)
    numbers = [NUMBER[tuple(row)] if w > 0 else 0 for row, w in zip(smc.completions, weights, strict=True)]
    return np.bincount(numbers, weights=weights, minlength=len(ROWS))


def assert_mean(values, expected):
    """The mean over repetitions is the expected one, within 5 standard errors, which are not large themselves."""
    stderr = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    assert (np.abs(values.mean(axis=0) - expected) <= 5 * stderr + 1e-12).all()
    assert (stderr <= 0.1 * np.max(expected)).all()


def test_the_world_has_cut_off_and_forbidden_completions():
    assert pytest.approx(1.0, abs=1e-12) == PRIOR.sum()
    assert sum(row[-1] != END for row in ROWS) == 27
    assert PRIOR[FORBIDDEN].sum() > 0.05


@pytest.mark.parametrize(
    ("twist", "options"),
    [
        (late_twist, {}),
        (value_twist, {"ess_share": 1.0}),
        (odd_twist, {"ess_share": 0.8, "scheme": "multinomial"}),
        (odd_twist, {"ess_share": 0.9, "proposal": TabularLM(0.5 * LOGITS + 0.3)}),
    ],
)
def test_z_and_every_expectation_are_unbiased_whatever_the_twist(twist, options):
    """E[Z hat] = Z, and E[Z hat f] = Z E_target[f], where f is the weight of the particles at each completion."""
    rng = np.random.default_rng(42)
    runs = [run(rng, twist, **options) for _ in range(1000)]
    z_hat = np.exp([smc.log_z for smc in runs])
    found = np.array([frequencies(smc) for smc in runs])
    assert_mean(z_hat, Z)
    # Of completions so rare that few runs have them, not even the standard error is known.
    common = PRIOR > 0.007
    assert TARGET[common].sum() > 0.8
    assert_mean(z_hat[:, None] * found[:, common], Z * TARGET[common])
    assert (found[:, FORBIDDEN] == 0).all()
    if "ess_share" in options:
        assert np.mean([smc.resampled.any() for smc in runs]) > 0.5


def test_the_value_as_twist_and_the_target_as_proposal_leave_no_noise():
    """Every run gives log Z exactly, equal weights, and exact draws of the target."""
    rng, n, proposal = np.random.default_rng(43), 20_000, target_model()
    for size in (1, 5, n):
        smc = run(rng, value_twist, n=size, proposal=proposal)
        assert smc.log_z == pytest.approx(np.log(Z), abs=1e-10)
        assert np.exp(smc.log_weights) == pytest.approx(np.full(size, 1 / size), rel=1e-10)
        assert not smc.resampled.any()
        assert smc.ess == pytest.approx(np.full(smc.completions.lengths.max(), size), rel=1e-10)
    counts = n * frequencies(smc)
    likely = n * TARGET >= 5
    statistic = ((counts - n * TARGET) ** 2 / (n * np.where(likely, TARGET, 1)))[likely].sum()
    assert abs(statistic - likely.sum()) < 5 * np.sqrt(2 * likely.sum())


def test_the_value_as_twist_resamples_towards_the_target():
    """Resampled at every step with the value, many particles have the target's law before they are weighted."""
    n = 20_000
    smc = run(np.random.default_rng(44), value_twist, n=n, ess_share=1.0)
    assert smc.resampled.tolist() == [True, True, False]
    assert smc.log_z == pytest.approx(np.log(Z), abs=0.1)
    # Resampled twice, so with up to three times the variance of independent draws of weights.
    spread = np.sqrt(3 * np.exp(smc.log_weights).max() * TARGET)
    assert (np.abs(frequencies(smc) - TARGET) <= 5 * spread).all()


def test_prior_logprobs_are_the_models_and_particles_are_completions():
    smc = run(np.random.default_rng(45), odd_twist, n=200, ess_share=0.7, proposal=TabularLM(0.3 * LOGITS))
    found = LM.logprobs(Ragged.from_rows([[TABLE]]), smc.completions, [0, 200])
    np.testing.assert_allclose(smc.prior_logprobs.values, found.values, rtol=1e-13)
    assert smc.prior_logprobs.offsets.tolist() == smc.completions.offsets.tolist()
    last = smc.completions.values[smc.completions.offsets[1:] - 1]
    np.testing.assert_array_equal(smc.terminated, last == END)
    assert 0 < smc.terminated.sum() < 200
    assert np.exp(smc.log_weights).sum() == pytest.approx(1.0)
    assert len(smc.ess) == len(smc.resampled) == LONGEST


def test_without_resampling_it_is_importance_sampling():
    """The twists cancel: each weight is the exponential of its completion's log-potential."""
    smc = run(np.random.default_rng(46), odd_twist, n=300, ess_share=1e-9)
    assert not smc.resampled.any()
    weights = np.exp(PHI[[NUMBER[tuple(row)] for row in smc.completions]])
    assert smc.log_z == pytest.approx(np.log(weights.mean()), abs=1e-12)
    assert np.exp(smc.log_weights) == pytest.approx(weights / weights.sum(), rel=1e-12)
    assert smc.ess[-1] == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-12)


def test_the_twist_sees_only_what_was_extended():
    """Finished particles are not asked about again, nor are those of weight 0."""
    seen = []

    def twist(completions, _):
        seen.append(len(completions))
        doomed = completions.values[completions.offsets[:-1]] == 2
        return np.where(doomed, -np.inf, 0.0)

    smc = run(np.random.default_rng(47), twist, n=100, ess_share=0.01)
    first = smc.completions.values[smc.completions.offsets[:-1]]
    lengths = smc.completions.lengths
    assert (lengths[first == 2] == 1).all()
    assert np.exp(smc.log_weights[first == 2]).tolist() == [0.0] * (first == 2).sum()
    assert not smc.terminated[first == 2].any()
    assert seen == [100, (lengths > 1).sum(), (lengths > 2).sum()]
    assert 100 > seen[1] > seen[2] > 0
    assert smc.log_z == pytest.approx(np.log((first != 2).mean()), abs=1e-12)


def test_when_nothing_has_weight_log_z_is_minus_infinity():
    smc = run(np.random.default_rng(48), lambda completions, _: np.full(len(completions), -np.inf), n=5)
    assert smc.log_z == -np.inf
    assert smc.ess.tolist() == [0.0]
    assert smc.resampled.tolist() == [False]
    assert smc.log_weights.tolist() == [-np.inf] * 5
    assert smc.completions.lengths.tolist() == [1] * 5


def test_a_prompt_with_a_prefix_goes_on_from_there():
    """Z given the prefix is its value; the prompt is no part of the completions."""

    def after(completions, finished):
        whole = Ragged.from_rows([[1, *row] for row in completions])
        return late_twist(whole, finished)

    smc = token_smc(LM, [TABLE, 1], 20_000, LONGEST - 1, np.random.default_rng(49), log_twist=after)
    assert smc.completions.lengths.max() == LONGEST - 1
    value = TILTED_MASS[(1,)] / PRIOR_MASS[(1,)]
    rows = [row for row in ROWS if row[0] == 1]
    second = sum(PRIOR[NUMBER[row]] * np.exp(2 * PHI[NUMBER[row]]) for row in rows) / PRIOR_MASS[(1,)]
    assert np.exp(smc.log_z) == pytest.approx(value, abs=5 * np.sqrt(second / 20_000))


def test_a_real_model():
    prompt = alice().encode(["Alice was"])[0]

    def counts(completions, _):
        return np.add.reduceat(1.5 * (completions.values % 2), completions.offsets[:-1])

    smc = token_smc(alice(), prompt, 12, 6, np.random.default_rng(50), log_twist=counts, ess_share=0.8)
    scored = alice().logprobs(Ragged.from_rows([prompt]), smc.completions, [0, 12])
    np.testing.assert_allclose(sequence_logprobs(smc.prior_logprobs), sequence_logprobs(scored), rtol=0, atol=1e-4)
    assert smc.resampled.any()
    assert np.isfinite(smc.log_z)
    assert (smc.completions.lengths[~smc.terminated] == 6).all()


def test_a_seed_gives_the_same_again():
    one, again, other = (run(np.random.default_rng(seed), odd_twist) for seed in (1, 1, 2))
    assert one.completions.values.tolist() == again.completions.values.tolist()
    assert one.log_z == again.log_z != other.log_z


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 5}, "prompt has 1 tokens and max_new_tokens is 5: model tabular takes at most 5"),
        ({"ess_share": 0.0}, "ess_share is 0.0"),
        ({"ess_share": 1.5}, "ess_share is 1.5"),
        ({"ess_share": np.nan}, "ess_share is nan"),
        ({"prompt": []}, r"prompt has shape \(0,\)"),
        ({"prompt": [[1]]}, r"prompt has shape \(1, 1\)"),
        ({"prompt": [-1]}, "prompt: token 0 is -1"),
        ({"prompt": [2]}, r"prompts\[0\]\[0\] is 2"),
        ({"scheme": "fair"}, "scheme is 'fair'"),
        ({"proposal": TabularLM(np.zeros((2, 40, 2)))}, r"proposal tabular has 2 tokens with .* model tabular 4"),
        ({"proposal": TabularLM(np.zeros((2, 4, 4)))}, "proposal tabular takes at most 3 together"),
        ({"log_twist": lambda c, _: np.zeros(len(c) + 1)}, "log_twist returned 7 values for 6 completions"),
        ({"log_twist": lambda c, _: np.zeros((len(c), 1))}, "log_twist has 2 dimensions"),
        ({"log_twist": lambda _c, _: [0, 0, 0, np.nan, 0, 0]}, r"log_twist\[3\] is nan"),
        ({"log_twist": lambda _c, _: [0, np.inf, 0, 0, 0, 0]}, r"log_twist\[1\] is inf"),
    ],
)
def test_bad_input_is_refused(changes, message):
    arguments = {"model": LM, "prompt": [TABLE], "n": 6, "max_new_tokens": LONGEST, "rng": np.random.default_rng(0)}
    arguments |= {"log_twist": odd_twist, **changes}
    with pytest.raises(ValueError, match=message):
        token_smc(**arguments)
