"""Tempered sequential Monte Carlo against the exact target and normaliser, by enumerating a tabular language model."""

from __future__ import annotations

import numpy as np
import pytest

from esscher import Ragged, sequence_logprobs
from esscher.inference.smc import tempered_smc
from esscher.lm.tabular import TabularLM

LM = TabularLM(np.random.default_rng(21).normal([-0.4, 0.5, 0.2], 0.4, size=(1, 7, 3)))
EVERY = LM.completions()
PRIOR = np.exp(sequence_logprobs(EVERY.policy_logprobs))
PRIOR /= PRIOR.sum()
SIZE = len(PRIOR)


def potentials():
    """A log-potential for each completion: spread over a few nats, three of them forbidden."""
    values = 4.5 * np.random.default_rng(22).beta(1.2, 1.6, size=SIZE) - 2.0
    values[[2, 7, 9]] = -np.inf
    return values


PHI = potentials()
Z = PRIOR @ np.exp(PHI)
TARGET = PRIOR * np.exp(PHI) / Z


class Drawing:
    """Draws completions of the prior, by number, and keeps them in order."""

    def __init__(self, phi=PHI, prior=PRIOR):
        self.phi, self.prior, self.drawn = phi, prior, np.empty(0, int)

    def __call__(self, n, rng):
        new = rng.choice(len(self.prior), size=n, p=self.prior)
        self.drawn = np.concatenate([self.drawn, new])
        return self.phi[new]


def frequencies(smc, draw):
    return np.bincount(draw.drawn[smc.indices], minlength=SIZE) / len(smc.indices)


def repeated(repetitions, n, seed, **options):
    """Z hat [repetitions], and the particles' frequencies [repetitions, completions]."""
    rng = np.random.default_rng(seed)
    z_hat, found = np.zeros(repetitions), np.zeros((repetitions, SIZE))
    for i in range(repetitions):
        draw = Drawing()
        smc = tempered_smc(draw, n, rng, **options)
        z_hat[i], found[i] = np.exp(smc.log_z), frequencies(smc, draw)
    return z_hat, found


def assert_mean(values, expected):
    """The mean over repetitions is the expected one, within 5 standard errors, which are not large themselves."""
    stderr = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    assert (np.abs(values.mean(axis=0) - expected) <= 5 * stderr).all()
    assert (stderr <= 0.05 * np.max(expected)).all()


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (6, {"exponents": [0.2, 0.55, 1.0]}),
        (6, {"exponents": [0.3, 1.0], "moves": 0, "scheme": "multinomial"}),
        (3, {"exponents": [1.0], "moves": 2}),
        (1, {"exponents": [0.4, 1.0], "moves": 2}),
    ],
)
def test_fixed_exponents_make_z_and_every_expectation_unbiased(n, options):
    """E[Z hat] = Z, and E[Z hat f] = Z E_target[f], where f is the share of particles at each completion."""
    z_hat, found = repeated(4000, n, 23, **options)
    assert_mean(z_hat, Z)
    assert_mean(z_hat[:, None] * found, Z * TARGET)
    # Were there no noise, there would be nothing to be biased.
    assert z_hat.std() > 0.1 * Z


def test_chosen_exponents_give_z_and_the_target_with_many_particles():
    """Bias is of the order 1 / n: with 3000 particles it is far below the noise of 60 repetitions."""
    z_hat, found = repeated(60, 3000, 24, ess_share=0.8)
    assert_mean(z_hat, Z)
    assert_mean(found[:, TARGET > 0], TARGET[TARGET > 0])
    assert (found[:, TARGET == 0] == 0).all()


def test_moves_renew_the_particles():
    """With moves the particles are many different draws; without, mostly copies."""

    def distinct_draws(moves):
        smc = tempered_smc(Drawing(), 500, np.random.default_rng(25), exponents=[0.2, 0.4, 1.0], moves=moves)
        return len(np.unique(smc.indices))

    assert distinct_draws(0) < distinct_draws(1) < distinct_draws(4)


def test_the_acceptance_rate_is_that_of_the_enumeration():
    """At its target, a step accepts sum_xy target_x prior_y min(1, w_y / w_x) of the proposals."""
    smc = tempered_smc(Drawing(), 40_000, np.random.default_rng(26), exponents=[0.3, 1.0], moves=2)
    for temperature, found in zip([0.3, 1.0], smc.acceptance_rate, strict=True):
        w = np.exp(temperature * PHI)
        tempered = PRIOR * w / (PRIOR @ w)
        some = w > 0
        chances = np.minimum(1.0, w[None, :] / w[some, None])
        assert found == pytest.approx(tempered[some] @ chances @ PRIOR, abs=5 * 0.5 / np.sqrt(40_000))


@pytest.mark.parametrize("ess_share", [0.3, 0.5, 0.9])
def test_each_chosen_step_keeps_its_share_of_the_particles_with_weight(ess_share):
    n, draw = 1000, Drawing(2.5 * PHI)
    smc = tempered_smc(draw, n, np.random.default_rng(27), ess_share=ess_share)
    alive = np.concatenate([[np.isfinite(PHI[draw.drawn[:n]]).sum()], np.full(len(smc.ess) - 1, n)])
    assert alive[0] < n
    assert smc.ess[:-1] == pytest.approx(ess_share * alive[:-1], rel=1e-4)
    assert smc.ess[-1] >= ess_share * alive[-1]
    assert (np.diff(smc.exponents, prepend=0.0) > 0).all()
    assert smc.exponents[-1] == 1
    assert len(smc.exponents) > 1


def test_without_moves_particles_are_copies_of_the_first_draws():
    draw = Drawing()
    smc = tempered_smc(draw, 50, np.random.default_rng(28), exponents=[0.25, 1.0], moves=0, scheme="stratified")
    first = np.exp(0.25 * PHI[draw.drawn])
    assert smc.ess[0] == pytest.approx(first.sum() ** 2 / (first**2).sum(), rel=1e-12)
    assert smc.draws == 50 == len(draw.drawn)
    assert smc.indices.max() < 50
    assert np.isnan(smc.acceptance_rate).all()


def test_indices_find_the_completions_of_a_language_model():
    rows, phi = [], dict(zip([tuple(row) for row in EVERY.completions], PHI, strict=True))

    def draw(n, rng):
        new = [tuple(row) for row in LM.sample(Ragged.from_rows([[0]]), n, 3, rng).completions]
        rows.extend(new)
        return [phi[row] for row in new]

    smc = tempered_smc(draw, 400, np.random.default_rng(29), moves=2)
    assert [phi[rows[i]] for i in smc.indices] == smc.log_potential.tolist()
    assert len(rows) == smc.draws == 400 * (1 + 2 * len(smc.exponents))
    assert smc.indices.max() >= 400
    assert smc.log_z == pytest.approx(np.log(Z), abs=0.3)


def test_a_condition_is_one_step_and_log_z_the_share_that_meets_it():
    phi = np.where(np.arange(SIZE) % 3 == 1, 0.0, -np.inf)
    draw = Drawing(phi)
    smc = tempered_smc(draw, 300, np.random.default_rng(30))
    met = (phi[draw.drawn[:300]] == 0).sum()
    assert 0 < met < 290
    assert smc.log_z == pytest.approx(np.log(met / 300), abs=1e-12)
    assert smc.exponents.tolist() == [1.0]
    assert smc.ess == pytest.approx([met])
    assert smc.log_potential.tolist() == [0.0] * 300
    passed = PRIOR[phi == 0].sum()
    assert smc.acceptance_rate[0] == pytest.approx(passed, abs=5 * np.sqrt(passed * (1 - passed) / 300))


@pytest.mark.parametrize("level", [0.0, -3.7, 812.5])
def test_equal_potentials_are_one_step_and_an_exact_z(level):
    smc = tempered_smc(Drawing(np.full(SIZE, level)), 20, np.random.default_rng(31), ess_share=0.99)
    assert smc.log_z == pytest.approx(level, abs=1e-12)
    assert smc.exponents.tolist() == [1.0]
    assert smc.acceptance_rate.tolist() == [1.0]
    assert smc.ess == pytest.approx([20.0])


@pytest.mark.parametrize(("exponents", "expected"), [(None, 1.0), ([0.5, 1.0], 0.5)])
def test_when_all_die_log_z_is_minus_infinity(exponents, expected):
    draw = Drawing(np.full(SIZE, -np.inf))
    smc = tempered_smc(draw, 7, np.random.default_rng(32), exponents=exponents)
    assert smc.log_z == -np.inf
    assert smc.indices.tolist() == list(range(7))
    assert smc.log_potential.tolist() == [-np.inf] * 7
    assert smc.exponents.tolist() == [expected]
    assert smc.ess.tolist() == [0.0]
    assert np.isnan(smc.acceptance_rate).tolist() == [True]
    assert smc.draws == 7 == len(draw.drawn)


@pytest.mark.parametrize("scale", [1e-300, 1e6, 1e200])
def test_potentials_of_any_scale_come_to_an_end(scale):
    phi = scale * np.array([0.0, 1.0, 3.0])
    draw = Drawing(phi, np.array([0.5, 0.3, 0.2]))
    smc = tempered_smc(draw, 50, np.random.default_rng(33))
    assert smc.exponents[-1] == 1
    assert len(smc.exponents) < 40
    assert smc.log_z == pytest.approx(np.logaddexp.reduce(np.log(draw.prior) + phi), rel=0.1, abs=0.5)
    assert scale < 1 or (smc.log_potential == phi[2]).all()


def test_a_seed_gives_the_same_again():
    one, again, other = (tempered_smc(Drawing(), 30, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.indices.tolist() == again.indices.tolist()
    assert one.log_z == again.log_z != other.log_z


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"ess_share": 0.0}, "ess_share is 0.0"),
        ({"ess_share": 1.0}, "ess_share is 1.0"),
        ({"ess_share": np.nan}, "ess_share is nan"),
        ({"moves": -1}, "moves is -1"),
        ({"exponents": []}, "exponents is empty"),
        ({"exponents": [0.0, 1.0]}, r"exponents\[0\] is 0.0: each is above"),
        ({"exponents": [0.5, 0.5, 1.0]}, r"exponents\[1\] is 0.5: each is above"),
        ({"exponents": [0.5, np.nan, 1.0]}, r"exponents\[1\] is nan"),
        ({"exponents": [0.5, 0.9]}, "exponents ends at 0.9"),
        ({"exponents": [0.5, 2.0]}, "exponents ends at 2.0"),
        ({"exponents": 1.0}, "exponents has 0 dimensions"),
        ({"scheme": "fair"}, "scheme is 'fair'"),
        ({"draw": lambda n, _: np.zeros(n - 1)}, "draw returned 3 log-potentials where 4"),
        ({"draw": lambda n, _: np.zeros((n, 1))}, "log_potential has 2 dimensions"),
        ({"draw": lambda _n, _: [0.0, 1.0, np.nan, 0.0]}, r"log_potential\[2\] is nan"),
        ({"draw": lambda _n, _: [0.0, np.inf, 0.0, 0.0]}, r"log_potential\[1\] is inf"),
    ],
)
def test_bad_input_is_refused(changes, message):
    arguments = {"draw": Drawing(), "n": 4, "rng": np.random.default_rng(0), **changes}
    with pytest.raises(ValueError, match=message):
        tempered_smc(**arguments)
