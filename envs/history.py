"""Past steps and attempts as text: what memory puts into a prompt.

The format of a step is the one that the reference implementation shows its policy:

    Action 3: up, left
    Observation 3:
    0: # # # ...

An observation of one line follows on the same line; one outside the window of observations is replaced by "...". Steps
are numbered from the start of their attempt, also when the window leaves the first ones out. Environments with prompts
of their own size override `Env.render_steps` and `Env.render_past`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lamer.envs.memory import MemoryStep, MemoryWindow, PastAttempt

StepsRenderer = Callable[[Sequence[MemoryStep], MemoryWindow], str]


def render_steps(steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
    """The last `window.steps` steps of an attempt, the last `window.observations` of them with their observation."""
    first_shown = max(len(steps) - window.steps, 0)
    first_full = len(steps) - window.observations
    lines: list[str] = []
    for index in range(first_shown, len(steps)):
        observation = steps[index].observation if index >= first_full else "..."
        separator = "\n" if "\n" in observation else " "
        lines.append(f"Action {index + 1}: {steps[index].action}")
        lines.append(f"Observation {index + 1}:{separator}{observation}")
    return "\n".join(lines)


def render_past(attempts: Sequence[PastAttempt], window: MemoryWindow, render: StepsRenderer) -> str:
    """Failed attempts in order, each with its steps (through `render`) and its reflection where memory keeps them."""
    blocks: list[str] = []
    for attempt in attempts:
        lines = [f"Attempt {attempt.index + 1} failed."]
        if attempt.steps:
            lines.append(render(attempt.steps, window))
        if attempt.reflection:
            lines.append(f"Reflection on attempt {attempt.index + 1}: {attempt.reflection}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
