"""Long prompts: what is left out, in which order, what never is, and that it is counted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from lamer.actors.policy import Request, RequestKind
from lamer.actors.shortening import Cut, cuts
from lamer.actors.trial import TrialLimits, play_trial
from lamer.common.codec import encode_trial
from lamer.common.records import Completion, EpisodeStatus, MemoryMode, Task, Trial
from lamer.envs import registry
from lamer.envs.base import Env, Observation, PlayView, ReflectionView, StepResult
from lamer.envs.memory import MemoryWindow, MemoryWindows
from tests.actors.parts import CounterEnv, lease, plain_renderer, respond

UNBOUNDED = 2**30
RULES, REQUEST = "RULES: walk.", "REQUEST: say <action>walk</action>"


def window(steps: int, observations: int) -> MemoryWindow:
    return MemoryWindow(steps, observations)


class WalkEnv(CounterEnv):
    """Five turns through rooms with long descriptions; never solved."""

    max_turns = 5
    windows = MemoryWindows(playing=window(4, 3), reflecting=window(9, 9), past=window(3, 2))

    def step(self, response: str) -> StepResult:
        self.sum += 1
        return StepResult(f"walk{self.sum}", self._observe(), 0.0, is_done=False, is_solved=False)

    def play_prompt(self, view: PlayView) -> str:
        return f"{RULES}\n[past]{view.past}\n[current]{view.current}\n[now]{view.observation}\n{REQUEST}"

    def reflection_prompt(self, view: ReflectionView) -> str:
        return f"{RULES}\n[past]{view.past}\n[current]{view.current}\n{REQUEST}"

    def _observe(self) -> Observation:
        return Observation(f"room {self.sum} " + "x" * 50, f"state {self.sum}")


class WalkingPolicy:
    """Says the same in every turn and keeps the prompts as text."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    async def complete(self, request: Request) -> Completion:
        self.prompts.append(plain_renderer().decode(request.prompt_ids))
        is_play = request.kind is RequestKind.PLAY
        return respond(request, "<action>walk</action>" if is_play else "<remark>go on</remark>")


async def walk(budget: int, limit: int = UNBOUNDED, episodes: int = 3) -> tuple[Trial, list[str], Env]:
    env, policy = WalkEnv(), WalkingPolicy()
    limits = TrialLimits(max_turns=0, max_prompt_tokens=limit, shorten_to=budget)
    trial = await play_trial(lease(MemoryMode.BOTH, episodes), env, policy, plain_renderer(), limits, "walker")
    return trial, policy.prompts, env


def rooms(text: str, start: str, end: str) -> list[int]:
    """The numbers of the rooms that a part of a prompt describes."""
    part = text.partition(start)[2].partition(end)[0]
    return [int(word.split()[0]) for word in part.split("room ")[1:]]


def tokens(prompt: str) -> int:
    return len(plain_renderer().render(prompt.removesuffix("\n")))


# ---- the order -----------------------------------------------------------------------------------------------------


def test_cuts_go_from_old_observations_to_old_steps_to_whole_attempts() -> None:
    """Worked by hand: windows of 3 steps with 2 observations and of 2 with 1; attempts of 3, 0 and 2 steps."""
    none = window(2, 0)
    assert cuts(window(3, 2), 9, window(2, 1), (3, 0, 2)) == (
        Cut(window(3, 1), window(2, 1)),
        Cut(window(3, 0), window(2, 1)),
        Cut(window(3, 0), none),
        Cut(window(2, 0), none),
        Cut(window(1, 0), none),
        Cut(window(0, 0), none),
        Cut(window(0, 0), window(1, 0)),
        Cut(window(0, 0), window(1, 0), bare=1),
        Cut(window(0, 0), window(1, 0), bare=3),
    )


def test_windows_that_are_not_filled_are_cut_from_what_they_show() -> None:
    assert cuts(window(7, 2), 1, window(7, 2), ()) == (Cut(window(1, 0), window(0, 0)), Cut(window(0, 0), window(0, 0)))
    assert cuts(window(7, 2), 0, window(7, 2), (0, 0)) == ()


async def test_the_oldest_observation_goes_first_and_later_ones_as_the_budget_falls() -> None:
    _, full, _ = await walk(budget=0)
    last = full[-1]
    assert rooms(last, "[current]", "[now]") == [2, 3, 4]
    assert rooms(last, "[past]", "[current]") == [4, 5, 4, 5]
    seen = []
    for budget in range(tokens(last) - 1, 0, -20):
        _, prompts, _ = await walk(budget)
        text = prompts[-1]
        seen.append((rooms(text, "[current]", "[now]"), rooms(text, "[past]", "[current]"), text.count("walk") - 1))
    distinct = [state for index, state in enumerate(seen) if index == 0 or state != seen[index - 1]]
    assert distinct[:7] == [
        ([3, 4], [4, 5, 4, 5], 11),
        ([4], [4, 5, 4, 5], 11),
        ([], [4, 5, 4, 5], 11),
        ([], [5, 5], 11),
        ([], [], 11),
        ([], [], 10),
        ([], [], 9),
    ]
    assert distinct[-1] == ([], [], 1), "only the request speaks of walking, and the rules"


# ---- what never goes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.35])
async def test_every_prompt_fits_or_is_the_shortest_and_keeps_rules_present_remarks_and_request(share: float) -> None:
    _, full, _ = await walk(budget=0)
    budget = int(max(tokens(prompt) for prompt in full) * share)
    trial, prompts, _ = await walk(budget)
    assert len(prompts) == len(full) == 17
    for whole, sent in zip(full, prompts, strict=True):
        assert tokens(sent) <= budget
        assert sent.startswith(RULES)
        assert sent.rstrip().endswith(REQUEST)
        assert sent.partition("[now]")[2] == whole.partition("[now]")[2]
        assert sent.count("go on") == whole.count("go on")
        if tokens(whole) <= budget:
            assert sent == whole
    assert trial.is_trainable


async def test_what_was_left_out_is_counted_for_turns_and_reflections() -> None:
    _, full, _ = await walk(budget=0)
    trial, sent, _ = await walk(budget=400)
    expected = [tokens(whole) - tokens(cut) for whole, cut in zip(full, sent, strict=True)]
    assert [each.left_out_tokens for each in trial.completions()] == expected
    assert any(each.completion.left_out_tokens for each in trial.reflections)
    assert len(trial.left_out_tokens) == sum(count > 0 for count in expected) > 0


async def test_the_environments_windows_are_its_own_again_afterwards() -> None:
    _, _, env = await walk(budget=300)
    assert env.windows == WalkEnv.windows


# ---- when it is not enough, and when it is not needed --------------------------------------------------------------


async def test_a_prompt_that_is_too_long_without_all_that_may_go_is_an_overflow() -> None:
    _, full, _ = await walk(budget=0)
    limit = tokens(full[0]) + 5
    trial, sent, _ = await walk(budget=limit, limit=limit)
    assert [episode.status for episode in trial.episodes] == [EpisodeStatus.MAX_TURNS, EpisodeStatus.CONTEXT_OVERFLOW]
    assert all(tokens(prompt) <= limit for prompt in sent)


async def test_without_shortening_the_same_prompt_is_an_overflow_at_once() -> None:
    _, full, _ = await walk(budget=0)
    trial, _, _ = await walk(budget=0, limit=tokens(full[0]) + 5)
    assert [episode.status for episode in trial.episodes] == [EpisodeStatus.CONTEXT_OVERFLOW]
    assert len(trial.episodes[0].turns) == 1


class RandomPolicy:
    """Plays as the environment's scripted play does."""

    def __init__(self, env: Env) -> None:
        self._env, self._rng = env, random.Random(3)

    async def complete(self, request: Request) -> Completion:
        is_play = request.kind is RequestKind.PLAY
        text = self._env.random_response(self._rng) if is_play else self._env.random_reflection(self._rng)
        return respond(request, text)


async def play_randomly(name: str, options: dict[str, object], budgets: Sequence[int]) -> list[Trial]:
    """The same scripted trial under several budgets."""
    trials = []
    for budget in budgets:
        task = Task(name, registry.canonical_config(name, options), 5)
        env = registry.make_env(task)
        limits = TrialLimits(max_turns=4, max_prompt_tokens=UNBOUNDED, shorten_to=budget)
        trial = await play_trial(lease(task=task), env, RandomPolicy(env), plain_renderer(), limits, "random")
        trials.append(msgspec.structs.replace(trial, seconds=0.0))
    return trials


@pytest.mark.parametrize("prompt", ["full", "compact"])
@pytest.mark.parametrize("name", ["doors", "minesweeper", "sokoban"])
async def test_prompts_that_fit_are_the_same_bytes_with_and_without_a_budget(name: str, prompt: str) -> None:
    (free,) = await play_randomly(name, {"prompt": prompt}, [0])
    longest = max(len(each.prompt_ids) for each in free.completions())
    (bounded,) = await play_randomly(name, {"prompt": prompt}, [longest])
    assert encode_trial(bounded) == encode_trial(free)


@pytest.mark.parametrize("name", ["minesweeper", "sokoban"])
async def test_a_real_games_prompts_are_shortened_to_a_budget_and_its_play_is_the_same(name: str) -> None:
    (free,) = await play_randomly(name, {"prompt": "full"}, [0])
    longest = max(len(each.prompt_ids) for each in free.completions())
    budget = int(longest * 0.85)
    (bounded,) = await play_randomly(name, {"prompt": "full"}, [budget])
    sent = [len(each.prompt_ids) for each in bounded.completions()]
    assert max(sent) <= budget < longest
    assert bounded.left_out_tokens
    assert outcomes(bounded) == outcomes(free)


def outcomes(trial: Trial) -> list[tuple[str | None, float, str]]:
    return [(turn.action, turn.reward, turn.anchor_state) for one in trial.episodes for turn in one.turns]


def test_a_shorter_view_of_past_attempts_leaves_doors_its_last_opening() -> None:
    """A style that counts steps from the end must never be handed a window of none."""
    from lamer.actors.memory import AttemptMemory, Memory

    env = registry.make_env(Task("doors", registry.canonical_config("doors", {}), 0))
    memory, attempt = Memory(env, MemoryMode.TRAJECTORY), AttemptMemory(env)
    env.reset()
    attempt.add(env.step("<action>4</action>"))
    memory.add(attempt, "")
    assert memory.past(window(1, 0)) == "4 left"
    assert memory.past(window(1, 0), bare=1) == ""
    assert attempt.shown(replace(env.windows.playing, steps=0)) == ""
