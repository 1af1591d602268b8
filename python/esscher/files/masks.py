"""What trainers call their masks, and the part of one that is about the completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.groups import Groups
from esscher.ragged import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What we call the mask of a completion's tokens that the policy chose.
MASK = "action_mask"
# Of the tokens of each row, 1 or true where a token counts.
TOKEN_MASKS = (
    MASK,
    "response_mask",
    "loss_mask",
    "token_loss_mask",
    "sampled_mask",
    "tool_mask",
    "completion_mask",
    "assistant_masks",
    "action_masks",
    "response_masks",
    "loss_masks",
    "assistant_mask",
    "token_mask",
    "mask",
)
# Of whole rows, 1 or true where a row counts.
ROW_MASKS = ("sample_loss_mask", "sample_mask")


def of_completions(mask: Ragged, prompts: NDArray[np.int64], completions: NDArray[np.int64]) -> Ragged:
    """Return a mask without the part over the prompt, in rows where it goes over prompt and completion.

    Parameters
    ----------
    mask
        A row for each completion, of whatever length.
    prompts, completions
        How many tokens the prompt and the completion of each row have [N].

    Examples
    --------
    >>> mask = Ragged.from_rows([[0, 0, 1, 1], [1, 0]])
    >>> [row.tolist() for row in of_completions(mask, np.array([2, 2]), np.array([2, 2]))]
    [[1, 1], [1, 0]]
    """
    both = mask.lengths == prompts + completions
    before = np.where(both, prompts, 0)
    keep = mask.rows.place >= mask.rows.spread(before)
    return Ragged.from_lengths(mask.values[keep], mask.lengths - before)


def whole_where(missing: NDArray[np.bool_], mask: Ragged, lengths: NDArray[np.int64]) -> Ragged:
    """Return a mask that leaves nothing out in rows where it is missing [N], which have so many tokens [N].

    Examples
    --------
    >>> mask = Ragged.from_rows([[True, False], []])
    >>> [row.tolist() for row in whole_where(np.array([False, True]), mask, np.array([2, 3]))]
    [[True, False], [True, True, True]]
    """
    if not missing.any():
        return mask
    of_rows = Groups.from_sizes(np.where(missing, lengths, mask.lengths))
    values = np.ones(int(of_rows[-1]), np.bool_)
    values[~of_rows.spread(missing)] = mask.values
    return Ragged(values, of_rows.offsets)
