"""Trajectories in which others speak too: what the policy did not choose is read, and counted by nothing."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
import oracle_diversity
from esscher import (
    Masked,
    Padded,
    Ragged,
    Samples,
    Tilt,
    aggregate_logprobs,
    concatenate,
    distinct,
    estimate_diversity,
    estimate_kl,
    evaluate,
    files,
    kl_estimators,
    mismatch,
    prototype,
    self_bleu,
    sequence_logprobs,
)
from esscher.diversity import (
    compression_ratio,
    distinct_without_each,
    ead,
    ngram_statistics,
    repetition,
    top_ngrams,
    unique_share,
    vendi_score,
)
from esscher.diversity.jackknife import bias_of_pairs
from esscher.lm.tabular import TabularLM
from esscher.ragged import pieces_of
from esscher.report import to_json
from models import alice
from offline_runs import score
from strategies import finite_logprob, groups_over, tokens

ORDERS = [1, 2, 3, 4, 5]


@st.composite
def masked_rows(draw, values=None):
    """Rows of tokens of which a mask keeps some."""
    rows = draw(tokens()) if values is None else values
    n = len(rows.values)
    mask = draw(st.lists(st.sampled_from([True, True, True, False]), min_size=n, max_size=n))
    return Masked(rows.values, rows.offsets, np.array(mask, bool))


def with_none(rows):
    """What oracles take: rows with None for what is not kept."""
    whole, mask = Ragged(rows.values, rows.offsets), Ragged(rows.mask, rows.offsets)
    return [[int(t) if m else None for t, m in zip(a, b, strict=True)] for a, b in zip(whole, mask, strict=True)]


def trajectories(seed=0, prompts=6, n=5):
    """Samples with tool results: log-probs of any kind, or none at all, stand where others speak."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 15, prompts * n)
    t = int(lengths.sum())
    mask = Ragged.from_lengths(rng.random(t) < 0.7, lengths)
    mask.values[mask.offsets[:-1]] = True

    def column(low, high):
        values = rng.uniform(low, high, t).astype(np.float32)
        values[~mask.values] = rng.choice([np.nan, 7.0, -np.inf, 0.0], int((~mask.values).sum()))
        return Ragged.from_lengths(values, lengths)

    return Samples(
        prompts=Ragged.from_rows([[i, 1] for i in range(prompts)]),
        completions=Ragged.from_lengths(rng.integers(3, 9, t), lengths),
        groups=np.arange(prompts + 1) * n,
        policy_logprobs=column(-3, -0.1),
        prior_logprobs=column(-3, -0.1),
        rewards=rng.normal(size=prompts * n),
        terminated=rng.random(prompts * n) < 0.5,
        token_kl=column(0, 1),
        policy_entropy=column(0, 2),
        action_mask=mask,
    )


def by_hand(samples):
    """The same actions, with nothing between them."""
    return replace(samples, completions=samples.actions.kept, action_mask=None)


def same_numbers(one, other):
    """Whether JSON agrees but for signatures, and n-grams, which do not span what was between actions."""
    if isinstance(one, dict):
        return all(
            same_numbers(one[key], other[key]) for key in one if key not in {"signature", "top_ngrams", "diversity"}
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_numbers, one, other))
    return one == other or one == pytest.approx(other, rel=1e-13, nan_ok=True)


def test_every_number_is_that_of_the_same_actions_by_hand():
    samples = trajectories()
    for target, proposal in ((None, "policy"), (Tilt(0.7), "policy"), (Tilt(2.0), "prior")):
        found, expected = (
            json.loads(to_json(evaluate(one, target, proposal=proposal))) for one in (samples, by_hand(samples))
        )
        # What rests on n-grams is compared with an oracle below.
        for report in (found, expected):
            report.pop("target_diversity", None), report.pop("excess_collapse", None), report.pop("warnings")
        assert bool(found["kl"]) == (proposal == "policy")
        assert same_numbers(found, expected)
        assert "|mask:actions|" in estimate_kl(samples).signature
    assert estimate_kl(samples, preset="verl").value == estimate_kl(by_hand(samples), preset="verl").value
    frontiers = [prototype(one).frontier.reward.value for one in (samples, by_hand(samples))]
    np.testing.assert_array_equal(*frontiers)


def test_columns_may_have_a_value_for_each_action_alone():
    samples = trajectories()
    again = replace(samples)
    assert again.policy_logprobs.offsets.tolist() == samples.actions.rows.offsets.tolist()
    np.testing.assert_array_equal(again.policy_logprobs.values, samples.policy_logprobs.values)


def test_a_mask_that_leaves_nothing_out_is_none():
    samples = by_hand(trajectories())
    ones = Ragged(np.ones(len(samples.completions.values), np.int64), samples.completions.offsets)
    assert replace(samples, action_mask=ones).action_mask is None
    # and stands beside others that leave something out
    both = concatenate([samples, trajectories(1)])
    assert both.actions.lengths.sum() == samples.actions.lengths.sum() + trajectories(1).actions.lengths.sum()


def test_samples_refuse_what_is_no_mask():
    tokens = {"prompts": Ragged.from_rows([[1]]), "completions": Ragged.from_rows([[5, 6], [7, 8]]), "groups": [0, 2]}
    for mask, said in (
        ([[True, False], [False, False]], r"action_mask\[1\] is false throughout: the policy chose nothing there"),
        ([[1, 2], [1, 1]], r"action_mask\[1\] is 2: a mask is 0 or 1"),
        ([[1], [1, 1]], r"action_mask row 0 has 1 tokens, completions\[0\] has 2"),
    ):
        with pytest.raises(ValueError, match=said):
            Samples(**tokens, action_mask=Ragged.from_rows(mask))
    with pytest.raises(TypeError, match="action_mask is list"):
        Samples(**tokens, action_mask=[[1, 1], [1, 1]])
    mask = Ragged.from_rows([[True, False], [True, True]])
    with pytest.raises(ValueError, match=r"policy_logprobs\[1\]\[0\] is nan: a log-prob"):
        Samples(**tokens, action_mask=mask, policy_logprobs=Ragged.from_rows([[-1.0, np.nan], [np.nan, -1.0]]))
    with pytest.raises(ValueError, match=r"row 1 has 1 tokens, .* or has a value for each action"):
        Samples(**tokens, action_mask=mask, policy_logprobs=Ragged.from_rows([[-1.0, -1.0], [-1.0]]))


def test_prompts_and_completions_are_taken_with_their_mask():
    samples = trajectories()
    taken = samples.take_completions([2, 7, 8])
    assert taken.action_mask is not None
    expected = by_hand(samples).take_completions([2, 7, 8])
    assert [row.tolist() for row in taken.actions.kept] == [row.tolist() for row in expected.completions]
    np.testing.assert_array_equal(taken.policy_log_prob, expected.policy_log_prob)


@given(data=st.data())
def test_kernels_give_the_bits_of_rows_that_hold_nothing_else(data):
    rows = data.draw(masked_rows())
    t = len(rows.values)
    columns = [
        Masked(np.array(data.draw(st.lists(finite_logprob, min_size=t, max_size=t)), float), rows.offsets, rows.mask)
        for _ in range(2)
    ]
    junk = [replace(one, values=np.where(one.mask, one.values, np.nan)) for one in columns]
    packed = [one.kept for one in columns]
    for found, expected in zip(kl_estimators(*junk), kl_estimators(*packed), strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(aggregate_logprobs(junk[0]), aggregate_logprobs(packed[0]), strict=True):
        np.testing.assert_array_equal(found, expected)
    padded, mask = (Ragged(each, rows.offsets).to_padded(0) for each in (columns[0].values, rows.mask))
    np.testing.assert_array_equal(sequence_logprobs(Padded(padded, mask=mask)), sequence_logprobs(junk[0]))


def test_a_bad_log_prob_is_named_where_it_lies():
    column = Masked(np.array([-1.0, 5.0, 3.0, -1.0]), [0, 2, 4], [1, 0, 1, 1])
    with pytest.raises(ValueError, match=r"logprobs\[2\] is 3"):
        sequence_logprobs(column)


@given(rows=masked_rows(), data=st.data())
def test_no_ngram_spans_a_gap(rows, data):
    groups = data.draw(groups_over(len(rows)))
    weights = np.array(data.draw(st.lists(st.floats(0.1, 3), min_size=len(rows), max_size=len(rows))))
    gappy = with_none(rows)
    parts = [gappy[a:b] for a, b in itertools.pairwise(groups.tolist())]
    shares = distinct(rows, ORDERS, groups)
    said = ngram_statistics(rows, ORDERS, groups, subsample=2)
    for i, n in enumerate(ORDERS):
        for p, part in enumerate(parts):
            assert shares[i, p] == pytest.approx(oracle.distinct(part, n), rel=1e-15, nan_ok=True)
            expected = oracle_diversity.rarefied(part, n, 2) if len(part) >= 2 else np.nan
            assert said.rarefied[i, p] == pytest.approx(expected, rel=1e-12, nan_ok=True)
            assert said.entropy[i, p] == pytest.approx(oracle_diversity.entropy(part, n), abs=1e-12, nan_ok=True)
        assert repetition(rows, n) == pytest.approx([1 - oracle.distinct([row], n) for row in gappy], nan_ok=True)
        without = [gappy[: groups[p]] + gappy[groups[p + 1] :] for p in range(len(parts))]
        expected = [oracle.distinct(rest, n) for rest in without]
        assert distinct_without_each(rows, n, groups) == pytest.approx(expected, nan_ok=True)
        top = top_ngrams(rows, n, 50)
        assert list(map(tuple, top.token_ids.tolist())) == [gram for gram, _ in oracle.top_ngrams(gappy, n, 50)]
        heavy = top_ngrams(rows, n, 50, weights)
        assert heavy.weights == pytest.approx([mass for *_, mass in oracle_diversity.top_ngrams(gappy, n, 50, weights)])
    weighted = ngram_statistics(rows, [2], None, weights, subsample=2) if len(rows) else None
    if weighted is not None:
        assert weighted.distinct[0, 0] == pytest.approx(
            oracle_diversity.weighted_distinct(gappy, 2, weights), rel=1e-12, nan_ok=True
        )
        grams = sum(len(oracle.ngrams(row, 2)) for row in gappy)
        assert np.isnan(ead(rows, 2, 10)[0]) == (grams == 0)


@given(rows=masked_rows(), n=st.integers(1, 5), smoothing=st.sampled_from(["none", "method1"]))
def test_the_sentence_of_self_bleu_is_still_the_completion(rows, n, smoothing):
    expected = oracle.self_bleu(with_none(rows), n, smoothing)
    assert self_bleu(rows, n, None, smoothing)[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(rows=masked_rows(), n=st.integers(1, 3))
def test_similarity_and_copies_see_actions_alone(rows, n):
    gappy = with_none(rows)
    if len(rows):
        expected = oracle_diversity.vendi_score(gappy, n, np.ones(len(rows)))
        assert vendi_score(rows, n)[0] == pytest.approx(expected, rel=1e-9)
    for function in (unique_share, compression_ratio):
        np.testing.assert_array_equal(function(rows), function(rows.kept))


@given(rows=masked_rows(), data=st.data())
def test_the_bias_of_pairs_leaves_out_whole_completions(rows, data):
    """The jackknife's replicates by leaving each completion out, pieces and all."""
    weights = np.array(data.draw(st.lists(st.floats(0.1, 3), min_size=len(rows), max_size=len(rows))))
    if len(rows) < 3:
        return

    def of_pairs(kept):
        taken = rows.take(np.array(kept))
        grams = [set(oracle.ngrams(row, 2)) for row in with_none(taken)]
        totals = [len(oracle.ngrams(row, 2)) for row in with_none(taken)]
        w = weights[kept]
        pairs = list(itertools.combinations(range(len(kept)), 2))
        different = sum(w[i] * w[j] * len(grams[i] | grams[j]) for i, j in pairs)
        total = sum(w[i] * w[j] * (totals[i] + totals[j]) for i, j in pairs)
        return different / total if total else None

    every = list(range(len(rows)))
    value = of_pairs(every)
    if value is None:
        return
    replicates = [of_pairs(every[:i] + every[i + 1 :]) for i in every]
    expected = (len(rows) - 1) / len(rows) * sum(value if one is None else one for one in replicates)
    expected -= (len(rows) - 1) * value
    assert bias_of_pairs(rows, 2, weights, [0, len(rows)])[0] == pytest.approx(expected, abs=1e-9)


@given(rows=masked_rows())
def test_pieces_are_the_stretches_between_gaps(rows):
    pieces, of_rows = pieces_of(rows)
    expected = [
        [list(piece) for kept, piece in itertools.groupby(row, lambda token: token is not None) if kept]
        for row in with_none(rows)
    ]
    assert [[pieces[i].tolist() for i in range(a, b)] for a, b in itertools.pairwise(of_rows.tolist())] == expected


def test_large_groups_are_counted_alike():
    rng = np.random.default_rng(0)
    rows = Ragged.from_lengths(rng.integers(0, 40, 60_000).astype(np.uint32), rng.multinomial(60_000, [1 / 900] * 900))
    masked = Masked(rows.values, rows.offsets, rng.random(60_000) < 0.8)
    gappy = with_none(masked)
    for n in (1, 2, 4):
        assert distinct(masked, n)[0] == pytest.approx(oracle.distinct(gappy, n), rel=1e-15)
        assert self_bleu(masked, n)[0] == pytest.approx(oracle.fast_self_bleu(gappy, n, "none"), abs=1e-12)
    found = {one.metric: one for one in estimate_diversity(masked, [0, 900], vendi=False)}
    assert found["distinct-2"].across == pytest.approx(oracle.distinct(gappy, 2))


# A policy and a prior that speak in turn with an environment, whose words depend on all that was said.


def every_trajectory(seed):
    """All trajectories of three turns, policy, environment, policy, with the probability of each under both models."""
    rng = np.random.default_rng(seed)
    prior = TabularLM.random(rng, prompts=1, vocabulary=4, depth=3)
    policy = TabularLM.random(rng, prompts=1, vocabulary=4, depth=3)
    said = rng.dirichlet(np.ones(3), size=4)  # what the environment says after each first token
    rows, environment = [], []
    for first in range(4):
        if first == 0:
            rows.append([0])
            environment.append(1.0)
            continue
        for word, last in itertools.product(range(1, 4), range(4)):
            rows.append([first, word, last])
            environment.append(said[first, word - 1])
    completions = Ragged.from_rows(rows)
    mask = Ragged.from_lengths(np.tile(True, len(completions.values)), completions.lengths)
    for row in range(len(rows)):
        mask.values[mask.offsets[row] + 1 : mask.offsets[row] + 2] = len(rows[row]) == 1
    mask.values[mask.offsets[1:] - 1] = True
    samples = Samples(Ragged.from_rows([[0]]), completions, [0, len(rows)], action_mask=mask)
    tokens = (samples.prompts, samples.actions, samples.groups)
    return (
        replace(samples, policy_logprobs=policy.logprobs(*tokens), prior_logprobs=prior.logprobs(*tokens)),
        np.array(environment),
        (policy, prior),
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_kl_of_trajectories_is_the_sum_over_actions(seed):
    samples, environment, _ = every_trajectory(seed)
    own, other = (environment * np.exp(each) for each in (samples.policy_log_prob, samples.prior_log_prob))
    assert own.sum() == pytest.approx(1, abs=1e-12)
    assert other.sum() == pytest.approx(1, abs=1e-12)
    # As whole trajectories, the environment's words included.
    exact = np.sum(own * np.log(own / other))
    assert np.sum(own * estimate_kl(samples).per_sequence) == pytest.approx(exact, abs=1e-12)
    k3 = estimate_kl(samples, "k3", level="sequence").per_sequence
    assert np.sum(own * k3) == pytest.approx(exact, abs=1e-12)


def test_the_full_vocabulary_kl_of_actions_has_the_same_mean():
    samples, environment, (policy, prior) = every_trajectory(4)
    scores = policy.token_scores(samples.prompts, samples.actions, samples.groups, prior)
    exact = Ragged(scores.kl, samples.actions.rows.offsets).rows.sums(scores.kl)
    own = environment * np.exp(samples.policy_log_prob)
    assert np.sum(own * exact) == pytest.approx(np.sum(own * estimate_kl(samples).per_sequence), abs=1e-12)


def test_the_target_of_trajectories_needs_actions_alone():
    samples, environment, _ = every_trajectory(5)
    rewards = np.random.default_rng(0).normal(size=len(samples))
    prior = environment * np.exp(samples.prior_log_prob)
    target = prior * np.exp(rewards / 0.5) / np.sum(prior * np.exp(rewards / 0.5))
    own = environment * np.exp(samples.policy_log_prob)
    gap = np.sum(own * np.log(own / target))
    ratio = samples.prior_log_prob - samples.policy_log_prob + rewards / 0.5
    assert np.log(np.sum(own * np.exp(ratio))) - np.sum(own * ratio) == pytest.approx(gap, abs=1e-12)


# Models.


def test_models_read_everything_and_score_actions_alone(monkeypatch):
    lm = alice()
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, 12, 9)
    completions = Ragged.from_lengths(rng.integers(0, lm.vocabulary_size, int(lengths.sum())), lengths)
    mask = rng.random(len(completions.values)) < 0.4
    mask[completions.offsets[:-1]] = True
    prompts, groups = Ragged.from_rows([[5, 6], [7], [8, 9, 10]]), [0, 4, 5, 9]
    whole = lm.token_scores(prompts, completions, groups, prior=lm)
    projected = []
    project = type(lm._network).project

    def watched(network, states):
        projected.append(len(states))
        return project(network, states)

    monkeypatch.setattr(type(lm._network), "project", watched)
    masked = Masked(completions.values, completions.offsets, mask)
    scores = lm.token_scores(prompts, masked, groups, prior=lm)
    assert sum(projected) == 2 * mask.sum()
    for found, expected in zip(scores, whole, strict=True):
        np.testing.assert_allclose(found, expected[mask], atol=2e-5)
    assert lm.logprobs(prompts, masked, groups).lengths.tolist() == masked.lengths.tolist()


def test_gradients_are_of_actions_alone():
    import torch

    from esscher.train.policies import TabularPolicy

    samples, _, (policy, _) = every_trajectory(6)
    factors = np.random.default_rng(0).normal(size=len(samples))
    trained = TabularPolicy(policy._logits)
    trained.add_gradient(samples, factors)
    found = trained.logits.grad.numpy().copy()
    tables, nodes = policy.places(samples)
    log_softmax = torch.log_softmax(trained.logits.detach(), -1).exp().numpy()
    expected = np.zeros_like(found)
    of = samples.actions.rows.of
    for table, node, token, row in zip(tables, nodes, samples.actions.kept.values, of, strict=True):
        expected[table, node] -= factors[row] * log_softmax[table, node]
        expected[table, node, token] += factors[row]
    np.testing.assert_allclose(found, expected, atol=1e-12)


# Files.


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_files_hold_masks_and_nothing_where_others_speak(tmp_path, kind):
    samples = trajectories()
    files.write(files.to_table(samples), tmp_path / f"rows.{kind}")
    if kind == "jsonl":
        first = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
        assert [value is None for value in first["policy_logprobs"]] == [not kept for kept in first["action_mask"]]
    dump = files.read(tmp_path / f"rows.{kind}")
    assert dump.samples.columns == samples.columns
    np.testing.assert_array_equal(dump.samples.policy_logprobs.values, samples.policy_logprobs.values)
    np.testing.assert_array_equal(dump.samples.action_mask.values, samples.action_mask.values)
    assert dump.order.tolist() == list(range(len(samples)))


ROW = {"prompt_token_ids": [1, 2], "completion_token_ids": [5, 6, 7], "policy_logprobs": [-1.0, -9.0, -2.0]}


def test_a_row_of_which_the_mask_keeps_nothing_is_left_out_and_counted(tmp_path):
    masks = [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0]]
    rows = [{**ROW, "action_mask": mask, "rewards": i} for i, mask in enumerate(masks)]
    dump = files.read([lines(tmp_path / "a.jsonl", rows), lines(tmp_path / "b.jsonl", rows)])
    assert dump.samples.rewards.tolist() == [0, 2, 0, 2]
    assert dump.order.tolist() == [0, 2, 4, 6]
    (warning,) = dump.warnings
    assert warning.code == "left-out"
    assert warning == "Left out: 4 rows of which the mask keeps no token."
    with pytest.raises(ValueError, match="has no row in which the mask 'action_mask' keeps a token"):
        files.read(lines(tmp_path / "none.jsonl", [{**ROW, "action_mask": [0, 0, 0]}]))


def test_errors_name_the_row_of_the_file_whatever_was_left_out(tmp_path):
    rows = [{**ROW, "action_mask": [0, 0, 0]}, {**ROW, "action_mask": [1, 1, 0]}]
    path = lines(tmp_path / "rows.jsonl", [*rows, {**ROW, "policy_logprobs": [-1, 3, -1], "action_mask": [0, 1, 1]}])
    with pytest.raises(ValueError, match=r"rows.jsonl, line 3: policy_logprobs\[1\]\[1\] is 3.0"):
        files.read(path)


def test_a_mask_may_go_over_the_prompt_and_have_another_name(tmp_path):
    path = lines(tmp_path / "rows.jsonl", [{**ROW, "loss_mask": [0, 0, 1, 0, 1]}])
    samples = files.read(path, columns={"action_mask": "loss_mask"}).samples
    assert samples.actions.kept.values.tolist() == [5, 7]
    assert files.read(path, ignore_masks=["loss_mask"]).samples.action_mask is None
    ours = lines(tmp_path / "ours.jsonl", [{**ROW, "action_mask": [1, 0, 1]}])
    assert files.read(ours, ignore_masks=["action_mask"]).samples.action_mask is None


def test_a_second_mask_is_asked_about_where_it_leaves_out_what_counts(tmp_path):
    same = {**ROW, "action_mask": [1, 0, 1], "loss_mask": [1, 0, 1]}
    assert files.read(lines(tmp_path / "same.jsonl", [same])).samples.action_mask is not None
    with pytest.raises(ValueError, match="column 'loss_mask', row 0, token 2 is not 1: it looks like a mask"):
        files.read(lines(tmp_path / "other.jsonl", [{**same, "loss_mask": [1, 0, 0]}]))


@pytest.mark.parametrize("mask", [[1, 0], [1, 0, 1, 1], [1, 0, 2], [1, None, 1], "101"])
def test_what_is_no_mask_of_the_completion_is_refused_with_its_row(tmp_path, mask):
    path = lines(tmp_path / "rows.jsonl", [{**ROW, "action_mask": [1, 0, 1]}, {**ROW, "action_mask": mask}])
    for ask in (lambda: files.read(path), lambda: score(path, tmp_path / "out.parquet")):
        with pytest.raises(ValueError, match=r"action_mask"):
            ask()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_score_fills_actions_alone(tmp_path, kind):
    rows = [
        {"prompt_token_ids": [0], "completion_token_ids": [1, 2, 0], "action_mask": [1, 0, 1]},
        {"prompt_token_ids": [1], "completion_token_ids": [2, 0], "action_mask": [1, 1]},
        {"prompt_token_ids": [0], "completion_token_ids": [3, 0], "action_mask": [0, 0]},
    ]
    out = score(lines(tmp_path / "in.jsonl", rows), tmp_path / f"out.{kind}", block=2)
    found = files.load(out).column("prior_logprobs").to_pylist()
    assert [value is None for value in found[0]] == [False, True, False]
    # Of a row that the mask leaves out, all is scored: it has its place, and is left out when it is read.
    assert None not in found[1] + found[2]
    whole = score(
        lines(tmp_path / "whole.jsonl", [{k: row[k] for k in list(row)[:2]} for row in rows]), tmp_path / f"w.{kind}"
    )
    expected = files.load(whole).column("prior_logprobs").to_pylist()
    assert [found[0][0], found[0][2], *found[1]] == [expected[0][0], expected[0][2], *expected[1]]
    dump = files.read(out)
    assert dump.samples.actions.lengths.tolist() == [2, 2]


def test_engines_are_compared_over_actions_alone():
    samples = trajectories()
    rng = np.random.default_rng(3)
    rollout = Ragged(
        samples.policy_logprobs.values + 0.01 * rng.normal(size=len(samples.policy_logprobs.values)).astype(np.float32),
        samples.policy_logprobs.offsets,
    )
    expected = mismatch(samples.policy_logprobs, rollout, samples.groups)
    mask = samples.action_mask.values

    def with_junk(column):
        values = np.full(len(mask), -9999.0)
        values[mask] = column.values
        return Masked(values, samples.completions.offsets, mask)

    found = mismatch(with_junk(samples.policy_logprobs), with_junk(rollout), samples.groups)
    assert to_json(found) == to_json(expected)
