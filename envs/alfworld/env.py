"""The ALFWorld environment: what a response does, what it pays, scripted play at random and by the planner."""

from __future__ import annotations

import random
from dataclasses import replace

from lamer.envs.alfworld.houses import House
from lamer.envs.alfworld.messages import Scene
from lamer.envs.alfworld.prompts import AlfworldStyle
from lamer.envs.base import EnvironmentFault, Observation, PlayView, StepResult
from lamer.envs.memory import MemoryWindow, MemoryWindows
from lamer.envs.prompts import PromptedEnv

SOLVED_REWARD = 10.0
NOTHING_HAPPENS = "Nothing happens."
"""What the engine says to a command that it doesn't take, and the environment to a response without one."""


class AlfworldEnv(PromptedEnv):
    """One task in one house. Pays 10 when the goal is reached, which ends the episode, and nothing otherwise.

    The anchor state is the observation with the admissible commands. A response without an admissible command does not
    reach the engine: it costs its turn, and nothing happens.
    """

    windows = MemoryWindows(
        playing=MemoryWindow(steps=15, observations=15),
        reflecting=MemoryWindow(steps=15, observations=15),
        past=MemoryWindow(steps=15, observations=15),
    )

    def __init__(self, house: House, style: AlfworldStyle, max_turns: int) -> None:
        super().__init__(style)
        self.max_turns = max_turns
        self._house_style = style
        self._house = house
        self._scene: Scene | None = None

    def reset(self) -> Observation:
        """The same house with everything back in its place."""
        return self._begin(self._house.reset())

    async def start(self) -> Observation:
        """The same house with everything back in its place."""
        return self._begin(await self._house.reset_async())

    def step(self, response: str) -> StepResult:
        """Give the command that the response names."""
        command = self.parse(response)
        return self._follow(command, self._house.step(command) if command else self.scene)

    async def play(self, response: str) -> StepResult:
        """Give the command that the response names."""
        command = self.parse(response)
        return self._follow(command, await self._house.step_async(command) if command else self.scene)

    @property
    def scene(self) -> Scene:
        """What the engine said last, and the commands that it takes now.

        Raises:
            EnvironmentFault: no episode has been started.
        """
        if self._scene is None:
            raise EnvironmentFault("alfworld: no episode has been started")
        return self._scene

    def parse(self, response: str) -> str | None:
        """The admissible command that a response names."""
        return self._house_style.parse(response, self.scene.commands)

    def answer(self, command: str) -> str:
        """The response that gives an admissible command."""
        return self._house_style.answer(command, self.scene.commands)

    def plan(self) -> tuple[str, ...] | None:
        """The planner's way from here to the goal, in commands; None where there is none. It blocks."""
        return self._house.plan()

    def play_prompt(self, view: PlayView) -> str:
        """The style's play prompt, with the commands that are admissible now."""
        situation = self._house_style.situation(view.observation, self.scene.commands)
        return super().play_prompt(replace(view, observation=situation))

    def random_response(self, rng: random.Random) -> str:
        """Any admissible command with equal chance."""
        return self.answer(rng.choice(self.scene.commands))

    def random_reflection(self, rng: random.Random) -> str:
        """A command that is admissible now, drawn uniformly, whatever happened."""
        return f"<remark>{rng.choice(self.scene.commands)}</remark>"

    def close(self) -> None:
        """Close the game; returns at once."""
        self._house.close()

    def _begin(self, scene: Scene) -> Observation:
        self._scene = scene
        return self._observe(scene.text)

    def _follow(self, command: str | None, scene: Scene) -> StepResult:
        """What a response did that led to `scene`."""
        self._scene = scene
        text = scene.text if command else NOTHING_HAPPENS
        is_solved = command is not None and scene.is_solved
        return StepResult(
            action=command,
            observation=self._observe(text),
            reward=SOLVED_REWARD if is_solved else 0.0,
            is_done=is_solved,
            is_solved=is_solved,
        )

    def _observe(self, text: str) -> Observation:
        return Observation(text, anchor_state="\n".join((text, *self.scene.commands)))
