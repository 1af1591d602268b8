"""Events of a run: named where something happened, dated near the truth, and not named on quiet runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from esscher import Estimate, trend
from esscher.trend import FrontierPlace
from esscher.trend.change_points import above, running_away, step_variance
from esscher.trend.events import RUN_RATE, WHAT
from run_stories import Levels, healthy, seen

# Where something happens, and how long it takes.
AT, LONG = 100, 20


def ramp(i, length):
    """From 0 at step AT to 1 after so many steps."""
    return float(np.clip((i - AT) / length, 0, 1))


def away(i, length):
    return healthy(min(i, AT)).kl * np.exp(3 * ramp(i, length))


# What the levels of a healthy run become.
HAPPENS = {
    "entropy-collapse": lambda i, length: {"entropy": healthy(i).entropy * (1 - 0.9 * ramp(i, length))},
    "kl-runaway": lambda i, length: {"kl": away(i, length)},
    "reward-without-diversity": lambda i, length: {"distinct_2": healthy(i).distinct_2 * (1 - 0.7 * ramp(i, length))},
    "mismatch": lambda i, length: {"mismatch": healthy(i).mismatch * (1 + 10 * ramp(i, length))},
    "lengths-at-limit": lambda i, length: {"cut_off": healthy(i).cut_off + 0.75 * ramp(i, length)},
    "rewards-alike": lambda i, length: {"alike": healthy(i).alike + (1 - healthy(i).alike) * ramp(i, length)},
}


def story(levels, seed, steps=200, **how):
    rng = np.random.default_rng(seed)
    return trend(seen(i, levels(i), rng, **how) for i in range(steps)).events


# Quiet runs.


@pytest.mark.parametrize("levels", [lambda _: Levels(), healthy], ids=["still", "healthy"])
@pytest.mark.parametrize("how", [{"prompts": 8}, {"prompts": 32, "same_prompts": True}], ids=["few", "same"])
def test_a_quiet_run_is_silent_in_nearly_all_seeds(levels, how):
    assert sum(not story(levels, seed, steps=120, **how) for seed in range(100)) >= 95


def test_a_run_of_few_steps_has_no_events():
    """Nine steps, of which the last are as bad as can be."""
    bad = Levels(reward=1.0, kl=80.0, entropy=0.1, distinct_2=0.1, cut_off=1.0, alike=1.0, mismatch=0.5)
    assert not any(story(lambda i: bad if i > 5 else Levels(), seed, steps=9) for seed in range(20))


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_at_the_limit_itself_alarms_are_no_more_than_is_said(slope):
    rate, alarms, noise = 0.2, 0, np.random.default_rng(0).normal(size=(100, 100))
    for values in noise:
        of_step = np.sqrt(np.random.default_rng(1).chisquare(7, size=100) / 7)
        alarms += any(
            above(values[:n], of_step[:n], lambda first: slope * first, slope, rate) is not None for n in range(101)
        )
    assert alarms <= rate * 100


def test_growth_by_the_fourth_power_is_no_running_away():
    steps = np.arange(1.0, 151.0)
    told = 0
    for seed in range(30):
        noise = np.random.default_rng(seed).normal(size=150)
        kl = 1e-7 * steps**4 + noise
        told += any(running_away(kl[:n], np.ones(n), steps[:n], 4.0, 0.05) is not None for n in range(151))
    assert told <= 2


def test_noise_from_step_to_step_is_told_from_drift():
    noise, drift = np.random.default_rng(0).normal(0.0, 0.3, 5000), 0.05 * np.arange(5000)
    assert step_variance(drift + noise)[0] == pytest.approx(0.09, rel=0.1)


# Events.


@pytest.mark.parametrize("length", [1, LONG])
@pytest.mark.parametrize("code", HAPPENS)
def test_what_happens_is_named_and_dated_near_the_truth(code, length):
    for seed in range(5):
        events = story(lambda i: replace(healthy(i), **HAPPENS[code](i, length)), seed, prompts=32)
        assert [event.code for event in events] == [code]
        (event,) = events
        # Step AT is the last that has not moved.
        assert abs(event.began - (AT + 1)) <= (1 if length == 1 else 6 if code == "rewards-alike" else 3)
        assert event.began <= event.named <= AT + length + (25 if code == "rewards-alike" else 5)
        assert event.what == WHAT[code]


def test_what_was_so_from_the_beginning_began_with_the_first_step():
    events = story(lambda _: Levels(alike=1.0), 0, prompts=32)
    assert [(event.code, event.began) for event in events] == [("rewards-alike", 0)]


def test_diversity_that_falls_with_the_reward_is_another_matter():
    def levels(i):
        return replace(healthy(i), reward=0.1, **HAPPENS["reward-without-diversity"](i, LONG))

    assert story(levels, 0) == ()


def test_evidence_says_the_levels_and_how_clear_they_are():
    (event,) = story(lambda i: replace(healthy(i), **HAPPENS["entropy-collapse"](i, LONG)), 0)
    assert "The entropy was 3 nats a token in the first 5 steps" in event.evidence or "was 2.9" in event.evidence
    assert "half of it, by" in event.evidence
    (event,) = story(lambda i: replace(healthy(i), **HAPPENS["kl-runaway"](i, LONG)), 0)
    assert "KL(policy‖prior) was" in event.evidence
    assert "fourth power" in event.evidence


def test_diversity_is_held_against_the_target_where_that_is_known():
    """The policy keeps most of its diversity, and the target would keep all of it."""

    def place(target):
        return FrontierPlace(8, None, None, None, None, False, None, Estimate(target, 0.002))

    def run(target):
        rng = np.random.default_rng(0)
        for i in range(150):
            step = seen(i, replace(healthy(i), distinct_2=0.95 - 0.2 * ramp(i, LONG)), rng)
            yield replace(step, frontier=place(target(i)))

    (event,) = trend(run(lambda _: 0.95)).events
    assert event.code == "reward-without-diversity"
    assert abs(event.began - (AT + 1)) <= 4
    assert trend(run(lambda i: 0.95 - 0.2 * ramp(i, LONG))).events == ()


def test_the_frontier_is_left_once_regret_is_beyond_error():
    def run(regret, stderr):
        rng = np.random.default_rng(0)
        for i in range(60):
            found = Estimate(regret * (i >= 30) + stderr * rng.normal(), stderr)
            place = FrontierPlace(16, 1.0, Estimate(1.0, 0.1), found, found, True, None, None)
            yield replace(seen(i, Levels(), rng), frontier=place)

    (event,) = trend(run(0.3, 0.02)).events
    assert (event.code, event.began, event.named) == ("left-the-frontier", 30, 30)
    assert trend(run(0.0, 0.02)).events == ()


def test_a_step_that_says_nothing_of_a_series_is_passed_over():
    rng = np.random.default_rng(0)
    steps = [seen(i, replace(healthy(i), **HAPPENS["entropy-collapse"](i, 1)), rng) for i in range(150)]
    thinned = [replace(step, entropy=None) if i % 3 == 0 else step for i, step in enumerate(steps)]
    (event,) = trend(thinned).events
    assert abs(event.began - (AT + 1)) <= 2
    unknown = [replace(step, entropy=Estimate(np.nan, np.nan), kl={"k1": Estimate(np.inf, np.nan)}) for step in steps]
    assert trend(unknown).events == ()


def test_events_are_those_of_the_steps_so_far():
    """What is named at a step does not change with what comes after."""
    rng = np.random.default_rng(0)
    steps = [seen(i, replace(healthy(i), **HAPPENS["entropy-collapse"](i, LONG)), rng) for i in range(150)]
    (event,) = trend(steps).events
    assert trend(steps[: event.named - steps[0].step]).events == ()
    assert trend(steps[: event.named + 1]).events == (event,)


def test_steps_that_do_not_rise_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="step 3 comes after step 3: give each once, in order"):
        trend([seen(3, Levels(), rng), seen(3, Levels(), rng)])


def test_the_rates_of_all_kinds_add_up_to_that_of_the_run():
    from esscher.trend.events import RATE, RULES

    kinds = {rule.code for rule in RULES} | {"kl-runaway", "left-the-frontier"}
    assert kinds == set(WHAT)
    assert sum(rule.rate for rule in RULES) + 2 * RATE == pytest.approx(RUN_RATE)
