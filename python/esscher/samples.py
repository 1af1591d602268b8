"""Samples: prompts, their completions, and what is known of each; the record that all layers exchange."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from esscher import _core
from esscher._core import ROUNDING
from esscher.groups import Groups, as_groups, as_integers
from esscher.ragged import Ragged, as_floats, as_numbers, as_token_ids, check_rows, widened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

TokenColumn = Literal["policy_logprobs", "prior_logprobs", "token_kl", "policy_entropy"]


@dataclass(frozen=True, eq=False)
class Samples:
    """Completions of prompts, grouped by prompt, with the columns that are known.

    A completion is its token ids: the end-of-sequence token is one of them if the model produced it, and padding is
    not. Columns that are not known are `None`, and what needs them is reported as not available.

    Parameters
    ----------
    prompts
        Token ids of the P prompts.
    completions
        Token ids of the N completions, those of one prompt side by side.
    groups
        Offsets [P + 1]: prompt ``p`` has the completions ``groups[p]`` to ``groups[p + 1]``, at least one. Kept as
        `Groups`.
    policy_logprobs, prior_logprobs
        Log-prob of each completion token given its past, in nats, with the rows of `completions`; float32 or float64.
    rewards
        One per completion [N]; may be -inf, not NaN or +inf.
    terminated
        Whether the completion ended by itself, rather than being cut off [N]; ones and zeros are booleans.
    token_kl
        Full-vocabulary KL(policy‖prior) at each completion token, in nats.
    policy_entropy
        Full-vocabulary entropy of the policy at each completion token, in nats.

    Raises
    ------
    ValueError
        If there are no completions, one has no tokens, a prompt has none, rows or lengths differ, a log-prob is NaN or
        above 0, a KL or an entropy NaN or below it, a reward is NaN or +inf, or a token id does not fit into 32 bits.
        The message names column and index. What is beyond 0 by 1e-4 at most is rounding, and read as 0.
    TypeError
        If a column has the wrong type.

    Examples
    --------
    >>> samples = Samples(
    ...     prompts=Ragged.from_rows([[1, 2]]),
    ...     completions=Ragged.from_rows([[7, 8, 9], [7, 3]]),
    ...     groups=[0, 2],
    ...     rewards=[0.5, -1.0],
    ... )
    >>> samples
    Samples(1 prompt, 2 completions, 5 tokens; rewards)
    """

    prompts: Ragged
    completions: Ragged
    groups: Groups
    policy_logprobs: Ragged | None = None
    prior_logprobs: Ragged | None = None
    rewards: NDArray[np.float64] | None = None
    terminated: NDArray[np.bool_] | None = None
    token_kl: Ragged | None = None
    policy_entropy: Ragged | None = None

    if TYPE_CHECKING:  # what callers may pass is wider than what is kept

        def __init__(
            self,
            prompts: Ragged,
            completions: Ragged,
            groups: ArrayLike,
            policy_logprobs: Ragged | None = None,
            prior_logprobs: Ragged | None = None,
            rewards: ArrayLike | None = None,
            terminated: ArrayLike | None = None,
            token_kl: Ragged | None = None,
            policy_entropy: Ragged | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        self._set("prompts", as_token_ids("prompts", self.prompts))
        self._set("completions", as_token_ids("completions", self.completions))
        self._set("groups", as_groups(self.groups, len(self.completions)))
        _check_groups(self.groups, self.prompts, self.completions)
        for name in self._given("policy_logprobs", "prior_logprobs"):
            self._set(name, token_column(name, getattr(self, name), self.completions, "log-prob", highest=0.0))
        for name in self._given("token_kl", "policy_entropy"):
            self._set(name, token_column(name, getattr(self, name), self.completions, name, lowest=0.0))
        self._set("rewards", _rewards(self.rewards, len(self.completions)))
        self._set("terminated", _terminated(self.terminated, len(self.completions)))

    def _given(self, *names: str) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the optional columns that are there."""
        return tuple(self._given(*(field.name for field in fields(self)[3:])))

    @property
    def group_of(self) -> NDArray[np.int64]:
        """The prompt of each completion [N]."""
        return self.groups.of

    @cached_property
    def policy_log_prob(self) -> NDArray[np.float64]:
        """Log-prob of each completion under the policy [N], in nats; raises `ValueError` without its log-probs."""
        return _sums_of(self.need("policy_logprobs", why="how likely the policy finds a completion is the sum of them"))

    @cached_property
    def prior_log_prob(self) -> NDArray[np.float64]:
        """Log-prob of each completion under the prior [N], in nats; raises `ValueError` without its log-probs."""
        return _sums_of(self.need("prior_logprobs", why="how likely the prior finds a completion is the sum of them"))

    @overload
    def need(self, column: TokenColumn, *, why: str) -> Ragged: ...
    @overload
    def need(self, column: Literal["rewards"], *, why: str) -> NDArray[np.float64]: ...
    @overload
    def need(self, column: Literal["terminated"], *, why: str) -> NDArray[np.bool_]: ...
    def need(self, column: str, *, why: str) -> Any:
        """Return a column that is needed, or raise `ValueError` that names it and says why.

        Examples
        --------
        >>> samples = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[7]]), [0, 1])
        >>> samples.need("rewards", why="a target is made of them")
        Traceback (most recent call last):
        ValueError: samples have no rewards: a target is made of them
        """
        values = getattr(self, column)
        if values is None:
            raise ValueError(f"samples have no {column}: {why}")
        return values

    def take_prompts(self, prompts: ArrayLike) -> Samples:
        """Return the given prompts with their completions, in the given order.

        Examples
        --------
        >>> samples = Samples(Ragged.from_rows([[1], [2]]), Ragged.from_rows([[7], [8], [9]]), [0, 2, 3])
        >>> samples.take_prompts([1])
        Samples(1 prompt, 1 completion, 1 token)
        """
        order = as_integers("prompts", prompts)
        rows, groups = self.groups.take(order)
        return self._taken(order, rows, groups)

    def take_completions(self, rows: ArrayLike) -> Samples:
        """Return the given completions, each at most once, in rising order; prompts that keep none are left out.

        Examples
        --------
        >>> samples = Samples(Ragged.from_rows([[1], [2]]), Ragged.from_rows([[7], [8], [9]]), [0, 2, 3])
        >>> samples.take_completions([0, 1])
        Samples(1 prompt, 2 completions, 2 tokens)
        """
        kept = as_integers("rows", rows)
        if (np.diff(kept) <= 0).any():
            raise ValueError("rows do not rise: name each completion once, in their order")
        prompts, sizes = np.unique(self.groups.of[kept], return_counts=True)
        return self._taken(prompts, kept, Groups.from_sizes(sizes))

    def _taken(self, prompts: NDArray[np.int64], rows: NDArray[np.int64], groups: Groups) -> Samples:
        columns: dict[str, Any] = {name: getattr(self, name) for name in self.columns}
        return Samples(
            prompts=self.prompts.take(prompts),
            completions=self.completions.take(rows),
            groups=groups,
            **{name: _take(column, rows) for name, column in columns.items()},
        )

    def __len__(self) -> int:
        return len(self.completions)

    def __repr__(self) -> str:
        p, n = len(self.prompts), len(self)
        tokens = len(self.completions.values)
        counts = (("prompt", p), ("completion", n), ("token", tokens))
        sizes = ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for noun, count in counts)
        return f"Samples({'; '.join(filter(None, [sizes, ', '.join(self.columns)]))})"


def check_samples(name: str, samples: Any) -> None:
    """Raise `TypeError` if an argument is not `Samples`."""
    if not isinstance(samples, Samples):
        raise TypeError(
            f"{name} is {type(samples).__name__}: it must be Samples, of prompts, completions, groups and what is "
            "known of each completion"
        )


def concatenate(parts: Sequence[Samples]) -> Samples:
    """Put samples one after the other; a column is kept only if all parts have it.

    Raises
    ------
    ValueError
        If there are no parts, or some have a column that others lack (which would drop it in silence).

    Examples
    --------
    >>> part = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[2, 3]]), [0, 1])
    >>> concatenate([part, part])
    Samples(2 prompts, 2 completions, 4 tokens)
    """
    if not parts:
        raise ValueError("parts is empty: there is nothing to concatenate")
    for i, part in enumerate(parts):
        check_samples(f"parts[{i}]", part)
        if part.columns != parts[0].columns:
            raise ValueError(f"parts[{i}] has the columns {part.columns}, parts[0] {parts[0].columns}: they must agree")
    joined = {name: _join([getattr(part, name) for part in parts]) for name in parts[0].columns}
    return Samples(
        prompts=_join([part.prompts for part in parts]),
        completions=_join([part.completions for part in parts]),
        groups=Groups.from_sizes(np.concatenate([part.groups.sizes for part in parts])),
        **joined,
    )


def match_prompts(parts: Sequence[Samples]) -> list[Samples] | None:
    """Return of all parts only the prompts that all have, in the order of the first; `None` if there are none.

    Prompts are the same if their token ids are. Of a prompt that a part has several times, the first is the same as the
    first of others, and so on.

    Examples
    --------
    >>> one = Samples(Ragged.from_rows([[1], [2]]), Ragged.from_rows([[7], [8]]), [0, 1, 2])
    >>> other = Samples(Ragged.from_rows([[2], [3]]), Ragged.from_rows([[5], [6]]), [0, 1, 2])
    >>> [part.prompts[0].tolist() for part in match_prompts([one, other])]
    [[2], [2]]
    """
    rows = [{key: row for row, key in enumerate(prompt_keys(part))} for part in parts]
    shared = [key for key in rows[0] if all(key in others for others in rows[1:])]
    if not shared:
        return None
    orders = [[of_part[key] for key in shared] for of_part in rows]
    return [
        part if order == list(range(len(part.prompts))) else part.take_prompts(order)
        for part, order in zip(parts, orders, strict=True)
    ]


def prompt_keys(samples: Samples) -> list[tuple[bytes, int]]:
    """Return what a prompt is found by in other samples: its token ids, and how often they were there before."""
    seen: Counter[bytes] = Counter()
    keys = []
    for row in samples.prompts:
        ids = row.tobytes()
        keys.append((ids, seen[ids]))
        seen[ids] += 1
    return keys


def _sums_of(logprobs: Ragged) -> NDArray[np.float64]:
    """Add up the log-probs of each completion [N]."""
    return _core.aggregate_logprobs(as_floats("logprobs", logprobs.values), logprobs.layout)[0]


def _take(column: Any, rows: NDArray[np.int64]) -> Any:
    return column.take(rows) if isinstance(column, Ragged) else column[rows]


def _join(columns: list[Any]) -> Any:
    if isinstance(columns[0], Ragged):
        return Ragged.concatenate(columns)
    return np.concatenate(columns)


def _check_groups(groups: Groups, prompts: Ragged, completions: Ragged) -> None:
    if len(completions) == 0:
        raise ValueError("completions is empty: samples hold at least one completion")
    if len(groups) != len(prompts) + 1:
        raise ValueError(
            f"groups has {len(groups)} entries, but there are {len(prompts)} prompts: it has one more than prompts"
        )
    _first_empty("groups", groups.sizes, "has no completions: leave its prompt out")
    _first_empty("completions", completions.lengths, "has no tokens: it holds at least the end-of-sequence token")


def _first_empty(name: str, lengths: NDArray[np.int64], what: str) -> None:
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        raise ValueError(f"{name}[{empty[0]}] {what}")


def token_column(
    name: str,
    column: Ragged,
    completions: Ragged,
    what: str,
    *,
    lowest: float = -np.inf,
    highest: float = np.inf,
) -> Ragged:
    """Return a column of numbers with the rows of `completions`, checked; its name and `what` it holds go into errors.

    What rounding left beyond a bound stays as it is, and whoever reads it reads the bound.

    Raises
    ------
    ValueError
        If its rows differ, or a number is NaN or not between `lowest` and `highest`, give or take rounding.
    TypeError
        If it is not `Ragged`, or not of floating point.
    """
    check_rows(name, column)
    column = Ragged(widened(column.values), column.offsets)
    if column.values.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} has dtype {column.values.dtype}: it must be float32, float64 or bfloat16")
    if not np.array_equal(column.offsets, completions.offsets):
        raise ValueError(f"{name} {_first_difference(column, completions)}")
    # NaN compares false, so it counts as outside.
    inside = (column.values >= lowest - ROUNDING) & (column.values <= highest + ROUNDING)
    outside = np.flatnonzero(~inside)
    if len(outside):
        row, token = column.locate(outside[0])
        rule = "at most 0 (-inf included)" if highest == 0 else "at least 0"
        raise ValueError(f"{name}[{row}][{token}] is {column.values[outside[0]]}: a {what} is {rule} and not NaN")
    return column


def _first_difference(column: Ragged, completions: Ragged) -> str:
    if len(column) != len(completions):
        return f"has {len(column)} rows, completions has {len(completions)}: they must be equal"
    row = int(np.flatnonzero(column.lengths != completions.lengths)[0])
    return f"row {row} has {column.lengths[row]} tokens, completions[{row}] has {completions.lengths[row]}"


def _rewards(rewards: Any, n: int) -> NDArray[np.float64] | None:
    if rewards is None:
        return None
    array = _per_completion("rewards", rewards, n, "buif").astype(np.float64, copy=False)
    bad = np.flatnonzero(np.isnan(array) | (array == np.inf))
    if len(bad):
        raise ValueError(f"rewards[{bad[0]}] is {array[bad[0]]}: a reward is finite or -inf; leave out what has none")
    return array


def _terminated(terminated: Any, n: int) -> NDArray[np.bool_] | None:
    if terminated is None:
        return None
    flags = _per_completion("terminated", terminated, n, "buif")
    wrong = np.flatnonzero((flags != 0) & (flags != 1))
    if len(wrong):
        raise ValueError(f"terminated[{wrong[0]}] is {flags[wrong[0]]:g}: it is True or False, or 1 or 0")
    return flags.astype(np.bool_, copy=False)


def _per_completion(name: str, column: Any, n: int, kinds: str) -> NDArray[Any]:
    array = as_numbers(name, column)
    if array.dtype.kind not in kinds:
        raise TypeError(f"{name} has dtype {array.dtype}: it must be numbers")
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}, but there are {n} completions: it has one entry for each")
    return np.ascontiguousarray(array)
