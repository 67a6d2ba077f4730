"""AdamW over named parameters, with what a checkpoint needs of it, and the learning rate's schedule.

Two kinds (`optimizer.kind`). adamw: float32 parameters and moments, by torch. adamw_8bit: bfloat16 parameters, rounded
stochastically, with moments of 8 bits in blocks of 256 (Dettmers et al. 2021, arXiv:2110.02861), by torchao. A step
of the size of 1e-6 is far below half a unit in the last place of a bfloat16 weight: rounded to the nearest it is lost,
rounded up with the probability of the fraction it is kept in the mean. Tensors of fewer than 4096 values, or of a
number that 256 does not divide, keep moments in the parameter's own dtype: so the library does it.

torchao compiles its step. On the CPU that would need a C++ compiler and half a minute, so there it is run as it stands.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping

import torch

from lamer.common.errors import Missing
from lamer.common.settings import OptimizerSettings
from lamer.learner.trainer.ranks.group import full

_PARTS = ("codes", "scale")
"""What makes up a moment of 8 bits."""


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

    def __init__(
        self,
        prefix: str,
        parameters: Mapping[str, torch.nn.Parameter],
        settings: OptimizerSettings,
        *,
        compiles: bool = False,
    ) -> None:
        """compiles: torchao may compile its step; on CUDA only.

        Raises:
            Missing: `optimizer.kind` is adamw_8bit and torchao is not installed.
        """
        self._parameters = {f"{prefix}{name}": parameter for name, parameter in parameters.items()}
        self._limit = settings.max_grad_norm or math.inf
        make = _eight_bit if settings.kind == "adamw_8bit" else _plain
        self._optimizer = make(list(self._parameters.values()), settings)
        self._is_eager = settings.kind == "adamw_8bit" and not compiles

    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """By name in a checkpoint."""
        return self._parameters

    def set_learning_rate(self, rate: float) -> None:
        """Of the steps from here on."""
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):  # in float32, and read by a compiled step: the object stays
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Forget the gradient, and free its memory."""
        self._optimizer.zero_grad(set_to_none=True)

    def clip_gradient(self) -> float:
        """Limit the gradient's norm; what it was before. Norms of bfloat16 gradients are summed in float32."""
        parameters = list(self._parameters.values())
        gradients = [each.grad for each in parameters if each.grad is not None]
        if not any(each.dtype is torch.bfloat16 for each in gradients):
            return float(full(torch.nn.utils.clip_grad_norm_(parameters, self._limit)))
        norms = [full(torch.linalg.vector_norm(each, dtype=torch.float32)) for each in gradients]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        torch.nn.utils.clip_grads_with_norm_(parameters, self._limit, norm)
        return float(norm)

    def step(self) -> None:
        """Follow the gradient."""
        with torch.compiler.set_stance("force_eager") if self._is_eager else contextlib.nullcontext():
            self._optimizer.step()

    def moments(self) -> Mapping[str, torch.Tensor]:
        """AdamW's state as plain tensors, by "<parameter>/<name>"; of a moment of 8 bits "<name>.codes", uint8 of the
        parameter's shape, and "<name>.scale", float32, one for each 256 of its values in a row.
        """
        names: dict[torch.Tensor, str] = {value: name for name, value in self._parameters.items()}
        return {
            f"{names[parameter]}/{key}": value
            for parameter, state in self._optimizer.state.items()
            for whole, kept in state.items()
            for key, value in _plain_tensors(whole, kept)
        }

    def load_moments(self, moments: Mapping[str, torch.Tensor], device: torch.device) -> None:
        """Take over those of `moments` that are of our parameters."""
        for key, value in moments.items():
            name, _, kind = key.rpartition("/")
            if name not in self._parameters:
                continue
            parameter = self._parameters[name]
            state = self._optimizer.state[parameter]
            whole, _, part = kind.partition(".")
            if not part:
                state[kind] = value if self._is_on_cpu(kind) else value.to(device)
            elif whole not in state:
                state[whole] = _empty_moment(parameter, whole)
            if part:
                getattr(state[whole], part).copy_(value)

    def _is_on_cpu(self, kind: str) -> bool:
        """Whether torchao keeps it there: counts of steps, which torch keeps on the device."""
        return kind == "step" and not isinstance(self._optimizer, torch.optim.AdamW)


def _plain(parameters: list[torch.nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _eight_bit(parameters: list[torch.nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    try:
        from torchao.optim import AdamW8bit  # noqa: PLC0415 - two seconds, for this kind alone
    except ImportError as error:
        raise Missing(
            f"optimizer.kind=adamw_8bit needs torchao, which can't be imported ({error}): install lamer[learner]"
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        bf16_stochastic_round=True,
    )
    return optimizer


def _plain_tensors(name: str, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A moment under its name, or its parts; the table of what codes mean is the library's, the same for all."""
    parts = [part for part in _PARTS if hasattr(value, part)]
    if not parts:
        yield name, value
    for part in parts:
        yield f"{name}.{part}", getattr(value, part)


def _empty_moment(parameter: torch.Tensor, name: str) -> torch.Tensor:
    """A moment of 8 bits, as the library makes it. The second one is never negative."""
    from torchao.optim.subclass_8bit import OptimState8bit  # noqa: PLC0415 - as above

    zeros: Callable[..., torch.Tensor] = OptimState8bit.zeros
    return zeros(parameter.shape, signed=name == "exp_avg", device=parameter.device, dtype=parameter.dtype)
