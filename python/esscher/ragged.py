"""Rows of unequal length in one flat array."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from esscher.groups import Groups, as_integers, check_offsets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Offsets

MAX_TOKEN_ID = 2**32 - 1
# The bits of a bfloat16, set apart from an integer.
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of unequal length: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    Parameters
    ----------
    values
        All rows, one after the other, shape [T].
    offsets
        Where rows begin and end, shape [n + 1]: starts with 0, never falls, ends with T.

    Raises
    ------
    ValueError
        If `values` is not one-dimensional, or `offsets` breaks one of its rules.
    TypeError
        If `offsets` are not integers.

    Examples
    --------
    >>> rows = Ragged.from_rows([[5, 6, 7], [8]])
    >>> rows.offsets
    array([0, 3, 4])
    >>> rows[1]
    array([8])
    """

    values: NDArray[Any]
    offsets: Offsets

    def __post_init__(self) -> None:
        values = as_native(self.values)
        if values.ndim != 1:
            raise ValueError(f"values has {values.ndim} dimensions: a ragged array's values have one")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "offsets", check_offsets("offsets", self.offsets, len(values)))

    @classmethod
    def from_rows(cls, rows: Sequence[ArrayLike], dtype: Any = None) -> Ragged:
        """Join rows; `dtype` is needed only where all of them are empty.

        Examples
        --------
        >>> Ragged.from_rows([[1, 2], []]).lengths
        array([2, 0])
        """
        arrays = [np.asarray(row) for row in rows]
        for i, array in enumerate(arrays):
            if array.ndim != 1:
                raise ValueError(f"rows[{i}] has {array.ndim} dimensions: a row has one")
        filled = [array for array in arrays if len(array)]
        values = np.concatenate(filled) if filled else np.empty(0)
        return cls.from_lengths(values if dtype is None else values.astype(dtype), [len(array) for array in arrays])

    @classmethod
    def from_lengths(cls, values: ArrayLike, lengths: ArrayLike) -> Ragged:
        """Divide `values` [T] into rows of the given lengths [n].

        Examples
        --------
        >>> Ragged.from_lengths([1, 2, 3], [1, 2])[1]
        array([2, 3])
        """
        lengths = as_integers("lengths", lengths)
        if len(lengths) and lengths.min() < 0:
            raise ValueError(f"lengths[{int(lengths.argmin())}] is {lengths.min()}: a length is at least 0")
        return cls(np.asarray(values), Groups.from_sizes(lengths).offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Ragged]) -> Ragged:
        """Put the rows of several one after the other.

        Examples
        --------
        >>> Ragged.concatenate([Ragged.from_rows([[1, 2]]), Ragged.from_rows([[3], []])]).lengths
        array([2, 1, 0])
        """
        values = np.concatenate([part.values for part in parts])
        return cls.from_lengths(values, np.concatenate([part.lengths for part in parts]))

    @classmethod
    def from_padded(
        cls, array: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None
    ) -> Ragged:
        """Take the rows out of a padded array [n, L], by their lengths [n] or by a mask [n, L] of what to keep.

        Exactly one of `lengths` and `mask` is needed: nothing is inferred from the padding's value.

        Examples
        --------
        >>> padded = [[5, 6, 0], [0, 0, 7]]
        >>> Ragged.from_padded(padded, mask=[[1, 1, 0], [0, 0, 1]]).values
        array([5, 6, 7])
        >>> Ragged.from_padded(padded, lengths=[2, 3]).lengths
        array([2, 3])
        """
        array = np.asarray(array)
        if array.ndim != 2:
            raise ValueError(f"array has {array.ndim} dimensions: a padded array has two, [rows, longest]")
        if (lengths is None) == (mask is None):
            raise ValueError("give either lengths or mask: padding is never inferred from its value")
        keep = _mask_of(np.asarray(mask), array.shape) if lengths is None else _mask_of_lengths(lengths, array.shape)
        return cls.from_lengths(array[keep], keep.sum(axis=1))

    def to_padded(self, fill: Any) -> NDArray[Any]:
        """Pad all rows on the right with `fill` to the longest: shape [n, L].

        Examples
        --------
        >>> Ragged.from_rows([[5, 6], [7]]).to_padded(fill=0)
        array([[5, 6],
               [7, 0]])
        """
        lengths = self.lengths
        padded = np.full((len(self), int(lengths.max(initial=0))), fill, dtype=self.values.dtype)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = self.values
        return padded

    @property
    def layout(self) -> Offsets:
        """What tells the kernels where rows begin and end."""
        return self.offsets

    @property
    def kept(self) -> Ragged:
        """The rows themselves: all of them count. See `Masked`."""
        return self

    @property
    def rows(self) -> Groups:
        """Which values share a row, to sum and average them."""
        return Groups(self.offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each row, shape [n]."""
        return np.diff(self.offsets)

    def locate(self, i: int) -> tuple[int, int]:
        """Return the row of value `i` of the flat array, and its place there.

        Examples
        --------
        >>> Ragged.from_rows([[5, 6], [], [7]]).locate(2)
        (2, 0)
        """
        row = int(np.searchsorted(self.offsets, i, side="right")) - 1
        return row, int(i - self.offsets[row])

    def take(self, rows: ArrayLike) -> Ragged:
        """Return the given rows, in the given order.

        Examples
        --------
        >>> Ragged.from_rows([[5, 6], [7]]).take([1, 0, 1]).values
        array([7, 5, 6, 7])
        """
        taken, rows_taken = self.rows.take(as_integers("rows", rows))
        return Ragged(self.values[taken], rows_taken.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> NDArray[Any]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        i %= len(self)
        row: NDArray[Any] = self.values[self.offsets[i] : self.offsets[i + 1]]
        return row

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self.values[start:end] for start, end in pairwise(self.offsets.tolist()))

    def __repr__(self) -> str:
        return f"Ragged({len(self)} rows, {len(self.values)} values of {self.values.dtype})"


@dataclass(frozen=True, eq=False)
class Padded:
    """Rows of unequal length in a padded array: what the mask keeps of each row, in order.

    Kernels read it where it lies; no copy is made unless a mask has holes, and then of one row at a time. What a row
    gives does not depend on its padding, to the last bit.

    Parameters
    ----------
    values
        The padded array, shape [n, L]: NumPy, or a torch CPU tensor.
    mask
        What to keep, shape [n, L], booleans or zeros and ones. Exactly one of `mask` and `lengths` is needed:
        nothing is ever told from the padding's value.
    lengths
        How many of each row's first entries to keep, shape [n].

    Raises
    ------
    ValueError
        If shapes disagree, or not exactly one of `mask` and `lengths` is given.
    TypeError
        If `mask` is neither bool nor numbers, or `lengths` are no integers.

    Examples
    --------
    >>> import numpy as np
    >>> logprobs = Padded(np.array([[-0.5, -1.0, 0.0], [0.0, 0.0, -2.0]]), mask=np.array([[1, 1, 0], [0, 0, 1]]))
    >>> logprobs
    Padded(2 rows of up to 3 values of float64)
    """

    values: NDArray[Any]
    mask: NDArray[Any] | None = None
    lengths: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        values = as_native(self.values)
        if values.ndim != 2:
            raise ValueError(f"values has {values.ndim} dimensions: a padded array has two, [rows, longest]")
        if (self.lengths is None) == (self.mask is None):
            raise ValueError("give either lengths or mask: padding is never inferred from its value")
        object.__setattr__(self, "values", values)
        if self.mask is not None:
            object.__setattr__(self, "mask", _as_mask(self.mask, values.shape))
        elif self.lengths is not None:
            object.__setattr__(self, "lengths", as_integers("lengths", self.lengths))

    @property
    def layout(self) -> NDArray[Any]:
        """What tells the kernels where rows begin and end."""
        return self.mask if self.mask is not None else np.asarray(self.lengths)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        n, width = self.values.shape
        return f"Padded({n} rows of up to {width} values of {self.values.dtype})"


@dataclass(frozen=True, eq=False)
class Masked:
    """Rows of unequal length of which a mask keeps some values; the others are gaps.

    Of a trajectory in which an environment speaks too, the mask keeps the tokens that the policy chose. Kernels read
    what is kept where it lies, a row with gaps is gathered by itself, and no n-gram spans a gap.

    Parameters
    ----------
    values
        All rows, one after the other, shape [T].
    offsets
        Where rows begin and end, shape [n + 1].
    mask
        What to keep, shape [T], booleans or zeros and ones.

    Raises
    ------
    ValueError
        If `values` or `offsets` break a rule of `Ragged`, or `mask` has another length or entries but 0 and 1.
    TypeError
        If `mask` is neither bool nor numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from esscher import distinct, sequence_logprobs
    >>> logprobs = Masked(np.array([-0.5, -9.0, -1.0, -2.0]), [0, 3, 4], [1, 0, 1, 1])
    >>> logprobs
    Masked(2 rows, 3 of 4 values of float64)
    >>> logprobs.lengths, sequence_logprobs(logprobs)
    (array([2, 1]), array([-1.5, -2. ]))
    """

    values: NDArray[Any]
    offsets: Offsets
    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        rows = Ragged(self.values, self.offsets)
        object.__setattr__(self, "values", rows.values)
        object.__setattr__(self, "offsets", rows.offsets)
        object.__setattr__(self, "mask", as_flags("mask", self.mask, len(rows.values)))

    @property
    def layout(self) -> tuple[Offsets, NDArray[np.uint8]]:
        """What tells the kernels where rows begin and end, and what they keep."""
        return self.offsets, self.mask.view(np.uint8)

    @cached_property
    def kept(self) -> Ragged:
        """What the mask keeps, with nothing between."""
        return Ragged(self.values[self.mask], self.rows.offsets)

    @cached_property
    def rows(self) -> Groups:
        """Which of the values that are kept share a row, to sum and average them."""
        return Groups.from_sizes(Groups(self.offsets).sums(self.mask.astype(np.int64)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many values of each row are kept, shape [n]."""
        return self.rows.sizes

    def take(self, rows: Any) -> Masked:
        """Return the given rows, in the given order.

        Examples
        --------
        >>> import numpy as np
        >>> Masked(np.array([5, 6, 7]), [0, 2, 3], [1, 0, 1]).take([1]).kept.values
        array([7])
        """
        whole, mask = (Ragged(column, self.offsets).take(rows) for column in (self.values, self.mask))
        return Masked(whole.values, whole.offsets, mask.values)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        kept, total = int(self.mask.sum()), len(self.values)
        return f"Masked({len(self)} rows, {kept} of {total} values of {self.values.dtype})"


def as_native(values: Any) -> NDArray[Any]:
    """Return `values` as an array that kernels can read: aligned, row after row, in the machine's byte order.

    No copy is made where none is needed. bfloat16, which NumPy does not have, comes as `BFLOAT16`.
    """
    if str(getattr(values, "dtype", "")) in ("torch.bfloat16", "bfloat16"):
        values = _bits_of(values)
    elif hasattr(values, "detach"):
        values = values.detach()
    array = np.asarray(values)
    if array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative:
        return array
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def _bits_of(values: Any) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        return values.view(BFLOAT16)
    # A torch tensor, so torch has been imported, by whoever made it.
    bits: NDArray[np.int16] = values.detach().view(sys.modules["torch"].int16).numpy()
    return bits.view(BFLOAT16)


def widened(values: NDArray[Any]) -> NDArray[Any]:
    """Return `values` as they are, or, from bfloat16 and float16, as the equal float32."""
    if values.dtype == np.float16:
        return values.astype(np.float32)
    if values.dtype != BFLOAT16:
        return values
    return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def as_floats(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return `values` as kernels take them, bfloat16 as uint16; raises `TypeError` for what is no floating point."""
    if values.dtype == BFLOAT16:
        return values.view(np.uint16)
    if values.dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"{name} has dtype {values.dtype}: it must be float32, float64, bfloat16 or float16")
    return widened(values)


def _as_mask(mask: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    array = widened(as_native(mask))
    if array.shape != shape:
        raise ValueError(f"mask has shape {array.shape}, values {shape}: they must be equal")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"mask has dtype {array.dtype}: it must be bool or numbers")
    if array.dtype.kind == "f":
        return _as_flags(array)
    if array.dtype.itemsize == 1:
        return array.view(np.uint8)
    return array.astype(np.int64, copy=False)


def _as_flags(mask: NDArray[Any]) -> NDArray[np.uint8]:
    strange = np.flatnonzero((mask != 0) & (mask != 1))
    if len(strange):
        row, place = np.unravel_index(strange[0], mask.shape)
        raise ValueError(f"mask[{row}, {place}] is {mask[row, place]}: a mask is 0 or 1")
    return mask.astype(np.uint8)


def pieces_of(rows: Ragged | Masked) -> tuple[Ragged, Groups]:
    """Return the stretches without a gap that rows are made of, and which of them are one row's.

    Examples
    --------
    >>> import numpy as np
    >>> pieces, rows = pieces_of(Masked(np.array([5, 6, 7, 8]), [0, 4], [1, 1, 0, 1]))
    >>> [piece.tolist() for piece in pieces], rows.sizes
    ([[5, 6], [8]], array([2]))
    """
    if isinstance(rows, Ragged):
        return rows, Groups(np.arange(len(rows) + 1))
    kept = np.flatnonzero(rows.mask)
    row = Groups(rows.offsets).of[kept]
    begins = np.ones(len(kept), np.bool_)
    begins[1:] = (np.diff(kept) > 1) | (np.diff(row) > 0)
    first = np.flatnonzero(begins)
    lengths = np.diff(first, append=len(kept))
    pieces = Ragged.from_lengths(rows.values[kept], lengths)
    return pieces, Groups.from_sizes(np.bincount(row[first], minlength=len(rows)))


def as_flags(name: str, mask: Any, length: int) -> NDArray[np.bool_]:
    """Return a mask of so many entries as booleans; raises as `Masked`."""
    array = as_native(mask)
    if array.shape != (length,):
        raise ValueError(f"{name} has shape {array.shape}, of {length} values: it has one entry for each of them")
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} has dtype {array.dtype}: it must be bool or numbers")
    strange = np.flatnonzero((array != 0) & (array != 1))
    if len(strange):
        raise ValueError(f"{name}[{strange[0]}] is {array[strange[0]]}: a mask is 0 or 1")
    return array.astype(np.bool_)


def as_numbers(name: str, values: Any) -> NDArray[Any]:
    """Return numbers that stand for a sample each as an array: a list, a tensor, of any shape.

    Raises
    ------
    TypeError
        If they are columns of tokens, rows of unequal length, or else no array.
    """
    if isinstance(values, Ragged | Padded):
        raise TypeError(
            f"{name} is {type(values).__name__}: it has one number for each sample; sequence_logprobs adds up the "
            "log-probs of each one's tokens"
        )
    try:
        return widened(as_native(values))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is no array of numbers, one for each sample: {error}") from error


def check_rows(name: str, rows: Any, *, or_masked: bool = False, or_padded: bool = False) -> None:
    """Raise `TypeError` that says how to make it, if `rows` is not `Ragged`, nor what else will do."""
    if isinstance(rows, Ragged) or (or_masked and isinstance(rows, Masked)) or (or_padded and isinstance(rows, Padded)):
        return
    dimensions = 2 if isinstance(rows, Padded) else getattr(rows, "ndim", None)
    if dimensions == 2:
        made = (
            f"Padded({name}, mask=mask)" if or_padded else f"Ragged.from_padded({name}, mask=mask), as Padded is made"
        )
        made += ", or with lengths=lengths: nothing tells padding by its value"
    elif dimensions == 1:
        made = f"Ragged.from_lengths({name}, lengths)"
    else:
        made = "Ragged.from_rows(rows), or Ragged.from_padded(array, mask=mask)"
    what = (
        f"{type(rows).__name__} of {dimensions} dimension{'s' * (dimensions > 1)}"
        if dimensions
        else type(rows).__name__
    )
    raise TypeError(f"{name} is {what}: it must be Ragged{' or Padded' * or_padded}; make it {made}")


@overload
def as_token_ids(name: str, rows: Ragged, *, or_masked: Literal[False] = False) -> Ragged: ...
@overload
def as_token_ids(name: str, rows: Ragged | Masked, *, or_masked: Literal[True]) -> Ragged | Masked: ...
def as_token_ids(name: str, rows: Ragged | Masked, *, or_masked: bool = False) -> Ragged | Masked:
    """Return `rows` as uint32, without a copy where they are, or raise if they cannot be token ids."""
    check_rows(name, rows, or_masked=or_masked)
    ids = rows.values
    if ids.dtype == np.uint32:
        return rows
    if ids.dtype.kind not in "iu" and len(ids):
        raise TypeError(f"{name} has dtype {ids.dtype}: token ids are integers")
    outside = np.flatnonzero((ids < 0) | (ids > MAX_TOKEN_ID))
    if len(outside):
        raise ValueError(f"{name}: token {outside[0]} is {ids[outside[0]]}, a token id is between 0 and {MAX_TOKEN_ID}")
    return replace(rows, values=ids.astype(np.uint32, copy=False))


def _mask_of(mask: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if mask.shape != shape:
        raise ValueError(f"mask has shape {mask.shape}, array {shape}: they must be equal")
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("mask has entries other than 0 and 1")
    return mask.astype(np.bool_)


def _mask_of_lengths(lengths: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    lengths = as_integers("lengths", lengths)
    if len(lengths) != shape[0]:
        raise ValueError(f"lengths has {len(lengths)} entries, array {shape[0]} rows: they must be equal")
    outside = np.flatnonzero((lengths < 0) | (lengths > shape[1]))
    if len(outside):
        i = int(outside[0])
        raise ValueError(f"lengths[{i}] is {lengths[i]}: it must be between 0 and the array's width, {shape[1]}")
    keep: NDArray[np.bool_] = np.arange(shape[1]) < lengths[:, None]
    return keep
