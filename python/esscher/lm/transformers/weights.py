"""Whether a model's weights are numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch.nn import Module


def check_finite_weights(model: Module, name: str) -> None:
    """Raise `ValueError` if a weight of a model is NaN or infinite; the message says which, and where."""
    for key, weight in model.named_parameters():
        # The least and the greatest are NaN where anything is, and take no memory.
        values = weight.detach()
        if values.is_floating_point() and values.numel() and not all(map(torch.isfinite, values.aminmax())):
            place = tuple(torch.nonzero(~torch.isfinite(values))[0].tolist())
            raise ValueError(
                f"{name} cannot be used: its weight {key}[{', '.join(map(str, place))}] is {float(values[place])}; did "
                "its training diverge, or does its dtype not hold its weights?"
            )
