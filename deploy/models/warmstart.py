"""Pocket models, and a model taught the output format.

    create_model    `lamer model create`: scripted play -> its texts -> tokenizer -> random weights
    warm_start      `lamer warmstart`: scripted play -> supervised fine-tuning on its responses
    read_metrics    what was measured when a model was made

The warm start teaches the format and not the skill: scripted play answers at random whatever the history, so the best
the model can learn is that distribution.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamer.common.errors import BadInput
from lamer.common.messages import Metric
from lamer.common.settings import Settings
from lamer.deploy.models.folders import check_model

if TYPE_CHECKING:
    from lamer.common.records import Trial
    from lamer.learner.pocket.supervised import Example

log = logging.getLogger("lamer.warmstart")

METRICS_FILE = "warmstart.json"
CORPUS_TRIALS = 300


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


def _texts(settings: Settings, folder: Path) -> list[str]:
    """Prompts and responses of scripted play as text: what the tokenizer is trained on."""
    from lamer.actors.rendering import Renderer
    from lamer.deploy.play.scripted import play_scripted

    renderer = Renderer.load(folder, settings.model.chat_template, settings.model.enable_thinking)
    trials = play_scripted(settings, folder, min(CORPUS_TRIALS, settings.model.warmstart.trials))
    completions = [completion for trial in trials for completion in trial.completions()]
    return [renderer.decode(ids) for completion in completions for ids in (completion.prompt_ids, completion.ids)]


def _examples(trials: Sequence[Trial]) -> list[Example]:
    from lamer.learner.pocket.supervised import Example

    return [Example(each.prompt_ids, each.ids) for trial in trials for each in trial.completions()]


def _check_output(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise BadInput(f"{output} exists already: name a new folder for the model")
