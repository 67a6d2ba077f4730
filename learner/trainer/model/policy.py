"""The policy as a torch module: a Hugging Face causal LM that scores packs, loaded from and saved as a model folder.

    PolicyModel    the scorer of a model folder, compared with transformers' own forward pass and published from
    check_layers   whether packs can be scored by the layers of a configuration

Parameters and gradients are float32. With dtype bfloat16 the forward pass runs under autocast, so that small updates
are not rounded away, and weights are published in bfloat16, which is what the forward pass used.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import PreTrainedConfig

from lamer.common.errors import BadInput
from lamer.common.folders import whole_folder
from lamer.common.settings import TrainerSettings
from lamer.common.weights import WeightFile, companion_files, weight_files
from lamer.learner.credit.samples import Sample, SampleKind
from lamer.learner.fitness.loading import load_model
from lamer.learner.fitness.probe import TOKENS, TOLERANCE, make_probe
from lamer.learner.trainer.model.layers import choose_compile, choose_recompute
from lamer.learner.trainer.model.scorer import PackScorer

WEIGHTS = "model.safetensors"
_TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.25}


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
        raise BadInput(f"trainer.device {settings.device!r} can't be used: {error}") from error


def choose_dtype(settings: TrainerSettings, device: torch.device) -> torch.dtype:
    """The configured dtype of the forward pass; "auto" is bfloat16 on CUDA and float32 elsewhere."""
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32


class PolicyModel(PackScorer):
    """A causal LM with the folder that its tokenizer came from."""

    def __init__(self, path: Path, settings: TrainerSettings, pack_tokens: int = 0) -> None:
        """Load the model in folder `path`. pack_tokens: most tokens of a pack, to which all are padded on CUDA; 0 if
        it isn't known.

        Raises:
            Missing: no such folder, or no config in it.
            BadInput: weights or architecture that can't be used, or an unusable device.
        """
        self.path = path
        device = choose_device(settings)
        module = load_model(path, torch.float32, "eager", is_trained=True)
        check_layers(module.config)
        super().__init__(module, device, choose_dtype(settings, device), pack_tokens)
        tokens = np.arange(10, dtype=np.int32) % self.vocabulary
        self.check([_probe(tokens[:4], tokens[4:7]), _probe(tokens[:4], tokens[7:10])], _TOLERANCES[self.dtype])
        self.arrange(is_compiled=choose_compile(settings, device), is_recomputed=choose_recompute(settings, device))

    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """Every parameter once, by its name in the weight file; a tied output head has none of its own."""
        return dict(self.module.named_parameters())

    def decoder_parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The parameters that hidden states come from, by their names inside the decoder; not an untied output head."""
        return dict(self._decoder.named_parameters())

    @contextlib.contextmanager
    def with_parameters(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """While the block runs the parameters have other values, by their names in the weight file.

        Raises:
            BadInput: a parameter is missing in `tensors`, or has another shape there.
        """
        parameters = self.parameters()
        own = {name: parameter.data for name, parameter in parameters.items()}
        for name, value in own.items():
            if name not in tensors or tensors[name].shape != value.shape:
                raise BadInput(f"the weights to compare with have no {name} of shape {tuple(value.shape)}")
        try:
            for name, parameter in parameters.items():
                parameter.data = tensors[name].to(self.device, torch.float32)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = own[name]

    def save(self, target: Path) -> tuple[WeightFile, ...]:
        """Write a complete model folder: weights in the forward pass's dtype, config, tokenizer and chat template.

        The folder appears whole or not at all, and replaces one of the same name.

        Returns:
            its weight files.
        """
        with whole_folder(target, replaces=True) as folder:
            _copy_companions(self.path, folder, self.dtype)
            tensors = {
                name: value.detach().to(self.dtype).cpu().contiguous() for name, value in self.parameters().items()
            }
            save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
            return weight_files(folder)


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


def _copy_companions(source: Path, target: Path, dtype: torch.dtype) -> None:
    """Copy config, tokenizer and template files; the config names the dtype of the weights beside it."""
    for path in companion_files(source):
        shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    config[key] = str(dtype).removeprefix("torch.")
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
