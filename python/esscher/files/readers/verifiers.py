"""verifiers, and prime-rl that runs it: `traces.jsonl`, an episode a line, its traces made of nodes.

A node is a message with its token ids; a branch, from the first node to one that none follows, is a sample. The mask
tells the tokens that the policy sampled, and log-probs are of these alone: `logprobs` the sampler's, `trainer_logprobs`
the trainer's, `reference_logprobs` the prior's. A trace's reward is the sum of its scores, each times its weight.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files.readers import reading

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from esscher.files.conversion import Converted

NAME = "verifiers"
STEP = r"step_(\d+)/"
FAILED, ERRORS, OTHERS, EMPTY = (
    "episodes that failed",
    "traces with errors",
    "traces of agents that are not trained",
    "traces without ids of tokens that were sampled",
)
# Their log-probs, and which of ours they are where there are the trainer's.
LOGPROBS = {
    "trainer_logprobs": "policy_logprobs",
    "logprobs": "rollout_logprobs",
    "reference_logprobs": "prior_logprobs",
}
TRACE = ("nodes", "rewards", "metrics", "calls", "errors", "agent")


class Trajectory(NamedTuple):
    """A branch of a trace: the row of its episode, ids, which were sampled, log-probs of these, and the rest of it."""

    row: int
    episode: dict[str, Any]
    trace: dict[str, Any]
    ids: list[int]
    chosen: list[bool]
    logprobs: dict[str, list[float] | None]
    reason: str | None

    @property
    def begin(self) -> int:
        """Where the completion begins."""
        return self.chosen.index(True)


def is_mine(_path: Path, names: Collection[str]) -> bool:
    """Tell by its columns whether a file holds episodes or traces."""
    return ("traces" in names and bool({"env", "task", "group"} & set(names))) or {"nodes", "rewards"} <= set(names)


def convert(path: Path, table: pa.Table, _first: int) -> Converted:
    """Return the samples of a block."""
    out: Counter[str] = Counter()
    found = [one for row, episode in enumerate(_episodes(table)) for one in _trajectories(row, episode, out)]
    chosen = [one.chosen[one.begin :] for one in found]
    ours = {
        "prompt_id": _prompt_ids(found),
        "prompt_token_ids": reading.column_of([one.ids[: one.begin] for one in found]),
        "completion_token_ids": reading.column_of([one.ids[one.begin :] for one in found]),
        **_logprobs(found),
        "rewards": pa.array([_total(one.trace) for one in found], pa.float64()),
        "terminated": reading.endings([one.reason for one in found]),
        "action_mask": pa.array(chosen, pa.list_(pa.bool_())),
        "step": _steps(path, found),
    }
    single = _rewards(found)
    metrics = _columns([one.trace.get("metrics") or {} for one in found])
    for name, values in metrics.items():
        if name not in (*reading.OURS, *single):
            ours[name] = reading.column_of(values)
    rows = np.array([one.row for one in found], np.int64)
    return reading.samples(
        NAME, table, {**ours, **single}, used=("traces", *TRACE), rows=rows, rewards=tuple(single), left_out=out
    )


def _episodes(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Return what is needed of each row; a trace that stands alone counts as an episode of one."""
    names = ("ok", "group", "run", *(("traces",) if "traces" in table.column_names else TRACE))
    for row in zip(*(reading.values(table, name) for name in names), strict=True):
        episode = dict(zip(names, row, strict=True))
        yield episode if "traces" in episode else {**episode, "traces": [episode]}


def _trajectories(row: int, episode: dict[str, Any], out: Counter[str]) -> Iterator[Trajectory]:
    if episode["ok"] is False:
        out[FAILED] += 1
        return
    for trace in episode["traces"] or ():
        if trace.get("errors"):
            out[ERRORS] += 1
        elif (trace.get("agent") or {}).get("trainable") is False:
            out[OTHERS] += 1
        else:
            branches = [_trajectory(row, episode, trace, branch) for branch in _branches(trace["nodes"] or [])]
            sampled = [branch for branch in branches if any(branch.chosen)]
            out[EMPTY] += not sampled
            yield from sampled


def _branches(nodes: Sequence[dict[str, Any]]) -> Iterator[list[int]]:
    """Return the numbers of the nodes on the way to each that none follows."""
    inner = {node.get("parent") for node in nodes}
    for leaf in range(len(nodes)):
        if leaf not in inner:
            way = [leaf]
            while (parent := nodes[way[0]].get("parent")) is not None:
                way.insert(0, parent)
            yield way


def _trajectory(row: int, episode: dict[str, Any], trace: dict[str, Any], branch: list[int]) -> Trajectory:
    nodes = [trace["nodes"][i] for i in branch]
    masks = [_mask(node) for node in nodes]
    reasons = {call.get("node"): call.get("finish_reason") for call in trace.get("calls") or ()}
    sampled = [i for i, mask in zip(branch, masks, strict=True) if any(mask)]
    return Trajectory(
        row,
        episode,
        trace,
        ids=[token for node in nodes for token in node.get("token_ids") or ()],
        chosen=[one for mask in masks for one in mask],
        logprobs={name: _of_sampled(name, nodes, masks) for name in LOGPROBS},
        reason=reasons.get(sampled[-1]) if sampled else None,
    )


def _mask(node: dict[str, Any]) -> list[bool]:
    """Return which tokens of a node were sampled."""
    ids = node.get("token_ids") or []
    mask = node.get("mask")
    return [bool(one) for one in mask] if mask else [bool(node.get("sampled"))] * len(ids)


def _of_sampled(name: str, nodes: list[dict[str, Any]], masks: list[list[bool]]) -> list[float] | None:
    """Return log-probs of the tokens that were sampled, `None` if a node has none of some."""
    found: list[float] = []
    for node, mask in zip(nodes, masks, strict=True):
        values = node.get(name) or []
        if len(values) == len(mask):
            found += compress(values, mask)
        elif len(values) == sum(mask):
            found += values
        else:
            return None
    return found


def _logprobs(found: list[Trajectory]) -> dict[str, pa.Array]:
    there = [name for name in LOGPROBS if any(one.logprobs[name] for one in found)]
    names = LOGPROBS if "trainer_logprobs" in there else {**LOGPROBS, "logprobs": "policy_logprobs"}
    return {names[name]: reading.numbers_of([one.logprobs[name] for one in found]) for name in there}


def _scores(trace: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a trace's rewards; of a plain number the weight is 1."""
    rewards = (trace.get("rewards") or {}).items()
    return {name: one if isinstance(one, dict) else {"score": one} for name, one in rewards if one is not None}


def _total(trace: dict[str, Any]) -> float | None:
    """Return the sum of scores, each times its weight; `None` if one that has weight was not given."""
    scores = _scores(trace).values()
    pairs = [(reading.number(one.get("score")), 1.0 if one.get("weight") is None else one["weight"]) for one in scores]
    weighed = [(score, weight) for score, weight in pairs if weight]
    if not pairs or any(score is None for score, _ in weighed):
        return None
    return math.fsum(score * weight for score, weight in weighed if score is not None)


def _rewards(found: list[Trajectory]) -> dict[str, pa.Array]:
    scores = [{name: one.get("score") for name, one in _scores(sample.trace).items()} for sample in found]
    return {
        f"{NAME}/{name}" if name in reading.OURS else name: reading.rewards_of(values)
        for name, values in _columns(scores).items()
    }


def _columns(records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def _prompt_ids(found: list[Trajectory]) -> pa.Array | None:
    """Return the groups of episodes, if all are in one."""
    groups = [(one.episode.get("group") or {}).get("id") for one in found]
    return None if None in groups else pa.array(map(str, groups))


def _steps(path: Path, found: list[Trajectory]) -> pa.Array | None:
    """Return the step of the folder that the file is in, or what each episode tells.

    An episode tells when it was begun, which may be earlier than the step that it is kept with.
    """
    told = [(((one.episode.get("run") or {}).get("work")) or {}).get("step") for one in found]
    folder = reading.step_in(path, STEP)
    steps = told if folder is None else [folder] * len(told)
    return None if None in steps else pa.array([int(str(step)) for step in steps], pa.int64())
