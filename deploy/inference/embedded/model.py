"""The model: loading a folder, and the packed forward of one step.

Models of Llama's shape go through `decoder.DirectDecoder`. For others transformers runs the layers: `PackedForward`
registers its own attention with it (`attention.attend`), so that any decoder-only model works whose layers attend to
all tokens before or to a window of them. At load, the packed forward is compared with transformers' own, on a few
tokens and on a probe (`learner.fitness.probe`), and a model it does not reproduce is refused.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lamer.common.errors import BadInput
from lamer.deploy.inference.embedded.attention import Chunk, StepLayout, attend, plan_layout
from lamer.deploy.inference.embedded.cache import CacheShape, KVCache
from lamer.deploy.inference.embedded.decoder import DirectDecoder, fits
from lamer.deploy.inference.embedded.products import padded_length
from lamer.deploy.inference.embedded.table import RowArray
from lamer.deploy.inference.embedded.weights import load_in_place
from lamer.learner.fitness.attention import refuse_arguments
from lamer.learner.fitness.loading import exact_context, load_model
from lamer.learner.fitness.probe import TOKENS, TOLERANCE, make_probe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
_FIRST_CAPACITY = 128
_PACKED = "lamer_packed"


@dataclass(frozen=True)
class StepInput:
    """One step: flat ids, rows and positions int64 [T] (decode tokens first, then `chunks`), and the flat places whose
    logits are wanted, int64 [S].
    """

    ids: RowArray
    rows: RowArray
    positions: RowArray
    decode_count: int
    chunks: list[Chunk]
    wanted: RowArray


def _pad(flat: RowArray) -> torch.Tensor:
    """`flat` int64 [N], followed by zeros up to one of few lengths: of those, oneDNN has its kernels ready."""
    padded = np.zeros(padded_length(len(flat)), np.int64)
    padded[: len(flat)] = flat
    return torch.from_numpy(padded)


class PackedForward:
    """The packed forward of a loaded model, and its cache."""

    def __init__(self, module: PreTrainedModel, max_running: int, max_total_tokens: int) -> None:
        self.module = module
        config = module.config
        self.context = exact_context(config)
        self.vocabulary = int(config.vocab_size)
        heads = int(config.num_attention_heads)
        shape = CacheShape(
            layers=int(config.num_hidden_layers),
            kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
            head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
            dtype=module.dtype,
        )
        capacity = min(_FIRST_CAPACITY, self.context)
        self.cache = KVCache(shape, max_total_tokens, max_running, capacity)
        self._step: StepInput | None = None
        self._layouts: dict[int | None, StepLayout] = {}
        with torch.inference_mode():
            self._direct = DirectDecoder(module, min(self.context, max_total_tokens)) if fits(module) else None
        module.set_attn_implementation(_PACKED)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """Attention of one layer in the step that `forward` computes; see `attention.attend`."""
        return attend(self.cache, self._layout(window), layer, query, key, value, scaling)

    def _layout(self, window: int | None) -> StepLayout:
        if window not in self._layouts:
            step = self._step
            assert step is not None
            count = step.decode_count
            self._layouts[window] = plan_layout(
                self.cache, step.rows[:count], step.positions[:count], step.chunks, step.rows, step.positions, window
            )
        return self._layouts[window]

    def forward(self, step: StepInput) -> torch.Tensor:
        """Logits [S, V] of the wanted tokens; keys and values of all the step's tokens are then in the cache."""
        self._step, self._layouts = step, {}
        ids, positions, wanted = map(_pad, (step.ids, step.positions, step.wanted))
        token = _running.set(self)
        try:
            with torch.inference_mode():
                if self._direct is not None:
                    return self._direct.forward(ids, positions, wanted, self.attend)[: len(step.wanted)]
                logits = self.module(
                    input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=wanted
                ).logits
        finally:
            _running.reset(token)
            self._step, self._layouts = None, {}
        return cast(torch.Tensor, logits[0, : len(step.wanted)])


_running: ContextVar[PackedForward] = ContextVar("the forward that a step is computed by")


def _packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: query, key and value [1, heads, T, head_dim] -> ([1, T, heads, head_dim], None)."""
    refuse_arguments(attention_mask, dropout, is_causal, others)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = cast(int, module.layer_idx)
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return _running.get().attend(layer, query, key, value, scale, sliding_window)[None], None


ALL_ATTENTION_FUNCTIONS.register(_PACKED, _packed_attention)


class PackedModel(PackedForward):
    """The causal language model in a folder, compared with transformers' forward."""

    def __init__(self, folder: Path, dtype: str, max_running: int, max_total_tokens: int) -> None:
        """Loads `folder`. Raises BadInput when it is no model, or one whose forward can't be packed."""
        self.folder = folder
        module = load_model(folder, DTYPES[dtype], "eager").requires_grad_(False)
        check_layers(module.config)
        ids = np.arange(8) % int(module.config.vocab_size)
        expected = _plain_logits(module, ids)
        super().__init__(module, max_running, max_total_tokens)
        places = np.arange(8)
        found = self.forward(StepInput(ids, 0 * ids, places, 0, [Chunk(0, 0, 8)], places))
        try:
            _compare(found, expected, _TOLERANCE[module.dtype])
        except BadInput as error:
            raise BadInput(f"the embedded engine does not serve the model in {folder}: {error}") from error

    def load_weights(self, folder: Path) -> None:
        """Replaces the weights in place, all or nothing (`weights.load_in_place`), and forgets every known prefix."""
        load_in_place(self.module, folder)
        self.cache.forget()
        self.folder = folder


def check_layers(config: PreTrainedConfig) -> None:
    """Refuse a model whose layers the packed forward does not reproduce on the sequences of a probe.

    Raises:
        BadInput: as it says.
    """
    module = make_probe(config)
    try:
        _check_pieces(module)
    except Exception as error:  # what an architecture does with a cache or an attention that it does not expect
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise BadInput(f"the embedded engine does not serve models of type {config.model_type!r}: {said}") from error


def _check_pieces(module: PreTrainedModel) -> None:
    """Two sequences, computed in pieces and then token by token."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, int(module.config.vocab_size), TOKENS) for _ in range(2)]
    expected = [_plain_logits(module, each) for each in ids]
    packed = PackedForward(module, 2, 2 * _FIRST_CAPACITY)
    middle, late = TOKENS // 2, TOKENS - 4
    steps = [([(0, 0, late), (1, 0, middle)], 0), ([(0, late, late + 1), (1, middle, TOKENS)], 1)]
    steps += [([(0, at, at + 1)], 1) for at in range(late + 1, TOKENS)]
    for pieces, decode_count in steps:
        positions = np.concatenate([np.arange(start, end) for _, start, end in pieces])
        rows = np.repeat([row for row, _, _ in pieces], [end - start for _, start, end in pieces])
        flat = np.concatenate([ids[row][start:end] for row, start, end in pieces])
        chunks = [Chunk(*piece) for piece in pieces[decode_count:]]
        found = packed.forward(StepInput(flat, rows, positions, decode_count, chunks, np.arange(len(flat))))
        _compare(found, torch.cat([expected[row][start:end] for row, start, end in pieces]), TOLERANCE)


def _plain_logits(module: PreTrainedModel, ids: RowArray) -> torch.Tensor:
    with torch.inference_mode():
        return cast(torch.Tensor, module(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0].float())


def _compare(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    gap = float((found.float() - expected).abs().max())
    if not gap <= tolerance * max(1.0, float(expected.abs().max())):
        raise BadInput(f"logits differ by {gap:.2g} from those of transformers")
