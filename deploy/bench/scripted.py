"""The scripted environment of the rollout benchmark: it takes time and tokens like a game, whatever the policy answers.

An episode takes 3, 4, 5, 6, 7, 7 or 7 turns with equal chance and succeeds with probability 0.45; both are a pure
function of the task's seed, the trial and the episode. The trial makes itself known through its first response, since
an environment knows nothing else of it. Every prompt has `PROMPT_WORDS` words, one token each for the word tokenizer
that `write_model_folder` makes. Only the first prompt of a trial is shared by its group, so that tokenising costs what
it costs in a real run.

Actor processes find the environment as they find any third party's: through an entry point (`write_entry_point`).
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tokenizers import Tokenizer, models, pre_tokenizers

from lamer.envs.base import Env, EnvFactory, Observation, PlayView, ReflectionView, StepResult
from lamer.envs.memory import MemoryWindow, MemoryWindows

NAME = "scripted"
VOCABULARY = 512
PROMPT_WORDS = 700
TURNS = (3, 4, 5, 6, 7, 7, 7)
SUCCESS_CHANCE = 0.45
SUCCESS_REWARD = 10.0

_UNKNOWN = "[UNK]"
_WORDS = (_UNKNOWN, *(f"w{index}" for index in range(1, VOCABULARY)))
_PADDING_STARTS = 2048
_SHORT = MemoryWindow(steps=1, observations=1)


def _padding() -> str:
    rng = random.Random(0)
    return " ".join(rng.choices(_WORDS[100:], k=_PADDING_STARTS + PROMPT_WORDS))


_PADDING = _padding()
_WORD_BYTES = 5


@dataclass(frozen=True, slots=True)
class ScriptedConfig:
    """No options: the benchmark's figures are only comparable for one script."""


@dataclass(frozen=True, slots=True)
class Script:
    """How one episode goes: after `turns` turns it ends, solved or not."""

    turns: int
    is_solved: bool


def script_of(seed: int, trial: str, episode: int) -> Script:
    """The script of an episode; `trial` is any text that tells the trials of a task apart."""
    rng = random.Random(f"{seed}/{trial}/{episode}")
    return Script(turns=rng.choice(TURNS), is_solved=rng.random() < SUCCESS_CHANCE)


class ScriptedEnv(Env):
    """One task played by script. A response is never parsed: the first one of a trial names the trial."""

    max_turns = max(TURNS)
    windows = MemoryWindows(playing=_SHORT, reflecting=_SHORT, past=_SHORT)

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._trial = ""
        self._episode = -1
        self._turn = 0

    def reset(self) -> Observation:
        """Start the next episode of the script."""
        self._episode += 1
        self._turn = 0
        return self._observe()

    def step(self, response: str) -> StepResult:
        """One turn of the script."""
        self._trial = self._trial or hashlib.blake2b(response.encode(), digest_size=8).hexdigest()
        script = script_of(self._seed, self._trial, self._episode)
        self._turn += 1
        is_done = self._turn == script.turns
        is_solved = is_done and script.is_solved
        reward = SUCCESS_REWARD if is_solved else 0.0
        return StepResult("w1", self._observe(), reward=reward, is_done=is_done, is_solved=is_solved)

    def play_prompt(self, view: PlayView) -> str:
        """`PROMPT_WORDS` words that depend on the task, the trial, the episode and the turn."""
        return self._prompt(f"{view.episode}/{view.turn}")

    def reflection_prompt(self, view: ReflectionView) -> str:
        """`PROMPT_WORDS` words that depend on the task, the trial and the episode."""
        return self._prompt(f"{view.episode}/reflection")

    def parse_reflection(self, response: str) -> str | None:
        """The first words of whatever was written."""
        return response[:20]

    def random_response(self, rng: random.Random) -> str:
        """Any word."""
        return rng.choice(_WORDS)

    def random_reflection(self, rng: random.Random) -> str:
        """Any word."""
        return rng.choice(_WORDS)

    def _observe(self) -> Observation:
        return Observation("w2", anchor_state=str(self._turn))

    def _prompt(self, place: str) -> str:
        start = random.Random(f"{self._seed}/{self._trial}/{place}").randrange(_PADDING_STARTS) * _WORD_BYTES
        return _PADDING[start : start + PROMPT_WORDS * _WORD_BYTES - 1]


class ScriptedFactory(EnvFactory[ScriptedConfig]):
    """Makes scripted environments."""

    name = NAME
    config_class = ScriptedConfig

    def make(self, config: ScriptedConfig, seed: int) -> ScriptedEnv:
        """The script of task `seed`."""
        return ScriptedEnv(seed)


FACTORY = ScriptedFactory()


def write_model_folder(folder: Path) -> None:
    """A model folder without a model: a tokenizer of `VOCABULARY` words and the size of the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(_WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_bytes(msgspec.json.encode({"vocab_size": VOCABULARY}))


def write_entry_point(folder: Path) -> None:
    """Metadata of an installed package that registers the environment, for processes with `folder` on their path."""
    package = folder / "lamer_scripted-1.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: lamer-scripted\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[lamer.envs]\n{NAME} = lamer.deploy.bench.scripted:FACTORY\n")
