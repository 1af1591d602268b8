"""The batcher: calls are merged, none pays for another, and what nobody wants is not computed."""

from __future__ import annotations

import asyncio
import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from esscher import Ragged, Samples
from esscher.lm.tabular import TabularLM
from esscher.server.batcher import Batcher
from esscher.server.models import Models
from esscher.server.plans import ModelError, ModelPlan
from esscher.server.prometheus import ServerMetrics
from esscher.server.queue import Queue, QueuedCall
from esscher.wire.errors import ServerBusyError
from service_models import (
    VOCABULARY,
    Gated,
    Lengths,
    bad_samples,
    cost,
    draw,
    expected_logprobs,
    models,
    oracle,
    tabular,
)

pytestmark = pytest.mark.timeout(60)


PRIOR = ("prior_logprobs",)
COLUMNS = ("prior_logprobs", "policy_logprobs", "token_kl", "policy_entropy", "rewards")


def batcher(held, max_batch_tokens=10_000, max_waiting_tokens=100_000):
    """A batcher of models, or of a prior alone."""
    held = held if isinstance(held, Models) else Models(prior=held)
    return Batcher(
        held, max_batch_tokens=max_batch_tokens, max_waiting_tokens=max_waiting_tokens, metrics=ServerMetrics()
    )


async def occupy(model, batching):
    """Start a call that stays in the model until its gate opens."""
    first = asyncio.create_task(batching.score(draw(100), PRIOR))
    await asyncio.to_thread(model.wait_until_called)
    return first


async def submit(batching, *parts, columns=PRIOR, **options):
    """Start calls and let them reach the queue."""
    tasks = [asyncio.create_task(batching.score(part, columns, **options)) for part in parts]
    await asyncio.sleep(0)
    return tasks


def logprobs_of(scored):
    return scored.columns["prior_logprobs"].astype(np.float32)


async def test_waiting_calls_are_merged_and_get_the_numbers_they_get_alone():
    model, parts = Gated(), [draw(seed, prompts=1 + seed % 3) for seed in range(8)]
    async with batcher(model) as batching:
        first = await occupy(model, batching)
        tasks = await submit(batching, *parts)
        model.gate.set()
        await first
        scored = await asyncio.gather(*tasks)
    assert len(model.calls) == 2
    assert len(model.calls[1]) == sum(map(len, parts))
    for part, one in zip(parts, scored, strict=True):
        np.testing.assert_array_equal(logprobs_of(one), expected_logprobs(part), strict=True)


async def test_a_lone_call_does_not_wait_for_others():
    async with batcher(tabular()) as batching:
        scored = await batching.score(draw(0), PRIOR)
    assert scored.queue_seconds < 1
    assert scored.model_seconds > 0


async def test_batches_keep_to_the_budget_in_order_and_a_larger_call_is_cut_between_prompts():
    model = Gated()
    small, large = draw(1), draw(2, prompts=4, n=20)
    async with batcher(model, max_batch_tokens=2 * cost(small)) as batching:
        first = await occupy(model, batching)
        tasks = await submit(batching, small, small, small, large, small)
        model.gate.set()
        _, *scored = await asyncio.gather(first, *tasks)
    assert [len(call) for call in model.calls[1:]] == [24, 12, 20, 20, 20, 20 + 4, 8]
    for part, one in zip((small, small, small, large, small), scored, strict=True):
        np.testing.assert_array_equal(logprobs_of(one), expected_logprobs(part), strict=True)


async def test_a_prompt_larger_than_the_budget_is_cut_between_its_completions():
    part = draw(1, prompts=3, n=5)
    for budget, sizes in ((1, [1] * 15), (cost(part.take_prompts([0])) - 1, None)):
        model = Gated(is_open=True)
        async with batcher(model, max_batch_tokens=budget) as batching:
            scored = await batching.score(part, PRIOR)
        assert sizes is None or [len(call) for call in model.calls] == sizes
        assert all(1 + call.lengths.sum() <= budget or len(call) == 1 for call in model.calls)
        assert len(model.calls) > 3
        np.testing.assert_array_equal(logprobs_of(scored), expected_logprobs(part), strict=True)


async def test_one_caller_with_a_large_group_does_not_keep_another_waiting():
    """Five thousand completions of one prompt, in turns with a caller who has one."""
    model = Gated()
    large, small = draw(3, prompts=1, n=5000), draw(4, prompts=1, n=1)
    async with batcher(model, max_batch_tokens=500) as batching:
        first = asyncio.create_task(batching.score(large, PRIOR, caller="large"))
        await asyncio.to_thread(model.wait_until_called)
        second = asyncio.create_task(batching.score(small, PRIOR, caller="small"))
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(first, second)
    turn = next(
        i
        for i, call in enumerate(model.calls)
        if small.completions[0].tolist() == call[len(call) - 1].tolist() and i > 0
    )
    assert turn <= 3
    assert len(model.calls) > 20


async def test_a_full_queue_refuses_at_once_and_accepts_again_later():
    model, part = Gated(), draw(1)
    async with batcher(model, max_waiting_tokens=2 * cost(part)) as batching:
        first = await occupy(model, batching)
        tasks = await submit(batching, part, part)
        with pytest.raises(ServerBusyError, match=f"{2 * cost(part)} tokens wait .* retry in some seconds"):
            await batching.score(part, PRIOR)
        model.gate.set()
        await asyncio.gather(first, *tasks)
        assert len(logprobs_of(await batching.score(part, PRIOR))) == len(part.completions.values)


async def test_a_call_larger_than_the_queue_is_accepted_when_nothing_waits():
    async with batcher(tabular(), max_batch_tokens=1, max_waiting_tokens=1) as batching:
        assert (logprobs_of(await batching.score(draw(1), PRIOR)) == expected_logprobs(draw(1))).all()


async def test_cancelled_calls_are_not_computed_and_leave_their_room():
    model, part = Gated(), draw(1)
    async with batcher(model, max_waiting_tokens=2 * cost(part)) as batching:
        first = await occupy(model, batching)
        tasks = await submit(batching, part, part)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        (last,) = await submit(batching, draw(2, prompts=1))
        model.gate.set()
        await asyncio.gather(first, last)
    assert [len(call) for call in model.calls] == [len(draw(100)), len(draw(2, prompts=1))]


async def test_expired_calls_are_not_computed():
    model = Gated()
    async with batcher(model) as batching:
        first = await occupy(model, batching)
        (late,) = await submit(batching, draw(1), timeout=0.01)
        with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
            await late
        model.gate.set()
        await first
        await batching.score(draw(2), PRIOR)
    assert len(model.calls) == 2


async def test_a_call_that_breaks_the_models_rules_fails_before_it_is_merged():
    model = Gated(is_open=True)
    long = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[1] * 7]), [0, 1])
    no_prompt = Samples(Ragged.from_rows([[]], np.uint32), Ragged.from_rows([[1]]), [0, 1])
    async with batcher(model) as batching:
        with pytest.raises(ValueError, match=r"completions\[0\]\[1\] is 5"):
            await batching.score(bad_samples(), PRIOR)
        with pytest.raises(ValueError, match=r"completions\[0\] has 7 tokens .* at most 7"):
            await batching.score(long, PRIOR)
        with pytest.raises(ValueError, match=r"prompts\[0\] has no tokens"):
            await batching.score(no_prompt, PRIOR)
    assert model.calls == []


async def test_a_rule_that_only_the_model_knows_fails_only_the_call_that_breaks_it():
    model, good = Gated(), draw(1)
    after_the_end = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[0, 1]]), [0, 1])
    async with batcher(model) as batching:
        first = await occupy(model, batching)
        tasks = await submit(batching, good, after_the_end, good)
        model.gate.set()
        await first
        one, error, other = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(error, ValueError)
    assert "goes on after its end token" in str(error)
    for scored in (one, other):
        np.testing.assert_array_equal(logprobs_of(scored), expected_logprobs(good))


@pytest.mark.parametrize("error", [RuntimeError("no idea"), SystemExit(3), KeyboardInterrupt(), StopIteration()])
async def test_whatever_the_model_raises_fails_one_batch_and_the_batcher_lives_on(error):
    model = Gated(is_open=True, error=error)
    async with batcher(model) as batching:
        with pytest.raises(ModelError, match=f"gated failed: {type(error).__name__}") as raised:
            await batching.score(draw(1), PRIOR)
        assert raised.value.__cause__ is error
        model.error = None
        assert (logprobs_of(await batching.score(draw(1), PRIOR)) == expected_logprobs(draw(1))).all()


class MuteError(Exception):
    """An error that cannot be told."""

    def __str__(self):
        raise RuntimeError("no text")


async def test_an_error_without_a_text_ends_no_other_call():
    model = Gated(is_open=True, error=MuteError())
    async with batcher(model) as batching:
        with pytest.raises(RuntimeError, match="no text"):
            await batching.score(draw(1), PRIOR)
        model.error = None
        assert (logprobs_of(await batching.score(draw(1), PRIOR)) == expected_logprobs(draw(1))).all()


async def test_columns_that_memory_does_not_hold_together_end_no_other_call(monkeypatch):
    concatenate, failed = np.concatenate, []

    def fail_for_columns(arrays):
        if arrays[0].dtype.kind == "f":
            failed.append(len(arrays))
            raise MemoryError("no room")
        return concatenate(arrays)

    part = draw(1, prompts=3)
    async with batcher(Gated(is_open=True), max_batch_tokens=cost(part) - 1) as batching:
        with monkeypatch.context() as patch:
            patch.setattr(np, "concatenate", fail_for_columns)
            with pytest.raises(MemoryError, match="no room"):
                await batching.score(part, PRIOR)
        assert failed == [2]
        assert (logprobs_of(await batching.score(part, PRIOR)) == expected_logprobs(part)).all()


class Broken(Gated):
    """A model whose log-probs are none."""

    def __init__(self, change):
        super().__init__(is_open=True)
        self.change = change

    def logprobs(self, prompts, completions, groups):
        return self.change(super().logprobs(prompts, completions, groups))


@pytest.mark.parametrize(
    "change",
    [
        lambda logprobs: Ragged(np.full(len(logprobs.values), np.nan), logprobs.offsets),
        lambda logprobs: Ragged(-logprobs.values, logprobs.offsets),
        lambda logprobs: Ragged(logprobs.values[:-1], [*logprobs.offsets[:-1], logprobs.offsets[-1] - 1]),
        lambda logprobs: Ragged(logprobs.values.astype(np.int64), logprobs.offsets),
    ],
    ids=["NaN", "positive", "one short", "integers"],
)
async def test_log_probs_that_are_none_never_reach_a_caller(change):
    async with batcher(Broken(change)) as batching:
        with pytest.raises(ModelError, match="gated failed"):
            await batching.score(draw(1), PRIOR)


async def test_a_nan_fails_only_the_call_it_belongs_to():
    good, bad = draw(1), draw(2)
    n = len(good.completions.values)

    def spoil(logprobs):
        values = logprobs.values.copy()
        if len(values) == n + len(bad.completions.values):
            values[n] = np.nan
        return Ragged(values, logprobs.offsets)

    model = Broken(spoil)
    model.gate.clear()
    async with batcher(model) as batching:
        first = await occupy(model, batching)
        tasks = await submit(batching, good, bad)
        model.gate.set()
        await first
        scored, error = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(error, ModelError)
    np.testing.assert_array_equal(logprobs_of(scored), expected_logprobs(good))


async def test_a_model_that_finds_a_nan_fails_only_the_call_it_belongs_to():
    good, bad = draw(1), draw(2)

    def find(logprobs):
        if len(logprobs.values) >= len(bad.completions.values) and len(logprobs.values) != len(good.completions.values):
            raise FloatingPointError("the model gives NaN")
        return logprobs

    model = Broken(find)
    async with batcher(model) as batching:
        scored, error = await asyncio.gather(
            *(batching.score(part, PRIOR) for part in (good, bad)), return_exceptions=True
        )
    assert isinstance(error, ModelError)
    assert isinstance(error.__cause__, FloatingPointError)
    np.testing.assert_array_equal(logprobs_of(scored), expected_logprobs(good))


async def test_closing_leaves_no_caller_waiting():
    model = Gated()
    async with batcher(model) as batching:
        first = await occupy(model, batching)
        (waiting,) = await submit(batching, draw(1))
    done, pending = await asyncio.wait([first, waiting], timeout=5)
    assert not pending
    assert all(task.cancelled() for task in done)
    model.gate.set()


SUBSETS = [names for n in range(1, 6) for names in itertools.combinations(COLUMNS, n)]


@pytest.mark.parametrize("columns", SUBSETS, ids=", ".join)
@pytest.mark.parametrize("max_batch_tokens", [20, 10_000])
async def test_columns_are_those_of_the_models_by_themselves(columns, max_batch_tokens):
    samples, held = draw(3, prompts=7), models()
    async with batcher(held, max_batch_tokens) as batching:
        scored = await batching.score(samples, columns)
    expected = oracle(samples, held)
    assert set(scored.columns) == set(columns)
    for name in columns:
        np.testing.assert_allclose(scored.columns[name], expected[name], rtol=1e-12)
    assert scored.unavailable == {}
    assert scored.models is held
    assert scored.asked_policy == (not {"policy_logprobs", "token_kl", "policy_entropy"}.isdisjoint(columns))


@pytest.mark.parametrize(
    ("columns", "prior_methods", "policy_methods"),
    [
        (("prior_logprobs",), ["logprobs"], []),
        (("policy_logprobs",), [], ["logprobs"]),
        (("policy_entropy",), [], ["token_scores"]),
        (("policy_entropy", "policy_logprobs"), [], ["token_scores"]),
        (("token_kl",), [], ["token_scores with prior"]),
        (("policy_entropy", "prior_logprobs"), [], ["token_scores with prior"]),
        (("rewards",), [], []),
    ],
)
async def test_only_the_models_that_are_needed_are_run(columns, prior_methods, policy_methods):
    prior, policy = Gated(is_open=True), Gated(is_open=True, model=tabular(8))
    async with batcher(Models(prior, policy, reward=Lengths())) as batching:
        scored = await batching.score(draw(1), columns)
    assert (prior.methods, policy.methods) == (prior_methods, policy_methods)
    assert (scored.model_seconds > 0) == (columns != ("rewards",))


@pytest.mark.parametrize(
    ("held", "columns", "message"),
    [
        (Models(tabular()), ["token_kl"], r"token_kl is asked for, but the server has no policy.*--policy"),
        (Models(tabular()), ["prior_logprobs", "rewards"], r"rewards is asked for.* no reward.*--reward"),
        (models(), ["prompts"], r"prompts is asked for, but the server has no such column: it has prior_logprobs"),
        (models(), [], r"columns is empty: .* prior_logprobs, policy_logprobs"),
    ],
)
async def test_columns_that_cannot_be_had_are_refused_by_name(held, columns, message):
    async with batcher(held) as batching:
        with pytest.raises(ValueError, match=message):
            await batching.score(draw(0), columns)


async def test_calls_that_need_other_work_are_not_merged_but_each_with_its_like():
    prior, policy = Gated(), Gated(is_open=True, model=tabular(8))
    async with batcher(Models(prior, policy)) as batching:
        first = await occupy(prior, batching)
        tasks = []
        for seed, columns in enumerate((("prior_logprobs",), ("token_kl",), ("prior_logprobs",), ("token_kl",))):
            tasks += await submit(batching, draw(seed), columns=columns, caller=str(seed))
        prior.gate.set()
        await asyncio.gather(first, *tasks)
    assert [len(call) for call in prior.calls] == [len(draw(100)), 2 * len(draw(0))]
    assert [len(call) for call in policy.calls] == [2 * len(draw(0))]


async def test_a_caller_with_one_does_not_wait_for_one_with_two_thousand():
    model, large, small = Gated(), draw(1, prompts=500, n=4), draw(2, prompts=1, n=1)
    async with batcher(model, max_batch_tokens=cost(large) // 50) as batching:
        (big,) = await submit(batching, large, caller="big")
        await asyncio.to_thread(model.wait_until_called)
        (one,) = await submit(batching, small, caller="small")
        model.gate.set()
        await one
        # The second batch has it; the third may have begun before the answer was there.
        assert small.completions.values.tolist() == model.calls[1][0].tolist()
        assert len(model.calls) <= 3
        assert not big.done()
        scored = await big
    np.testing.assert_array_equal(logprobs_of(scored), expected_logprobs(large), strict=True)
    assert len(model.calls) >= 50


async def test_large_callers_have_turns_of_the_same_size():
    model, large = Gated(), draw(1, prompts=200, n=4)
    async with batcher(model, max_batch_tokens=cost(large) // 20) as batching:
        calls = [(await submit(batching, large, caller=name))[0] for name in "abcd"]
        model.gate.set()
        done = []
        for call, name in zip(calls, "abcd", strict=True):
            call.add_done_callback(lambda _, name=name: done.append((name, len(model.calls))))
        await asyncio.gather(*calls)
    # Each takes 20 batches or a little more: all end together, rather than after 20, 40, 60 and 80.
    assert min(batches for _, batches in done) > 70


async def test_a_large_caller_is_not_starved_by_ever_new_ones():
    model, large = Gated(is_open=True), draw(1, prompts=100, n=4)
    names = map(str, range(500))
    async with batcher(model, max_batch_tokens=cost(large) // 10) as batching:
        big = asyncio.create_task(batching.score(large, PRIOR, caller="big"))

        async def come_anew():
            for name in names:
                await batching.score(draw(2, prompts=8), PRIOR, caller=name)
                if big.done():
                    return

        await asyncio.gather(*(come_anew() for _ in range(8)))
        assert next(names, None) is not None
        await big


async def test_a_call_that_nobody_wants_has_no_turn_even_if_it_is_still_in_the_queue():
    queue, answers = Queue("models", max_batch_tokens=1000, max_waiting_tokens=1000), []
    for seed, seconds in ((1, 60), (2, 0), (3, 60)):
        answers.append(asyncio.get_running_loop().create_future())
        plan = ModelPlan(models(), PRIOR)
        queue.add(QueuedCall(draw(seed), "", lambda plan=plan: plan, answers[-1], time.monotonic() + seconds))
    answers[0].cancel()
    ((call, part),) = queue.take()
    assert (call.answer, len(part)) == (answers[2], len(draw(3)))
    assert queue.take() == []


async def test_a_batch_that_cannot_be_laid_out_is_computed_call_by_call(monkeypatch):
    monkeypatch.setattr("esscher.server.plans.concatenate", lambda _: throw(MemoryError("no room")))
    model, parts = Gated(), [draw(1), draw(2)]
    async with batcher(model) as batching:
        first = await occupy(model, batching)
        tasks = await submit(batching, *parts)
        model.gate.set()
        _, *scored = await asyncio.gather(first, *tasks)
    assert [len(call) for call in model.calls[1:]] == [len(part) for part in parts]
    for part, one in zip(parts, scored, strict=True):
        np.testing.assert_array_equal(logprobs_of(one), expected_logprobs(part))


async def test_a_large_call_that_is_cancelled_stops_between_batches():
    model, large = Gated(), draw(1, prompts=100, n=4)
    async with batcher(model, max_batch_tokens=cost(large) // 20) as batching:
        (big,) = await submit(batching, large)
        await asyncio.to_thread(model.wait_until_called)
        big.cancel()
        await asyncio.wait([big])
        model.gate.set()
        await batching.score(draw(2), PRIOR)
    assert len(model.calls) == 2


async def test_calls_are_answered_by_the_policy_they_began_with():
    policies = [Gated(model=tabular(seed)) for seed in (8, 9)]
    large, small = draw(1, prompts=40, n=4), draw(2)
    held = Models(tabular(), policies[0])
    async with batcher(held, max_batch_tokens=cost(large) // 4) as batching:
        (begun,) = await submit(batching, large, columns=["policy_logprobs"], caller="a")
        await asyncio.to_thread(policies[0].wait_until_called)
        (waiting,) = await submit(batching, small, columns=["policy_logprobs"], caller="b")
        assert batching.replace_policy(policies[1]) == 2
        for policy in policies:
            policy.gate.set()
        old, new = await asyncio.gather(begun, waiting)
    assert (old.models.policy_revision, new.models.policy_revision) == (1, 2)
    np.testing.assert_array_equal(old.columns["policy_logprobs"], oracle(large, old.models)["policy_logprobs"])
    np.testing.assert_array_equal(new.columns["policy_logprobs"], oracle(small, new.models)["policy_logprobs"])


async def test_a_policy_that_was_replaced_is_let_go():
    async with batcher(Models(tabular(), tabular(8))) as batching:
        await batching.score(draw(0), ["token_kl"])
        old = weakref.ref(batching.models.policy)
        batching.replace_policy(tabular(9))
        await batching.score(draw(0), ["token_kl"])
        gc.collect()
        assert old() is None


async def test_a_policy_of_another_vocabulary_is_refused_and_the_old_one_stays():
    other = TabularLM.random(np.random.default_rng(0), 1, VOCABULARY + 1, 2)
    async with batcher(models()) as batching:
        with pytest.raises(ValueError, match="must share a vocabulary"):
            batching.replace_policy(other)
        assert (await batching.score(draw(0), ["token_kl"])).models.policy_revision == 1
    with pytest.raises(ValueError, match="must share a vocabulary"):
        Models(tabular(), other)


class Faulty:
    """A reward that does one thing."""

    name = "faulty"

    def __init__(self, act):
        self.act = act

    def __call__(self, samples):
        return self.act(len(samples))


def throw(error):
    raise error


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda _: throw(RuntimeError("secret")), "RuntimeError"),
        (lambda _: throw(SystemExit("secret")), "SystemExit"),
        (lambda _: throw(KeyboardInterrupt("secret")), "KeyboardInterrupt"),
        (lambda n: np.full(n, np.nan), "ValueError"),
        (lambda n: np.full(n, np.inf), "ValueError"),
        (lambda n: np.zeros(n + 1), "ValueError"),
        (lambda n: np.zeros((n, 1)), "ValueError"),
        (lambda n: ["secret"] * n, "TypeError"),
        (lambda _: None, "TypeError"),
    ],
)
async def test_a_failing_reward_costs_the_rewards_alone(act, kind, caplog):
    held, samples = Models(tabular(), reward=Faulty(act)), draw(1)
    async with batcher(held) as batching:
        scored = await batching.score(samples, ["prior_logprobs", "rewards"])
        alone = await batching.score(samples, ["rewards"])
    assert (logprobs_of(scored) == expected_logprobs(samples)).all()
    assert alone.columns == {}
    for one in (scored, alone):
        reason = one.unavailable["rewards"]
        assert reason.startswith(f"the reward faulty raised {kind}; the server's log explains it under ")
        incident = reason.rpartition(" ")[2]
        assert any(incident in record.getMessage() and record.exc_info for record in caplog.records)


async def test_rewards_of_minus_infinity_are_rewards():
    async with batcher(Models(tabular(), reward=Faulty(lambda n: np.full(n, -np.inf)))) as batching:
        scored = await batching.score(draw(1), ["rewards"])
    assert (scored.columns["rewards"] == -np.inf).all()


async def test_a_slow_reward_holds_up_no_model():
    entered, gate = threading.Event(), threading.Event()

    def wait(n):
        entered.set()
        assert gate.wait(30)
        return np.zeros(n)

    async with batcher(Models(tabular(), reward=Faulty(wait))) as batching:
        (slow,) = await submit(batching, draw(1), columns=["prior_logprobs", "rewards"])
        await asyncio.to_thread(entered.wait, 30)
        assert (logprobs_of(await batching.score(draw(2), PRIOR)) == expected_logprobs(draw(2))).all()
        assert not slow.done()
        gate.set()
        assert set((await slow).columns) == {"prior_logprobs", "rewards"}


async def test_rewards_of_several_calls_are_never_merged():
    entered, gate, sizes = threading.Event(), threading.Event(), []

    def wait(n):
        sizes.append(n)
        entered.set()
        assert gate.wait(30)
        return np.arange(n)

    parts = [draw(seed, prompts=seed) for seed in (1, 2, 3)]
    async with batcher(Models(tabular(), reward=Faulty(wait))) as batching:
        first = await submit(batching, parts[0], columns=["rewards"])
        await asyncio.to_thread(entered.wait, 30)
        others = await submit(batching, *parts[1:], columns=["rewards"])
        gate.set()
        scored = await asyncio.gather(*first, *others)
    assert sizes == [len(part) for part in parts]
    for part, one in zip(parts, scored, strict=True):
        np.testing.assert_array_equal(one.columns["rewards"], np.arange(len(part)))


class Cramped(Gated):
    """A model that holds few tokens, and none of a completion with more than six."""

    def __init__(self, max_tokens):
        super().__init__(is_open=True)
        self.tokens = max_tokens

    def logprobs(self, prompts, completions, groups):
        if len(completions.values) > self.tokens:
            raise MemoryError(f"completions[{np.argmax(completions.lengths)}] is too long")
        return super().logprobs(prompts, completions, groups)


async def test_merged_calls_that_exceed_memory_are_done_in_parts():
    parts = [draw(seed, prompts=6) for seed in range(3)]
    longest = max(int(np.diff(part.completions.offsets[part.groups]).max()) for part in parts)
    async with batcher(Cramped(longest)) as batching:
        scored = await asyncio.gather(*(batching.score(part, PRIOR) for part in parts))
    for part, one in zip(parts, scored, strict=True):
        np.testing.assert_array_equal(logprobs_of(one), expected_logprobs(part), strict=True)


async def test_a_prompt_that_exceeds_memory_by_itself_fails_its_call_alone():
    short, long = [[1], [1]], [[1], [1, 2, 3, 4, 1]]
    good = Samples(Ragged.from_rows([[0], [1]]), Ragged.from_rows([*short, *short]), [0, 2, 4])
    bad = Samples(Ragged.from_rows([[0], [1], [2]]), Ragged.from_rows([*short, *short, *long]), [0, 2, 4, 6])
    async with batcher(Cramped(4)) as batching:
        outcomes = await asyncio.gather(
            *(batching.score(part, PRIOR) for part in (good, bad, good)), return_exceptions=True
        )
    assert isinstance(outcomes[1], ValueError)
    assert str(outcomes[1]).startswith("completions 4 to 5 need more memory than the server has")
    assert "completions[5] is too long" in str(outcomes[1])
    for one in (outcomes[0], outcomes[2]):
        np.testing.assert_array_equal(logprobs_of(one), expected_logprobs(good))


async def test_a_rule_of_the_model_alone_is_told_by_the_callers_own_indices():
    rows = [[1]] * 30
    rows[17] = [0, 1]
    samples = Samples(Ragged.from_rows([[1]] * 30), Ragged.from_rows(rows), np.arange(31))
    async with batcher(tabular(), max_batch_tokens=8) as batching:
        with pytest.raises(ValueError, match=r"completions\[17\] goes on after its end token"):
            await batching.score(samples, PRIOR)


async def test_work_is_counted():
    metrics, part = ServerMetrics(), draw(1)
    batching = Batcher(models(), max_batch_tokens=2 * cost(part), max_waiting_tokens=1000, metrics=metrics)
    async with batching:
        await batching.score(part, ["token_kl", "rewards"])
        batching.replace_policy(tabular(9))

    def value(name, **labels):
        return metrics.registry.get_sample_value(name, labels)

    for what in ("models", "reward"):
        assert value("esscher_tokens_total", what=what) == cost(part)
        assert value("esscher_batch_fill_sum", what=what) == 0.5
        assert value("esscher_batch_seconds_count", what=what) == 1
        assert value("esscher_queue_seconds_count", what=what) == 1
        assert value("esscher_waiting_tokens", what=what) == 0
    assert value("esscher_policy_revision") == 2


async def test_waiting_tokens_are_those_that_have_not_had_their_turn():
    model, metrics, part = Gated(), ServerMetrics(), draw(1)
    async with Batcher(Models(model), max_batch_tokens=1000, max_waiting_tokens=1000, metrics=metrics) as batching:
        first = await occupy(model, batching)

        def waiting():
            return metrics.registry.get_sample_value("esscher_waiting_tokens", {"what": "models"})

        assert waiting() == 0
        leaving, staying = await submit(batching, part, part)
        assert waiting() == 2 * cost(part)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert waiting() == cost(part)
        model.gate.set()
        await asyncio.gather(first, staying)
        assert waiting() == 0


@pytest.mark.parametrize("name", ["max_batch_tokens", "max_waiting_tokens"])
def test_limits_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        Batcher(models(), **{"max_batch_tokens": 1, "max_waiting_tokens": 1, name: 0}, metrics=ServerMetrics())


def test_the_batcher_knows_no_transport_and_no_torch():
    heavy = ("grpc", "torch", "prometheus_client")
    code = f"import sys, esscher.server.batcher; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
