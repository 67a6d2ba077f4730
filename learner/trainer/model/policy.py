"""The policy as a torch module: a Hugging Face causal LM that scores packs, loaded from and saved as a model folder.

    PolicyModel    the scorer of a model folder, compared with transformers' own forward pass and published from
    check_layers   whether packs can be scored by the layers of a configuration

Parameters and gradients are float32. With dtype bfloat16 the forward pass runs under autocast, so that small updates
are not rounded away, and weights are published in bfloat16, which is what the forward pass used. Where the optimizer
rounds stochastically (`learner.trainer.optimizer`) parameters and gradients are bfloat16, and nothing is cast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedConfig

from lamer.common.errors import BadInput
from lamer.common.settings import TrainerSettings
from lamer.common.weights import WeightFile
from lamer.learner.credit.samples import Sample, SampleKind
from lamer.learner.fitness.allocation import is_out_of_memory
from lamer.learner.fitness.loading import load_model
from lamer.learner.fitness.probe import TOKENS, TOLERANCE, make_probe
from lamer.learner.fitness.stored import read_tensors
from lamer.learner.trainer.model.layers import choose_compile, choose_recompute
from lamer.learner.trainer.model.scorer import PackScorer
from lamer.learner.trainer.model.snapshot import Exporter, Snapshot
from lamer.learner.trainer.ranks.chunks import own_chunk
from lamer.learner.trainer.ranks.group import ALONE, Ranks
from lamer.learner.trainer.ranks.sharding import let_go

_TOLERANCES = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.25}


def choose_device(settings: TrainerSettings) -> torch.device:
    """The configured device; "auto" is CUDA where there is one.

    Raises:
        BadInput: the name is no device of torch, or the device is not there.
    """
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        raise BadInput(f"trainer.device {settings.device!r} can't be used: {error}") from error


def choose_dtype(settings: TrainerSettings, device: torch.device) -> torch.dtype:
    """The configured dtype of the forward pass; "auto" is bfloat16 on CUDA and float32 elsewhere."""
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32


class PolicyModel(PackScorer):
    """A causal LM with the folder that its tokenizer came from."""

    def __init__(
        self,
        path: Path,
        settings: TrainerSettings,
        pack_tokens: int = 0,
        weights: torch.dtype = torch.float32,
        ranks: Ranks = ALONE,
    ) -> None:
        """Load the model in folder `path`.

        Args:
            path: the folder.
            settings: where and in which dtype it computes.
            pack_tokens: most tokens of a pack, to which all are padded on CUDA; 0 if it isn't known.
            weights: dtype of the parameters; with any but float32 the forward pass has it too.
            ranks: that the model is spread over.

        Raises:
            Missing: no such folder, or no config in it.
            BadInput: weights or architecture that can't be used, or an unusable device.
        """
        self.path = path
        self.weights = weights
        device = choose_device(settings)
        module = load_model(path, weights, "eager")
        check_layers(module.config)
        dtype = choose_dtype(settings, device) if weights is torch.float32 else weights
        super().__init__(module, device, dtype, pack_tokens, ranks=ranks)
        tokens = np.arange(10, dtype=np.int32) % self.vocabulary
        self.check([_probe(tokens[:4], tokens[4:7]), _probe(tokens[:4], tokens[7:10])], _TOLERANCES[self.dtype])
        self._exporter = Exporter(path, module, keeps=ranks.rank == 0)
        self.arrange(is_compiled=choose_compile(settings, device), is_recomputed=choose_recompute(settings, device))

    def another(self, settings: TrainerSettings) -> PolicyModel:
        """The model of the same folder once more, with weights of its own.

        Raises:
            Missing, BadInput: the folder can't be loaded again.
        """
        return PolicyModel(self.path, settings, self.pack_tokens, self.weights, self.ranks)

    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """Every parameter once, by its name in the model's class; a tied output head has none of its own."""
        return dict(self.module.named_parameters())

    def decoder_parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The parameters that hidden states come from, by their names inside the decoder; not an untied output head."""
        return dict(self._decoder.named_parameters())

    @contextlib.contextmanager
    def with_weights(self, folder: Path) -> Iterator[None]:
        """While the block runs the parameters have the values of another folder of the same model. They are exchanged
        one by one, and ours wait on the host: the device never holds a second model. Of several ranks each exchanges
        what it holds of them.

        Raises:
            BadInput: the folder is of another model. Missing: it lacks a file.
        """
        own: dict[str, torch.Tensor] = {}
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        first = {id(parameter): name for name, parameter in reversed(parameters.items())}
        parts = {name: own_chunk(parameter) for name, parameter in parameters.items()}
        let_go(self._whole)
        try:
            with torch.no_grad():
                for name, value in read_tensors(folder, self.module):
                    if name in parts and first[id(parameters[name])] not in own:
                        part = parts[name]
                        own[first[id(parameters[name])]] = part.data.to("cpu", copy=True)
                        part.data.copy_(value[part.start :][: len(part.data)])
            yield
        finally:
            with torch.no_grad():
                for name, value in own.items():
                    parts[name].data.copy_(value)
            let_go(self._whole)

    def snapshot(self) -> Snapshot:
        """The weights of this moment in the forward pass's dtype. On CUDA it takes the place of the one before."""
        return self._exporter.take(self.dtype)

    def export(self, target: Path) -> tuple[WeightFile, ...]:
        """Write a complete model folder with the dtypes of the folder that the model is from.

        The folder appears whole or not at all, and replaces one of the same name.

        Returns:
            its weight files; nothing on ranks other than 0, which write nothing.
        """
        snapshot = self._exporter.take(None)
        return snapshot.write(target) if self.ranks.rank == 0 else ()


def check_layers(config: PreTrainedConfig) -> None:
    """Refuse a model whose layers do not score the samples of a probe as transformers does: three that share a prefix,
    and one that shares none.

    Raises:
        BadInput: as it says.
    """
    scorer = PackScorer(make_probe(config), torch.device("cpu"), torch.float32)
    rng = np.random.default_rng(0)
    one, other, *ends = (rng.integers(0, scorer.vocabulary, TOKENS // 2).astype(np.int32) for _ in range(5))
    pairs = ((one, ends[0]), (one, ends[1]), (one[:12], other), (other, ends[2]))
    scorer.check([_probe(prompt, ids) for prompt, ids in pairs], TOLERANCE)


def _probe(prompt: np.ndarray, ids: np.ndarray) -> Sample:
    zeros = np.zeros(len(ids), dtype=np.float32)
    return Sample(SampleKind.TURN, prompt, ids, zeros, zeros.astype(np.int32), 1.0, True, 0.0)
