"""The bounds of a trial, each from both sides; and that none of them is in the way of an honest actor."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lamer.actors.episode import Stage
from lamer.actors.policy import ContextOverflow
from lamer.actors.trial import TrialLimits, TrialPlay
from lamer.common.codec import CodecError, decode_trial, encode_trial
from lamer.common.messages import Sampling, TrialDone
from lamer.common.records import (
    Completion,
    Episode,
    EpisodeStatus,
    FinishReason,
    MemoryMode,
    Purpose,
    Reflection,
    Trial,
    Turn,
    VersionSpan,
)
from lamer.common.settings import TrialSettings
from lamer.learner.gateway.checking.quarantine import QUARANTINE_FILES, Quarantine
from lamer.learner.gateway.checking.rules import TrialRules, read_vocabulary, with_logprobs_at_most_zero
from lamer.learner.measuring.evaluation import EvaluationPlan
from tests.actors.parts import CounterEnv, ScriptedPolicy, lease, plain_renderer

replace = msgspec.structs.replace

VOCABULARY, NEWEST = 300, 7
SETTINGS = TrialSettings(
    episodes=3,
    memory=MemoryMode.REFLECTION,
    max_turns=4,
    max_prompt_tokens=20,
    max_response_tokens=10,
    max_reflection_tokens=5,
    temperature=0.8,
)
ASKED = EvaluationPlan(
    "", 0, "counter", "{}", 10, 1, 2, MemoryMode.NONE, Sampling(0.5, 1.0, 0, SETTINGS.max_response_tokens, 5)
)
RULES = TrialRules(SETTINGS, ASKED, VOCABULARY)


def completion(
    ids: Sequence[int] = (1, 2),
    prompt: Sequence[int] = (3,),
    logprob: float = -1.0,
    version: int = 0,
    temperature: float = 0.8,
    cached: int = 0,
) -> Completion:
    return Completion(
        np.array(prompt, np.int32),
        np.array(ids, np.int32),
        np.array([-1.0] * (len(ids) - 1) + [logprob], np.float32),
        (VersionSpan(version, 0, len(ids)),),
        FinishReason.STOP,
        temperature,
        cached,
    )


def turn(response: Completion | None = None, reward: float = 1.0, score: float | None = None) -> Turn:
    return Turn(response or completion(), "a", reward, "state", score)


def trial(
    turns: Sequence[Turn] = (turn(),),
    episodes: int = 1,
    remarks: Sequence[Completion] = (),
    purpose: Purpose = Purpose.TRAIN,
    seconds: float = 1.0,
    actor: str = "actor",
) -> Trial:
    leased = lease(purpose=purpose)
    played = tuple(Episode(index, tuple(turns), EpisodeStatus.FAILED) for index in range(episodes))
    said = tuple(Reflection(each, "remark", is_valid=True) for each in remarks)
    ids = (leased.trial_id, leased.group_id, leased.slot, leased.purpose, leased.task)
    return Trial(*ids, played, said, actor, seconds)


def of(**changes: object) -> Trial:
    return trial([turn(completion(**changes))])  # type: ignore[arg-type]


EVALUATED = completion(temperature=0.5)
INSIDE = [
    trial([turn(reward=1e6), turn(reward=-1e6), turn(score=0.5)]),
    of(ids=(0, VOCABULARY - 1), prompt=(0, VOCABULARY - 1)),
    of(logprob=-1000.0),
    of(logprob=0.0),
    of(logprob=1e-4),
    of(version=0),
    of(version=NEWEST),
    of(ids=[1] * 10),
    of(prompt=[1] * 20),
    of(cached=2**31 - 1),
    trial([turn()] * 4),
    trial(episodes=3, remarks=[completion([1] * 5)] * 2),
    trial([turn(EVALUATED)], episodes=2, purpose=Purpose.EVALUATE),
    trial(seconds=0.0),
    trial(episodes=0),
]
OUTSIDE = {
    "a reward is nan": trial([turn(), turn(reward=math.nan)]),
    "a reward is inf": trial([turn(reward=math.inf)]),
    "a reward is 1000001.0": trial([turn(reward=1e6 + 1)]),
    "a reward is -1000001.0": trial([turn(reward=-1e6 - 1)]),
    "a score is nan": trial([turn(score=math.nan)]),
    "a token id is 300": of(ids=(1, VOCABULARY)),
    "a token id is -1": of(ids=(-1, 1)),
    "a token id is 301": of(prompt=(1, VOCABULARY + 1)),
    "a token id is -2": of(prompt=(-2, 1)),
    "a logprob is -1000.5": of(logprob=-1000.5),
    "a logprob is -3.0": of(logprob=-3e38),
    "a logprob is 0.00019": of(logprob=2e-4),
    "a temperature is 0.0": of(temperature=0.0),
    "a temperature is 0.81": of(temperature=0.81),
    "a temperature is nan": of(temperature=math.nan),
    "a temperature is 0.5": of(temperature=0.5),  # that of evaluations
    "a policy version is 8": of(version=NEWEST + 1),
    "a policy version is -1": of(version=-1),
    "a policy version is 1000000": of(version=10**6),
    "the length of a response is 11": of(ids=[1] * 11),
    "the length of a prompt is 21": of(prompt=[1] * 21),
    "the length of a reflection is 6": trial(episodes=2, remarks=[completion([1] * 6)]),
    "a token id is 302": trial(episodes=2, remarks=[completion([VOCABULARY + 2])]),
    "the number of turns is 5": trial([turn()] * 5),
    "the number of episodes is 4": trial(episodes=4),
    "the number of episodes is 3": trial([turn(EVALUATED)], episodes=3, purpose=Purpose.EVALUATE),
    "the number of reflections is 1": trial([turn(EVALUATED)], 2, [EVALUATED], Purpose.EVALUATE),
    "cached_tokens is -1": of(cached=-1),
    "cached_tokens is 2147483648": of(cached=2**31),
    "seconds is nan": trial(seconds=math.nan),
    "seconds is -1.0": trial(seconds=-1.0),
    "a name has 1 to 128 characters": trial(actor="a\nb"),
}


@pytest.mark.parametrize("number", range(len(INSIDE)))
def test_a_trial_inside_every_bound_is_taken(number: int) -> None:
    assert RULES.problem(decode_trial(encode_trial(INSIDE[number])), NEWEST) == ""


@pytest.mark.parametrize("problem", OUTSIDE)
def test_a_trial_outside_one_bound_is_refused_with_the_value(problem: str) -> None:
    assert RULES.problem(decode_trial(encode_trial(OUTSIDE[problem])), NEWEST).startswith(problem)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ids", np.array([1], np.int32)),  # two logprobs
        ("ids", np.array([1, 2], np.float32)),
        ("behaviour_logprobs", np.array([-1.0, math.nan], np.float32)),
        ("behaviour_logprobs", np.array([-1.0, -math.inf], np.float32)),
        ("versions", (VersionSpan(0, 0, 1),)),
        ("versions", (VersionSpan(0, 0, 1), VersionSpan(0, 0, 2))),
        ("versions", ()),
    ],
)
def test_lengths_that_disagree_are_no_trial(field: str, value: object) -> None:
    body = msgspec.msgpack.decode(encode_trial(trial()))
    coded = msgspec.msgpack.decode(msgspec.msgpack.encode(value, enc_hook=_array))
    body["episodes"][0]["turns"][0]["completion"][field] = coded
    with pytest.raises(CodecError):
        decode_trial(msgspec.msgpack.encode(body))


def _array(value: np.ndarray) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(1 if value.dtype == np.int32 else 2, value.tobytes())


def test_ids_are_not_checked_where_the_vocabulary_is_not_known_but_for_their_sign() -> None:
    rules = TrialRules(SETTINGS, ASKED, None)
    assert rules.problem(of(ids=[2**31 - 1]), NEWEST) == ""
    assert rules.problem(of(ids=[-1]), NEWEST) != ""


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"vocab_size": 7}, 7),
        ({"text_config": {"vocab_size": 8}}, 8),
        ({}, None),
        ([], None),
        ({"vocab_size": "7"}, None),
    ],
)
def test_the_vocabulary_is_what_the_models_folder_says(tmp_path: Path, config: object, size: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_vocabulary(tmp_path) == size


def test_logprobs_that_rounding_took_above_zero_become_zero_and_others_stay_bit_for_bit() -> None:
    odd = trial([turn(completion(logprob=1e-5)), turn(completion(logprob=-0.1))], 2, [completion(logprob=1e-4)])
    stored = with_logprobs_at_most_zero(odd)
    for before, after in zip(odd.completions(), stored.completions(), strict=True):
        assert after.behaviour_logprobs.tolist() == np.minimum(before.behaviour_logprobs, 0).tolist()
        assert after.behaviour_logprobs.dtype == np.float32
    usual = trial([turn(completion(logprob=0.0))])
    assert with_logprobs_at_most_zero(usual) is usual


# --- honest actors -----------------------------------------------------------------------------------------------

SOLVE, FAIL, ZERO, REMARK = "<action>3</action>", "<action>4</action>", "<action>0</action>", "<remark>3</remark>"
Play = tuple[Sequence[str | Exception], MemoryMode, Purpose, CounterEnv]
HONEST: dict[str, Play] = {
    "solved": ([SOLVE], MemoryMode.BOTH, Purpose.TRAIN, CounterEnv()),
    "reflections": ([FAIL, REMARK, FAIL, REMARK, FAIL], MemoryMode.BOTH, Purpose.TRAIN, CounterEnv()),
    "max turns": ([ZERO] * 3 + [REMARK, SOLVE], MemoryMode.REFLECTION, Purpose.TRAIN, CounterEnv()),
    "no reflection in the response": ([FAIL, "?", FAIL, "?", FAIL], MemoryMode.BOTH, Purpose.TRAIN, CounterEnv()),
    "a response of one token": (["?", "?", "?", REMARK, SOLVE], MemoryMode.BOTH, Purpose.TRAIN, CounterEnv()),
    "as long as may be": (["x" * 32] * 3 + ["y" * 32, SOLVE], MemoryMode.BOTH, Purpose.TRAIN, CounterEnv()),
    "the prompt outgrew": ([FAIL, REMARK, ContextOverflow("no")], MemoryMode.BOTH, Purpose.TRAIN, CounterEnv()),
    "the reflection outgrew": ([FAIL, ContextOverflow("no")], MemoryMode.BOTH, Purpose.TRAIN, CounterEnv()),
    "the first prompt outgrew": ([ContextOverflow("no")], MemoryMode.BOTH, Purpose.TRAIN, CounterEnv()),
    "the highest reward": ([SOLVE], MemoryMode.NONE, Purpose.TRAIN, CounterEnv(reward=1e6)),
    "evaluation": ([FAIL, REMARK, SOLVE], MemoryMode.BOTH, Purpose.EVALUATE, CounterEnv()),
    "evaluation without memory": ([FAIL, SOLVE], MemoryMode.NONE, Purpose.EVALUATE, CounterEnv()),
    "environment fault": ([SOLVE], MemoryMode.BOTH, Purpose.TRAIN, CounterEnv(reward=1.1e6)),
}


@pytest.mark.parametrize("name", HONEST)
async def test_what_an_honest_actor_sends_is_never_refused(name: str) -> None:
    script, memory, purpose, env = HONEST[name]
    leased = lease(memory, purpose=purpose)
    limits = TrialLimits(max_turns=0, max_prompt_tokens=600, shorten_to=600)
    played = await TrialPlay(Stage(leased, env, ScriptedPolicy(script), plain_renderer(), limits), "actor-1").run()
    sampling = replace(leased.sampling, max_reflection_tokens=32)
    settings = TrialSettings(
        memory=memory, max_prompt_tokens=600, max_response_tokens=32, max_reflection_tokens=32, temperature=0.8
    )
    asked = EvaluationPlan("", 0, "counter", "{}", 1, 1, leased.episodes, memory, sampling)
    rules = TrialRules(settings, asked, plain_renderer().vocab_size)
    assert rules.problem(decode_trial(encode_trial(played)), newest_version=0) == ""
    assert played.is_trainable == (name not in NOT_TRAINED)


NOT_TRAINED = {"the prompt outgrew", "the reflection outgrew", "the first prompt outgrew", "environment fault"}

# --- quarantine --------------------------------------------------------------------------------------------------


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def test_the_quarantine_is_bounded_in_bytes_over_all_lives_of_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "quarantine"
    Quarantine(folder, 100).keep(TrialDone("a", b"x" * 60), "wrong")
    later = Quarantine(folder, 100)
    later.keep(TrialDone("b", b"y" * 41), "too much")
    assert kept(folder) == ["000.msgpack", "000.txt"]
    later.keep(TrialDone("c\nd", b"z" * 40), "wrong\nas well")
    assert kept(folder) == ["000.msgpack", "000.txt", "001.msgpack", "001.txt"]
    assert (folder / "001.txt").read_text() == "c\\nd\nwrong\\nas well\n"


def test_the_quarantine_is_bounded_in_files(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine", 1000)
    for _ in range(QUARANTINE_FILES + 1):
        quarantine.keep(TrialDone("a", b""), "wrong")
    assert len(kept(tmp_path / "quarantine")) == 2 * QUARANTINE_FILES


def test_a_full_disk_costs_the_quarantine_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "quarantine").write_text("in the way")
    Quarantine(tmp_path / "quarantine", 1000).keep(TrialDone("a", b"x"), "wrong")
    assert "can't be kept in quarantine" in caplog.text
