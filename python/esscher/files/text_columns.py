"""Files of texts: token ids are made of them again, or numbers of words where there is no tokenizer."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.lm.conversations import is_policys, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esscher.lm.conversations import Text
    from esscher.samples import Tokens

TEXTS = PROMPT, COMPLETION = "prompt", "completion"
TOKENS = "tokens"
# What is made of texts.
MADE = {
    "prompt_token_ids": pa.list_(pa.uint32()),
    "completion_token_ids": pa.list_(pa.uint32()),
    "action_mask": pa.list_(pa.bool_()),
    TOKENS: pa.string(),
}
# A word, or a mark that is none: what lies between white space is cut at marks.
WORD = re.compile(r"\w+|[^\w\s]")
# What a completion without words holds: one token at least, as every completion does.
NO_WORDS = 0


class TextReader(Protocol):
    """Makes numbers of texts.

    Attributes
    ----------
    name
        What tells it from others.
    tokens
        What the numbers are.
    """

    @property
    def name(self) -> str:
        """What tells it from others."""
        ...

    @property
    def tokens(self) -> Tokens:
        """What the numbers are; see `Samples`."""
        ...

    def read(self, prompt: Text, completion: Text) -> tuple[list[int], list[int], list[bool]]:
        """Return the tokens of a prompt, those of its completion, and which of these are the policy's.

        Raises
        ------
        ValueError
            If the texts cannot be read.
        """
        ...


class WordNumbers:
    """Numbers words in order of appearance: what texts alone tell of lengths and diversity.

    Examples
    --------
    >>> words = WordNumbers()
    >>> words.read("Say it:", "No, no!")
    ([1, 2, 3], [4, 5, 6, 7], [True, True, True, True])
    >>> words.read("", "")
    ([], [0], [True])
    """

    name: str = "words"
    tokens: Tokens = "words"

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def read(self, prompt: Text, completion: Text) -> tuple[list[int], list[int], list[bool]]:
        """Return the numbers of words of both; of a conversation's other speakers none are the policy's."""
        before = self._of(text_of(prompt))
        parts = [(completion, True)] if isinstance(completion, str) else [(m, is_policys(m)) for m in completion]
        numbers, chosen = [], []
        for part, own in parts:
            found = self._of(text_of([part]) if not isinstance(part, str) else part)
            numbers += found
            chosen += [own] * len(found)
        if not any(chosen):
            numbers, chosen = [*numbers, NO_WORDS], [*chosen, True]
        return before, numbers, chosen

    def decode(self, numbers: Sequence[int]) -> str:
        """Return the words of numbers, with a space between.

        Examples
        --------
        >>> words = WordNumbers()
        >>> words.decode(words.read("", "Off with his head!")[1])
        'Off with his head !'
        """
        words = ["", *self._numbers]
        return " ".join(words[number] for number in numbers)

    def _of(self, text: str) -> list[int]:
        return [self._numbers.setdefault(word, len(self._numbers) + 1) for word in WORD.findall(text)]


def has_texts(names: Iterable[str]) -> bool:
    """Tell whether columns of these names are those of texts."""
    return set(TEXTS) <= set(names)


def with_token_ids(table: pa.Table, reader: TextReader, first: int = 0) -> pa.Table:
    """Return a table of texts with the columns that a reader makes of them, and what these are.

    Parameters
    ----------
    table
        Rows with texts or conversations as `prompt` and `completion`; the first row is number `first` of the file.
    reader
        Who makes numbers of them.

    Raises
    ------
    RowError
        If a text is missing or cannot be read.
    """
    prompts, completions = (_texts(table.column(name)) for name in (PROMPT, COMPLETION))
    read = [
        _read(reader, prompt, text, first + i)
        for i, (prompt, text) in enumerate(zip(prompts, completions, strict=True))
    ]
    columns = (*zip(*read, strict=True), [reader.tokens] * len(table))
    for (name, kind), column in zip(MADE.items(), columns, strict=True):
        table = table.append_column(name, pa.array(column, kind))
    return table


def _texts(column: pa.ChunkedArray) -> list[Any]:
    found: list[Any] = column.to_pylist()
    if arrow.is_json(column.type):
        return [None if text is None else json.loads(text) for text in found]
    return found


def _read(reader: TextReader, prompt: Any, completion: Any, row: int) -> tuple[list[int], list[int], list[bool]]:
    if completion is None:
        raise arrow.RowError(row, f"column {COMPLETION!r}, row {row} is null: every row needs a text")
    try:
        return reader.read("" if prompt is None else prompt, completion)
    except (ValueError, TypeError, AttributeError) as error:
        raise arrow.RowError(row, f"row {row} has texts that cannot be read: {error}") from error
