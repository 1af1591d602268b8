"""Work that is divided further where memory runs out."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out.

    torch raises its own `OutOfMemoryError` on a GPU, told by its name here so that torch need not be imported, and an
    ordinary `RuntimeError` on a CPU.
    """
    is_torchs = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or is_torchs


def run_divided(
    pieces: Iterable[Piece],
    run: Callable[[Piece], Result],
    divide: Callable[[Piece, BaseException], Sequence[Piece]],
) -> Iterator[Result]:
    """Yield what each piece of work gives, in order; a piece for which memory runs out is replaced by smaller ones.

    Parameters
    ----------
    pieces
        What is run.
    run
        Runs one piece. Whatever it raises that does not mean that memory ran out is raised.
    divide
        Returns smaller pieces in place of one, given the error; raises `MemoryError` if there are none. The error is
        gone when the first of them is run, and with it what it kept allocated.

    Examples
    --------
    >>> def run(size):
    ...     if size > 2:
    ...         raise MemoryError
    ...     return size
    >>> list(run_divided([1, 5], run, lambda size, error: (size // 2, size - size // 2)))
    [1, 2, 1, 2]
    """
    waiting = list(pieces)[::-1]
    while waiting:
        piece = waiting.pop()
        try:
            result = run(piece)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            waiting.extend(reversed(divide(piece, error)))
        else:
            yield result
