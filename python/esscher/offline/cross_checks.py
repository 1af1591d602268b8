"""Whether each block has other prompts to put completions after: known before a token is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esscher import files
from esscher.lm.base import first_too_long, read_lengths
from esscher.lm.cross import other_prompts

if TYPE_CHECKING:
    from esscher.lm.base import LanguageModel, ModelLimits
    from esscher.offline.plan import Plan


def check_cross_prompts(plan: Plan, policy: LanguageModel | ModelLimits, others: int) -> None:
    """Read all rows once and raise what would keep a completion from being scored after other prompts of its block.

    Raises
    ------
    ValueError
        If a block has rows of a single prompt, or a completion is too long for the policy after one of the others.
    """
    for block in files.read_blocks(plan.rows, plan.block, files.token_columns(plan.names)):
        samples, order = files.grouped(files.completions(block, plan.names))
        last = block.first + len(order) - 1
        if len(samples.prompts) < 2:
            raise ValueError(
                f"{plan.rows.path}, rows {block.first} to {last} are scored together, and have a single prompt: no "
                "completion can be put after another. Mix the rows, or name another --block"
            )
        longest = read_lengths(policy, samples.prompts)[other_prompts(len(samples.prompts), others)].max(axis=1)
        lengths = samples.completions.lengths
        too_long = first_too_long(policy, longest[samples.groups.of] + lengths)
        if too_long is not None:
            i, rule = too_long
            row = block.first + int(order[i])
            most = int(longest[samples.groups.of[i]])
            raise ValueError(
                f"{plan.rows.path}, row {row} has {lengths[i]} tokens, and another prompt of its block {most}: {rule}; "
                "cut them, or leave --cross-prompts (rows count from 0)"
            )
