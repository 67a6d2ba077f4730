"""Small real parts for tests of actors: a byte tokenizer, an environment with switches, a policy with a script."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from lamer.actors.policy import Request, RequestKind
from lamer.actors.rendering import Renderer
from lamer.actors.trial import TrialLimits
from lamer.common.messages import Lease, Sampling
from lamer.common.records import Completion, FinishReason, MemoryMode, Purpose, Task, VersionSpan, make_trial_id
from lamer.envs.base import Env, EnvironmentFault, Observation, PlayView, ReflectionView, StepResult
from lamer.envs.memory import MemoryWindow, MemoryWindows

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
SPECIAL = ("<s>", "<|user|>", "<|assistant|>", "<|end|>")
TAGS = ("<action>", "</action>", "<remark>", "</remark>")
LIMITS = TrialLimits(max_turns=0, max_prompt_tokens=4096)


def byte_tokenizer() -> Tokenizer:
    """One id a byte, special tokens, and the tags as tokens that are not special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return tokenizer


def write_model(folder: Path, template: str | None = TEMPLATE, vocab_size: int | None = None) -> Path:
    """A model folder as an actor sees it: no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    described: dict[str, object] = {"bos_token": {"content": "<s>"}, "eos_token": "<|end|>"}
    if template is not None:
        described["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    if vocab_size is not None:
        (folder / "config.json").write_text(json.dumps({"vocab_size": vocab_size}))
    return folder


def plain_renderer() -> Renderer:
    """Renders a message as its bytes and a line end."""
    tokenizer = byte_tokenizer()
    return Renderer(tokenizer, None, tokenizer.get_vocab_size(with_added_tokens=True))


def encode(text: str) -> np.ndarray:
    return np.array(byte_tokenizer().encode(text).ids, dtype=np.int32)


def respond(request: Request, text: str, version: int = 0) -> Completion:
    """A completion of `text`, as a policy of one version gives it."""
    ids = encode(text)
    logprobs = np.full(len(ids), -0.5, dtype=np.float32)
    spans = (VersionSpan(version, 0, len(ids)),)
    return Completion(request.prompt_ids, ids, logprobs, spans, FinishReason.STOP, request.temperature)


@dataclass
class ScriptedPolicy:
    """Gives the responses of its script in order, and keeps the requests. An exception in the script is raised."""

    script: Sequence[str | Exception]
    requests: list[Request] = field(default_factory=list)

    async def complete(self, request: Request) -> Completion:
        answer = self.script[len(self.requests)]
        self.requests.append(request)
        if isinstance(answer, Exception):
            raise answer
        return respond(request, answer)

    def prompts(self, kind: RequestKind) -> list[str]:
        """The prompts of one kind, as text."""
        return [plain_renderer().decode(request.prompt_ids) for request in self.requests if request.kind is kind]


class CounterEnv(Env):
    """Say numbers until their sum is the goal. Every prompt shows everything it is handed, by name.

    The state before the first step is the same in every episode. `step` fails as `fault` says, at its number.
    """

    max_turns = 3
    windows = MemoryWindows(MemoryWindow(2, 1), MemoryWindow(9, 9), MemoryWindow(1, 1))

    def __init__(self, goal: int = 3, fault: Exception | None = None, reward: float = 1.0) -> None:
        self.goal = goal
        self.fault = fault
        self.reward = reward
        self.sum = 0
        self.resets = 0
        self.is_closed = False

    def reset(self) -> Observation:
        self.resets += 1
        self.sum = 0
        return self._observe()

    def step(self, response: str) -> StepResult:
        if self.fault is not None:
            raise self.fault
        inside = response.partition("<action>")[2].partition("</action>")[0]
        if not inside.isdigit():
            return StepResult(None, self._observe(), 0.0, is_done=False, is_solved=False)
        self.sum += int(inside)
        is_done = self.sum >= self.goal
        return StepResult(inside, self._observe(), self.reward, is_done, is_solved=self.sum == self.goal)

    def play_prompt(self, view: PlayView) -> str:
        return (
            f"PLAY {view.episode}.{view.turn} initial[{view.initial}] now[{view.observation}] "
            f"past[{view.past}] current[{view.current}]"
        )

    def reflection_prompt(self, view: ReflectionView) -> str:
        return f"REFLECT {view.episode} initial[{view.initial}] past[{view.past}] current[{view.current}]"

    def parse_reflection(self, response: str) -> str | None:
        _, tag, rest = response.partition("<remark>")
        return rest.partition("</remark>")[0] if tag else None

    def random_response(self, rng: random.Random) -> str:
        return f"<action>{rng.randint(1, 3)}</action>"

    def random_reflection(self, rng: random.Random) -> str:
        return "<remark>none</remark>"

    def close(self) -> None:
        self.is_closed = True

    def _observe(self) -> Observation:
        return Observation(f"sum {self.sum}", f"state {self.sum}")


class BrokenEnv(CounterEnv):
    """Fails in a method of one's choice."""

    def __init__(self, method: str) -> None:
        super().__init__()
        setattr(self, method, self._fail)

    def _fail(self, *_: object) -> None:
        raise EnvironmentFault("the engine crashed")


def lease(
    memory: MemoryMode = MemoryMode.BOTH,
    episodes: int = 3,
    slot: int = 0,
    task: Task | None = None,
    purpose: Purpose = Purpose.TRAIN,
    seconds: float = 60.0,
    group_id: int = 4,
) -> Lease:
    sampling = Sampling(temperature=0.8, top_p=0.9, top_k=5, max_response_tokens=32, max_reflection_tokens=16)
    return Lease(
        make_trial_id("run", purpose, group_id, slot),
        group_id,
        slot,
        purpose,
        task or Task("counter", "{}", 1),
        episodes,
        memory,
        sampling,
        seconds,
    )
