"""AdamW on float32 copies of what is trained, with warm-up and a limit to the gradient's norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.nn import Parameter

    from esscher.train.training_settings import TrainingSettings


class Optimiser:
    """Ascends the gradients that were collected, step by step.

    In 16 bits a parameter cannot change by less than about a hundredth of itself. So a float32 copy of it is trained,
    and rounded into the model after each step.

    Parameters
    ----------
    parameters
        What is trained, by name.
    settings
        Learning rate, warm-up, weight decay and clip.

    References
    ----------
    Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101, algorithm 2 (AdamW);
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, arXiv:1211.5063,
    algorithm 1 (the clip).
    """

    def __init__(self, parameters: Mapping[str, Parameter], settings: TrainingSettings) -> None:
        self._parameters = dict(parameters)
        self._weights = {name: _trainable(parameter) for name, parameter in parameters.items()}
        self._settings = settings
        self._adamw = torch.optim.AdamW(
            self._weights.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay, maximize=True
        )

    def clear(self) -> None:
        """Forget the gradients that were collected."""
        for tensor in (*self._parameters.values(), *self._weights.values()):
            tensor.grad = None

    def collect(self) -> None:
        """Add the gradients of the model's parameters to those that were collected, in float32."""
        for name, parameter in self._parameters.items():
            weight = self._weights[name]
            if parameter is not weight and parameter.grad is not None:
                gradient = parameter.grad.float()
                weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
                parameter.grad = None

    def ascend(self, step: int) -> float:
        """Take one step, the `step`-th from 0, along the collected gradients, and return their norm before the clip.

        Raises
        ------
        FloatingPointError
            If the norm is not finite; nothing has changed then.
        """
        weights = list(self._weights.values())
        norm = float(torch.nn.utils.clip_grad_norm_(weights, self._settings.clip))
        if not norm < torch.inf:
            raise FloatingPointError(
                f"the gradient of step {step} is not finite: lower the learning rate, or train in float32"
            )
        for group in self._adamw.param_groups:
            group["lr"] = self.learning_rate(step)
        self._adamw.step()
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if parameter is not self._weights[name]:
                    parameter.copy_(self._weights[name])
        return norm

    def learning_rate(self, step: int) -> float:
        """Return that of the `step`-th step from 0: it rises linearly over the warm-up."""
        return self._settings.learning_rate * min(1.0, (step + 1) / (self._settings.warm_up + 1))

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that the next step depends on, by name."""
        tensors = {f"weight.{name}": weight.detach() for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            tensors |= {f"{key}.{name}": value for key, value in self._adamw.state[weight].items()}
        return tensors

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go back to what `state` returned.

        Raises
        ------
        ValueError
            If it is that of other parameters.
        """
        names = {name.partition(".")[2] for name in tensors}
        if names != self._weights.keys():
            other = sorted(names ^ self._weights.keys())[0]
            raise ValueError(f"the checkpoint trains other parameters than this run, such as {other}")
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(tensors[f"weight.{name}"])
                self._parameters[name].copy_(weight)
                moments = {key: tensors.get(f"{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
                self._adamw.state[weight] = {
                    key: value.clone() if key == "step" else value.to(weight).clone()
                    for key, value in moments.items()
                    if value is not None
                }


def _trainable(parameter: Parameter) -> torch.Tensor:
    if parameter.dtype in (torch.float32, torch.float64):
        return parameter
    return parameter.detach().float().requires_grad_()
