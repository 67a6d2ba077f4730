"""A run that can train nothing ends, and says what was wrong with its trials."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamer.common.errors import RunFailed
from lamer.common.settings import BatchSettings
from lamer.learner.gateway.pool import TrainingTasks, TrialPool
from lamer.learner.journal.writer import Journal


async def ending(folder: Path, reason: str, outcome: str) -> str:
    """What a run says in the end whose every trial fails for a reason."""
    journal = Journal(folder / "journal.db", lambda _: None, lambda _: None)
    tasks = TrainingTasks("doors", "{}", 0)
    pool = TrialPool("run", BatchSettings(groups=1, group_size=2), 0, tasks, journal)

    def fail_all() -> None:
        while (taken := pool.take_slot(0)) is not None:
            pool.fail(taken[0].group_id, taken[1], reason, outcome)

    try:
        with pytest.raises(RunFailed) as ended:
            fail_all()
        return str(ended.value)
    finally:
        await journal.close()


async def test_the_last_failure_is_told_and_advice_is_given_only_where_it_helps(tmp_path: Path) -> None:
    cause = "episode 0: environment_error: StepResult.action is 3 (int), it must be text or None"
    said = await ending(tmp_path, "trial_failed", cause)
    assert "21 groups in a row were dropped (trial_failed: 21)" in said
    assert said.endswith(f"the last trial that failed: run/train/20/0, trial_failed: {cause}")
    assert "max_prompt_tokens" not in said


async def test_prompts_that_outgrow_the_limit_ask_for_a_larger_one(tmp_path: Path) -> None:
    said = await ending(tmp_path, "context_overflow", "context_overflow")
    assert "raise trial.max_prompt_tokens" in said
    assert said.endswith("the last trial that failed: run/train/20/0, context_overflow")
