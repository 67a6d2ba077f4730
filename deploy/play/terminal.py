"""The terminal in a model's place: it shows prompts and what came of the answers, and answers them.

Voice      how prompts and answers become ids: a model's tokenizer and template, or single bytes
Terminal   the policy of one trial and its watcher; a person types the answers, or they are scripted play's
"""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from lamer.actors.episode import guarded
from lamer.actors.policy import Request, RequestKind
from lamer.actors.rendering import Renderer
from lamer.actors.watching import Watcher
from lamer.common.records import Completion, Episode
from lamer.common.text import valid_text
from lamer.deploy.play.scripted import Encoder, scripted_answer
from lamer.envs.base import Env, StepResult
from lamer.envs.results import checked_remark

Read = Callable[[str], str]
"""A line from the keyboard, after a mark that asks for it; EOFError at the end of input."""

_CLOSING_TAG = re.compile(r"</(\w+)>")
_END = "<|end|>"


class EndOfInput(Exception):
    """The person who plays has gone."""


@dataclass(frozen=True, slots=True)
class Voice:
    """How prompts become ids and answers too. has_model: with a model's own tokenizer."""

    renderer: Renderer
    encoder: Encoder
    has_model: bool

    @classmethod
    def load(cls, model: Path | None, use_chat_template: bool, enable_thinking: bool = False) -> Voice:
        """That of a model's folder; ids are bytes where there is none.

        Raises:
            Missing: no such folder or no tokenizer in it. BadInput: a file in it can't be used.
        """
        if model is not None:
            renderer = Renderer.load(model, use_chat_template, enable_thinking)
            return cls(renderer, Encoder.load(model), has_model=True)
        tokenizer = _byte_tokenizer()
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        renderer = Renderer(tokenizer, None, size, frozenset({size - 1}))
        return cls(renderer, Encoder(renderer.encoder, size - 1), has_model=False)


class Terminal(Watcher):
    """The policy of one trial, and its watcher.

    read: asks a person for each answer; None: answers are the environment's scripted ones. counts_tokens: show how many
    each prompt and answer has.
    """

    def __init__(
        self, env: Env, voice: Voice, console: Console, read: Read | None, seed: int, *, counts_tokens: bool
    ) -> None:
        self._env = env
        self._voice = voice
        self._console = console
        self._read = read
        self._rng = random.Random(seed)
        self._counts_tokens = counts_tokens
        self._episode = 0
        self._turn = 0
        self._last = ""

    async def complete(self, request: Request) -> Completion:
        """Show a prompt, take the answer.

        Raises:
            EndOfInput: there is none.
        """
        is_play = request.kind is RequestKind.PLAY
        self._turn += is_play
        playing = f"episode {self._episode + 1}, turn {self._turn}"
        title = playing if is_play else f"reflection on episode {self._episode}"
        decode = self._voice.renderer.decode_all if self._voice.has_model else self._voice.renderer.decode
        self._console.print(Rule(title, align="left", style="cyan"))
        self._show(Text(decode(request.prompt_ids).rstrip("\n")))
        answer = self._scripted(is_play) if self._read is None else self._asked(request.stop, is_play)
        completion = self._voice.encoder.completion(request, answer)
        if self._counts_tokens:
            counts = f"{len(request.prompt_ids)} tokens in the prompt, {len(completion.ids)} in the answer"
            self._console.print(Text(counts, style="dim"))
        if not is_play:
            remark = checked_remark(guarded(self._env.parse_reflection, answer))
            self._tell("no valid remark: nothing is kept" if remark is None else f"kept in memory: {remark}")
        return completion

    def saw_step(self, episode: int, turn: int, result: StepResult) -> None:
        """Show what an answer did."""
        action = "no valid action" if result.action is None else f"action {result.action}"
        score = "" if result.score is None else f", score {result.score:.3g}"
        self._tell(f"{action}, reward {result.reward:g}{score}")
        self._last = result.observation.text

    def saw_episode(self, episode: Episode) -> None:
        """Show the last observation of an episode and how it ended."""
        self._show(Text(self._last))
        colour = "green" if episode.is_solved else "red"
        turns = "1 turn" if len(episode.turns) == 1 else f"{len(episode.turns)} turns"
        said = f"episode {episode.index + 1}: {episode.status.value} after {turns}"
        self._console.print(Text(f"{said}, reward {episode.reward:g}", style=f"bold {colour}"))
        self._episode, self._turn = episode.index + 1, 0

    def _scripted(self, is_play: bool) -> str:
        answer = scripted_answer(self._env, self._rng, is_play=is_play)
        self._show(Text(f"> {answer}", style="bold"))
        return answer

    def _asked(self, stop: tuple[str, ...], is_play: bool) -> str:
        """What a person answers: in tags of the environment's where it was typed without, cut after a stop text."""
        assert self._read is not None
        typed = ""
        while not typed.strip():
            try:
                typed = valid_text(self._read("action> " if is_play else "reflection> "))
            except EOFError as error:
                raise EndOfInput from error
        answer = cut_after(in_tags(typed, stop), stop)
        if answer != typed:
            self._tell(f"sent as {answer}")
        return answer

    def _tell(self, text: str) -> None:
        self._show(Text(text, style="yellow"))

    def _show(self, text: Text) -> None:
        """Lines as they are; those too long for a terminal are broken between words."""
        self._console.print(text, soft_wrap=not self._console.is_terminal)


def in_tags(answer: str, stop: tuple[str, ...]) -> str:
    """An answer with the tags that the environment expects around it, unless it has an opening one.

    "up, left" for stop ("</action>",) becomes "<action>up, left</action>".
    """
    match = next((found for text in stop if (found := _CLOSING_TAG.fullmatch(text))), None)
    if match is None or f"<{match[1]}>" in answer:
        return answer
    return f"<{match[1]}>{answer.strip()}{match[0]}"


def cut_after(answer: str, stop: tuple[str, ...]) -> str:
    """An answer up to the end of the first stop text in it, as a server cuts it."""
    ends = [answer.find(text) + len(text) for text in stop if text in answer]
    return answer[: min(ends)] if ends else answer


def read_keyboard(mark: str) -> str:
    """A line from the keyboard. Ctrl-C raises KeyboardInterrupt at once, also while an event loop runs.

    Raises:
        EOFError: the input has ended.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return input(mark)
    except KeyboardInterrupt:
        print()
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _byte_tokenizer() -> Tokenizer:
    """One id a byte, and an end token, the last: text goes through it and comes back as it was."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(_END, special=True, normalized=False)])
    return tokenizer
