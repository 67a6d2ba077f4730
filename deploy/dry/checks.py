"""What of a configuration can't work, as an error."""

from __future__ import annotations

from collections.abc import Iterator

from lamer.common.errors import BadInput
from lamer.common.settings import Settings
from lamer.deploy.dry.workload import PromptLengths
from lamer.learner.memory.architecture import Architecture


def longest_sequence(settings: Settings) -> int:
    """The longest prompt and response that the settings allow, in tokens."""
    trial = settings.trial
    answers = [trial.max_response_tokens] + ([trial.max_reflection_tokens] if trial.memory.has_reflections else [])
    return trial.max_prompt_tokens + max(answers)


def check(settings: Settings, model: Architecture, prompts: PromptLengths) -> None:
    """Refuse what would end a run, before it is one.

    Raises:
        BadInput: a prompt of scripted play is over `trial.max_prompt_tokens`, the first one where later ones may be
            shortened; the longest prompt and response are over `optimizer.pack_tokens` or the model's context; a batch
            can't be divided into its minibatches or groups.
    """
    for problem in _problems(settings, model, prompts):
        raise BadInput(problem)


def _problems(settings: Settings, model: Architecture, prompts: PromptLengths) -> Iterator[str]:
    batch, longest = settings.batch, longest_sequence(settings)
    least = prompts.first if settings.trial.shorten else prompts.longest
    if least > settings.trial.max_prompt_tokens:
        about = "about " if prompts.is_estimate else ""
        yield (
            f"a prompt of scripted play has {about}{least} tokens, trial.max_prompt_tokens is "
            f"{settings.trial.max_prompt_tokens}: raise it, or env.options.prompt=compact"
        )
    if longest > model.context:
        yield (
            f"the longest prompt and response are {longest} tokens, the context of {model.name} is {model.context}: "
            "lower trial.max_prompt_tokens or trial.max_response_tokens"
        )
    if not batch.updates:
        return
    if longest > settings.optimizer.pack_tokens:
        yield (
            f"optimizer.pack_tokens {settings.optimizer.pack_tokens} is under the longest prompt and response, "
            f"{longest} tokens"
        )
    if batch.group_size == 1 and settings.advantage.estimator in ("gigpo", "grpo", "rloo"):
        yield f"batch.group_size is 1: {settings.advantage.estimator} compares the trials of a group with each other"
    trials = batch.groups * batch.group_size
    if settings.optimizer.minibatches > trials:
        yield (
            f"a batch of {batch.groups} x {batch.group_size} trials may hold no more than {trials} responses, which "
            f"can't be divided into optimizer.minibatches = {settings.optimizer.minibatches}"
        )
