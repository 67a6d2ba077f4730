"""The model of a run: the configured folder, checked, or a pocket model, created once and found by later runs.

prepare_model   what `lamer train` asks for: a checked folder, created and cached where none is configured
model_folder    where it lies once it is prepared;  creation_note   whether it is still to be made
model_key       what a created model is cached by: the settings, the sources and the libraries that define it
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import inspect
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from lamer.common.messages import Metric
from lamer.common.settings import Settings
from lamer.deploy.models.folders import check_model
from lamer.deploy.models.warmstart import METRICS_FILE, create_model, read_metrics, warm_start

log = logging.getLogger("lamer.warmstart")

_SOURCES = (
    "deploy/play/scripted.py",
    "deploy/models/folders.py",
    "deploy/models/preparation.py",
    "deploy/models/warmstart.py",
    "learner/pocket/model.py",
    "learner/pocket/supervised.py",
    "actors/trial.py",
    "actors/episode.py",
    "actors/memory.py",
    "actors/rendering.py",
    "actors/shortening.py",
    "actors/tokens.py",
    "envs/base.py",
    "envs/history.py",
    "envs/memory.py",
    "envs/parsing.py",
    "envs/prompts.py",
    "envs/results.py",
)
_LIBRARIES = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model folder ready to be served. metrics: of its warm start, empty where a folder was configured."""

    path: Path
    metrics: tuple[Metric, ...]


def default_cache(settings: Settings) -> Path:
    """Where created models are kept: beside the folder of runs."""
    return Path(settings.run.directory).resolve().parent / ".cache" / "lamer" / "models"


def prepare_model(settings: Settings, cache: Path) -> PreparedModel:
    """The model folder of a run. A created one is found in `cache` by the next run with the same settings.

    Processes that ask for the same model at once wait for the first of them.

    Raises:
        Missing: the configured folder is not there or lacks a file.
        BadInput: the settings describe no model, or the environment can't be played.
        RunFailed: the warm start diverged.
    """
    if settings.model.path:
        return PreparedModel(check_model(Path(settings.model.path)), ())
    target = model_folder(settings, cache)
    with _locked(cache / f"{target.name}.lock"):
        if not target.is_dir():
            _create_and_warm_start(settings, target)
    return PreparedModel(target, read_metrics(target))


def model_folder(settings: Settings, cache: Path | None = None) -> Path:
    """Where the model of these settings lies once it is prepared."""
    if settings.model.path:
        return Path(settings.model.path)
    return (cache or default_cache(settings)) / f"{settings.env.name}-{model_key(settings)}"


def creation_note(settings: Settings, cache: Path) -> str:
    """One line about what `prepare_model` will have to make, "" where it finds all it needs."""
    if settings.model.path or model_folder(settings, cache).is_dir():
        return ""
    steps = settings.model.warmstart.steps
    start = f" and teaching it the output format ({steps} steps)" if steps else ""
    return f"creating the pocket model for {settings.env.name}{start}; it is kept in {cache} for later runs"


def model_key(settings: Settings) -> str:
    """Sixteen hex digits that name the created model: of the settings, the sources and the libraries that define it."""
    from lamer.envs import registry

    factory, trial = registry.get(settings.env.name), settings.trial
    parts = {
        "pocket": asdict(settings.model.pocket),
        "warmstart": asdict(settings.model.warmstart),
        "chat_template": [settings.model.chat_template, settings.model.enable_thinking],
        "env": [settings.env.name, registry.canonical_config(settings.env.name, settings.env.options)],
        "trial": [trial.episodes, trial.memory.value, trial.max_turns, trial.prompting.value],
        "max_prompt_tokens": [trial.max_prompt_tokens, trial.shorten],
        "seed": settings.run.seed,
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    root = Path(__file__).resolve().parents[2]
    own = sorted(Path(inspect.getfile(type(factory))).parent.glob("*.py"))
    for path in [*(root / source for source in _SOURCES), *own]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _create_and_warm_start(settings: Settings, target: Path) -> None:
    from lamer.common.folders import scratch_folder, whole_folder
    from lamer.learner.pocket.supervised import copy_other_files

    log.info("creating the pocket model for %s", settings.env.name)
    with scratch_folder(target.parent, ".creating-") as folder:
        created, final = folder / "created", folder / "started"
        metrics = create_model(settings, created)
        if settings.model.warmstart.steps:
            metrics += warm_start(settings, created, final)
        else:
            final = created
        with whole_folder(target) as temporary:
            copy_other_files(final, temporary)
            (final / "model.safetensors").rename(temporary / "model.safetensors")
            (temporary / METRICS_FILE).write_bytes(msgspec.json.encode(metrics))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` while the block runs; the lock ends with the process at the latest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
