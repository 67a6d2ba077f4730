"""Two checkpoints of one model, between which a benchmark updates a server.

random_checkpoints   of random weights, in a size named here; no token ends a response
checkpoints_like     a model folder, and a copy of it with slightly other weights
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lamer.common.errors import BadInput, Missing
from lamer.common.settings import PocketSettings
from lamer.common.weights import WEIGHT_SUFFIX

_STEP = 1.0 + 2.0**-7
"""What weights are multiplied with: the least factor that changes every bfloat16."""
_MEDIUM = PocketSettings(
    hidden=1024, layers=12, heads=16, kv_heads=8, head_dim=64, intermediate=3072, vocabulary=2048, context=1024
)
SIZES: Mapping[str, PocketSettings] = {
    "pocket": PocketSettings(context=1024),
    "150m": _MEDIUM,
    "460m": replace(_MEDIUM, vocabulary=151_936),
}
"""The last is the one before with the vocabulary of Qwen3. A third of it is input embeddings, which make a load longer
but no step, so that on a CPU, too, a load takes several steps."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """folders: two model folders of the same shape. file_bytes: of the weight files of one. context: in tokens."""

    name: str
    folders: tuple[Path, Path]
    parameters: int
    file_bytes: int
    vocabulary: int
    context: int


def random_checkpoints(size: str, folder: Path, seed: int) -> Checkpoints:
    """Make both below `folder`: Qwen3's architecture in float32, with a tokenizer of bytes and without an end token."""
    import torch
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from lamer.learner.pocket.model import PAD_TOKEN, pocket_config, train_tokenizer

    disable_progress_bar()
    sizes, first = SIZES[size], folder / "first"
    tokenizer = train_tokenizer((), sizes.vocabulary)
    config = pocket_config(sizes, tokenizer)
    config.vocab_size, config.eos_token_id, config.tie_word_embeddings = sizes.vocabulary, None, False
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(pad_token_id=config.pad_token_id, do_sample=True)
    model.save_pretrained(first)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD_TOKEN).save_pretrained(first)
    return checkpoints_like(first, folder, size)


def checkpoints_like(first: Path, folder: Path, name: str = "") -> Checkpoints:
    """The model in `first`, and below `folder` a copy whose weights are all a little larger.

    Raises:
        Missing: no model there. BadInput: its config.json says neither vocabulary nor context.
    """
    from safetensors.torch import load_file, save_file

    weights = sorted(first.glob(f"*{WEIGHT_SUFFIX}")) if first.is_dir() else []
    if not weights or not (first / "config.json").is_file():
        raise Missing(f"{first} is no model folder: it needs config.json and {WEIGHT_SUFFIX} files")
    second = folder / "second"
    second.mkdir()
    parameters = 0
    for path in first.iterdir():
        if path in weights:
            tensors = load_file(path)
            parameters += sum(tensor.numel() for tensor in tensors.values())
            save_file({key: tensor * _STEP for key, tensor in tensors.items()}, second / path.name, {"format": "pt"})
        elif path.is_file():
            shutil.copy(path, second)
    config = json.loads((first / "config.json").read_bytes())
    vocabulary, context = config.get("vocab_size"), config.get("max_position_embeddings")
    if not (isinstance(vocabulary, int) and isinstance(context, int)):
        raise BadInput(f"{first / 'config.json'} lacks vocab_size or max_position_embeddings")
    return Checkpoints(
        name=name or first.name,
        folders=(first, second),
        parameters=parameters,
        file_bytes=sum(path.stat().st_size for path in weights),
        vocabulary=vocabulary,
        context=context,
    )
