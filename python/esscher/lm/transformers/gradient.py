"""Gradients of log-probs of completions: a forward pass that torch differentiates, the vocabulary in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from esscher.lm.packing import pack, read_together, unshared_trees

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.lm.transformers.network import Network
    from esscher.samples import Samples


def add_gradient(network: Network, samples: Samples, coefficients: NDArray[np.float64]) -> None:
    """Add the gradient of ``sum_i coefficients_i log_prob(x_i)`` to that of the parameters that require one.

    Completions are read padded, not in packs: torch does not differentiate the log-sum-exps by which attention in packs
    is merged. The gradient with respect to the hidden states is collected a few rows of logits at a time, then
    backpropagated in one pass, so that logits are held for a few rows only.
    """
    for completions in read_together(samples, network.longest_alike):
        _add(network, samples, coefficients, completions)


def _add(network: Network, samples: Samples, coefficients: NDArray[np.float64], completions: NDArray[np.int64]) -> None:
    laid = pack(samples, unshared_trees(samples, completions))
    hidden = network.read_padded(laid).index_select(0, network.tensor(laid.predictors))
    token_ids = network.tensor(samples.actions.kept.values[laid.counted].astype(np.int64))
    factors = network.tensor(np.repeat(coefficients, samples.actions.lengths)[laid.counted].astype(np.float32))
    top = hidden.detach().requires_grad_(hidden.requires_grad)
    for start in range(0, len(top), network.pace.rows):
        rows = slice(start, start + network.pace.rows)
        logprobs = torch.log_softmax(network.logits(top[rows]), dim=1).gather(1, token_ids[rows, None])[:, 0]
        torch.autograd.backward(factors[rows] @ logprobs)
    if top.grad is not None:
        torch.autograd.backward(hidden, top.grad)
