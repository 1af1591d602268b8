"""The page about the paper: its pictures are those that it shows, and what it claims is so."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "paper.md").read_text()
SHOWN = re.findall(r"\]\(figures/paper/(\w+)\.svg\)", PAGE)


@pytest.fixture(scope="module")
def figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        yield importlib.import_module("paper_figures")


@pytest.fixture(scope="module")
def page(figures):
    return figures.run_page()


def test_the_page_shows_every_picture_in_order(figures):
    assert [draw.__name__ for draw in figures.PICTURES] == SHOWN
    assert {path.stem for path in figures.FOLDER.iterdir()} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_is_drawn_from_the_pages_names(figures, page, name):
    drawn = figures.svg(getattr(figures, name)(page))
    assert 5000 < len(drawn) < 60_000
    assert "NaN" not in drawn
    # The committed picture may have been laid out by another version, with other ticks, but it says the same.
    assert words(drawn) == words((figures.FOLDER / f"{name}.svg").read_text())


def words(svg):
    return [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg) if re.search("[A-Za-z]{2}", text)]


def test_the_table_leads_to_the_sections():
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    anchors = [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles]
    assert re.findall(r"\]\(#([^)]+)\)", PAGE) == anchors[1:]
    assert len(anchors) == len(SHOWN) + 1


def per_prompt(values):
    return values.reshape(*values.shape[:-1], 2, 121).sum(-1)


def target(page, beta):
    """Target and log Z of both prompts, without the library."""
    unnormalised = np.exp(page.log_prior + page.reward / beta)
    z = per_prompt(unnormalised)
    return unnormalised / np.repeat(z, 121), np.log(z)


def test_the_target_is_the_posterior(page):
    law, log_z = target(page, page.beta)
    assert np.exp(page.log_target) == pytest.approx(law, rel=1e-10)
    assert page.log_z == pytest.approx(log_z, rel=1e-12)
    assert len({*page.reward.round(9)}) == 242  # asymmetric: no two rewards are equal


def test_j_is_log_z_less_the_gap_all_along(page):
    law, log_z = target(page, page.beta)
    for trace in (page.tuned[::100], page.collapsed[:50]):
        policy = np.exp(trace)
        j = per_prompt(policy * (page.reward - page.beta * (trace - page.log_prior)))
        gap = per_prompt(policy * (trace - np.log(law)))
        assert j == pytest.approx(page.beta * (log_z - gap), abs=1e-9)
        assert gap.min() > 0


def test_matching_reaches_the_target_and_reward_alone_collapses(page):
    law, _ = target(page, page.beta)
    for trace in (page.tuned, page.matched):
        policy = np.exp(trace[-1])
        assert per_prompt(policy * np.log(policy / law)).max() < 1e-3
        assert per_prompt(law * np.log(law / policy)).max() < 1e-3
    assert per_prompt(-np.exp(page.collapsed[-1]) * page.collapsed[-1]).max() < 0.02
    best = page.reward.reshape(2, 121).max(axis=1)
    assert per_prompt(np.exp(page.collapsed[-1]) * page.reward) == pytest.approx(best, abs=0.01)
    # The target keeps the prior's diversity: its entropy is no less than 95 % of it.
    assert (-law * np.log(law)).sum() > 0.95 * (-np.exp(page.log_prior) * page.log_prior).sum()


def test_nothing_lies_above_the_frontier(page):
    """For every beta, no policy's reward - beta KL exceeds beta log Z."""
    points = [page.objective(law) for trace in (page.collapsed, page.tuned, page.greedy) for law in trace[::20]]
    points = np.array([*points, *page.best_of_n.values(), *page.quasi.values()])
    for beta in page.curve.beta:
        _, log_z = target(page, beta)
        assert (points[:, 0] - beta * points[:, 1]).max() <= beta * log_z.mean() + 1e-9


def test_the_gradient_is_that_of_a_weighted_log_prob(page):
    rng = np.random.default_rng(0)
    weights, direction = rng.normal(size=242), rng.normal(size=page.logits.shape)
    ends = [weights @ page.log_probs(page.logits + step * direction) for step in (1e-5, -1e-5)]
    slope = (page.gradient(weights, page.logits) * direction).sum()
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_best_of_two_is_the_better_of_all_pairs(page):
    prior, reward = np.exp(page.log_prior).reshape(2, 121), page.reward.reshape(2, 121)
    beaten = reward[:, :, None] > reward[:, None, :]
    same = np.eye(121, dtype=bool)
    law = prior * (2 * (beaten * prior[:, None, :]).sum(-1) + (same * prior[:, None, :]).sum(-1))
    assert np.exp(page.best_of(2)) == pytest.approx(law.ravel(), rel=1e-6)


def test_the_fitted_moments_are_those_asked_for(page):
    """Within five standard errors of the features' means over 8000 samples."""
    for feature, goal in zip(page.features.T, page.wanted, strict=True):
        law = np.exp(page.controlled)
        spread = np.sqrt(law @ (feature - goal) ** 2 / 2)
        assert page.mean(page.controlled, feature) == pytest.approx(goal, abs=5 * spread / np.sqrt(8000))


def test_every_method_of_inference_has_drawn_from_the_target(page):
    law, _ = target(page, page.beta)
    prior_is = np.abs(np.exp(page.log_prior) - law)[:121].sum() / 2
    for name, drawn in page.found.items():
        assert page.distance(drawn) < 0.15, name
    assert prior_is > 0.4
