"""Logits in float32, whatever a model's precision.

Rounded to 16 bits they put log-probs off by hundredths of a nat, and make a KL too large: what two models lose to
rounding is independent.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

SIXTEEN_BITS = (torch.bfloat16, torch.float16)
# Tokens of the vocabulary whose weights are made float32 at a time: with more, they fall out of a CPU's inner caches.
TOKENS = 256


def is_plain(head: Any) -> bool:
    """Whether a head is one product of matrices in 16 or 32 bits and nothing else, such as a hook."""
    is_hooked = head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head)
    is_product = type(head) is torch.nn.Linear and head.bias is None and head.weight.dtype != torch.float64
    return is_product and not is_hooked


def multiply(hidden: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write ``hidden @ weight.T`` into float32 `out` [n, V], its sums never in less."""
    if weight.dtype not in SIXTEEN_BITS:
        return torch.mm(hidden, weight.t(), out=out)
    if sums_in_float32(weight.device, weight.dtype):
        return torch.mm(hidden, weight.t(), out_dtype=torch.float32, out=out)
    widened = hidden.float()
    for tokens, columns in zip(torch.split(weight, TOKENS), torch.split(out, TOKENS, dim=1), strict=True):
        torch.mm(widened, tokens.float().t(), out=columns)
    return out


@cache
def sums_in_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has a product of matrices in 16 bits that gives float32: since 2.8, on CUDA."""
    some = torch.ones(16, 16, device=device, dtype=dtype)
    try:
        torch.mm(some, some, out_dtype=torch.float32)
    except (RuntimeError, TypeError):
        return False
    return True


class HeadProduct(torch.autograd.Function):
    """As `multiply`, to be differentiated; gradients are in the model's precision, as those of its layers are."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Multiply hidden states [n, d] by a head's weight [V, d]."""
        ctx.save_for_backward(hidden, weight)
        return multiply(hidden, weight, hidden.new_empty(len(hidden), len(weight), dtype=torch.float32))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Give the gradients of both, where they are asked for."""
        hidden, weight = ctx.saved_tensors
        rounded = gradient.to(weight.dtype)
        of_hidden, of_weight = ctx.needs_input_grad
        return rounded @ weight if of_hidden else None, rounded.t() @ hidden if of_weight else None


def call_widened(head: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Call a head of any kind with its 16-bit weights made float32."""
    widened = {name: one.float() for name, one in head.named_parameters() if one.dtype in SIXTEEN_BITS}
    states = hidden.float() if hidden.dtype in SIXTEEN_BITS else hidden
    logits: torch.Tensor = torch.func.functional_call(head, widened, (states,))
    return logits.float()
