"""The wire: what goes in comes out, and what breaks a rule is refused before it is used."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esscher import Condition, Ragged, Samples, Tilt
from esscher.divergence import KlEstimate, MutualInformation
from esscher.diversity import DiversityEstimate
from esscher.estimate import Estimate, Interval
from esscher.evaluate import Counts, Ngram, PerCompletion, Report
from esscher.evaluate.posterior import TargetReport
from esscher.v1 import report_pb2, samples_pb2, target_pb2
from esscher.warning import HEADLINES, ReportWarning
from esscher.wire import codec
from esscher.wire.report_codec import decode_report, encode_report
from service_models import HOSTILE, assert_equal, draw, hostile

float32 = st.floats(width=32, allow_nan=False)
number = st.floats(allow_nan=True)
estimate = st.builds(Estimate, number, number)
text = st.text(max_size=8)


tokens = st.sampled_from(["sampled", "retokenised", "words"])


def maybe(strategy):
    return st.none() | strategy


def cross(n):
    """Log-probs of n completions after one to three other prompts."""
    rows = st.lists(float32.map(lambda x: -abs(x)), min_size=1, max_size=3).map(np.float32)
    return st.lists(rows, min_size=n, max_size=n).map(Ragged.from_rows)


@st.composite
def any_samples(draw):
    """Samples with any set of columns."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    n, t = len(lengths), sum(lengths)
    cuts = sorted(draw(st.sets(st.integers(1, n - 1)))) if n > 1 else []
    prompts = [draw(st.lists(st.integers(0, 2**32 - 1), max_size=3)) for _ in range(len(cuts) + 1)]

    def column(values):
        flat = draw(maybe(st.lists(values, min_size=t, max_size=t)))
        return None if flat is None else Ragged.from_lengths(np.array(flat, np.float32), lengths)

    at_most_0, at_least_0 = float32.map(lambda x: -abs(x)), float32.map(abs)
    mask = np.array(draw(st.lists(st.booleans(), min_size=t, max_size=t)))
    mask[np.cumsum(lengths) - 1] = True
    return Samples(
        prompts=Ragged.from_rows(prompts, np.uint32),
        completions=Ragged.from_lengths(draw(st.lists(st.integers(0, 2**32 - 1), min_size=t, max_size=t)), lengths),
        groups=[0, *cuts, n],
        policy_logprobs=column(at_most_0),
        prior_logprobs=column(at_most_0),
        rewards=draw(maybe(st.lists(st.floats(max_value=1e300, allow_nan=False), min_size=n, max_size=n))),
        terminated=draw(maybe(st.lists(st.booleans(), min_size=n, max_size=n))),
        token_kl=column(at_least_0),
        policy_entropy=column(at_least_0),
        action_mask=draw(maybe(st.just(Ragged.from_lengths(mask, lengths)))),
        tokens=draw(tokens),
        cross_log_probs=draw(maybe(cross(n))),
    )


def target_reports():
    optional = maybe(estimate)
    proposal = st.sampled_from(["policy", "prior"])
    return st.builds(
        TargetReport,
        *(text, proposal, estimate, estimate, number, number, optional, optional, optional),
        inference_gap_interval=maybe(interval),
        forward_kl=maybe(kl(1)),
        objective=optional,
        objective_bound=optional,
    )


interval = st.builds(Interval, number, number, text)
warning = st.builds(
    ReportWarning, st.sampled_from([*HEADLINES, "newer"]), text, text, st.lists(text, max_size=2).map(tuple)
)
some = st.lists(warning, max_size=2).map(tuple)


def kl(n):
    """A KL of n completions."""
    numbers = st.lists(number, min_size=n, max_size=n).map(np.array)
    return st.builds(
        *(KlEstimate, number, number, numbers, text, interval, number),
        clamped=number,
        ess=maybe(number),
        pareto_k=maybe(number),
        warnings=some,
    )


@st.composite
def any_report(draw):
    """A report with anything missing and any number in it."""
    n = draw(st.integers(1, 3))
    information = st.builds(MutualInformation, number, number, interval, number)
    numbers = st.lists(number, min_size=n, max_size=n).map(np.array)
    count = st.integers(0, 2**40)
    diversity = st.builds(DiversityEstimate, text, estimate, interval, count, maybe(number))
    ngram = st.builds(Ngram, st.lists(st.integers(0, 2**32 - 1)).map(tuple), count)
    return Report(
        version=draw(text),
        counts=Counts(draw(count), draw(count), draw(count), draw(maybe(count))),
        reward=draw(maybe(estimate)),
        kl=draw(st.dictionaries(st.sampled_from(["k1", "k2", "k3", "abs"]), kl(n))),
        trainer_kl=draw(st.dictionaries(st.sampled_from(["verl", "disco"]), kl(n))),
        prior_perplexity=draw(maybe(number)),
        entropy=draw(maybe(number)),
        target=draw(maybe(target_reports())),
        diversity=draw(st.lists(diversity, max_size=2).map(tuple)),
        target_diversity=draw(st.lists(diversity, max_size=2).map(tuple)),
        excess_collapse=draw(st.lists(diversity, max_size=2).map(tuple)),
        top_ngrams=draw(st.dictionaries(st.integers(1, 9), st.lists(ngram, max_size=2).map(tuple), max_size=2)),
        per_completion=PerCompletion(
            np.arange(n) // 2, np.arange(1, n + 1), draw(maybe(numbers)), draw(maybe(numbers)), draw(maybe(numbers))
        ),
        warnings=draw(some),
        unavailable=draw(st.dictionaries(text, text, max_size=2)),
        mutual_information=draw(maybe(information)),
        tokens=draw(tokens),
    )


@given(any_samples())
def test_samples_come_back_bit_for_bit(samples):
    message = samples_pb2.Samples.FromString(codec.encode_samples(samples).SerializeToString())
    assert_equal(codec.decode_samples(message), samples)


@given(any_report())
def test_reports_come_back_complete(report):
    message = report_pb2.Report.FromString(encode_report(report).SerializeToString())
    assert_equal(decode_report(message), report)


@pytest.mark.parametrize("name", ["counts", "per_completion"])
def test_a_report_without_an_essential_part_is_refused(name):
    message = report_pb2.Report(counts=report_pb2.Counts(), per_completion=report_pb2.PerCompletion())
    message.ClearField(name)
    with pytest.raises(ValueError, match=f"no {name}"):
        decode_report(message)


@pytest.mark.parametrize("target", [Tilt(0.25), Condition(-1.5), Condition(-np.inf)])
def test_targets_come_back(target):
    assert codec.decode_target(codec.encode_target(target)) == target


@pytest.mark.parametrize("proposal", ["policy", "prior"])
def test_proposals_come_back(proposal):
    assert codec.decode_proposal(codec.encode_proposal(proposal)) == proposal


def test_targets_that_break_a_rule_are_refused():
    with pytest.raises(ValueError, match="no kind"):
        codec.decode_target(target_pb2.Target())
    with pytest.raises(ValueError, match="beta is -1"):
        codec.decode_target(target_pb2.Target(tilt=target_pb2.Tilt(beta=-1)))
    with pytest.raises(TypeError, match="target is float"):
        codec.encode_target(0.5)


def test_proposals_that_say_nothing_are_refused():
    for proposal in (target_pb2.PROPOSAL_UNSPECIFIED, 17):
        with pytest.raises(ValueError, match=f"proposal is {proposal}"):
            codec.decode_proposal(proposal)
    with pytest.raises(ValueError, match="proposal is 'posterior'"):
        codec.encode_proposal("posterior")


def test_columns_are_named_once_each_and_unknown_ones_are_refused():
    assert codec.decode_columns([5, 1, 5]) == ("rewards", "prior_logprobs")
    with pytest.raises(ValueError, match="columns is empty"):
        codec.decode_columns([])
    for number in (0, 6, -1):
        with pytest.raises(ValueError, match=rf"columns has {number}, .* 1 \(prior_logprobs\)"):
            codec.decode_columns([1, number])


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_messages_are_refused_by_field_and_rule(kind):
    with pytest.raises(ValueError, match=HOSTILE[kind][1]):
        codec.decode_samples(hostile(kind))


def test_a_million_largest_lengths_are_refused_at_once():
    message = samples_pb2.Samples(completion_lengths=[2**32 - 1] * 1_000_000, completion_token_ids=b"\0" * 4)
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"completion_lengths has 1000000 entries, but .* each completion has a token"):
        codec.decode_samples(message)
    assert time.perf_counter() - started < 1


@given(st.binary(max_size=64), st.lists(st.integers(0, 2**32 - 1), max_size=4), st.lists(st.integers(0, 9), max_size=3))
def test_garbage_raises_nothing_but_value_errors(column, lengths, sizes):
    message = samples_pb2.Samples(
        prompt_token_ids=column,
        prompt_lengths=lengths,
        group_sizes=sizes,
        completion_token_ids=column,
        completion_lengths=lengths,
        policy_logprobs=column,
    )
    with contextlib.suppress(ValueError):
        assert len(codec.decode_samples(message).completions.values) == len(column) // 4


def test_float64_columns_are_rounded_to_float32():
    samples = draw(1)
    wide = dataclasses.replace(
        samples, policy_logprobs=Ragged(np.full(len(samples.completions.values), -0.1), samples.completions.offsets)
    )
    decoded = codec.decode_samples(codec.encode_samples(wide)).policy_logprobs
    assert decoded.values.dtype == np.float32
    assert (decoded.values == np.float32(-0.1)).all()


def test_a_finite_log_prob_never_becomes_infinite():
    assert np.frombuffer(codec.encode_logprobs("column", np.array([-np.inf])), "<f4") == -np.inf
    with pytest.raises(ValueError, match="column: value 1 is -1e"):
        codec.encode_logprobs("column", np.array([-np.inf, -1e300]))


def test_token_columns_are_little_endian():
    samples = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[0x01020304]]), [0, 1])
    assert codec.encode_samples(samples).completion_token_ids == bytes([4, 3, 2, 1])


def test_generated_code_loads_without_a_warning():
    code = "import esscher.v1.scoring_service_pb2_grpc"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
