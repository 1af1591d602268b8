"""Samples: prompts, their completions, and what is known of each; the record that all layers exchange."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np

from esscher import _core
from esscher._core import ROUNDING
from esscher.groups import Groups, as_groups, as_integers
from esscher.ragged import Masked, Ragged, as_flags, as_floats, as_numbers, as_token_ids, check_rows, widened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

TokenColumn = Literal["policy_logprobs", "prior_logprobs", "token_kl", "policy_entropy", "cross_log_probs"]
# What the ids of completions are: those that were sampled, ids made from their texts again, or numbers of words.
Tokens = Literal["sampled", "retokenised", "words"]


@dataclass(frozen=True, eq=False)
class Samples:
    """Completions of prompts, grouped by prompt, with the columns that are known.

    A completion is its token ids: the end-of-sequence token is one of them if the model produced it, and padding is
    not. Columns that are not known are `None`, and what needs them is reported as not available.

    Of a trajectory, `action_mask` tells the tokens that the policy chose, its actions, from what an environment said:
    tool results, other speakers. Those are read by models and counted by nothing: as an environment follows the same
    law under policy and prior, ``log policy - log prior`` of a trajectory is the sum over its actions.

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
        Where there is an `action_mask`, this and the other columns of tokens may have the rows of the actions instead,
        and are kept so: what they hold at other tokens is not looked at.
    rewards
        One per completion [N]; may be -inf, not NaN or +inf.
    terminated
        Whether the completion ended by itself, rather than being cut off [N]; ones and zeros are booleans.
    token_kl
        Full-vocabulary KL(policy‖prior) at each completion token, in nats.
    policy_entropy
        Full-vocabulary entropy of the policy at each completion token, in nats.
    action_mask
        Which completion tokens the policy chose, with the rows of `completions`: booleans, or ones and zeros. A mask
        that leaves nothing out is kept as `None`.
    tokens
        What the ids are: "sampled", the ids that the model drew; "retokenised", made from texts again, which need not
        be those; "words", numbers of words, where there are texts alone.
    cross_log_probs
        Log-probs of each completion under the policy after *other* prompts [N rows, of one number a prompt], in nats,
        summed over its actions: what tells whether the policy heeds its prompt (see `estimate_mutual_information`).

    Raises
    ------
    ValueError
        If there are no completions, one has no tokens or no actions, a prompt has none, rows or lengths differ, a
        log-prob is NaN or
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
    action_mask: Ragged | None = None
    tokens: Tokens = "sampled"
    cross_log_probs: Ragged | None = None

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
            action_mask: Ragged | None = None,
            tokens: Tokens = "sampled",
            cross_log_probs: Ragged | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        self._set("prompts", as_token_ids("prompts", self.prompts))
        self._set("completions", as_token_ids("completions", self.completions))
        self._set("groups", as_groups(self.groups, len(self.completions)))
        _check_groups(self.groups, self.prompts, self.completions)
        self._set("action_mask", _action_mask(self.action_mask, self.completions))
        for name in self._given("policy_logprobs", "prior_logprobs"):
            self._set(name, token_column(name, getattr(self, name), self.actions, "log-prob", highest=0.0))
        for name in self._given("token_kl", "policy_entropy"):
            self._set(name, token_column(name, getattr(self, name), self.actions, name, lowest=0.0))
        self._set("cross_log_probs", _cross_log_probs(self.cross_log_probs, len(self.completions)))
        self._set("rewards", _rewards(self.rewards, len(self.completions)))
        self._set("terminated", _terminated(self.terminated, len(self.completions)))
        if self.tokens not in get_args(Tokens):
            raise ValueError(f"tokens is {self.tokens!r}: it must be one of {', '.join(get_args(Tokens))}")

    def _given(self, *names: str) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the optional columns that are there."""
        return tuple(self._given(*(field.name for field in fields(self)[3:] if field.name != "tokens")))

    @cached_property
    def actions(self) -> Ragged | Masked:
        """The completion tokens that the policy chose, which everything is counted by; all if there is no mask.

        Columns of tokens have its rows, as ``actions.kept`` does.

        Examples
        --------
        >>> samples = Samples(
        ...     prompts=Ragged.from_rows([[1]]),
        ...     completions=Ragged.from_rows([[7, 8, 9]]),
        ...     groups=[0, 1],
        ...     policy_logprobs=Ragged.from_rows([[-0.5, 0.0, -1.0]]),
        ...     action_mask=Ragged.from_rows([[True, False, True]]),
        ... )
        >>> samples.actions.kept[0].tolist(), samples.policy_logprobs[0].tolist()
        ([7, 9], [-0.5, -1.0])
        """
        if self.action_mask is None:
            return self.completions
        return Masked(self.completions.values, self.completions.offsets, self.action_mask.values)

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
        return replace(
            self,
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


def as_samples(prompts: Ragged, completions: Ragged | Masked, groups: ArrayLike) -> Samples:
    """Return completions as samples; of `Masked` ones the mask tells the actions.

    Examples
    --------
    >>> as_samples(Ragged.from_rows([[1]]), Masked(np.array([7, 8]), [0, 2], [1, 0]), [0, 1])
    Samples(1 prompt, 1 completion, 2 tokens; action_mask)
    """
    if not isinstance(completions, Masked):
        return Samples(prompts, completions, groups)
    offsets = completions.offsets
    return Samples(prompts, Ragged(completions.values, offsets), groups, action_mask=Ragged(completions.mask, offsets))


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
        If there are no parts, or some have a column that others lack (which would drop it in silence), or other
        `tokens`. Where some have an `action_mask`, all tokens of the others are actions.

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
        if _must_agree(part) != _must_agree(parts[0]):
            raise ValueError(f"parts[{i}] has the columns {part.columns}, parts[0] {parts[0].columns}: they must agree")
        if part.tokens != parts[0].tokens:
            raise ValueError(f"parts[{i}] has {part.tokens} tokens, parts[0] {parts[0].tokens}: they must agree")
    joined = {name: _join([getattr(part, name) for part in parts]) for name in _must_agree(parts[0])}
    if any(part.action_mask is not None for part in parts):
        joined["action_mask"] = Ragged.concatenate([_whole_mask(part) for part in parts])
    return Samples(
        tokens=parts[0].tokens,
        prompts=_join([part.prompts for part in parts]),
        completions=_join([part.completions for part in parts]),
        groups=Groups.from_sizes(np.concatenate([part.groups.sizes for part in parts])),
        **joined,
    )


def _must_agree(part: Samples) -> tuple[str, ...]:
    return tuple(name for name in part.columns if name != "action_mask")


def _whole_mask(part: Samples) -> Ragged:
    if part.action_mask is not None:
        return part.action_mask
    return Ragged(np.ones(len(part.completions.values), np.bool_), part.completions.offsets)


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


def _action_mask(mask: Any, completions: Ragged) -> Ragged | None:
    """Return a mask of the completions' tokens as booleans, or `None` if it leaves nothing out."""
    if mask is None:
        return None
    check_rows("action_mask", mask)
    if not np.array_equal(mask.offsets, completions.offsets):
        raise ValueError(f"action_mask {_first_difference(mask, completions)}")
    chosen = Ragged(as_flags("action_mask", mask.values, len(completions.values)), mask.offsets)
    if chosen.values.all():
        return None
    none = np.flatnonzero(chosen.rows.sums(chosen.values) == 0)
    if len(none):
        raise ValueError(
            f"action_mask[{none[0]}] is false throughout: the policy chose nothing there; leave the completion out"
        )
    return chosen


def _cross_log_probs(column: Any, n: int) -> Ragged | None:
    if column is None:
        return None
    check_rows("cross_log_probs", column)
    if len(column) != n:
        raise ValueError(f"cross_log_probs has {len(column)} rows, completions has {n}: they must be equal")
    numbers = widened(column.values)
    if numbers.dtype not in (np.float32, np.float64):
        raise TypeError(f"cross_log_probs has dtype {numbers.dtype}: it must be float32, float64 or bfloat16")
    wrong = np.flatnonzero(~(numbers <= ROUNDING))  # NaN, too
    if len(wrong):
        row, place = column.locate(wrong[0])
        raise ValueError(
            f"cross_log_probs[{row}][{place}] is {numbers[wrong[0]]}: a log-prob is at most 0 (-inf included) and not "
            "NaN"
        )
    return Ragged(numbers, column.offsets)


def token_column(
    name: str,
    column: Ragged,
    actions: Ragged | Masked,
    what: str,
    *,
    lowest: float = -np.inf,
    highest: float = np.inf,
) -> Ragged:
    """Return a column of numbers with the rows of the actions, checked; its name and `what` it holds go into errors.

    Where there are gaps, the column may have them too: what stands there is left out. What rounding left beyond a bound
    stays as it is, and whoever reads it reads the bound.

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
    kept = _without_gaps(name, column, actions)
    # NaN compares false, so it counts as outside.
    inside = (kept.values >= lowest - ROUNDING) & (kept.values <= highest + ROUNDING)
    if not inside.all():
        outside = int(inside.argmin())
        value = kept.values[outside]
        if kept is not column and isinstance(actions, Masked):
            outside = int(np.flatnonzero(actions.mask)[outside])
        row, token = column.locate(outside)
        rule = "at most 0 (-inf included)" if highest == 0 else "at least 0"
        raise ValueError(f"{name}[{row}][{token}] is {value}: a {what} is {rule} and not NaN")
    return kept


def _without_gaps(name: str, column: Ragged, actions: Ragged | Masked) -> Ragged:
    """Return a column with the rows of the actions; one that has the gaps too loses them."""
    if np.array_equal(column.offsets, actions.rows.offsets):
        return column
    if np.array_equal(column.offsets, actions.offsets) and isinstance(actions, Masked):
        return Masked(column.values, column.offsets, actions.mask).kept
    whole = Ragged(actions.values, actions.offsets)
    also = "" if isinstance(actions, Ragged) else ", or has a value for each action"
    raise ValueError(f"{name} {_first_difference(column, whole)}{also}")


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
