"""One trial against scripted policies: when it ends, what is remembered, what its record says."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lamer.actors.episode import Stage
from lamer.actors.policy import ContextOverflow, InferenceError, RequestKind, retry_seed, sampling_seed
from lamer.actors.trial import TrialLimits, TrialPlay, play_trial
from lamer.common.codec import decode_trial, encode_trial
from lamer.common.records import EpisodeStatus, MemoryMode, Purpose, Task, Trial
from lamer.common.settings import Prompting
from lamer.envs import registry
from lamer.envs.base import EnvironmentFault, Observation, StepResult
from tests.actors.parts import LIMITS, BrokenEnv, CounterEnv, ScriptedPolicy, lease, plain_renderer

SOLVE = "<action>3</action>"
ONE = "<action>1</action>"
OVERSHOOT = "<action>4</action>"
REMARK = "<remark>say three</remark>"


async def play(
    script: list[str | Exception],
    memory: MemoryMode = MemoryMode.BOTH,
    env: CounterEnv | None = None,
    limits: TrialLimits = LIMITS,
    episodes: int = 3,
) -> tuple[Trial, ScriptedPolicy, str]:
    policy = ScriptedPolicy(script)
    stage = Stage(lease(memory, episodes), env or CounterEnv(), policy, plain_renderer(), limits)
    trial_play = TrialPlay(stage, "actor-1")
    trial = await trial_play.run()
    return decode_trial(encode_trial(trial)), policy, trial_play.failure


def statuses(trial: Trial) -> list[EpisodeStatus]:
    return [episode.status for episode in trial.episodes]


async def test_a_trial_stops_at_its_first_success() -> None:
    trial, policy, _ = await play([OVERSHOOT, REMARK, SOLVE])
    assert statuses(trial) == [EpisodeStatus.FAILED, EpisodeStatus.SOLVED]
    assert trial.solved_at == 1
    assert len(trial.reflections) == 1
    assert len(policy.requests) == 3


async def test_no_reflection_follows_the_last_episode() -> None:
    trial, _, _ = await play([OVERSHOOT, REMARK, OVERSHOOT, REMARK, OVERSHOOT])
    assert statuses(trial) == [EpisodeStatus.FAILED] * 3
    assert [reflection.text for reflection in trial.reflections] == ["say three"] * 2
    assert trial.is_trainable


async def test_every_episode_starts_from_the_same_initial_state() -> None:
    env = CounterEnv()
    _, policy, _ = await play([ONE, OVERSHOOT, OVERSHOOT, SOLVE], MemoryMode.NONE, env)
    first_prompts = [text for text in policy.prompts(RequestKind.PLAY) if ".0 " in text]
    assert env.resets == 3
    assert all("initial[sum 0] now[sum 0]" in text for text in first_prompts)
    assert len(first_prompts) == 3


async def test_an_environment_stays_open_for_its_owner() -> None:
    env = CounterEnv()
    await play([SOLVE], env=env)
    assert not env.is_closed


async def test_an_episode_without_an_end_ends_at_its_last_turn() -> None:
    trial, _, _ = await play([ONE, "<action>0</action>", "<action>0</action>"], episodes=1)
    assert statuses(trial) == [EpisodeStatus.MAX_TURNS]
    assert len(trial.episodes[0].turns) == 3


async def test_a_limit_of_turns_goes_before_the_environments_own() -> None:
    trial, _, _ = await play([ONE], limits=TrialLimits(max_turns=1, max_prompt_tokens=4096), episodes=1)
    assert len(trial.episodes[0].turns) == 1


async def test_turns_keep_reward_action_and_the_state_before_the_action() -> None:
    trial, _, _ = await play([ONE, "<action>2</action>"])
    turns = trial.episodes[0].turns
    assert [turn.anchor_state for turn in turns] == ["state 0", "state 1"]
    assert [turn.action for turn in turns] == ["1", "2"]
    assert trial.episodes[0].reward == 2.0


async def test_an_invalid_action_costs_a_turn_and_is_remembered_as_invalid() -> None:
    trial, policy, _ = await play(["no tags here", SOLVE])
    assert [turn.is_valid for turn in trial.episodes[0].turns] == [False, True]
    assert "current[Action 1: invalid" in policy.prompts(RequestKind.PLAY)[1]


async def test_requests_carry_the_leases_sampling_and_the_environments_stops() -> None:
    _, policy, _ = await play([OVERSHOOT, REMARK, SOLVE])
    playing, reflecting, _ = policy.requests
    assert (playing.temperature, playing.top_p, playing.top_k, playing.max_tokens) == (0.8, 0.9, 5, 32)
    assert (playing.stop, reflecting.stop) == (("</action>",), ("</remark>",))
    assert reflecting.max_tokens == 16
    assert [request.kind for request in policy.requests] == [RequestKind.PLAY, RequestKind.REFLECT, RequestKind.PLAY]


# ---- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "has_steps", "has_remark"),
    [
        (MemoryMode.NONE, False, False),
        (MemoryMode.REFLECTION, False, True),
        (MemoryMode.TRAJECTORY, True, False),
        (MemoryMode.BOTH, True, True),
    ],
)
async def test_later_episodes_see_what_the_memory_mode_keeps(
    memory: MemoryMode, has_steps: bool, has_remark: bool
) -> None:
    script: list[str | Exception] = [OVERSHOOT, REMARK, SOLVE] if memory.has_reflections else [OVERSHOOT, SOLVE]
    trial, policy, _ = await play(script, memory)
    past = policy.prompts(RequestKind.PLAY)[-1].partition("past[")[2].rpartition("] current")[0]
    assert ("Action 1: 4" in past) is has_steps
    assert ("say three" in past) is has_remark
    assert (past == "") is (memory is MemoryMode.NONE)
    assert len(trial.reflections) == int(memory.has_reflections)


async def test_a_reflection_prompt_shows_the_whole_failed_attempt_whatever_the_mode() -> None:
    _, policy, _ = await play([ONE, ONE, OVERSHOOT, REMARK, SOLVE], MemoryMode.REFLECTION)
    current = policy.prompts(RequestKind.REFLECT)[0].partition("current[")[2]
    assert all(f"Action {number}:" in current for number in (1, 2, 3))


async def test_windows_of_the_environment_bound_what_is_shown() -> None:
    # CounterEnv shows the last two steps of the attempt being played, one of them in full, and one of a past attempt.
    _, policy, _ = await play([ONE, "<action>0</action>", OVERSHOOT, SOLVE], MemoryMode.TRAJECTORY)
    third, later = policy.prompts(RequestKind.PLAY)[2:4]
    assert third.count("sum 1") == 2  # the observation now, and the last remembered one
    assert later.partition("past[")[2].count("Action") == 1


async def test_a_response_without_a_remark_is_an_invalid_empty_reflection() -> None:
    trial, policy, _ = await play([OVERSHOOT, "hm", SOLVE], MemoryMode.REFLECTION)
    assert not trial.reflections[0].is_valid
    assert trial.reflections[0].text == ""
    assert "hm" not in policy.prompts(RequestKind.PLAY)[1]


async def test_doors_reveals_the_failed_opening_in_the_next_prompt() -> None:
    task = Task("doors", registry.canonical_config("doors", {"doors": 5}), 4)
    policy = ScriptedPolicy(["<action>1</action>", "<remark>go on</remark>", "<action>5</action>"])
    trial = await play_trial(lease(task=task), registry.make_env(task), policy, plain_renderer(), LIMITS, "a")
    assert trial.solved_at == 1
    assert "1 right" in policy.prompts(RequestKind.PLAY)[1]
    assert (trial.purpose, trial.actor, trial.slot) == (Purpose.TRAIN, "a", 0)


@pytest.mark.parametrize(("prompting", "has_thoughts"), [(Prompting.ACT, False), (Prompting.REACT, True)])
async def test_play_prompts_ask_for_thoughts_as_the_prompting_says(prompting: Prompting, has_thoughts: bool) -> None:
    task = Task("doors", registry.canonical_config("doors", {"doors": 5, "prompt": "full"}), 4)
    policy = ScriptedPolicy(["<action>1</action>", "<remark>it is to the right</remark>", "<action>5</action>"])
    limits = TrialLimits(max_turns=0, max_prompt_tokens=4096, prompting=prompting)
    await play_trial(lease(task=task), registry.make_env(task), policy, plain_renderer(), limits, "a")
    prompts = policy.prompts(RequestKind.PLAY)
    assert [("step by step" in prompt) for prompt in prompts] == [has_thoughts] * 2
    assert [("write nothing before it" in prompt) for prompt in prompts] == [not has_thoughts] * 2
    assert "the prize lies to the right of it" in prompts[1]
    assert "it is to the right" in prompts[1], "Reflexion: what was said about the failed attempt"


# ---- failures ------------------------------------------------------------------------------------------------------


async def test_a_prompt_over_the_limit_overflows_without_a_request() -> None:
    trial, policy, failure = await play([], limits=TrialLimits(max_turns=0, max_prompt_tokens=10))
    assert statuses(trial) == [EpisodeStatus.CONTEXT_OVERFLOW]
    assert policy.requests == []
    assert "trial.max_prompt_tokens is 10" in failure


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ContextOverflow("too long"), EpisodeStatus.CONTEXT_OVERFLOW),
        (InferenceError("no server"), EpisodeStatus.INFERENCE_ERROR),
    ],
)
async def test_a_request_that_fails_ends_the_trial_with_its_status(error: Exception, status: EpisodeStatus) -> None:
    trial, _, failure = await play([ONE, error])
    assert statuses(trial) == [status]
    assert len(trial.episodes[0].turns) == 1
    assert failure == str(error)


@pytest.mark.parametrize("method", ["reset", "step", "play_prompt", "render_steps"])
async def test_an_environment_that_fails_anywhere_ends_the_trial_as_environment_error(method: str) -> None:
    trial, _, failure = await play([ONE, ONE], env=BrokenEnv(method))
    assert statuses(trial) == [EpisodeStatus.ENVIRONMENT_ERROR]
    assert failure == "the engine crashed"


async def test_an_environments_bug_is_an_environment_error_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    trial, _, failure = await play([ONE], env=CounterEnv(fault=ZeroDivisionError("oops")))
    assert statuses(trial) == [EpisodeStatus.ENVIRONMENT_ERROR]
    assert failure == "ZeroDivisionError: oops"
    assert "Traceback" in caplog.text


class OddEnv(CounterEnv):
    """Returns something of one's choice from a method, or has it for an attribute."""

    def __init__(self, name: str, value: object) -> None:
        super().__init__()
        setattr(self, name, value if name in ("max_turns", "stop", "windows") else lambda *_: value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("reset", "sum 0", r"what reset returned is 'sum 0' \(str\)"),
        ("reset", Observation("sum 0", 0), r"Observation.anchor_state is 0 \(int\)"),
        ("step", StepResult(3, Observation("", ""), 0.0, True, True), r"StepResult.action is 3 \(int\)"),
        ("step", StepResult("3", Observation("", ""), float("nan"), True, True), r"StepResult.reward is nan \(float\)"),
        ("step", None, r"what step returned is None \(NoneType\)"),
        ("play_prompt", b"PLAY", r"what play_prompt returned is b'PLAY' \(bytes\)"),
        ("reflection_prompt", None, r"what reflection_prompt returned is None"),
        ("parse_reflection", 7, r"what parse_reflection returned is 7 \(int\)"),
        ("render_steps", ["one"], r"what render_steps returned is \['one'\] \(list\)"),
        ("render_past", 1, r"what render_past returned is 1 \(int\)"),
        ("max_turns", 0, r"max_turns is 0 \(int\), it must be a whole number from 1 on"),
        ("stop", "</action>", r"stop is '</action>' \(str\), it must be a tuple"),
        ("windows", 9, r"AttributeError"),
    ],
)
async def test_what_an_environment_may_not_return_is_an_environment_error_that_says_what_it_was(
    name: str, value: object, said: str
) -> None:
    trial, _, failure = await play([OVERSHOOT, REMARK, ONE, OVERSHOOT, REMARK, ONE], env=OddEnv(name, value))
    assert statuses(trial)[-1] is EpisodeStatus.ENVIRONMENT_ERROR
    assert re.search(said, failure)


async def test_numbers_of_numpy_are_numbers() -> None:
    result = StepResult("3", Observation("", ""), np.float32(2.0), np.bool_(True), np.bool_(True), np.float32(0.5))
    trial, _, failure = await play([ONE], env=OddEnv("step", result))
    assert failure == ""
    assert statuses(trial) == [EpisodeStatus.SOLVED]
    assert (trial.episodes[0].turns[0].reward, trial.episodes[0].turns[0].score) == (2.0, 0.5)


LONE = "\udcff"
"""What Python makes of a byte that is not UTF-8."""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reset", Observation(f"sum {LONE}", f"state {LONE}")),
        ("step", StepResult(f"3{LONE}", Observation(LONE, LONE), 0.0, is_done=False, is_solved=False)),
        ("play_prompt", f"PLAY {LONE}"),
        ("reflection_prompt", f"REFLECT {LONE}"),
        ("parse_reflection", f"say {LONE}"),
        ("render_steps", LONE),
        ("render_past", LONE),
    ],
)
async def test_a_byte_that_is_no_text_is_replaced_wherever_an_environment_returns_it(name: str, value: object) -> None:
    trial, _, failure = await play(
        [ONE, ONE, OVERSHOOT, REMARK, ONE, ONE, SOLVE, REMARK, ONE, ONE, ONE], env=OddEnv(name, value)
    )
    assert failure == ""
    assert trial.is_trainable


@pytest.mark.parametrize(
    "error", [RuntimeError(f"no file {LONE}"), EnvironmentFault(f"no file {LONE}"), SystemExit(LONE)]
)
async def test_a_fault_may_hold_a_byte_that_is_no_text(error: BaseException) -> None:
    trial, _, failure = await play([ONE], env=CounterEnv(fault=error))
    assert statuses(trial) == [EpisodeStatus.ENVIRONMENT_ERROR]
    assert "\ufffd" in failure
    assert failure.encode()


@pytest.mark.parametrize("method", ["reflection_prompt", "parse_reflection"])
async def test_a_failed_reflection_marks_the_episode_before_it(method: str) -> None:
    trial, _, failure = await play([OVERSHOOT, REMARK], env=BrokenEnv(method))
    assert statuses(trial) == [EpisodeStatus.ENVIRONMENT_ERROR]
    assert not trial.is_trainable
    assert failure.startswith("reflection:")


async def test_the_second_reflection_may_fail_too() -> None:
    trial, _, _ = await play([OVERSHOOT, REMARK, OVERSHOOT, InferenceError("gone")])
    assert statuses(trial) == [EpisodeStatus.FAILED, EpisodeStatus.INFERENCE_ERROR]
    assert len(trial.reflections) == 1


async def test_a_fault_of_the_environment_keeps_its_message() -> None:
    _, _, failure = await play([ONE], env=CounterEnv(fault=EnvironmentFault("data is broken")))
    assert failure == "data is broken"


# ---- seeds ---------------------------------------------------------------------------------------------------------


def test_seeds_are_the_same_in_every_process() -> None:
    # Worked once with hashlib: blake2b of "run/train/4/0|1|2", 8 bytes little-endian, shifted right by one.
    assert sampling_seed("run/train/4/0", 1, 2) == 177328510655383274
    assert retry_seed(5, 0) == 5
    assert retry_seed(5, 1) == retry_seed(5, 1) != retry_seed(5, 2)


async def test_every_request_of_a_trial_has_its_own_seed_of_63_bits() -> None:
    _, policy, _ = await play([ONE, ONE, OVERSHOOT, REMARK, OVERSHOOT, REMARK, OVERSHOOT])
    seeds = [request.seed for request in policy.requests]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


async def test_the_same_trial_asks_with_the_same_seeds() -> None:
    _, one, _ = await play([OVERSHOOT, REMARK, SOLVE])
    _, other, _ = await play([OVERSHOOT, REMARK, SOLVE])
    assert [request.seed for request in one.requests] == [request.seed for request in other.requests]
