"""`mismatch`: verl's numbers, named causes on real rollouts, what is defined for bad input, and the command."""

from __future__ import annotations

import io
import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import mismatch_table
from esscher import Ragged, files
from esscher.files.masks import ROW_MASKS, TOKEN_MASKS
from esscher.inference.importance import importance
from esscher.lm.transformers import TransformersLM
from esscher.mismatch import mismatch
from esscher.report import bins
from esscher.report.mismatch import print_mismatch, tables, verdict, write_mismatch_page
from mismatch_table import CHANGED, NAMES, PAGE, SINGLE, Fault, report_of, wrong_end
from models import alice, alice_folder, smollm2
from pages import Page, check_page, plain
from report_json import read, record_of
from rollouts import COLLAPSED, PROMPTS, SAMPLERS, SEEDS, SMOLLM2, Sampler, golden, record

EXACT = {"rel": 1e-5, "abs": 1e-6}  # torch computes in float32, and verl adds 1e-8 to each count


def verl_metrics(train, rollout, mask):
    """What verl 0.7 logs, as the formulas of `compute_offpolicy_metrics` in verl/trainer/ppo/rollout_corr_helper.py.

    The effective sample size is that of its token-level weights, truncated at 2.
    """

    def masked_mean(values, axis=None):
        return (values * mask).sum(axis) / (mask.sum(axis) + 1e-8)

    log_ratio = train - rollout
    mean_train, mean_rollout = masked_mean(train, -1), masked_mean(rollout, -1)
    diff = mean_rollout - mean_train
    rho = torch.exp(torch.clamp(log_ratio, -20, 20))
    sums = torch.clamp((log_ratio * mask).sum(-1), -20, 20)
    weights = torch.clamp(torch.clamp(rho, max=2.0), 0.5, 2.0)
    share = weights / (masked_mean(weights) + 1e-8)
    return {
        "kl": masked_mean(rollout - train),
        "k3_kl": masked_mean(torch.exp(log_ratio) - log_ratio - 1),
        "training_ppl": torch.exp(-mean_train).mean(),
        "training_log_ppl": (-mean_train).mean(),
        "rollout_ppl": torch.exp(-mean_rollout).mean(),
        "rollout_log_ppl": (-mean_rollout).mean(),
        "log_ppl_diff": diff.mean(),
        "log_ppl_abs_diff": diff.abs().mean(),
        "log_ppl_diff_max": diff.max(),
        "log_ppl_diff_min": diff.min(),
        "ppl_ratio": torch.exp(diff).mean(),
        "chi2_token": masked_mean(rho.square()) - 1.0,
        "chi2_seq": torch.exp(2.0 * sums).mean() - 1.0,
        "rollout_is_eff_sample_size": 1.0 / masked_mean(share.square()),
    }


def two_engines(rng, rows=12, noise=0.3, longest=9):
    lengths = rng.integers(1, longest + 1, rows)
    train = -rng.exponential(1.5, lengths.sum()) - 0.01
    rollout = -np.abs(train + rng.normal(0, noise, len(train)))
    return Ragged.from_lengths(train, lengths), Ragged.from_lengths(rollout, lengths)


@pytest.mark.parametrize("noise", [1e-6, 0.3, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_verls(seed, noise):
    train, rollout = two_engines(np.random.default_rng(seed), noise=noise)
    mask = torch.arange(int(train.lengths.max())) < torch.tensor(train.lengths)[:, None]
    padded = [torch.tensor(column.to_padded(0.0)) for column in (train, rollout)]
    metrics = mismatch(train, rollout).metrics
    for name, expected in verl_metrics(*padded, mask.double()).items():
        got = metrics.kl.value if name == "kl" else getattr(metrics, name)
        assert got == pytest.approx(float(expected), **EXACT), name


def test_the_kl_has_the_stderr_of_a_ratio_clustered_by_prompt():
    train, rollout = two_engines(np.random.default_rng(4))
    groups = [0, 3, 4, 9, 12]
    kl = mismatch(train, rollout, groups).metrics.kl
    d = Ragged(rollout.values - train.values, train.offsets)
    mean = d.values.mean()
    variance = 0.0
    for a, b in itertools.pairwise(groups):
        residuals = np.concatenate([d[i] - mean for i in range(a, b)])
        variance += residuals.sum() ** 2 / (1 - len(residuals) / len(d.values))
    assert kl.value == pytest.approx(mean)
    assert kl.stderr == pytest.approx(math.sqrt(variance) / len(d.values))


def test_ours_are_not_clamped():
    train = Ragged.from_rows([[-1.0, -30.0], [-1.0, -2.0], [-2.0, -2.5]])
    rollout = Ragged.from_rows([[-1.0, -0.5], [-1.1, -2.2], [-2.1, -2.4]])
    metrics = mismatch(rollout, train).metrics
    sums = np.array([29.5, -0.3, 0.0])
    assert metrics.chi2_seq_unclamped == pytest.approx(np.mean(np.exp(2 * sums)) - 1)
    assert metrics.chi2_seq == pytest.approx((math.exp(40) + math.exp(-0.6) + 1) / 3 - 1)
    weights = np.exp(sums)
    assert metrics.ess == pytest.approx(weights.sum() ** 2 / (weights**2).sum() / 3)
    assert metrics.rollout_is_eff_sample_size > 0.64
    assert metrics.ess == pytest.approx(1 / 3)
    assert math.isinf(mismatch(with_value(rollout, 0, -1.0), with_value(train, 0, -480.0)).metrics.chi2_seq_unclamped)


def with_value(column, i, value):
    values = column.values.astype(np.float64)
    values[i] = value
    return Ragged(values, column.offsets)


def test_pareto_k_is_that_of_the_sequence_weights():
    drawn = golden("temperature 1.3")
    metrics = mismatch(drawn.train, drawn.rollout).metrics
    sums = np.add.reduceat(drawn.train.values.astype(float) - drawn.rollout.values, drawn.train.offsets[:-1])
    expected = importance(sums, np.zeros(len(sums)))
    assert metrics.pareto_k == pytest.approx(expected.pareto_k[0])
    assert metrics.ess == pytest.approx(expected.ess[0] / len(sums))


# Named causes, on completions of SmolLM2.


def test_the_golden_rollouts_are_what_smollm2_gives():
    """Scored again, and the rollout's log-probs made anew from all logits by sorting in NumPy."""
    prompts = smollm2().encode(PROMPTS)
    for name, sampler in SAMPLERS.items():
        drawn = golden(name)
        rows = np.arange(4)
        completions = drawn.completions.take(rows)
        again = smollm2().logprobs(prompts.take([0]), completions, [0, 4])
        assert again.values == pytest.approx(drawn.train.take(rows).values, abs=1e-3), name
        expected = np.concatenate([sampled_logprobs(prompts[0], row, sampler) for row in completions])
        # In bfloat16 the engine itself is elsewhere; where a border of top-p falls is for rounding to say.
        tolerance = 0.6 if name.startswith("bf16") else 2e-3
        assert np.mean(np.abs(expected - drawn.rollout.take(rows).values) < tolerance) > 0.97, name


def sampled_logprobs(prompt, completion, sampler):
    network = smollm2()._network
    ids = np.concatenate([prompt, completion]).astype(np.int64)
    with torch.inference_mode():
        hidden = network.run(torch.tensor(ids[None]), torch.arange(len(ids))[None]).last_hidden_state[0]
        logits = network.logits(hidden[len(prompt) - 1 : -1]).numpy().astype(float) / sampler.temperature
    found = []
    for row, token in zip(logits, completion, strict=True):
        order = np.argsort(-row)
        order = order[: sampler.top_k]
        probs = np.exp(row[order] - row[order[0]])
        probs /= probs.sum()
        kept = np.searchsorted(np.cumsum(probs), sampler.top_p) + 1
        place = int(np.flatnonzero(order == token)[0])
        found.append(math.log(probs[place] / probs[:kept].sum()) if place < kept else -math.inf)
    return found


def test_the_pages_tables_are_what_the_code_gives():
    page = PAGE.read_text()
    for name, table in mismatch_table.single_tables().items():
        assert f"<!-- table: {name} -->\n{table}\n<!-- end -->" in page, f"run python tests/mismatch_table.py: {name}"


@pytest.mark.parametrize("world", [SMOLLM2, COLLAPSED], ids=["smollm2", "collapsed"])
def test_of_two_faults_at_once_both_are_named(world):
    faults = SINGLE if world is SMOLLM2 else mismatch_table.PAIRED_OF_COLLAPSED
    some = [(n, row) for n, row in mismatch_table.all_judged(faults, step=9, world=world)]
    runs = sum(row["runs"] for _, row in some)
    assert sum(row["both"] for _, row in some) >= 0.95 * runs
    assert sum(row["exactly"] for _, row in some) >= 0.95 * runs


@pytest.mark.parametrize("name", mismatch_table.OF_COLLAPSED)
def test_each_fault_of_a_collapsed_policy_is_named_and_nothing_else(name):
    part = mismatch_table.OF_COLLAPSED[name]
    assert set(mismatch_table.named([part], SEEDS[0], 0, world=COLLAPSED)) == part.expected


def test_another_unit_is_told_with_its_number():
    def cause(name):
        (found,) = report_of([SINGLE[name]], SEEDS[0], 0, world=COLLAPSED).causes
        return found

    assert "the base of the logarithm: every ratio is 2.3026" in cause("to base 10").evidence
    assert cause("to base 10").estimate == 10
    assert cause("divided by 0.7").estimate == pytest.approx(0.7, rel=1e-3)


def test_a_template_that_all_completions_share_is_no_sentinel():
    """Its first token has one log-prob a prompt, whatever some rows' other column says."""
    drawn = golden("plain")
    first = np.repeat(-np.linspace(0.5, 1.5, 8), 8)
    columns = [
        Ragged.from_rows([[f, *row] for f, row in zip(first, c, strict=True)]) for c in (drawn.train, drawn.rollout)
    ]
    stale = CHANGED["noise of a nat, 25% of rows"].change
    changed = stale(mismatch_table.Columns(*columns, drawn.wrong_end), np.random.default_rng(0))
    assert mismatch(*columns, drawn.groups).clean
    assert mismatch(changed.train, changed.rollout, drawn.groups).names == ("other-policy",)


@pytest.mark.parametrize("name", SINGLE)
def test_each_fault_alone_is_named_and_nothing_else(name):
    for seed in SEEDS:
        assert set(mismatch_table.named([SINGLE[name]], seed, 0)) == SINGLE[name].expected


@pytest.mark.parametrize("seed", SEEDS)
def test_clean_is_clean_with_and_without_groups(seed):
    drawn = golden("plain", seed)
    for groups in (drawn.groups, None):
        report = mismatch(drawn.train, drawn.rollout, groups, drawn.terminated)
        assert report.clean
        assert report.metrics.ess == pytest.approx(1, abs=1e-6)
    assert mismatch(drawn.train, drawn.train).clean


@pytest.mark.parametrize(
    ("sampler", "name", "expected", "tolerance"),
    [
        ("temperature 0.7", "sampling-temperature", 0.7, 1e-3),
        ("temperature 1.3", "sampling-temperature", 1.3, 1e-3),
        ("temperature 0.7, top-p 0.9", "sampling-temperature", 0.7, 1e-3),
        # The mass kept is at least top-p.
        ("top-p 0.9", "kept-mass", 0.907, 0.003),
    ],
)
def test_estimates_find_what_was_set(sampler, name, expected, tolerance):
    for seed in SEEDS:
        report = report_of([Fault(frozenset(), sampler)], seed, 0)
        cause = next(cause for cause in report.causes if cause.name == name)
        assert cause.estimate == pytest.approx(expected, abs=tolerance)


def test_the_kept_mass_is_the_mean_mass_of_what_the_sampler_kept():
    """Kept masses from all logits, of the contexts of one prompt's completions."""
    drawn = golden("top-k 20")
    report = mismatch(drawn.train, drawn.rollout, drawn.groups)
    masses = np.exp(drawn.train.values.astype(float) - drawn.rollout.values)
    assert report.causes[0].estimate == pytest.approx(masses.mean(), rel=2e-3)


def test_without_groups_a_temperature_is_bounded():
    for tau in (0.7, 1.3):
        drawn = golden(f"temperature {tau}")
        cause = mismatch(drawn.train, drawn.rollout).causes[0]
        assert cause.name == "sampling-temperature"
        assert min(tau, 1) < cause.estimate < max(tau, 1)
        assert f"or {'below' if tau < 1 else 'above'}" in cause.evidence


def test_one_line_through_all_tokens_is_no_substitute_for_contexts():
    drawn = golden("temperature 0.7")
    assert 1.1 < np.polyfit(drawn.train.values, drawn.rollout.values, 1)[0] < 1.3 < 1 / 0.7


def test_the_engine_whose_column_it_is_is_named():
    for sampler, name in (("top-p 0.9", "kept-mass"), ("temperature 0.7", "sampling-temperature")):
        drawn = golden(sampler)
        as_is = mismatch(drawn.train, drawn.rollout, drawn.groups).causes
        swapped = mismatch(drawn.rollout, drawn.train, drawn.groups).causes
        assert [(c.name, c.column) for c in as_is] == [(name, "rollout")]
        assert [(c.name, c.column) for c in swapped] == [(name, "train")]
        assert swapped[0].estimate == pytest.approx(as_is[0].estimate, rel=1e-3)


def test_faults_in_the_trainers_column_are_told_as_such():
    drawn = golden("plain")
    for name, column in (
        ("zeros, 3% of tokens", "missing"),
        ("NaN, 3% of tokens", "sentinel"),
        ("rounded to bfloat16", "bf16-rounding"),
    ):
        columns = mismatch_table.Columns(drawn.rollout, drawn.train, drawn.wrong_end)
        changed = CHANGED[name].change(columns, np.random.default_rng(0))
        causes = mismatch(changed.rollout, changed.train).causes
        assert [(cause.name, cause.column) for cause in causes] == [(column, "train")]


def test_a_few_outliers_do_not_hide_a_cause():
    for sampler, expected in (("top-p 0.9", "kept-mass"), ("temperature 1.3", "sampling-temperature")):
        drawn = golden(sampler)
        values = drawn.rollout.values.copy()
        values[[5, 400, 900]] -= np.float32([9, 7, 20])
        assert expected in mismatch(drawn.train, Ragged(values, drawn.rollout.offsets), drawn.groups).names


@pytest.mark.parametrize("share", [0.002, 0.02, 0.1])
@pytest.mark.parametrize("completions", [2, 8, 64])
def test_isolated_tokens_that_differ_are_no_kept_mass(share, completions):
    """They are higher in one column, as after a truncation, which would have moved the likely ones too."""
    drawn = golden("plain")
    train, rollout = (column.take(np.arange(completions)) for column in (drawn.train, drawn.rollout))
    rng = np.random.default_rng(0)
    values = train.values.copy()
    hit = rng.choice(len(values), max(2, int(share * len(values))), replace=False)
    values[hit] -= rng.uniform(4, 8, len(hit)).astype(np.float32)
    report = mismatch(Ragged(values, train.offsets), rollout)
    assert report.names == ("noise",)
    assert report.causes[0].tokens == len(hit)
    assert "where the others agree" in report.causes[0].evidence


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("temperature", [0.3, 0.2])
def test_a_low_temperature_is_no_kept_mass(temperature, grouped):
    prompts = alice().encode(["Alice was", "The Queen said", "“What is", "The Rabbit", "She looked", "The King"])
    drawn = record(alice(), prompts, Sampler(temperature), np.random.default_rng(0), n=12, tokens=24)
    report = mismatch(drawn.train, drawn.rollout, drawn.groups if grouped else None)
    assert report.names == ("sampling-temperature",)


@pytest.mark.parametrize("tokens", [3, 5])
def test_a_model_that_is_certain_of_whole_rows_is_clean(tokens):
    prompts = alice().encode(["Alice was", "The Queen said", "“What is", "The Rabbit", "She looked", "The King"])
    drawn = record(alice(), prompts, Sampler(0.02), np.random.default_rng(0), n=12, tokens=tokens)
    zeros = np.array([not row.any() for row in drawn.rollout])
    assert 0.1 < zeros.mean() < 1
    assert mismatch(drawn.rollout, drawn.rollout, drawn.groups).clean
    # Where the other tokens are not certain, such rows are padding.
    padded = Ragged.from_rows([np.zeros(tokens), *golden("plain").train])
    assert mismatch(padded, padded).names == ("missing",)


@pytest.mark.parametrize(("seed", "noise"), [(2, 0.3), (7, 2.0), (26, 1.0), (36, 2.0), (89, 0.3)])
def test_a_repetition_that_rounding_makes_is_no_sentinel(seed, noise):
    """Of noisy values rounded to bfloat16 these have one, up to eleven times, that outweighs its neighbours."""
    drawn, rng = golden("plain", SEEDS[seed % 2]), np.random.default_rng(seed)
    values = drawn.rollout.values
    noisy = np.minimum(values + rng.normal(0, noise, len(values)), values / 2)
    rounded = torch.tensor(noisy, dtype=torch.bfloat16).float().numpy()
    report = mismatch(drawn.train, Ragged(rounded, drawn.rollout.offsets))
    assert report.names == ("bf16-rounding", "noise")


@pytest.mark.parametrize("value", [-1e3 - 1, -1e300])
def test_what_no_softmax_gives_is_a_sentinel_even_once(value):
    drawn = golden("plain")
    report = mismatch(with_value(drawn.train, 7, value), drawn.rollout)
    assert report.names == ("sentinel",)
    assert report.causes[0].estimate == value


def test_only_the_ends_of_ended_rows_need_be_wrong():
    drawn = golden("plain")
    train, rollout = drawn.train, drawn.rollout
    ended = np.zeros(len(train), np.bool_)
    ended[::8] = True
    values = train.values.copy()
    ends = train.offsets[1:][ended] - 1
    values[ends] = drawn.wrong_end[ended]
    wrong = Ragged(values, train.offsets)
    assert "last-token" not in mismatch(wrong, rollout).names
    cause = mismatch(wrong, rollout, terminated=ended).causes[0]
    # Those that ended with padding's token by themselves are right as they are.
    assert (cause.name, cause.tokens) == ("last-token", (values != train.values).sum())


@pytest.mark.parametrize("name", [name for name, part in CHANGED.items() if "length" in part.expected])
def test_rows_of_unequal_length_are_compared_token_by_token(name):
    drawn = golden("bf16 engine")
    columns = mismatch_table.Columns(drawn.train, drawn.rollout, drawn.wrong_end)
    shorter = CHANGED[name].change(columns, np.random.default_rng(1))
    whole, report = (mismatch(c.train, c.rollout, drawn.groups) for c in (columns, shorter))
    lost = len(drawn.rollout.values) - len(shorter.rollout.values)
    assert report.counts.left_out_tokens == report.causes[0].tokens == lost
    assert report.metrics.k3_kl == pytest.approx(whole.metrics.k3_kl, rel=0.2)


def test_shifted_rows_are_told_with_their_direction():
    drawn = golden("plain")
    late = mismatch_table.shifted(
        mismatch_table.Columns(drawn.train, drawn.rollout, drawn.wrong_end), np.random.default_rng(0)
    )
    assert mismatch(late.train, late.rollout).causes[0].estimate == 1
    assert mismatch(late.rollout, late.train).causes[0].estimate == -1
    assert mismatch(late.train, late.rollout).metrics.kl.value == pytest.approx(0, abs=1e-4)


# A model that is loaded in a second.


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (Sampler(), set()),
        (Sampler(top_p=0.8), {"kept-mass"}),
        (Sampler(top_k=5), {"kept-mass"}),
        (Sampler(temperature=0.5), {"sampling-temperature"}),
        (Sampler(temperature=1.1), {"sampling-temperature"}),
        (Sampler(temperature=0.8, top_p=0.95, top_k=40), {"sampling-temperature", "kept-mass"}),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_causes_are_named_on_another_model(sampler, expected, seed):
    prompts = alice().encode(["Alice was", "The Queen said", "“What is", "The Rabbit", "She looked", "The King"])
    drawn = record(alice(), prompts, sampler, np.random.default_rng(seed), n=8, tokens=20)
    report = mismatch(drawn.train, drawn.rollout, drawn.groups, drawn.terminated)
    assert set(report.names) == expected
    for cause in report.causes:
        if cause.name == "sampling-temperature":
            assert cause.estimate == pytest.approx(sampler.temperature, rel=1e-2)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (Sampler(), {"noise"}),
        (Sampler(temperature=0.9), {"sampling-temperature", "noise"}),
        (Sampler(top_p=0.98), {"kept-mass", "noise"}),
        (Sampler(temperature=0.7, top_p=0.9), {"sampling-temperature", "kept-mass", "noise"}),
    ],
)
def test_causes_are_named_through_the_noise_of_a_bf16_engine(sampler, expected):
    engine = TransformersLM.load(alice_folder(), device="cpu", dtype="bfloat16")
    prompts = alice().encode(["Alice was", "The Queen said", "“What is", "The Rabbit", "She looked", "The King"])
    drawn = record(alice(), prompts, sampler, np.random.default_rng(0), n=8, tokens=24, sampled_by=engine)
    report = mismatch(drawn.train, drawn.rollout, drawn.groups)
    assert set(report.names) == expected
    for cause in report.causes:
        if cause.name == "sampling-temperature":
            assert cause.estimate == pytest.approx(sampler.temperature, rel=0.02)


def test_an_older_policy_is_noise():
    policy = TransformersLM.load(alice_folder(), device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in policy._network.model.parameters():
            weights.mul_(1 + 0.1 * torch.randn(weights.shape, generator=generator))
    prompts = alice().encode(["Alice was", "The Queen said", "“What is", "The Rabbit", "She looked", "The King"])
    drawn = record(alice(), prompts, Sampler(), np.random.default_rng(0), n=8, tokens=24, sampled_by=policy)
    for groups in (drawn.groups, None):
        assert mismatch(drawn.train, drawn.rollout, groups).names == ("noise",)


# Input that is bad, or hardly any.


def test_different_numbers_of_completions_are_refused():
    with pytest.raises(ValueError, match=r"train_logprobs has 2 rows, rollout_logprobs 1.*Join the two"):
        mismatch(Ragged.from_rows([[-1.0], [-1.0]]), Ragged.from_rows([[-1.0]]))


def test_no_completions_are_refused():
    with pytest.raises(ValueError, match="have no rows"):
        mismatch(Ragged.from_rows([]), Ragged.from_rows([]))


def test_what_is_no_column_is_refused():
    good = Ragged.from_rows([[-1.0, -2.0]])
    with pytest.raises(TypeError, match="train_logprobs is list: it must be Ragged"):
        mismatch([[-1.0]], good)
    with pytest.raises(TypeError, match="rollout_logprobs has dtype <U1"):
        mismatch(good, Ragged.from_rows([["a", "b"]]))
    with pytest.raises(TypeError, match="terminated has dtype int64"):
        mismatch(good, good, terminated=[1])
    with pytest.raises(ValueError, match=r"terminated has shape \(2,\), but there are 1 completions"):
        mismatch(good, good, terminated=[True, False])
    with pytest.raises(ValueError, match="groups ends at 2"):
        mismatch(good, good, groups=[0, 2])


def test_rows_that_only_one_column_has_leave_nothing_to_compare():
    report = mismatch(Ragged.from_rows([[-1.0, -2.0], []]), Ragged.from_rows([[], [-0.5]]))
    assert report.metrics is None
    assert not report.clean
    assert [(cause.name, cause.column) for cause in report.causes] == [("missing", "rollout"), ("missing", "train")]
    assert "1 of 2 completions has no log-probs at all" in report.causes[0].evidence
    assert (report.counts.tokens, report.counts.compared_tokens, report.counts.left_out_tokens) == (3, 0, 3)
    assert "Nothing can be compared: missing." in shown(report)


def test_empty_rows_on_both_sides_are_nothing():
    report = mismatch(Ragged.from_rows([[], []]), Ragged.from_rows([[], []]))
    assert (report.causes, report.metrics, report.clean) == ((), None, False)
    assert "Nothing to compare" in shown(report)


def test_all_zeros_are_missing():
    drawn = golden("plain")
    zeros = Ragged(np.zeros_like(drawn.train.values), drawn.train.offsets)
    both = mismatch(zeros, zeros)
    assert [(cause.name, cause.column) for cause in both.causes] == [("missing", "both")]
    assert both.metrics is None
    one = mismatch(drawn.train, zeros)
    assert [(cause.name, cause.column) for cause in one.causes] == [("missing", "rollout")]
    assert "top_k=1" in one.causes[0].advice


def test_all_nan_is_a_sentinel():
    train = Ragged.from_rows([[-1.0, -2.0, -0.3]])
    report = mismatch(train, Ragged.from_rows([[np.nan] * 3]))
    assert report.names == ("sentinel",)
    assert report.metrics is None
    assert "100% of its tokens hold no log-prob" in report.causes[0].evidence


def test_one_completion_is_compared():
    report = mismatch(Ragged.from_rows([[-1.0, -2.0, -0.3]]), Ragged.from_rows([[-1.1, -1.8, -0.3]]))
    assert report.names == ("noise",)
    assert report.metrics.kl.value == pytest.approx(0.1 / 3)
    assert math.isnan(report.metrics.kl.stderr)
    assert report.metrics.ess == 1
    assert math.isnan(report.metrics.pareto_k)


def test_one_token_is_compared():
    assert mismatch(Ragged.from_rows([[-1.0]]), Ragged.from_rows([[-1.0]])).clean


def test_metrics_leave_out_what_is_no_log_prob():
    drawn = golden("bf16 engine")
    values = drawn.rollout.values.copy()
    values[::7], values[3::70], values[5::70] = 1.0, np.nan, -np.inf
    report = mismatch(drawn.train, Ragged(values, drawn.rollout.offsets), drawn.groups)
    keep = np.isfinite(values) & (values < 0.5)
    assert report.counts.compared_tokens == keep.sum()
    assert report.metrics.kl.value == pytest.approx((values - drawn.train.values.astype(float))[keep].mean())
    assert report.names == ("sentinel", "noise")
    assert report.causes[0].tokens == (~keep).sum()


def test_16_bit_columns_are_read_as_they_are():
    drawn = golden("plain")
    for dtype in (torch.bfloat16, torch.float16):
        half = torch.tensor(drawn.rollout.values).to(dtype)
        got = mismatch(drawn.train, Ragged(half if dtype == torch.bfloat16 else half.numpy(), drawn.rollout.offsets))
        same = mismatch(drawn.train, Ragged(half.float().numpy(), drawn.rollout.offsets))
        assert got == same
        assert got.names == ("bf16-rounding",)


RAW = st.one_of(
    st.floats(width=32),
    st.floats(-20, 0, width=32),
    st.sampled_from([0.0, 1.0, -1.0, -100.0, -1e4, math.nan, -math.inf, math.inf, -0.25]),
)


@given(st.lists(st.tuples(st.lists(RAW, max_size=6), st.lists(RAW, max_size=6)), min_size=1, max_size=8), st.booleans())
def test_no_value_and_no_length_crashes(rows, grouped):
    train, rollout = (Ragged.from_rows([pair[i] for pair in rows], np.float32) for i in range(2))
    groups = np.unique([0, len(rows) // 2, len(rows)]) if grouped else None
    report = mismatch(train, rollout, groups)
    record_of("mismatch", report)
    assert set(report.names) <= set(NAMES)
    assert (
        0
        <= report.counts.compared_tokens
        <= report.counts.tokens
        == len(report.per_token.place) + (report.counts.left_out_tokens)
    )
    assert shown(report)


def test_the_order_of_prompts_does_not_matter():
    drawn = golden("temperature 0.7, top-p 0.9")
    order = np.arange(len(drawn.train)).reshape(8, 8)[::-1].ravel()
    one = mismatch(drawn.train, drawn.rollout, drawn.groups)
    two = mismatch(drawn.train.take(order), drawn.rollout.take(order), drawn.groups)
    assert one.names == two.names
    for a, b in zip(one.causes, two.causes, strict=True):
        assert a.estimate == pytest.approx(b.estimate, rel=1e-6)


# What a person reads, and the command.


def shown(report):
    text = io.StringIO()
    print_mismatch(report, Console(width=120, file=text))
    return text.getvalue()


def test_the_verdict_comes_first_then_the_numbers_then_the_rest():
    text = shown(report_of([SINGLE["top-p 0.9"]], SEEDS[0], 0))
    places = [
        text.index(part) for part in ("The engines differ: kept-mass.", "→", "Compared:", "kl", "Details", "chi2_seq")
    ]
    assert places == sorted(places)
    assert shown(report_of([SINGLE["nothing (float32, both engines)"]], SEEDS[0], 0)).startswith("Clean: ")


PAGES = {
    "clean": lambda: report_of([SINGLE["nothing (float32, both engines)"]], SEEDS[0], 0),
    "two causes": lambda: report_of([SINGLE["temperature 0.7"], SINGLE["NaN, 3% of tokens"]], SEEDS[0], 0),
    "one token": lambda: mismatch(Ragged.from_rows([[-1.0]]), Ragged.from_rows([[-2.0]])),
    "equal": lambda: mismatch(Ragged.from_rows([[-1.0, -1.0]]), Ragged.from_rows([[-1.0, -1.0]])),
    "zeros": lambda: mismatch(Ragged.from_rows([[0.0, 0.0]]), Ragged.from_rows([[0.0, 0.0]])),
    "far apart": lambda: mismatch(Ragged.from_rows([[-1e30, -1.0]]), Ragged.from_rows([[-1.0, -2e30]])),
    "nothing to compare": lambda: mismatch(Ragged.from_rows([[-1.0]]), Ragged.from_rows([[]])),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_says_what_the_terminal_says(name, tmp_path):
    report = PAGES[name]()
    path = tmp_path / "page.html"
    write_mismatch_page(report, path, title="<rollouts> & friends")
    html = path.read_text()
    check_page(html)
    page = Page(html)
    text = plain(page.text)
    assert text.startswith("<rollouts> & friends")
    assert f"{verdict(report)}." in text
    for cause in report.causes:
        assert plain(f"{cause.name}: {cause.evidence}.→ {cause.advice}.") in text
    for table in tables(report):
        for row in table.rows:
            assert plain("".join(row)) in text
    differ = bool((report.per_token.train != report.per_token.rollout).any())
    assert page.tags.count("svg") == (0 if report.metrics is None else 2 + differ)


def test_the_plots_hold_every_token_once():
    report = PAGES["two causes"]()
    rollout, train = report.per_token.rollout, report.per_token.train
    plane = bins.plane(rollout, train)
    assert plane.counts.sum() + plane.left_out == report.counts.compared_tokens
    assert plane.left_out < 0.02 * len(rollout)
    # By rows the trainer's log-probs, by columns the sampler's.
    inside = (rollout >= plane.edges[0]) & (train >= plane.edges[0])
    np.testing.assert_array_equal(plane.counts.sum(1), np.histogram(train[inside], plane.edges)[0])


def test_json_has_every_number_and_cause():
    report = report_of([SINGLE["NaN, 3% of tokens"]], SEEDS[0], 0)
    record_ = record_of("mismatch", report)
    assert list(record_) == ["version", "clean", "causes", "metrics", "counts"]
    assert record_["causes"][0]["estimate"] is None
    assert record_["metrics"]["kl"] == dict(zip(("value", "stderr"), report.metrics.kl, strict=True))
    assert record_["counts"]["left_out_tokens"] == report.counts.left_out_tokens > 0


@pytest.fixture
def rows():
    """Completions of eight prompts as a file holds them, prompts mixed."""
    drawn = golden("temperature 0.7, top-p 0.9")
    made = [
        {
            "prompt_token_ids": [i // 8],
            "policy_logprobs": drawn.train[i].tolist(),
            "rollout_logprobs": drawn.rollout[i].tolist(),
            "terminated": bool(drawn.terminated[i]),
        }
        for i in range(len(drawn.train))
    ]
    return drawn, made


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_the_command_says_what_the_function_says(rows, tmp_path, esscher):
    drawn, made = rows
    expected = mismatch(drawn.train, drawn.rollout, drawn.groups, drawn.terminated)
    mixed = [made[i] for i in np.random.default_rng(0).permutation(len(made))]
    half = [write_lines(tmp_path / f"{i}.jsonl", mixed[i::2]) for i in range(2)]
    page = tmp_path / "page.html"
    code, out, err = esscher("mismatch", *half, "--json", "--html", page)
    assert "The engines differ" in page.read_text()
    assert code == 0, err
    got = read("mismatch", out)
    assert [cause["name"] for cause in got["causes"]] == ["sampling-temperature", "kept-mass"]
    assert got["causes"][0]["estimate"] == pytest.approx(0.7, abs=1e-3)
    assert got["metrics"]["kl"]["value"] == pytest.approx(expected.metrics.kl.value)
    assert got["metrics"]["kl"]["stderr"] == pytest.approx(expected.metrics.kl.stderr)
    code, out, _ = esscher("mismatch", *half)
    assert code == 0
    assert out.startswith("The engines differ: sampling-temperature, kept-mass.")


@pytest.mark.parametrize(
    ("train", "rollout", "mask"),
    [
        ("prev_logprobs", "generation_logprobs", "token_loss_mask"),
        ("trainer_logprobs", "inference_logprobs", "loss_mask"),
    ],
)
def test_the_columns_of_trainers_are_found_with_their_masks(rows, tmp_path, esscher, train, rollout, mask):
    _, made = rows
    theirs = [
        {
            "token_ids": [*row["prompt_token_ids"] * 2, *range(len(row["policy_logprobs"])), 0],
            train: [0.0, 0.0, *row["policy_logprobs"], 0.0],
            rollout: [0.0, 0.0, *row["rollout_logprobs"], 0.0],
            mask: [0, 0, *[1] * len(row["policy_logprobs"]), 0],
        }
        for row in made
    ]
    if mask == "token_loss_mask":  # NeMo-RL puts each row into a list of one
        theirs = [{key: [value] for key, value in row.items()} for row in theirs]
    path = write_lines(tmp_path / "theirs.jsonl", theirs)
    got = read("mismatch", esscher("mismatch", path, "--json")[1])
    ours = read("mismatch", esscher("mismatch", write_lines(tmp_path / "ours.jsonl", made), "--json")[1])
    assert got["metrics"] == ours["metrics"]
    assert [cause["estimate"] for cause in got["causes"]] == [cause["estimate"] for cause in ours["causes"]]


def masked(row, name, mask):
    """Two tokens of a tool in front, that only the mask tells of."""
    columns = {"mine": [-9.0, -9.0, *row["policy_logprobs"]], "other": [-1.0, -3.0, *row["rollout_logprobs"]]}
    return {**columns, "prompt_token_ids": row["prompt_token_ids"], name: mask}


def as_mask(kind, row):
    return [kind(0), kind(0), *[kind(1)] * len(row["policy_logprobs"])]


@pytest.fixture
def compared(tmp_path, esscher):
    """What the command says of rows: the report, or the error."""

    def call(rows, *arguments):
        path = write_lines(tmp_path / "masked.jsonl", rows)
        code, out, err = esscher("mismatch", path, "--json", "--train", "mine", "--rollout", "other", *arguments)
        return read("mismatch", out) if code == 0 else err

    return call


@pytest.mark.parametrize("kind", [bool, int, float])
@pytest.mark.parametrize("name", TOKEN_MASKS)
def test_a_mask_under_any_name_is_used(rows, compared, name, kind):
    _, made = rows
    count = sum(len(row["policy_logprobs"]) for row in made)
    got = compared([masked(row, name, as_mask(kind, row)) for row in made])
    assert got["counts"]["tokens"] == count
    assert [cause["name"] for cause in got["causes"]] == ["sampling-temperature", "kept-mass"]
    every = compared([masked(row, name, as_mask(kind, row)) for row in made], "--mask", "")
    assert every["counts"]["tokens"] == count + 2 * len(made)


@pytest.mark.parametrize("kind", [bool, int, float, lambda keep: [int(keep)]])
@pytest.mark.parametrize("name", ROW_MASKS)
def test_a_mask_of_rows_leaves_rows_out_and_keeps_their_numbers(rows, compared, name, kind):
    _, made = rows
    kept = [i % 3 != 0 for i in range(len(made))]
    lines = [masked(row, name, kind(keep)) for row, keep in zip(made, kept, strict=True)]
    for i in (31, 32, 40):
        lines[i]["other"] = [value - 3 for value in lines[i]["other"]]
    got = compared(lines)
    assert got["counts"]["completions"] == sum(kept)
    (wrong,) = [cause for cause in got["causes"] if cause["name"] == "other-policy"]
    assert wrong["rows"] == [31, 32, 40]
    assert "rows 31, 32, 40 (counted from 0)" in wrong["evidence"]
    assert compared(lines, "--mask", "")["counts"]["completions"] == len(made)


def test_masks_that_disagree_are_asked_about(rows, compared):
    _, made = rows
    lines = [masked(row, "completion_mask", [1] * (2 + len(row["policy_logprobs"]))) for row in made]
    lines = [line | {"tool_mask": as_mask(int, row)} for line, row in zip(lines, made, strict=True)]
    assert "the masks 'tool_mask' and 'completion_mask' disagree in row 0" in compared(lines)
    assert "--mask tool_mask or --mask completion_mask, or --mask '' if all tokens do" in compared(lines)
    count = sum(len(row["policy_logprobs"]) for row in made)
    assert compared(lines, "--mask", "tool_mask")["counts"]["tokens"] == count
    alike = [line | {"completion_mask": line["tool_mask"]} for line in lines]
    assert compared(alike)["counts"]["tokens"] == count


def test_a_mask_over_prompt_and_completion_is_cut(rows, compared):
    _, made = rows
    lines = [masked(row, "loss_mask", [0, *as_mask(int, row)]) for row in made]
    assert compared(lines)["counts"]["tokens"] == sum(len(row["policy_logprobs"]) for row in made)


def test_a_mask_of_other_values_is_refused(rows, compared):
    _, made = rows
    lines = [masked(row, "response_mask", as_mask(int, row)) for row in made]
    lines[3]["response_mask"][2] = 2
    assert "masked.jsonl, line 4: column 'response_mask', row 3, token 2 is 2: a mask is 0 or 1" in compared(lines)


def test_prompt_ids_of_nothing_but_nulls_are_not_there(rows, tmp_path, esscher):
    _, made = rows
    expected = read("mismatch", esscher("mismatch", write_lines(tmp_path / "with.jsonl", made), "--json")[1])
    nulls = write_lines(tmp_path / "nulls.jsonl", [row | {"prompt_id": None} for row in made])
    assert read("mismatch", esscher("mismatch", nulls, "--json")[1]) == expected


def test_a_page_does_not_take_the_place_of_what_is_read(rows, tmp_path, esscher):
    path = write_lines(tmp_path / "rows.jsonl", rows[1])
    before, link = path.read_bytes(), tmp_path / "link.html"
    link.symlink_to(path)
    for page in (path, link):
        code, _, err = esscher("mismatch", path, "--html", page)
        assert (code, path.read_bytes()) == (2, before)
        assert "is one of the files that are read: name another" in err


def test_a_first_token_without_a_log_prob_is_read(tmp_path, esscher):
    """As engines write it; the parser of JSON lines would lose the null."""
    rows = [{"policy_logprobs": [-0.5, -1.0, -2.0], "rollout_logprobs": [None, -1.0, -2.0]}] * 3
    got = read("mismatch", esscher("mismatch", write_lines(tmp_path / "x.jsonl", rows), "--json")[1])
    assert [(cause["name"], cause["tokens"]) for cause in got["causes"]] == [("sentinel", 3)]
    assert got["counts"]["compared_tokens"] == 6


def test_tokens_that_all_moved_alike_are_compared():
    x = np.linspace(0.5, 3.5, 300)
    assert mismatch(Ragged(-x, np.arange(101) * 3), Ragged(x - 4.0, np.arange(101) * 3)).names


def test_nulls_and_named_columns_are_read(tmp_path, esscher):
    path = write_lines(
        tmp_path / "x.jsonl", [{"a": [-1.0, None, -0.5], "b": [-1.0, -2.0, -0.5]}, {"a": None, "b": [-1]}]
    )
    code, out, err = esscher("mismatch", path, "--train", "a", "--rollout", "b", "--json")
    assert code == 0, err
    got = read("mismatch", out)
    assert [(cause["name"], cause["column"]) for cause in got["causes"]] == [
        ("sentinel", "train"),
        ("missing", "train"),
    ]
    assert got["counts"]["compared_tokens"] == 2


def test_parquet_of_half_floats_is_read(rows, tmp_path, esscher):
    import pyarrow as pa

    drawn, _ = rows
    lists = [
        pa.array([row.astype(np.float16) for row in c], pa.list_(pa.float16())) for c in (drawn.train, drawn.rollout)
    ]
    table = pa.table({"policy_logprobs": lists[0], "rollout_logprobs": lists[1]})
    files.write(table, tmp_path / "x.parquet")
    got = read("mismatch", esscher("mismatch", tmp_path / "x.parquet", "--json")[1])
    assert {cause["name"] for cause in got["causes"]} >= {"bf16-rounding", "kept-mass"}


@pytest.mark.parametrize(
    ("row", "arguments", "message"),
    [
        ({"a": [-1.0]}, (), "has no column 'policy_logprobs'. It has: a. Say which holds these log-probs: --train"),
        ({"policy_logprobs": [-1.0]}, (), "has no column 'rollout_logprobs'"),
        ({"a": [-1.0]}, ("--train", "a", "--rollout", "a"), "--train and --rollout are both 'a'"),
        ({"policy_logprobs": [-1.0], "rollout_logprobs": -1.0}, (), "x.jsonl: column 'rollout_logprobs' has type"),
        ({"policy_logprobs": [-1.0], "rollout_logprobs": "x"}, (), "'rollout_logprobs' has type string"),
        ({"policy_logprobs": [-1.0], "rollout_logprobs": ["x"]}, (), "must be lists of numbers"),
        ({"policy_logprobs": [[-1.0], [-2.0]], "rollout_logprobs": [-1.0]}, (), "row 0 has 2 lists"),
        (
            {"prev_logprobs": [-1.0, -2.0], "generation_logprobs": [-1.0, -2.0], "token_loss_mask": [1]},
            (),
            "row 0 has 2 values, its mask 1",
        ),
    ],
)
def test_bad_files_say_what_is_wrong_and_end_with_2(row, arguments, message, tmp_path, esscher):
    code, out, err = esscher("mismatch", write_lines(tmp_path / "x.jsonl", [row]), *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_files_of_different_columns_are_refused(rows, tmp_path, esscher):
    _, made = rows
    one = write_lines(tmp_path / "one.jsonl", made[:3])
    two = write_lines(tmp_path / "two.jsonl", [{"policy_logprobs": [-1.0]}])
    code, _, err = esscher("mismatch", one, two)
    assert code == 2
    assert "has no column 'rollout_logprobs'" in err
    assert "files read together must agree" in err


def test_wrong_ends_are_real():
    drawn = golden("plain")
    columns = mismatch_table.Columns(drawn.train, drawn.rollout, drawn.wrong_end)
    changed = wrong_end(columns, np.random.default_rng(0)).train.values != drawn.train.values
    ended = drawn.terminated
    assert changed.sum() >= (~ended).sum()
