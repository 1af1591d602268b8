"""What trainers call their masks: a file that has one is read with it, or asked about."""

# Of the tokens of each row, 1 or true where a token counts.
TOKEN_MASKS = (
    "action_mask",
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
