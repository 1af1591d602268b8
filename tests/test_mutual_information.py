"""What completions say of their prompts: by enumeration, of policies that do not heed them, and in files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from esscher import Ragged, Samples, concatenate, estimate_mutual_information, evaluate, files
from esscher.lm.cross import cross_log_probs, other_prompts
from esscher.lm.tabular import TabularLM
from esscher.offline import LocalModels
from models import alice, alice_folder
from offline_runs import BLOCK, other, plan, rows, score, write
from pages import plain
from report_json import read, record_of

PROMPTS, VOCABULARY, DEPTH = 5, 4, 3
POLICY = TabularLM.random(np.random.default_rng(3), PROMPTS, VOCABULARY, DEPTH)
NODES = sum((VOCABULARY - 1) ** k for k in range(DEPTH))


def exact(policy, prompts):
    """I(prompt; completion) where each of some prompts is as likely, by enumeration."""
    log_p = policy.completions().policy_log_prob.reshape(PROMPTS, -1)[list(prompts)]
    p = np.exp(log_p)
    return float((p * (log_p - np.log(p.mean(axis=0)))).sum() / len(p))


def draw(policy, n, seed=0, prompts=range(PROMPTS), others=PROMPTS - 1):
    drawn = policy.sample(Ragged.from_rows([[p] for p in prompts]), n, DEPTH, np.random.default_rng(seed))
    return replace(drawn, cross_log_probs=cross_log_probs(policy, drawn, others))


def test_under_all_other_prompts_it_is_the_enumerated_one():
    found, truth = estimate_mutual_information(draw(POLICY, 20_000)), exact(POLICY, range(PROMPTS))
    assert 0.1 < truth < np.log(PROMPTS)
    assert found.value == pytest.approx(truth, abs=0.01)
    assert found.bound == pytest.approx(np.log(PROMPTS))


def test_under_some_others_it_is_that_of_the_sets_they_make_and_no_more():
    """Two of five are set beside each prompt: the mean over these sets, each prompt in the place of the own."""
    found = estimate_mutual_information(draw(POLICY, 20_000, others=2))
    log_p = POLICY.completions().policy_log_prob.reshape(PROMPTS, -1)
    sets = np.column_stack([np.arange(PROMPTS), other_prompts(PROMPTS, 2)])
    mixtures = np.log(np.exp(log_p[sets]).mean(axis=1))
    expected = (np.exp(log_p) * (log_p - mixtures)).sum() / PROMPTS
    assert found.value == pytest.approx(expected, abs=0.01)
    assert found.bound == pytest.approx(np.log(3))
    assert expected < exact(POLICY, range(PROMPTS))


def test_a_policy_that_does_not_heed_its_prompt_has_none_and_its_entropy_does_not_show_it():
    logits = np.random.default_rng(1).normal(0.0, 0.3, size=(1, NODES, VOCABULARY))
    deaf = draw(TabularLM(np.repeat(logits, PROMPTS, axis=0)), 40)
    found = estimate_mutual_information(deaf)
    assert found.value == pytest.approx(0.0, abs=1e-12)
    assert found.interval.low <= 0.0 <= found.interval.high < 1e-9
    of_deaf, of_hearing = (
        evaluate(replace(one, prior_logprobs=one.policy_logprobs)) for one in (deaf, draw(POLICY, 40))
    )
    assert of_deaf.entropy > of_hearing.entropy
    assert "template-collapse" in {warning.code for warning in of_deaf.warnings}
    assert "template-collapse" not in {warning.code for warning in of_hearing.warnings}
    nearly = TabularLM(logits + np.random.default_rng(2).normal(0.0, 0.02, size=(PROMPTS, NODES, VOCABULARY)))
    assert "template-collapse" in {warning.code for warning in evaluate(draw(nearly, 40)).warnings}


def test_a_policy_that_names_its_prompt_reaches_the_bound():
    logits = np.random.default_rng(2).normal(size=(3, NODES, VOCABULARY))
    logits[:, 0] = np.where(np.eye(3, VOCABULARY, k=1, dtype=bool), 0.0, -np.inf)
    drawn = TabularLM(logits).sample(Ragged.from_rows([[0], [1], [2]]), 30, DEPTH, np.random.default_rng(0))
    found = estimate_mutual_information(replace(drawn, cross_log_probs=cross_log_probs(TabularLM(logits), drawn, 2)))
    assert found.value == found.bound == pytest.approx(np.log(3))
    assert found.interval[:2] == (found.bound, found.bound)
    assert np.isneginf(cross_log_probs(TabularLM(logits), drawn, 2).values).all()


def test_intervals_hold_the_mean_over_other_prompts():
    """Sets of twelve of many prompts, four completions each: the mean over sets is what one of them estimates."""
    rng = np.random.default_rng(5)
    tables = 400
    many = TabularLM(
        rng.normal(0, 0.5, size=(1, NODES, VOCABULARY)) + rng.normal(0, 0.8, size=(tables, NODES, VOCABULARY))
    )
    found = [
        estimate_mutual_information(draw(many, 4, seed, rng.choice(tables, 12, replace=False), others=11))
        for seed in range(300)
    ]
    truth = np.mean([one.value for one in found])
    covered = np.mean([one.interval.low <= truth <= one.interval.high for one in found])
    assert covered >= 0.91
    spread = np.std([one.value for one in found])
    assert np.mean([one.stderr for one in found]) == pytest.approx(spread, rel=0.15)


def test_the_other_prompts_are_others_and_each_is_taken_as_often():
    for prompts, others in ((2, 1), (7, 3), (64, 8), (9, 8), (5, 20)):
        which = other_prompts(prompts, others)
        assert which.shape == (prompts, min(others, prompts - 1))
        assert all(p not in row and len(set(row)) == len(row) for p, row in enumerate(which.tolist()))
        assert (np.bincount(which.ravel(), minlength=prompts) == which.shape[1]).all()


def test_only_actions_count():
    drawn = draw(POLICY, 6)
    mask = Ragged(np.arange(len(drawn.completions.values)) % 3 != 1, drawn.completions.offsets)
    some = mask.rows.sums(mask.values) > 0
    taken = drawn.take_completions(np.flatnonzero(some))
    masked = replace(taken, action_mask=mask.take(np.flatnonzero(some)))
    found = cross_log_probs(POLICY, masked, 1)
    by_hand = POLICY.logprobs(
        masked.prompts.take(other_prompts(len(masked.prompts), 1)[:, 0]), masked.completions, masked.groups
    )
    expected = masked.completions.rows.sums(np.where(mask.take(np.flatnonzero(some)).values, by_hand.values, 0.0))
    assert found.values == pytest.approx(expected, abs=1e-12)


def test_far_likelier_completions_elsewhere_overflow_nothing():
    samples = Samples(
        Ragged.from_rows([[1], [2]]),
        Ragged.from_rows([[1], [2]]),
        [0, 1, 2],
        policy_logprobs=Ragged.from_rows([[-2000.0], [-1.0]]),
        cross_log_probs=Ragged.from_rows([[-1.0], [-2000.0]]),
    )
    assert estimate_mutual_information(samples).value == pytest.approx((np.log(2) - 1999 + np.log(2)) / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cross_log_probs": None}, "samples have no cross_log_probs: the mutual information compares"),
        ({"policy_logprobs": None}, "samples have no policy_logprobs"),
        ({"cross_log_probs": Ragged.from_rows([[-1.0], []])}, r"cross_log_probs\[1\] is empty"),
        ({"cross_log_probs": Ragged.from_rows([[-1.0], [0.5]])}, r"cross_log_probs\[1\]\[0\] is 0.5: a log-prob is at"),
        ({"cross_log_probs": Ragged.from_rows([[-1.0], [np.nan]])}, r"cross_log_probs\[1\]\[0\] is nan"),
        ({"cross_log_probs": Ragged.from_rows([[-1.0]])}, "cross_log_probs has 1 rows, completions has 2"),
        ({"policy_logprobs": Ragged.from_rows([[-1.0], [-np.inf]])}, r"policy_logprobs\[1\] sums to -inf"),
    ],
)
def test_bad_columns_are_named(change, message):
    columns = {"policy_logprobs": Ragged.from_rows([[-1.0], [-1.0]]), "cross_log_probs": Ragged.from_rows([[-1.0]] * 2)}
    with pytest.raises(ValueError, match=message):
        estimate_mutual_information(
            Samples(Ragged.from_rows([[1], [2]]), Ragged.from_rows([[1], [2]]), [0, 1, 2], **{**columns, **change})
        )
    with pytest.raises(TypeError, match="cross_log_probs has dtype int64"):
        replace(draw(POLICY, 1), cross_log_probs=Ragged.from_rows([[0]] * PROMPTS))


def test_samples_keep_the_column_when_they_are_cut_and_joined():
    drawn = draw(POLICY, 3)
    parts = [drawn.take_prompts([p]) for p in range(PROMPTS)]
    assert np.array_equal(concatenate(parts).cross_log_probs.values, drawn.cross_log_probs.values)
    assert drawn.take_completions([1, 4]).cross_log_probs[1].tolist() == drawn.cross_log_probs[4].tolist()


def test_the_report_says_it_and_of_the_priors_completions_nothing():
    drawn = draw(POLICY, 30)
    report = evaluate(drawn)
    assert report.mutual_information == estimate_mutual_information(drawn)
    assert evaluate(drawn, proposal="prior").mutual_information is None
    record = record_of("evaluate", report)["mutual_information"]
    assert (record["value"], record["bound"]) == (report.mutual_information.value, report.mutual_information.bound)


# In files.


class Scorer(LocalModels):
    """A tabular prior and policy, that can be stopped after some blocks."""

    def __init__(self, columns=("policy_logprobs", "cross_log_probs"), others=2, stop_at=None):
        super().__init__(None, other(), columns, {"model": "other"}, others)
        self.left = stop_at

    def fill(self, samples):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        return super().fill(samples)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_file_gets_the_column_block_by_block_and_a_stop_changes_no_byte(tmp_path, suffix):
    file = write(tmp_path / f"in{suffix}")
    whole = score(file, tmp_path / f"whole{suffix}", Scorer())
    with pytest.raises(KeyboardInterrupt):
        score(file, tmp_path / f"out{suffix}", Scorer(stop_at=2))
    assert score(file, tmp_path / f"out{suffix}", Scorer()).read_bytes() == whole.read_bytes()
    table = rows().slice(0, BLOCK)
    samples, order = files.grouped(files.completions(files.Block(0, table), files.names_of({}, ())))
    expected = cross_log_probs(other(), samples, 2)
    written = files.load(whole).column("cross_log_probs").to_pylist()
    for i, row in enumerate(order.tolist()):
        assert written[row] == pytest.approx(expected[i].tolist(), rel=1e-6)
    with pytest.raises(KeyboardInterrupt):
        score(file, tmp_path / f"other{suffix}", Scorer(stop_at=1))
    with pytest.raises(ValueError, match="cross_prompts was 2, is 1"):
        score(file, tmp_path / f"other{suffix}", Scorer(others=1))


def test_a_block_of_a_single_prompt_is_refused_before_anything_is_scored(tmp_path):
    table = rows()
    alike = table.filter(
        [
            prompt == table.column("prompt_token_ids")[0].as_py()
            for prompt in table.column("prompt_token_ids").to_pylist()
        ]
    )
    file = write(tmp_path / "in.parquet", alike)
    with pytest.raises(ValueError, match="have a single prompt: no completion can be put after another"):
        score(file, tmp_path / "out.parquet", Scorer(stop_at=0))
    assert plan(file, tmp_path / "out.parquet").rows.count == len(alike)


def test_the_commands_add_the_column_and_report_it(tmp_path, esscher):
    texts = alice().tokenize(
        ["Alice was", "The Queen said"],
        [" not a bit", " very", " off with", " his head"],
        [0, 2, 4],
        add_special_tokens=True,
        parse_special_tokens=False,
    )
    files.write(files.to_table(texts), tmp_path / "in.parquet")
    code, out, err = esscher(
        "score",
        tmp_path / "in.parquet",
        "-o",
        tmp_path / "out.parquet",
        "--policy",
        alice_folder(),
        "--cross-prompts",
        1,
    )
    assert code == 0, err
    assert "policy_logprobs, cross_log_probs of 4 completions" in " ".join(plain(out).split())
    scored = files.read(tmp_path / "out.parquet").samples
    exchanged = alice().logprobs(texts.prompts.take([1, 0]), texts.completions, texts.groups)
    assert scored.cross_log_probs.values == pytest.approx(exchanged.rows.sums(exchanged.values.astype(float)), abs=1e-4)
    code, out, err = esscher("evaluate", tmp_path / "out.parquet", "--json")
    assert code == 0, err
    found = estimate_mutual_information(scored)
    assert read("evaluate", out)["mutual_information"]["value"] == pytest.approx(found.value, rel=1e-12)
    code, out, err = esscher("evaluate", tmp_path / "out.parquet")
    assert "mutual information" in plain(out)
    code, out, err = esscher(
        "score",
        tmp_path / "out.parquet",
        "-o",
        tmp_path / "more.parquet",
        "--policy",
        alice_folder(),
        "--column",
        "cross_log_probs",
        "--cross-prompts",
        1,
        "--overwrite",
    )
    assert code == 0, err
    assert pq.read_table(tmp_path / "more.parquet").equals(pq.read_table(tmp_path / "out.parquet"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prior", "alice", "--cross-prompts", 2), "--cross-prompts is of a policy: say --policy MODEL"),
        (("--server", "localhost:1", "--cross-prompts", 2), "--cross-prompts is of a policy"),
        (("--policy", "alice", "--column", "cross_log_probs"), "say under how many other prompts, --cross-prompts K"),
        (("--policy", "alice", "--cross-prompts", 0), "--cross-prompts"),
    ],
)
def test_options_that_do_not_fit_are_told(tmp_path, esscher, options, message):
    code, _, err = esscher("score", write(tmp_path / "in.parquet"), "-o", tmp_path / "out.parquet", *options)
    assert code == 2
    assert message in plain(err)
    assert not (tmp_path / "out.parquet").exists()
