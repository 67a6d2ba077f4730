"""Models to measure: a folder, or an architecture by name with random weights, written to a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lamer.common.errors import BadInput
from lamer.common.settings import PocketSettings
from lamer.deploy.dry.architecture import described_entries, described_names, pocket_entries

SMALL = {
    "tiny": PocketSettings(hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocabulary=512),
    "pocket": PocketSettings(),
    "small": PocketSettings(
        hidden=256, layers=4, heads=8, kv_heads=4, head_dim=32, intermediate=768, vocabulary=2048, context=8192
    ),
}
"""Sizes for a CPU. pocket: of a run without a model; small: 3.5 million parameters."""

_CONTEXT = 8192


def model_folder(name: str, folder: Path, *, is_bfloat16: bool, seed: int) -> Path:
    """The model called `name`: a folder of that name, else one made below `folder` of an architecture's random weights.

    is_bfloat16: the dtype of weights that are made.

    Raises:
        BadInput: neither a folder nor an architecture that is known.
    """
    if (Path(name) / "config.json").is_file():
        return Path(name)
    if name in SMALL:
        entries = pocket_entries(SMALL[name]) | {"max_position_embeddings": _CONTEXT}
    elif name in described_names():
        entries = described_entries(name)
    else:
        known = ", ".join((*SMALL, *described_names()))
        raise BadInput(f"--model {name!r} is neither a model folder nor one of {known}")
    return _write(entries, folder / name, is_bfloat16=is_bfloat16, seed=seed)


def _write(entries: dict[str, Any], target: Path, *, is_bfloat16: bool, seed: int) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if is_bfloat16 else torch.float32
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**entries, eos_token_id=None, bos_token_id=None, pad_token_id=None)
    with torch.device(device):
        module = AutoModelForCausalLM.from_config(config, dtype=dtype)
    module.save_pretrained(target)
    (target / "tokenizer.json").write_text("{}", encoding="utf-8")
    (target / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    return target


def vocabulary_of(folder: Path) -> int:
    """How many tokens the model in `folder` knows.

    Raises:
        BadInput: its config.json does not say.
    """
    found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    if not isinstance(found, int):
        raise BadInput(f"{folder / 'config.json'} has no vocab_size")
    return found
