"""The prompts of doors: compact (a late episode takes at most 64 tokens of a small tokenizer) and full."""

from __future__ import annotations

from collections.abc import Sequence

from lamer.common.settings import Prompting
from lamer.envs.base import PlayView, ReflectionView
from lamer.envs.memory import MemoryStep, MemoryWindow
from lamer.envs.prompts import CompactStyle, PromptStyle, join_lines, join_paragraphs, titled

_RULES = """\
You are looking for a prize. It lies behind one of {doors} closed doors in a row, numbered from 1 (left) to {doors} \
(right). In each attempt you open one door. If the prize is not behind it, the attempt is lost, and you are told \
whether the prize lies to the left or to the right of that door. The prize stays behind the same door in all your \
attempts."""

_PLAY = {
    Prompting.REACT: """\
Choose a door. Think step by step first: which doors can still hide the prize, and which of them is best to open now? \
Then name exactly ONE door by its number inside the tags: <action>door</action>""",
    Prompting.ACT: """\
Choose a door. Answer with the door alone and write nothing before it: exactly ONE door by its number inside the tags: \
<action>door</action>""",
}

_REFLECT = """\
The prize was not there, and you may try again. Think step by step first: what do you know by now about where the \
prize lies? Then make a short plan for the next attempt. \
Finish with what you know and your plan inside the tags: <remark>lessons and plan</remark>"""


class DoorsCompactStyle(CompactStyle):
    """One rules line, a line for each opening, the answer format."""

    play_request = "Open: <action>door</action>"
    reflection_request = "Reflect: <remark>note</remark>"

    def __init__(self, doors: int) -> None:
        self.rules = f"Doors 1 to {doors} hide one prize."

    def play(self, view: PlayView) -> str:
        """Rules, openings and remarks of earlier attempts, the request."""
        return join_lines(self.rules, view.past, self.play_request)

    def steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        """One line: the door opened and the hint, "3 left"."""
        return join_lines(*(f"{step.action} {step.observation}" for step in steps[-window.steps :]))


class DoorsFullStyle(PromptStyle):
    """Rules and requests in sentences, for instruction-tuned models."""

    def __init__(self, doors: int) -> None:
        self._rules = _RULES.format(doors=doors)

    def play(self, view: PlayView) -> str:
        """Rules, earlier attempts, request."""
        return join_paragraphs(self._rules, titled("Your earlier attempts:", view.past), _PLAY[view.prompting])

    def reflection(self, view: ReflectionView) -> str:
        """Rules, earlier attempts, the attempt that just failed, request."""
        return join_paragraphs(
            self._rules,
            titled("Your attempts before the last one:", view.past),
            titled("Your last attempt:", view.current),
            _REFLECT,
        )

    def steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        """One sentence an opening."""
        return join_lines(*(_sentence(step) for step in steps[-window.steps :]))


def _sentence(step: MemoryStep) -> str:
    if not step.action.isdigit():
        return "You named no door."
    return f"You opened door {step.action}: the prize lies to the {step.observation} of it."
