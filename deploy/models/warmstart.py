"""Models for a run: the configured folder, or a `pocket` model that was taught the output format.

    prepare_model   what `lamer train` asks for: a checked folder, created and cached where none is configured
    create_model    `lamer model create`: scripted play -> its texts -> tokenizer -> random weights
    warm_start      `lamer warmstart`: scripted play -> supervised fine-tuning on its responses

The warm start teaches the format and not the skill: scripted play answers at random whatever the history, so the best
the model can learn is that distribution. Created models are cached by content: by the settings that define them and by
the source files that do.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import inspect
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamer.common.errors import BadInput, Missing
from lamer.common.messages import Metric
from lamer.common.settings import Settings

if TYPE_CHECKING:
    from lamer.common.records import Trial
    from lamer.learner.pocket.supervised import Example

log = logging.getLogger("lamer.warmstart")

METRICS_FILE = "warmstart.json"
CORPUS_TRIALS = 300

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SOURCES = (
    "deploy/play/scripted.py",
    "deploy/models/warmstart.py",
    "learner/pocket/model.py",
    "learner/pocket/supervised.py",
    "actors/trial.py",
    "actors/episode.py",
    "actors/memory.py",
    "actors/rendering.py",
    "actors/shortening.py",
    "envs/base.py",
    "envs/history.py",
    "envs/memory.py",
    "envs/parsing.py",
    "envs/prompts.py",
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


def check_model(folder: Path) -> Path:
    """The absolute path of a usable Hugging Face model folder.

    Raises:
        Missing: no such folder, or it lacks its configuration, its tokenizer or its weights.
    """
    if not folder.is_dir():
        raise Missing(f"model.path: the folder {folder} is not there; download the model or leave model.path empty")
    lacking = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _WEIGHTS):
        lacking.append("weights (model.safetensors)")
    if lacking:
        raise Missing(f"model.path: {folder} lacks {', '.join(lacking)}")
    return folder.resolve()


def create_model(settings: Settings, output: Path) -> tuple[Metric, ...]:
    """Create the pocket model of `settings.model.pocket` in `output`, its tokenizer trained on the environment's texts.

    Returns:
        `model/parameters` and `model/vocabulary`.

    Raises:
        BadInput: `output` is in use, or the sizes describe no model.
    """
    from lamer.learner.pocket.model import create_pocket, save_tokenizer, train_tokenizer

    _check_output(output)
    with tempfile.TemporaryDirectory() as name:
        bytes_only = Path(name)
        save_tokenizer(train_tokenizer((), settings.model.pocket.vocabulary), settings.model.pocket.context, bytes_only)
        texts = _texts(settings, bytes_only)
    tokenizer = train_tokenizer(texts, settings.model.pocket.vocabulary)
    parameters = create_pocket(settings.model.pocket, tokenizer, settings.run.seed, output)
    vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)
    return Metric("model/parameters", float(parameters)), Metric("model/vocabulary", float(vocabulary))


def warm_start(settings: Settings, model: Path, output: Path) -> tuple[Metric, ...]:
    """Teach the model folder `model` the output format; the result is the model folder `output`.

    Returns:
        `warmstart/loss` (nats per response token), `/examples`, `/dropped_examples` (their prompt is too long),
        `/steps` and `/seconds`; also written to `output`.

    Raises:
        Missing: `model` is not usable. BadInput: `output` is in use, or no example fits. RunFailed: the loss diverged.
    """
    from lamer.deploy.play.scripted import play_scripted
    from lamer.learner.pocket.supervised import FineTuning, fine_tune

    started = time.perf_counter()
    _check_output(output)
    model = check_model(model)
    plan = settings.model.warmstart
    budget = settings.trial.max_prompt_tokens
    examples = _examples(play_scripted(settings, model, plan.trials, budget if settings.trial.shorten else 0))
    fitting = [example for example in examples if len(example.prompt_ids) <= budget]
    tuning = FineTuning(plan.steps, plan.batch, plan.learning_rate, plan.prompt_weight, seed=settings.run.seed)
    tuned = fine_tune(model, fitting, tuning, output)
    metrics = (
        Metric("warmstart/loss", tuned.loss),
        Metric("warmstart/examples", float(len(fitting))),
        Metric("warmstart/dropped_examples", float(len(examples) - len(fitting))),
        Metric("warmstart/steps", float(tuned.steps)),
        Metric("warmstart/seconds", time.perf_counter() - started),
    )
    (output / METRICS_FILE).write_bytes(msgspec.json.encode(metrics))
    log.info("warm start: loss %.3f after %d steps in %.1f s", tuned.loss, tuned.steps, metrics[-1].value)
    return metrics


def read_metrics(folder: Path) -> tuple[Metric, ...]:
    """What was measured when the model of `folder` was made; nothing where it was not made here."""
    path = folder / METRICS_FILE
    return msgspec.json.decode(path.read_bytes(), type=tuple[Metric, ...]) if path.is_file() else ()


def model_key(settings: Settings) -> str:
    """Sixteen hex digits that name the created model: of the settings, the sources and the libraries that define it."""
    from lamer.envs import registry

    factory, trial = registry.get(settings.env.name), settings.trial
    parts = {
        "pocket": asdict(settings.model.pocket),
        "warmstart": asdict(settings.model.warmstart),
        "chat_template": settings.model.chat_template,
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
    from lamer.common.folders import whole_folder
    from lamer.learner.pocket.supervised import copy_other_files

    log.info("creating the pocket model for %s", settings.env.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".creating-") as name:
        created, final = Path(name) / "created", Path(name) / "started"
        metrics = create_model(settings, created)
        if settings.model.warmstart.steps:
            metrics += warm_start(settings, created, final)
        else:
            final = created
        with whole_folder(target) as temporary:
            copy_other_files(final, temporary)
            (final / "model.safetensors").rename(temporary / "model.safetensors")
            (temporary / METRICS_FILE).write_bytes(msgspec.json.encode(metrics))


def _texts(settings: Settings, folder: Path) -> list[str]:
    """Prompts and responses of scripted play as text: what the tokenizer is trained on."""
    from lamer.actors.rendering import Renderer
    from lamer.deploy.play.scripted import play_scripted

    renderer = Renderer.load(folder, settings.model.chat_template)
    trials = play_scripted(settings, folder, min(CORPUS_TRIALS, settings.model.warmstart.trials))
    completions = [completion for trial in trials for completion in trial.completions()]
    return [renderer.decode(ids) for completion in completions for ids in (completion.prompt_ids, completion.ids)]


def _examples(trials: Sequence[Trial]) -> list[Example]:
    from lamer.learner.pocket.supervised import Example

    return [Example(each.prompt_ids, each.ids) for trial in trials for each in trial.completions()]


def _check_output(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise BadInput(f"{output} exists already: name a new folder for the model")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` while the block runs; the lock ends with the process at the latest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
