"""How long an environment's prompts are: a few trials of scripted random play, rendered as a policy meets them.

With the model's folder its own tokenizer and chat template count the tokens. Without it they are estimated from the
text (`estimate_tokens`), as a tokenizer of a current vocabulary cuts it. Random play says little: what a model writes
in its reflections makes the prompts of later episodes longer, which is not in these lengths.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lamer.common.records import TokenIds, Trial
from lamer.common.settings import Settings
from lamer.deploy.dry.workload import PromptLengths

if TYPE_CHECKING:
    from lamer.actors.rendering import Renderer

SCRIPTED_TRIALS = 4
TEMPLATE_TOKENS = 40
"""What a chat template is taken to add around a message where there is none to look at."""

_PIECES = re.compile(r" ?[^\W\d_]+|\d| ?[^\w\s]+|_|\s+")
_LETTERS = 8


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What scripted play showed. max_turns: of an episode."""

    max_turns: int
    lengths: PromptLengths


def estimate_tokens(text: str) -> int:
    """Tokens of a text, without a tokenizer.

    One for each digit, run of punctuation and run of white space (a single space belongs to what follows), and one for
    every eight letters of a word or part of that. "Row 12: # # X" is 8: Row, the space, 1, 2, the colon and three more.
    """
    return sum(-(-len(piece.strip()) // _LETTERS) if piece.strip().isalpha() else 1 for piece in _PIECES.findall(text))


def look(settings: Settings) -> Glimpse:
    """Play a few scripted trials of the configured environment and measure their prompts.

    Raises:
        BadInput: its options can't be used, or the model's tokenizer can't. Missing: its package can't be imported.
    """
    from lamer.actors.rendering import Renderer
    from lamer.deploy.play.scripted import play_scripted

    folder = Path(settings.model.path) if settings.model.path else None
    with tempfile.TemporaryDirectory() as name:
        is_estimate = folder is None or not (folder / "tokenizer.json").is_file()
        if is_estimate or folder is None:
            folder = _bytes_only(Path(name), settings)
        renderer = Renderer.load(folder, settings.model.chat_template, settings.model.enable_thinking)
        trials = play_scripted(settings, folder, SCRIPTED_TRIALS)
        count = _counter(renderer, settings) if is_estimate else len
        return Glimpse(
            max_turns=settings.trial.max_turns or _max_turns(trials[0]),
            lengths=_lengths(trials, count, is_estimate=is_estimate),
        )


def _bytes_only(folder: Path, settings: Settings) -> Path:
    """A tokenizer of single bytes: prompts go through it and come back as the text that they were."""
    from lamer.learner.pocket.model import save_tokenizer, train_tokenizer

    save_tokenizer(train_tokenizer((), settings.model.pocket.vocabulary), settings.model.pocket.context, folder)
    return folder


def _counter(renderer: Renderer, settings: Settings) -> Callable[[TokenIds], int]:
    around = TEMPLATE_TOKENS if settings.model.path and settings.model.chat_template else 0
    return lambda ids: estimate_tokens(renderer.decode(ids)) + around


def _lengths(trials: tuple[Trial, ...], count: Callable[[TokenIds], int], *, is_estimate: bool) -> PromptLengths:
    play = [count(turn.completion.prompt_ids) for trial in trials for each in trial.episodes for turn in each.turns]
    reflection = [count(each.completion.prompt_ids) for trial in trials for each in trial.reflections]
    return PromptLengths(
        first=play[0],
        play=sum(play) / len(play),
        reflection=sum(reflection) / len(reflection) if reflection else 0.0,
        longest=max(play + reflection),
        is_estimate=is_estimate,
    )


def _max_turns(trial: Trial) -> int:
    from lamer.envs import registry
    from lamer.envs.results import checked_turns, closing_env

    with closing_env(registry.make_env(trial.task)) as env:
        return checked_turns(env.max_turns)
