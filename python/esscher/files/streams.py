"""Files as streams of bytes, packed ones unpacked on the way."""

from __future__ import annotations

import gzip
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# How packed files begin, whatever they are called.
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# A zstd stream is unpacked so much at a time.
BYTES_AT_ONCE = 2**20


@contextmanager
def open_rows(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read what it holds, unpacked if it is packed with gzip or zstd.

    Raises
    ------
    ValueError
        If a packed file is not whole.
    """
    with path.open("rb") as file:
        packed = is_packed(file.read(4))
        file.seek(0)
        if not packed:
            yield file
            return
        try:
            yield _unpacked(file, packed)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} cannot be unpacked; was it cut off? {error}") from error


def first_line(path: Path) -> bytes:
    """Return the first line of a file that is not blank, nothing if there is none; raises as `open_rows`."""
    with open_rows(path) as file:
        line = next((line for line in file if line.strip()), b"")
    # A carriage return ends a line too.
    return next((part for part in line.splitlines(keepends=True) if part.strip()), b"")


def is_packed(beginning: bytes) -> bytes:
    """Return how a packed file of this beginning is known, nothing if it is not packed.

    Examples
    --------
    >>> is_packed(b"{}"), is_packed(GZIP + b"...") == GZIP
    (b'', True)
    """
    return next((known for known in (GZIP, ZSTD) if beginning.startswith(known)), b"")


def _unpacked(file: IO[bytes], packed: bytes) -> Any:
    if packed == GZIP:
        return gzip.GzipFile(fileobj=file)
    return _Lines(pa.CompressedInputStream(pa.PythonFile(file), "zstd"))


class _Lines:
    """Lines of a stream that Arrow unpacks, which gives none itself."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(None if size < 0 else size)
        return data

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        while piece := self._stream.read(BYTES_AT_ONCE):
            *whole, rest = (rest + piece).split(b"\n")
            yield from (line + b"\n" for line in whole)
        if rest:
            yield rest
