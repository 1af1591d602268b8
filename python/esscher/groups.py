"""Which neighbours in an array belong together: the completions of a prompt, the tokens of a completion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator

Offsets = NDArray[np.int64]
Entry = TypeVar("Entry", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Groups:
    """P groups of N entries that lie side by side: group ``p`` has the entries ``offsets[p]`` to ``offsets[p + 1]``.

    It can be read as the array of its offsets: NumPy takes it for one, and it has that array's length and items. A
    group may be empty: its sum is 0, and it has no mean, no largest and no smallest entry (NaN).

    Parameters
    ----------
    offsets
        Where groups begin and end, shape [P + 1]: starts with 0, never falls, ends with N.

    Raises
    ------
    ValueError
        If `offsets` breaks one of its rules.
    TypeError
        If `offsets` are not integers.

    Examples
    --------
    >>> groups = Groups([0, 2, 2, 5])
    >>> groups.sizes, groups.of
    (array([2, 0, 3]), array([0, 0, 2, 2, 2]))
    >>> np.asarray(groups)
    array([0, 2, 2, 5])
    """

    offsets: Offsets

    def __post_init__(self) -> None:
        offsets = as_integers("offsets", self.offsets)
        object.__setattr__(self, "offsets", check_offsets("offsets", offsets, int(offsets[-1]) if len(offsets) else 0))

    @classmethod
    def from_sizes(cls, sizes: ArrayLike) -> Groups:
        """Return groups of the given sizes [P].

        Examples
        --------
        >>> Groups.from_sizes([2, 0, 3]).offsets
        array([0, 2, 2, 5])
        """
        return cls(np.concatenate([np.zeros(1, np.int64), np.cumsum(as_integers("sizes", sizes))]))

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """How many entries each group has [P]."""
        return np.diff(self.offsets)

    @cached_property
    def of(self) -> NDArray[np.int64]:
        """The group of each entry [N]."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def starts(self) -> Offsets:
        """Where each group begins [P]."""
        return self.offsets[:-1]

    @property
    def place(self) -> NDArray[np.int64]:
        """The place of each entry in its group, counted from 0 [N].

        Examples
        --------
        >>> Groups([0, 2, 5]).place
        array([0, 1, 0, 1, 2])
        """
        return np.arange(self.offsets[-1]) - np.repeat(self.starts, self.sizes)

    def spread(self, values: NDArray[Entry]) -> NDArray[Entry]:
        """Give each entry what its group has: from [P, ...] to [N, ...].

        Examples
        --------
        >>> Groups([0, 2, 5]).spread(np.array([0.5, 1.5]))
        array([0.5, 0.5, 1.5, 1.5, 1.5])
        """
        if len(values) == 1:
            return np.broadcast_to(values[0], (self.offsets[-1], *values.shape[1:]))  # without a copy, to be read only
        return np.repeat(values, self.sizes, axis=0)

    @overload
    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]: ...
    @overload
    def sums(self, values: NDArray[np.bool_ | np.signedinteger]) -> NDArray[np.int64]: ...
    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum the entries of each group, from [N, ...] to [P, ...]; booleans are counted.

        Examples
        --------
        >>> Groups([0, 2, 2, 5]).sums(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
        array([ 3.,  0., 12.])
        """
        return self._reduced(np.add, values.astype(np.int64) if values.dtype == np.bool_ else values, 0)

    def means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Average the entries of each group, from [N, ...] to [P, ...].

        Examples
        --------
        >>> Groups([0, 2, 2, 5]).means(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
        array([1.5, nan, 4. ])
        """
        sums = self.sums(values)
        sizes = self.sizes.reshape(-1, *[1] * (sums.ndim - 1))
        means = np.full(sums.shape, np.nan)
        np.divide(sums, sizes, out=means, where=sizes > 0)
        return means

    def largest(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the largest entry of each group, from [N, ...] to [P, ...].

        Examples
        --------
        >>> Groups([0, 2, 2, 5]).largest(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
        array([ 2., nan,  5.])
        """
        return self._reduced(np.maximum, values, np.nan)

    def smallest(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the smallest entry of each group, from [N, ...] to [P, ...].

        Examples
        --------
        >>> Groups([0, 2, 2, 5]).smallest(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
        array([ 1., nan,  3.])
        """
        return self._reduced(np.minimum, values, np.nan)

    def _reduced(self, ufunc: np.ufunc, values: NDArray[Any], of_nothing: float) -> NDArray[Any]:
        # Of an empty group reduceat would return its neighbour's first entry.
        filled = self.sizes > 0
        if filled.all() and len(filled):
            return ufunc.reduceat(values, self.starts, axis=0)
        shape = (len(filled), *values.shape[1:])
        reduced = np.full(shape, of_nothing, np.result_type(values, np.float64) if of_nothing else values.dtype)
        if filled.any():
            reduced[filled] = ufunc.reduceat(values, self.starts[filled], axis=0)
        return reduced

    def take(self, groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], Groups]:
        """Return the entries of the given groups, in the given order, and how they are grouped then.

        Examples
        --------
        >>> Groups([0, 2, 5]).take(np.array([1, 0]))
        (array([2, 3, 4, 0, 1]), Groups(offsets=array([0, 3, 5])))
        """
        taken = Groups.from_sizes(self.sizes[groups])
        return taken.spread(self.starts[groups]) + taken.place, taken

    def tolist(self) -> list[int]:
        """Return the offsets as a list."""
        return [int(offset) for offset in self.offsets]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.offsets, dtype=dtype, copy=copy) if copy else np.asarray(self.offsets, dtype=dtype)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, item: Any) -> Any:
        return self.offsets[item]

    def __iter__(self) -> Iterator[np.int64]:
        return iter(self.offsets)


def as_groups(groups: ArrayLike | None, n: int) -> Groups:
    """Return groups of `n` entries, given as such or as offsets [P + 1]; all are one group if `groups` is `None`.

    Raises
    ------
    ValueError
        If they are no offsets, or end elsewhere than at `n`.
    TypeError
        If they are no integers.
    """
    if isinstance(groups, Groups) and groups.offsets[-1] == n:
        return groups
    return Groups(np.array([0, n]) if groups is None else check_offsets("groups", groups, n))


def as_filled_groups(groups: ArrayLike | None, n: int, name: str = "groups") -> Groups:
    """As `as_groups`, but raise `ValueError` if a group is empty.

    Examples
    --------
    >>> as_filled_groups([0, 0, 2], 2)
    Traceback (most recent call last):
    ValueError: groups: group 0 is empty: nothing can be said of it, leave it out
    """
    found = as_groups(check_offsets(name, groups, n) if groups is not None else None, n)
    empty = np.flatnonzero(found.sizes == 0)
    if len(empty):
        raise ValueError(f"{name}: group {empty[0]} is empty: nothing can be said of it, leave it out")
    return found


def as_integers(name: str, values: ArrayLike) -> NDArray[np.int64]:
    """Return `values` as int64 [n], or raise if they are anything but integers in one dimension."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has {array.ndim} dimensions: it has one")
    if array.dtype.kind not in "iu" and len(array):
        raise TypeError(f"{name} has dtype {array.dtype}: it must be integers")
    return np.ascontiguousarray(array, dtype=np.int64)


def check_offsets(name: str, offsets: ArrayLike, length: int) -> Offsets:
    """Return `offsets` as int64, or raise `ValueError` if they do not divide `length` items into rows."""
    array = as_integers(name, offsets)
    if len(array) == 0:
        raise ValueError(f"{name} is empty: offsets start with 0 and have one more entry than there are rows")
    if array[0] != 0:
        raise ValueError(f"{name}[0] is {array[0]}: offsets start with 0")
    falls = np.flatnonzero(np.diff(array) < 0)
    if len(falls):
        i = int(falls[0]) + 1
        raise ValueError(f"{name}[{i}] is {array[i]}, below the {array[i - 1]} before it: offsets never fall")
    if array[-1] != length:
        raise ValueError(f"{name} ends at {array[-1]}, but there are {length} values to divide into rows")
    return array
