"""The prompts of ALFWorld, and how a response names a command in each.

    full      for instruction-tuned models: what the house looks like, the attempt so far, every admissible command in
              quotes; the answer is a command in words
    compact   for models of a few hundred tokens: the goal, past commands, the last observation, and the admissible
              commands with numbers; the answer is a number, one or two tokens of the pocket tokenizer between the tags

Compact shows attempts as their commands alone, without what followed.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence

from lamer.common.settings import Prompting
from lamer.envs.alfworld.parsing import goal_of, parse_command, parse_number, split_command
from lamer.envs.base import PlayView, ReflectionView
from lamer.envs.memory import MemoryStep, MemoryWindow
from lamer.envs.prompts import CompactStyle, Labels, ParagraphStyle, PromptStyle, join_lines, join_paragraphs, titled

_RULES = """\
You are in a house that you see and act in through text, and you have a household task to do. You see what is in or on \
the place where you stand, and you act by short commands: go to places, open and close them, take things and move them \
to other places, and use, heat, cool or clean them with an appliance. Things you need may be anywhere in the house, so \
you may have to search, and you carry one thing at a time."""

_PLAY = {
    Prompting.REACT: """\
Choose your next command. Think step by step first: what does the task still need, what have you seen so far, and \
where should you go or look next? Then give exactly ONE of the admissible commands, word for word, inside the tags: \
<action>command</action>""",
    Prompting.ACT: """\
Choose your next command. Answer with the command alone and write nothing before it: exactly ONE of the admissible \
commands, word for word, inside the tags: <action>command</action>""",
}

_REFLECT = """\
You did not finish the task in time, and you will start over in the same house with everything back in its place. \
Look back on this attempt before you do. Think step by step first: which commands helped, which were mistakes or \
wasted, and what do you know by now about where things are? Then make a short plan for the next attempt that names the \
commands to give. \
Finish with your lessons and this plan inside the tags: <remark>lessons and plan</remark>"""


_LABELS = Labels(
    initial="The house at the start, and your task:",
    past="Your earlier attempts at this same task:",
    current="Your commands in this attempt so far, and what followed:",
    before="Your attempts before the last one:",
    failed="Your commands in the last attempt, and what followed:",
    play=_PLAY,
    reflect=_REFLECT,
)


class AlfworldStyle(PromptStyle):
    """A layout of prompts that also decides how commands are shown and answered."""

    @abstractmethod
    def situation(self, observation: str, commands: Sequence[str]) -> str:
        """What a play prompt shows of the present: it takes the place of `PlayView.observation`."""

    @abstractmethod
    def parse(self, response: str, commands: Sequence[str]) -> str | None:
        """The admissible command that a response names, None when it names none."""

    @abstractmethod
    def answer(self, command: str, commands: Sequence[str]) -> str:
        """The response that gives a command."""


class FullStyle(ParagraphStyle, AlfworldStyle):
    """Sentences; commands in words."""

    labels = _LABELS

    def situation(self, observation: str, commands: Sequence[str]) -> str:
        """The observation, and one quoted command a line."""
        listed = ",\n".join(f"'{command}'" for command in commands)
        return join_paragraphs(observation, titled("The admissible commands at present:", listed))

    def parse(self, response: str, commands: Sequence[str]) -> str | None:
        """The command in words."""
        return parse_command(response, commands)

    def answer(self, command: str, commands: Sequence[str]) -> str:
        """The command in words."""
        return f"<action>{command}</action>"

    def introduction(self) -> str:
        """What there is to do and how."""
        return _RULES

    def present(self, view: PlayView) -> str:
        """What is seen, and the admissible commands."""
        return _present(view, "What you see now:\n")


class AlfworldCompactStyle(CompactStyle, AlfworldStyle):
    """The goal, commands given, the last observation, numbered commands."""

    reflection_request = "Reflect: <remark>note</remark>"

    def situation(self, observation: str, commands: Sequence[str]) -> str:
        """The observation, the numbered commands, and the range of numbers: "1-23:"."""
        return join_lines(observation, *_numbered(commands), f"1-{len(commands)}:")

    def parse(self, response: str, commands: Sequence[str]) -> str | None:
        """The command of the number."""
        return parse_number(response, commands)

    def answer(self, command: str, commands: Sequence[str]) -> str:
        """The command's number."""
        return f"<action>{commands.index(command) + 1}</action>"

    def play(self, view: PlayView) -> str:
        """The goal, earlier attempts, commands of this one, the situation. The commands tell what the house holds."""
        return join_lines(goal_of(view.initial), view.past, view.current, _present(view, ""))

    def reflection(self, view: ReflectionView) -> str:
        """The goal, earlier attempts, the commands of the failed one, the request."""
        return join_lines(goal_of(view.initial), view.past, view.current, self.reflection_request)

    def steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        """The commands of the window on one line: "go to desk 1; take mug 1 from desk 1"."""
        return "; ".join(step.action for step in steps[max(len(steps) - window.steps, 0) :])


def _numbered(commands: Sequence[str]) -> list[str]:
    """Commands with their numbers, those in a row that differ in one thing on one line, which halves their tokens.

    "go to: 1 bed 1, 2 desk 1", "take from desk 1: 5 mug 1, 6 pen 1"; a command without company: "3 look".
    """
    lines: list[str] = []
    numbered = enumerate(commands, start=1)
    for head, group in itertools.groupby(numbered, key=lambda entry: split_command(entry[1])[0]):
        entries = list(group)
        if len(entries) == 1 or not head:
            lines += [f"{number} {command}" for number, command in entries]
        else:
            lines.append(
                f"{head}: " + ", ".join(f"{number} {split_command(command)[1]}" for number, command in entries)
            )
    return lines


def _present(view: PlayView, title: str) -> str:
    """The situation under its title; at the first turn without the observation, which is the one at the start."""
    if view.turn == 0:
        return view.observation.removeprefix(view.initial).lstrip()
    return f"{title}{view.observation}"
