"""Whether a configured model folder can be trained and served, known before anything is started.

Telling takes torch and some seconds, so a process of its own does it (`deploy.fitness`), and a folder that fits is
remembered in the user's cache: by its configuration, by the headers, sizes and times of its weight files, and by the
versions of what judges it. Trainer and engine look again when they load it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

from lamer.common.errors import BadInput, Missing, RunFailed
from lamer.common.model_files import cache_root
from lamer.common.tensors import read_header

_LIBRARIES = ("lamer", "torch", "transformers")
_ERROR_LINE = re.compile(r"^error: (.+)$", re.MULTILINE)


def check_fitness(folder: Path, *, is_trained: bool, is_embedded: bool) -> None:
    """Refuse a model folder whose tensors are not exactly its model's, or whose layers can't be computed here.

    Args:
        folder: the model folder.
        is_trained: by the trainer.
        is_embedded: served by the embedded engine.

    Raises:
        Missing: it lacks a file. BadInput: it can't be used; the message says why. RunFailed: the check itself failed.
    """
    flags = [flag for flag, is_on in (("--trained", is_trained), ("--embedded", is_embedded)) if is_on]
    if not flags:
        return  # SGLang serves what it serves
    known = cache_root().parent / "fitness" / _digest(folder, flags)
    if known.is_file():
        return
    command = [sys.executable, "-P", "-m", "lamer.deploy.fitness", str(folder), *flags]
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if result.returncode:
        said = _ERROR_LINE.findall(result.stderr) or result.stderr.strip().splitlines() or ["it said nothing"]
        kind = {BadInput.exit_code: BadInput, Missing.exit_code: Missing}.get(result.returncode, RunFailed)
        raise kind(said[-1])
    with contextlib.suppress(OSError):  # a cache that can't be written costs the seconds again
        known.parent.mkdir(parents=True, exist_ok=True)
        known.touch()


def _digest(folder: Path, flags: list[str]) -> str:
    """Names the question: what is asked, of which folder, answered by which versions."""
    digest = hashlib.sha256(repr([*flags, *map(importlib.metadata.version, _LIBRARIES)]).encode())
    for path in sorted((folder / "config.json", *folder.glob("*.index.json"), *folder.glob("*.safetensors"))):
        facts = path.stat()
        digest.update(repr((str(path.resolve()), facts.st_size, facts.st_mtime_ns)).encode())
        digest.update(read_header(path) if path.suffix == ".safetensors" else path.read_bytes())
    return digest.hexdigest()[:32]
