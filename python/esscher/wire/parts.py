"""Parts of samples: what a client sends in one request, and what a server computes in one batch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.groups import Groups
from esscher.ragged import Ragged
from esscher.samples import Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.groups import Offsets

# Bytes of a request beside those of its prompts and completions: the names and sizes of its fields.
_FIELDS = 128
# And of each prompt and completion beside its tokens: lengths of up to 5 bytes, and a byte for `terminated`.
_PROMPT, _COMPLETION = 10, 6
# An index in what the server says of a request.
_OF_PROMPTS = re.compile(r"\b(prompts|groups)\[(\d+)\]")
_OF_COMPLETIONS = re.compile(
    r"\b(completions|terminated|rewards|policy_logprobs|prior_logprobs|token_kl|policy_entropy|action_mask)\[(\d+)\]"
)


class Part(NamedTuple):
    """The completions `begin` to `end` of samples."""

    whole: Samples
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def prompt(self) -> int:
        """The prompt of its first completion."""
        return int(np.searchsorted(self.whole.groups, self.begin, side="right")) - 1

    @property
    def tokens(self) -> int:
        """How many tokens the completions have."""
        return self._between(self.whole.completions.offsets)

    @property
    def actions(self) -> int:
        """How many of them the policy chose."""
        return self._between(self.whole.actions.rows.offsets)

    def _between(self, offsets: Offsets) -> int:
        return int(offsets[self.end] - offsets[self.begin])

    def take(self) -> Samples:
        """Return the part as samples, which share the memory of the whole."""
        whole = self.whole
        if len(self) == len(whole):
            return whole
        first, last = self.prompt, int(np.searchsorted(whole.groups, self.end))
        return Samples(
            prompts=_rows(whole.prompts, first, last),
            completions=_rows(whole.completions, self.begin, self.end),
            groups=whole.groups[first : last + 1].clip(self.begin, self.end) - self.begin,
            terminated=None if whole.terminated is None else whole.terminated[self.begin : self.end],
            action_mask=None if whole.action_mask is None else _rows(whole.action_mask, self.begin, self.end),
            tokens=whole.tokens,
        )

    def place(self, text: str) -> str:
        """Return what a server said of the part, with the indices that prompts and completions have in the whole.

        Examples
        --------
        >>> prompts, completions = Ragged.from_rows([[1], [2]]), Ragged.from_rows([[7], [8], [9]])
        >>> whole = Samples(prompts, completions, [0, 2, 3])
        >>> Part(whole, begin=2, end=3).place("completions[0][4] is 9, prompts[0] is empty")
        'completions[2][4] is 9, prompts[1] is empty'
        """
        text = _OF_PROMPTS.sub(lambda found: f"{found[1]}[{int(found[2]) + self.prompt}]", text)
        return _OF_COMPLETIONS.sub(lambda found: f"{found[1]}[{int(found[2]) + self.begin}]", text)


class PartCosts(NamedTuple):
    """What parts of samples cost, where each prompt counts once, with its first completion in the part.

    Attributes
    ----------
    begins, ends
        Running sums [N] of the costs before each completion and its prompt, and up to the completion's end.
    """

    begins: NDArray[np.int64]
    ends: NDArray[np.int64]

    def of(self, begin: int, end: int) -> int:
        """Return the cost of the completions `begin` to `end`, of which there is at least one."""
        return int(self.ends[end - 1] - self.begins[begin])

    def reach(self, begin: int, most: int) -> int:
        """Return the largest end for which completions from `begin` on cost at most `most`."""
        return int(np.searchsorted(self.ends, self.begins[begin] + most, side="right"))


def count_tokens(samples: Samples) -> PartCosts:
    """Return how many tokens a model reads for parts of samples.

    Examples
    --------
    >>> prompts, completions = Ragged.from_rows([[1, 1], [2]]), Ragged.from_rows([[7], [8, 8], [9]])
    >>> tokens = count_tokens(Samples(prompts, completions, [0, 2, 3]))
    >>> tokens.of(0, 2), tokens.of(1, 3), tokens.reach(0, most=5)
    (5, 6, 2)
    """
    return _costs(samples, samples.prompts.lengths, samples.completions.lengths)


def last_group_end(samples: Samples, end: int) -> int:
    """Return where the last group ends that ends at `end` or before; 0 if none does."""
    return int(samples.groups[np.searchsorted(samples.groups, end, side="right") - 1])


def split(samples: Samples, *, max_bytes: int, max_tokens: int) -> list[Part]:
    """Cut samples into parts of which each is a request of at most `max_bytes`.

    A part has at most `max_tokens`, prompts counted once, unless it is a single completion. The completions of a prompt
    stay together, unless they are too large for one part.

    Raises
    ------
    ValueError
        If a completion with its prompt is larger than `max_bytes`; the message names it.

    Examples
    --------
    >>> prompts, completions = Ragged.from_rows([[1], [2]]), Ragged.from_rows([[7, 7], [8, 8], [9, 9]])
    >>> parts = split(Samples(prompts, completions, [0, 2, 3]), max_bytes=1000, max_tokens=6)
    >>> [(part.begin, part.end) for part in parts]
    [(0, 2), (2, 3)]
    """
    room = max_bytes - _FIELDS
    size = _costs(samples, 4 * samples.prompts.lengths + _PROMPT, 4 * samples.completions.lengths + _COMPLETION)
    tokens = count_tokens(samples)
    if size.of(0, len(samples)) <= room and tokens.of(0, len(samples)) <= max_tokens:
        return [Part(samples, 0, len(samples))]
    _check_each(size, max_bytes)
    parts, begin = [], 0
    while begin < len(samples):
        end = max(min(size.reach(begin, room), tokens.reach(begin, max_tokens)), begin + 1)
        whole = last_group_end(samples, end)
        end = whole if whole > begin else end
        parts.append(Part(samples, begin, end))
        begin = end
    return parts


def _costs(samples: Samples, of_prompts: NDArray[np.int64], of_completions: NDArray[np.int64]) -> PartCosts:
    prompts = Groups.from_sizes(of_prompts).offsets
    completions = Groups.from_sizes(of_completions).offsets
    prompt_of = samples.groups.of
    return PartCosts(prompts[prompt_of] + completions[:-1], prompts[prompt_of + 1] + completions[1:])


def _check_each(size: PartCosts, max_bytes: int) -> None:
    alone = size.ends - size.begins + _FIELDS
    too_large = np.flatnonzero(alone > max_bytes)
    if len(too_large):
        i = int(too_large[0])
        raise ValueError(
            f"completions[{i}] takes {alone[i]} bytes with its prompt, and the server accepts {max_bytes} at a time: "
            "leave it out, or start the server with a higher --max-message-mib"
        )


def _rows(rows: Ragged, begin: int, end: int) -> Ragged:
    offsets = rows.offsets[begin : end + 1]
    return Ragged(rows.values[offsets[0] : offsets[-1]], offsets - offsets[0])
