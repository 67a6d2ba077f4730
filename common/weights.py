"""What weights are made of, as messages name it: files, blocks of a stream, buckets of a broadcast, fingerprints."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lamer.common.errors import BadInput, Missing
from lamer.common.records import Int64, Record

WEIGHT_SUFFIX = ".safetensors"
WEIGHT_SUFFIXES = (WEIGHT_SUFFIX, ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")
"""How the names of weight files end, in any format; only safetensors are read here."""
INDEX_SUFFIX = ".index.json"
"""How the name of a file ends that says which weight file holds which tensor."""
_NOT_SHAPE = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache", "architectures")
"""Entries of a config.json that do not change what the weights are."""


class WeightFile(Record, frozen=True):
    """A weight file of a model folder: its name in the folder, its bytes, and its SHA-256 in hexadecimal."""

    name: str
    size: Int64
    digest: str


class NamedFile(Record, frozen=True):
    """A small file with its contents."""

    name: str
    data: bytes


class Encoding(enum.StrEnum):
    """How a block travels: not at all since the base has the same, as XOR with the base's block, or whole."""

    SAME = "same"
    XOR = "xor"
    FULL = "full"


class Block(Record, frozen=True):
    """`size` bytes of tensor `tensor`, from byte `start` of its file's data on.

    offset, length: where its frame (`common.blocks`) lies in the payload. digest: BLAKE2b-128 of the resulting bytes,
    hexadecimal.
    """

    tensor: str
    start: Int64
    size: Int64
    encoding: Encoding
    offset: Int64
    length: Int64
    digest: str


class StreamedFile(Record, frozen=True):
    """A weight file as a stream describes it.

    header: the file's first bytes (safetensors: length and JSON header), before the data that `blocks` make up in
    order.
    """

    file: WeightFile
    header: bytes
    blocks: tuple[Block, ...]


class Bucket(Record, frozen=True):
    """Tensors that are broadcast one after the other: names, dtypes in torch's words ("bfloat16"), shapes."""

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[Int64, ...], ...]


class ModelFingerprint(Record, frozen=True):
    """What two folders of one model have in common, whatever their weights.

    architecture: such as Qwen3ForCausalLM. shape: digest of the sizes in config.json. tokenizer: digest of
    tokenizer.json.
    """

    architecture: str
    shape: str
    vocabulary: Int64
    dtype: str
    tokenizer: str

    def difference(self, other: ModelFingerprint) -> str:
        """What `other` has otherwise, in words; "" if nothing."""
        for name in ("architecture", "vocabulary", "dtype", "shape", "tokenizer"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                return f"{name} {theirs}, not {ours}"
        return ""


def identity_of(files: Sequence[WeightFile]) -> str:
    """A digest of weight files' names and contents; 32 hexadecimal digits."""
    lines = sorted(f"{file.name} {file.size} {file.digest}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def weight_files(folder: Path) -> tuple[WeightFile, ...]:
    """The weight files of a model folder, by name. Reads them all: about a second for 2 GB."""
    found = []
    for path in sorted(folder.glob(f"*{WEIGHT_SUFFIX}")):
        with path.open("rb") as file:
            found.append(WeightFile(path.name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()))
    return tuple(found)


def companion_files(folder: Path) -> tuple[Path, ...]:
    """The files of a model folder that are neither weights nor an index of them: configuration, tokenizer, template.

    Raises:
        OSError: the folder is gone.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return tuple(path for path in files if not path.name.endswith((*WEIGHT_SUFFIXES, INDEX_SUFFIX)))


def read_fingerprint(folder: Path) -> ModelFingerprint:
    """The fingerprint of the model in `folder`.

    Raises:
        Missing: no such folder, or it lacks config.json or tokenizer.json. BadInput: config.json can't be read.
    """
    config_path, tokenizer = folder / "config.json", folder / "tokenizer.json"
    lacking = [path.name for path in (config_path, tokenizer) if not path.is_file()]
    if not folder.is_dir():
        raise Missing(f"there is no model folder {folder}")
    if lacking:
        raise Missing(f"the model folder {folder} lacks {' and '.join(lacking)}")
    try:
        config: Mapping[str, object] = json.loads(config_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{config_path} is not JSON: {error}") from error
    architectures = config.get("architectures")
    shape = json.dumps({name: value for name, value in config.items() if name not in _NOT_SHAPE}, sort_keys=True)
    vocabulary = config.get("vocab_size")
    return ModelFingerprint(
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "unknown",
        shape=hashlib.sha256(shape.encode()).hexdigest()[:12],
        vocabulary=vocabulary if isinstance(vocabulary, int) else 0,
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "unknown"),
        tokenizer=hashlib.sha256(tokenizer.read_bytes()).hexdigest()[:12],
    )
