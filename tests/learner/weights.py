"""Small models as folders of weights, and the steps that an optimizer takes with them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from lamer.common.messages import WeightAnnouncement
from lamer.common.weights import weight_files


class TinyModel:
    """float32 master weights (std 0.02) with AdamW, published in bfloat16."""

    def __init__(self, vocabulary: int = 500, width: int = 64, layers: int = 2, lr: float = 1e-6) -> None:
        generator = torch.Generator().manual_seed(3)
        shapes = {"embed.weight": (vocabulary, width), "norm.weight": (width,)}
        for layer in range(layers):
            shapes |= {f"layers.{layer}.{name}": (width, width) for name in ("q", "k", "v", "o")}
            shapes |= {f"layers.{layer}.mlp": (4 * width, width)}
        self.parameters = {
            name: torch.nn.Parameter(torch.randn(shape, generator=generator) * 0.02) for name, shape in shapes.items()
        }
        self._optimizer = torch.optim.AdamW(self.parameters.values(), lr=lr)
        self._generator = generator

    def step(self) -> None:
        """One AdamW step along random gradients."""
        for parameter in self.parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=self._generator) * 1e-3
        self._optimizer.step()

    def publish(self, folder: Path, version: int, dtype: torch.dtype = torch.bfloat16) -> WeightAnnouncement:
        """Write a model folder: weights, and a config that names their dtype."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: parameter.detach().to(dtype) for name, parameter in self.parameters.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps({"dtype": str(dtype).removeprefix("torch.")}))
        (folder / "tokenizer.json").write_text('{"tokenizer": 1}')
        return WeightAnnouncement(version, str(folder), weight_files(folder))


def same_weights(announced: WeightAnnouncement, folder: Path) -> bool:
    """Whether `folder` holds the announced folder's weights, bit for bit."""
    return all((folder / f.name).read_bytes() == (Path(announced.path) / f.name).read_bytes() for f in announced.files)
