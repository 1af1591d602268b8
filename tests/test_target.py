"""Targets: what each adds to the prior's log-prob, alone and multiplied."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esscher.target import Condition, Moments, Product, Tilt

REWARDS = np.array([1.0, 0.3, -2.0, -np.inf, 0.25])
FEATURES = np.array([[0.5, 2.0], [1.5, -1.0], [0.0, 0.25], [3.0, 1.0], [-2.0, 4.0]])


def test_moments_weigh_features_by_coefficients():
    got = Moments([1.0, -0.5]).log_potential(features=FEATURES)
    assert got == pytest.approx([-0.5, 2.0, -0.125, 2.5, -4.0], rel=1e-15)


def test_one_feature_may_have_one_dimension():
    target = Moments((2.0,))
    assert np.array_equal(target.log_potential(features=FEATURES[:, 0]), 2 * FEATURES[:, 0])
    assert np.array_equal(target.log_potential(features=FEATURES[:, :1]), 2 * FEATURES[:, 0])


@pytest.mark.parametrize("columns", [1, 3, 9, 40])
def test_what_a_row_gives_does_not_depend_on_its_neighbours_or_their_layout(columns):
    rng = np.random.default_rng(columns)
    features, target = rng.normal(size=(17, columns)), Moments(rng.normal(size=columns))
    whole = target.log_potential(features=features)
    alone = [target.log_potential(features=features[i : i + 1])[0] for i in range(len(features))]
    assert np.array_equal(whole, alone)
    assert np.array_equal(whole, target.log_potential(features=np.asfortranarray(features)))
    assert whole == pytest.approx(features @ np.array(target.coefficients), rel=1e-12, abs=1e-13)


def test_moments_are_values():
    assert Moments([1, -0.5]) == Moments(np.array([1.0, -0.5])) != Moments([1.0])
    assert hash(Moments([1, -0.5])) == hash(Moments((1.0, -0.5)))
    assert repr(Moments([1, -0.5])) == "Moments(coefficients=(1.0, -0.5))"
    with pytest.raises(AttributeError):
        Moments([1.0]).coefficients = (2.0,)


def test_a_product_adds_and_minus_infinity_wins():
    target = Tilt(0.5) * Condition(0.3) * Moments([1.0, -0.5])
    got = target.log_potential(REWARDS, FEATURES)
    assert got == pytest.approx([2.0 - 0.5, 0.6 + 2.0, -np.inf, -np.inf, -np.inf], rel=1e-15)


def test_a_product_is_flat_and_keeps_its_order():
    a, b, c = Tilt(0.5), Condition(0.3), Moments([1.0, -0.5])
    assert (a * b) * c == a * (b * c) == Product((a, b, c)) == Product((Product((a,)), Product((b, c))))
    assert (c * a).targets == (c, a) != (a * c).targets
    assert hash(a * b * c) == hash(Product((a, b, c)))
    assert str(c * a * b) == "moments|coefficients:1,-0.5 * tilt|beta:0.5 * condition|threshold:0.3"


@given(st.lists(st.sampled_from([Tilt(0.7), Condition(0.0), Moments([1.0, -0.5])]), min_size=1, max_size=5))
def test_a_product_is_the_sum_of_its_factors(factors):
    got = Product(tuple(factors)).log_potential(REWARDS, FEATURES)
    parts = [factor.log_potential(REWARDS, FEATURES) for factor in factors]
    assert got == pytest.approx(np.sum(parts, axis=0), rel=1e-14)
    assert not np.isnan(got).any()


def test_a_target_ignores_what_it_does_not_need():
    bad = np.full(5, np.nan)
    assert np.array_equal(Tilt(0.5).log_potential(REWARDS, bad), Tilt(0.5).log_potential(REWARDS))
    assert np.array_equal(Condition(0.3).log_potential(REWARDS, bad), Condition(0.3).log_potential(rewards=REWARDS))
    target = Moments([1.0, 2.0])
    assert np.array_equal(target.log_potential(bad, FEATURES), target.log_potential(features=FEATURES))
    assert np.isfinite((target * target).log_potential(features=FEATURES)).all()


@pytest.mark.parametrize(
    ("target", "arguments", "missing"),
    [
        (Tilt(0.5), {"features": FEATURES}, r"rewards is missing: tilt\|beta:0.5"),
        (Condition(0.5), {}, r"rewards is missing: condition\|threshold:0.5"),
        (Moments([1.0, 2.0]), {"rewards": REWARDS}, r"features is missing: moments\|coefficients:1,2"),
        (Tilt(0.5) * Moments([1.0]), {"rewards": REWARDS}, r"features is missing: moments"),
        (Moments([1.0]) * Tilt(0.5), {"features": FEATURES[:, 0]}, r"rewards is missing: tilt"),
    ],
)
def test_what_is_missing_is_named(target, arguments, missing):
    with pytest.raises(ValueError, match=missing):
        target.log_potential(**arguments)


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ([], r"coefficients has shape \(0,\)"),
        (1.0, r"coefficients has shape \(\)"),
        ([[1.0]], r"coefficients has shape \(1, 1\)"),
        ([0.0, np.nan], r"coefficients\[1\] is nan: it must be finite"),
        ([-np.inf], r"coefficients\[0\] is -inf: it must be finite"),
    ],
)
def test_coefficients_are_checked(coefficients, message):
    with pytest.raises(ValueError, match=message):
        Moments(coefficients)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_are_finite(bad):
    features = FEATURES.copy()
    features[2, 1] = bad
    with pytest.raises(ValueError, match=rf"features\[2, 1\] is {bad}: a feature is finite"):
        Moments([1.0, 1.0]).log_potential(features=features)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="features has 2 columns, the target 3 coefficients"):
        Moments([1.0, 2.0, 3.0]).log_potential(features=FEATURES)
    with pytest.raises(ValueError, match="features has 1 columns, the target 2 coefficients"):
        Moments([1.0, 2.0]).log_potential(features=FEATURES[:, 0])
    with pytest.raises(ValueError, match=r"features has shape \(1, 5, 2\)"):
        Moments([1.0, 2.0]).log_potential(features=FEATURES[None])
    with pytest.raises(ValueError, match=r"features has shape \(5, 0\)"):
        Moments([1.0]).log_potential(features=np.empty((5, 0)))
    with pytest.raises(ValueError, match="rewards has 2 dimensions"):
        Tilt(1.0).log_potential(FEATURES)
    with pytest.raises(ValueError, match=r"differ in length \(4 for tilt.*, 5 for moments"):
        (Tilt(1.0) * Moments([1.0, 2.0])).log_potential(REWARDS[:4], FEATURES)


def test_overflow_is_an_error():
    with pytest.raises(ValueError, match=r"features\[1\] times the coefficients of moments.* overflows"):
        Moments([1e200]).log_potential(features=[1.0, 1e200])
    with pytest.raises(ValueError, match=r"features\[0\] times the coefficients"):
        Moments([1e200, -1e200]).log_potential(features=[[1e200, 1e200]])
    large = Tilt(1.0) * Tilt(1.0)
    with pytest.raises(ValueError, match="the log-potentials of completion 1 overflow when added"):
        large.log_potential([0.0, 1.5e308])
    assert (large * Condition(2e307)).log_potential([-1.5e308]) == [-np.inf]


def test_a_product_is_of_targets():
    with pytest.raises(ValueError, match="targets is empty"):
        Product(())
    with pytest.raises(TypeError, match=r"targets\[1\] is float: a factor is a Tilt"):
        Tilt(0.5) * 2.0
