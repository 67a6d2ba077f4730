"""AdamW over named parameters, with what a checkpoint needs of it, and the learning rate's schedule.

Two kinds (`optimizer.kind`). adamw: float32 parameters and moments, by torch. adamw_8bit: bfloat16 parameters, rounded
stochastically, with moments of 8 bits in blocks of 256 (Dettmers et al. 2021, arXiv:2110.02861), by torchao. A step
of the size of 1e-6 is far below half a unit in the last place of a bfloat16 weight: rounded to the nearest it is lost,
rounded up with the probability of the fraction it is kept in the mean. Tensors of fewer than 4096 values, or of a
number that 256 does not divide, keep moments in the parameter's own dtype: so the library does it.

Under ranks torch's AdamW follows sharded tensors; torchao is given what this rank holds of each, so that blocks of 256
begin where a rank's rows begin. A checkpoint holds 8-bit moments as they are. A rank whose blocks are others reads
their values and quantises them anew.

torchao compiles its step. On the CPU that would need a C++ compiler and half a minute, so there it is run as it stands.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Protocol, cast

import torch

from lamer.common.errors import Missing
from lamer.common.settings import OptimizerSettings
from lamer.learner.trainer.ranks.chunks import Chunk, StoredTensors, is_sharded, own_chunk
from lamer.learner.trainer.ranks.group import full

_BLOCK = 256
"""Values of an 8-bit moment that share a scale."""
_MOMENTS = ("exp_avg", "exp_avg_sq")
_CLIPPED = 1e-6
"""Added to a norm that is divided by, as torch does."""


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
        self._is_8_bit = settings.kind == "adamw_8bit"
        self._stepped = _own_parts(self._parameters) if self._is_8_bit else self._parameters
        make = _eight_bit if self._is_8_bit else _plain
        self._optimizer = make(list(self._stepped.values()), settings)
        self._is_eager = self._is_8_bit and not compiles

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
        for each in (*self._parameters.values(), *self._stepped.values()):
            each.grad = None

    def clip_gradient(self) -> float:
        """Limit the gradient's norm; what it was before. Norms of bfloat16 gradients are summed in float32."""
        parameters = list(self._parameters.values())
        gradients = [each.grad for each in parameters if each.grad is not None]
        if not any(each.dtype is torch.bfloat16 for each in gradients):
            return float(full(torch.nn.utils.clip_grad_norm_(parameters, self._limit)))
        norms = [full(torch.linalg.vector_norm(each, dtype=torch.float32)) for each in gradients]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        with torch.no_grad():
            factor = torch.clamp(self._limit / (norm + _CLIPPED), max=1.0)
            torch._foreach_mul_([own_chunk(each).data for each in gradients], factor)
        return float(norm)

    def step(self) -> None:
        """Follow the gradient."""
        for name, part in self._stepped.items():
            parameter = self._parameters[name]
            if part is not parameter and parameter.grad is not None and part.numel():
                part.grad = own_chunk(parameter.grad).data
                if not self._optimizer.state[part] and not _has_blocks(own_chunk(parameter)):
                    moments = {kind: torch.zeros_like(part, requires_grad=False) for kind in _MOMENTS}
                    self._optimizer.state[part] |= {"step": torch.tensor(0.0), **moments}
        with torch.compiler.set_stance("force_eager") if self._is_eager else contextlib.nullcontext():
            self._optimizer.step()

    def moments(self) -> Mapping[str, Chunk]:
        """What this rank holds of AdamW's state, by "<parameter>/<name>"; of a moment of 8 bits "<name>.codes", uint8
        of the parameter's shape, and "<name>.scale", float32, one for each 256 of its values in a row.
        """
        return {
            f"{name}/{key}": chunk
            for name, part in self._stepped.items()
            for kind, kept in self._optimizer.state.get(part, {}).items()
            for key, chunk in _chunks(kind, kept, own_chunk(self._parameters[name]))
        }

    def load_moments(self, stored: StoredTensors) -> None:
        """Take over what is stored of our parameters, tensor by tensor."""
        kinds: dict[str, set[str]] = {}
        for key in stored.shapes:
            name, _, kind = key.rpartition("/")
            kinds.setdefault(name, set()).add(kind.partition(".")[0])
        for name, part in self._stepped.items():
            for kind in sorted(kinds.get(name, ())) if part.numel() else ():
                self._optimizer.state[part][kind] = self._load(stored, f"{name}/{kind}", part)

    @torch.no_grad()
    def _load(self, stored: StoredTensors, key: str, part: torch.nn.Parameter) -> torch.Tensor:
        """What `part` needs of a tensor, in the form that the optimizer keeps it in."""
        name, _, kind = key.rpartition("/")
        if kind not in _MOMENTS:
            value = stored.whole(key)  # of steps, which torch counts on the device and torchao on the CPU
            return value if self._is_8_bit else value.to(part.device)
        if not self._is_8_bit:
            moment = torch.zeros_like(part)
            stored.copy_to(key, own_chunk(moment))
            return moment
        place = own_chunk(self._parameters[name])
        if not _has_blocks(place):
            return _values(stored, key, place).to(part.dtype)
        empty: torch.Tensor = self._optimizer._new_buffer(part.detach(), kind == _MOMENTS[0])  # type: ignore[attr-defined]
        if not _copy_blocks(stored, key, empty, place):
            empty.copy_(_values(stored, key, place))
        return empty


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


class _Blocks(Protocol):
    """A moment of 8 bits: uint8 of the parameter's shape, and float32, one for each 256 of them in a row."""

    codes: torch.Tensor
    scale: torch.Tensor


def _blocks(moment: torch.Tensor) -> _Blocks | None:
    """A moment as what it is made of, None if it is not of 8 bits."""
    return cast(_Blocks, moment) if hasattr(moment, "codes") else None


def _own_parts(parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.nn.Parameter]:
    """What this rank holds of each parameter, as a parameter that shares its memory; it may be nothing."""
    return {
        name: torch.nn.Parameter(own_chunk(value).data) if is_sharded(value) else value
        for name, value in parameters.items()
    }


def _first_value(place: Chunk) -> int:
    """Where a part's values begin in its tensor."""
    return place.start * math.prod(place.shape[1:])


def _has_blocks(place: Chunk) -> bool:
    """Whether the blocks of a part are blocks of the whole tensor; otherwise its moments are not quantised."""
    return _first_value(place) % _BLOCK == 0


def _chunks(kind: str, kept: torch.Tensor, place: Chunk) -> Iterator[tuple[str, Chunk]]:
    """A moment under its name, or what makes up one of 8 bits: codes and scales. What codes mean is the library's, the
    same for all.

    Args:
        kind: the moment's name.
        kept: as the optimizer has it.
        place: of the part of the parameter that it belongs to.
    """
    if kind not in _MOMENTS:
        yield kind, Chunk(kept, 0, ())
    elif (blocks := _blocks(kept)) is not None:
        yield f"{kind}.codes", Chunk(blocks.codes, place.start, place.shape)
        yield f"{kind}.scale", _scale(blocks, place)
    else:
        yield kind, Chunk(own_chunk(kept).data, place.start, place.shape)


def _scale(moment: _Blocks, place: Chunk) -> Chunk:
    """The scales of a part's blocks among those of all."""
    return Chunk(moment.scale, _first_value(place) // _BLOCK, (-(-math.prod(place.shape) // _BLOCK),))


def _copy_blocks(stored: StoredTensors, key: str, moment: torch.Tensor, place: Chunk) -> bool:
    """Take over codes and scales as they are, if all of a part's are stored; whether they are."""
    rows = range(place.start, place.start + len(place.data))
    blocks = _blocks(moment)
    if blocks is None or not stored.covers(f"{key}.codes", rows.start, rows.stop):
        return False
    stored.copy_to(f"{key}.codes", Chunk(blocks.codes, place.start, place.shape))
    stored.copy_to(f"{key}.scale", _scale(blocks, place))
    return True


def _values(stored: StoredTensors, key: str, place: Chunk) -> torch.Tensor:
    """The values of a part of a moment, float32 on its device, whatever they are stored as."""
    found = torch.zeros(place.data.shape, device=place.data.device)
    stored.copy_to(key, Chunk(found, place.start, place.shape))
    width = math.prod(place.shape[1:])
    for start, codes in stored.rows(f"{key}.codes", place.start, place.start + len(place.data)):
        first, last = start * width, start * width + codes.numel()
        parts = stored.rows(f"{key}.scale", first // _BLOCK, -(-last // _BLOCK))
        scale = torch.cat([part for _, part in parts]).repeat_interleave(_BLOCK)[first % _BLOCK :][: codes.numel()]
        meanings = _meanings(is_signed=key.endswith(f"/{_MOMENTS[0]}"))
        found[start - place.start :][: len(codes)].copy_(meanings[codes.int()] * scale.view(codes.shape))
    return found


def _meanings(*, is_signed: bool) -> torch.Tensor:
    """The value of each code, between -1 and 1, as the library has it."""
    from torchao.optim.subclass_8bit import OptimState8bit  # noqa: PLC0415 - as above

    table: torch.Tensor = OptimState8bit.zeros((_BLOCK,), signed=is_signed).qmap
    return table
