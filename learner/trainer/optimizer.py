"""AdamW over named parameters, with what a checkpoint needs of it, and the learning rate's schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from lamer.common.settings import OptimizerSettings
from lamer.learner.trainer.ranks.group import full


def learning_rate(settings: OptimizerSettings, step: int, updates: int) -> float:
    """The learning rate of update `step` (1, 2, ... `updates`): a linear rise, then constant or a linear fall.

    Adam's steps have about the size of the learning rate whatever the gradient. At first its averages know nothing, and
    once a task is solved only noise is left to follow: both can cost a small model what it has learned.
    """
    rise = min(1.0, step / max(1, settings.warmup_updates))
    left = max(updates - step + 1, 1) / max(updates - settings.warmup_updates, 1)
    fall = min(1.0, left) if settings.schedule == "linear" else 1.0
    return settings.learning_rate * rise * fall


class ParameterOptimizer:
    """Parameters with the AdamW that trains them. prefix: of their names in a checkpoint."""

    def __init__(self, prefix: str, parameters: Mapping[str, torch.nn.Parameter], settings: OptimizerSettings) -> None:
        self._parameters = {f"{prefix}{name}": parameter for name, parameter in parameters.items()}
        self._limit = settings.max_grad_norm or math.inf
        self._optimizer = torch.optim.AdamW(
            list(self._parameters.values()),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """By name in a checkpoint."""
        return self._parameters

    def set_learning_rate(self, rate: float) -> None:
        """Of the steps from here on."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self._optimizer.zero_grad(set_to_none=True)

    def clip_gradient(self) -> float:
        """Limit the gradient's norm; what it was before."""
        return float(full(torch.nn.utils.clip_grad_norm_(list(self._parameters.values()), self._limit)))

    def step(self) -> None:
        """Follow the gradient."""
        self._optimizer.step()

    def moments(self) -> Mapping[str, torch.Tensor]:
        """AdamW's state, by "<parameter>/<name>"."""
        names: dict[torch.Tensor, str] = {value: name for name, value in self._parameters.items()}
        return {
            f"{names[parameter]}/{key}": value
            for parameter, state in self._optimizer.state.items()
            for key, value in state.items()
        }

    def load_moments(self, moments: Mapping[str, torch.Tensor], device: torch.device) -> None:
        """Take over those of `moments` that are of our parameters."""
        for key, value in moments.items():
            name, _, kind = key.rpartition("/")
            if name in self._parameters:
                self._optimizer.state[self._parameters[name]][kind] = value.to(device)
