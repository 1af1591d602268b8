"""The batcher: calls are merged, none pays for another, and what nobody wants is not computed."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import numpy as np
import pytest

from esscher import Ragged, Samples
from esscher.service.batcher import Batcher, ModelError, ServerBusyError, cost
from service_models import Gated, bad_samples, draw, expected_logprobs, tabular

pytestmark = pytest.mark.timeout(60)


def batcher(model, max_batch_tokens=10_000, max_waiting_tokens=100_000):
    return Batcher(model, max_batch_tokens=max_batch_tokens, max_waiting_tokens=max_waiting_tokens)


async def occupy(model, batching):
    """Start a call that stays in the model until its gate opens."""
    first = asyncio.create_task(batching.score(draw(100)))
    await asyncio.to_thread(model.wait_until_called)
    return first


async def submit(batching, *parts, **options):
    """Start calls and let them reach the queue."""
    tasks = [asyncio.create_task(batching.score(part, **options)) for part in parts]
    await asyncio.sleep(0)
    return tasks


def logprobs_of(scored):
    return scored.logprobs.values.astype(np.float32)


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
        np.testing.assert_array_equal(one.logprobs.offsets, part.completions.offsets)


async def test_a_lone_call_does_not_wait_for_others():
    async with batcher(tabular()) as batching:
        scored = await batching.score(draw(0))
    assert scored.queue_seconds < 1
    assert scored.model_seconds > 0


async def test_batches_keep_to_the_budget_in_order_and_a_larger_call_is_its_own():
    model = Gated()
    small, large = draw(1), draw(2, prompts=4, n=20)
    async with batcher(model, max_batch_tokens=2 * cost(small)) as batching:
        first = await occupy(model, batching)
        tasks = await submit(batching, small, small, small, large, small)
        model.gate.set()
        await asyncio.gather(first, *tasks)
    assert [len(call) for call in model.calls[1:]] == [2 * len(small), len(small), len(large), len(small)]


async def test_a_full_queue_refuses_at_once_and_accepts_again_later():
    model, part = Gated(), draw(1)
    async with batcher(model, max_waiting_tokens=2 * cost(part)) as batching:
        first = await occupy(model, batching)
        tasks = await submit(batching, part, part)
        with pytest.raises(ServerBusyError, match=f"{2 * cost(part)} tokens wait .* retry in some seconds"):
            await batching.score(part)
        model.gate.set()
        await asyncio.gather(first, *tasks)
        assert len(logprobs_of(await batching.score(part))) == len(part.completions.values)


async def test_a_call_larger_than_the_queue_is_accepted_when_nothing_waits():
    async with batcher(tabular(), max_batch_tokens=1, max_waiting_tokens=1) as batching:
        assert (logprobs_of(await batching.score(draw(1))) == expected_logprobs(draw(1))).all()


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
        await batching.score(draw(2))
    assert len(model.calls) == 2


async def test_a_call_that_breaks_the_models_rules_fails_before_it_is_merged():
    model = Gated(is_open=True)
    long = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[1] * 7]), [0, 1])
    no_prompt = Samples(Ragged.from_rows([[]], np.uint32), Ragged.from_rows([[1]]), [0, 1])
    async with batcher(model) as batching:
        with pytest.raises(ValueError, match=r"completions\[0\]\[1\] is 5"):
            await batching.score(bad_samples())
        with pytest.raises(ValueError, match=r"completions\[0\] has 7 tokens .* at most 7"):
            await batching.score(long)
        with pytest.raises(ValueError, match=r"prompts\[0\] has no tokens"):
            await batching.score(no_prompt)
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


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), SystemExit(3), KeyboardInterrupt(), StopIteration()])
async def test_whatever_the_model_raises_fails_one_batch_and_the_batcher_lives_on(error):
    model = Gated(is_open=True, error=error)
    async with batcher(model) as batching:
        with pytest.raises(ModelError, match=f"gated failed: {type(error).__name__}") as raised:
            await batching.score(draw(1))
        assert raised.value.__cause__ is error
        model.error = None
        assert (logprobs_of(await batching.score(draw(1))) == expected_logprobs(draw(1))).all()


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
            await batching.score(draw(1))


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


async def test_closing_leaves_no_caller_waiting():
    model = Gated()
    async with batcher(model) as batching:
        first = await occupy(model, batching)
        (waiting,) = await submit(batching, draw(1))
    done, pending = await asyncio.wait([first, waiting], timeout=5)
    assert not pending
    assert all(task.cancelled() for task in done)
    model.gate.set()


@pytest.mark.parametrize("name", ["max_batch_tokens", "max_waiting_tokens"])
def test_limits_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        Batcher(tabular(), **{"max_batch_tokens": 1, "max_waiting_tokens": 1, name: 0})


def test_cost_counts_each_completion_with_its_prompt():
    samples = Samples(Ragged.from_rows([[1, 1], [1]]), Ragged.from_rows([[1], [1, 1], [1, 1, 1]]), [0, 2, 3])
    assert cost(samples) == (2 + 1) + (2 + 2) + (1 + 3)


def test_the_batcher_knows_no_transport_and_no_torch():
    code = "import sys, esscher.service.batcher; print([m for m in ('grpc', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
