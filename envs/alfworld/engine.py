"""The TextWorld engine on one game. Only a worker process imports this: loading TextWorld takes a second or more.

    Engine   load once, reset often: the text of the house, the commands it takes, the planner's way to the goal
    NoWay    what loading a game raises whose goal is out of reach at first sight: it can't be loaded

The text, the rules and the planner are TextWorld's own. Two things are done otherwise, with the same result (a test
compares them): a game's translation for the planner, its grammar and the queries in it are computed once a process,
where TextWorld does so at every reset or step; and so is the text of every command. That is possible because commands
depend on what things are called and on where receptacles stand, which no action changes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping

import fast_downward
import textworld
import textworld.logic
from alfworld.agents.utils.misc import Demangler
from textworld.envs.pddl import PddlEnv, textgen
from textworld.envs.pddl import logic as pddl_logic

from lamer.envs.alfworld.messages import Scene
from lamer.envs.base import EnvironmentFault

KEPT_TRANSLATIONS = 16
"""Two of each game, one to play and one to plan with."""
_KEPT_GRAMMARS = 8
_KEPT_QUERIES = 4096
_OUT_OF_REACH = ("Atom dummy(val1)", "begin_goal\n1\n0 1\nend_goal")
"""What the planner's translator writes in place of a task without a solution: a thing that is 0 and should be 1."""
UNSEEN = "help"
"""A command that the engine takes and no policy is offered: it lists what can be typed."""


class NoWay(EnvironmentFault):
    """Translating the game for the planner showed that nothing reaches its goal."""


class Engine:
    """One game. game: what the engine loads, as `compiling.CompiledGame` describes it. Raises `NoWay`."""

    def __init__(self, game: Mapping[str, object]) -> None:
        _remember()
        self._house = _House()
        self._house.load(dict(game))

    def reset(self) -> Scene:
        """The house as it was at first."""
        return self._scene(self._house.reset())

    def step(self, command: str) -> Scene:
        """Give a command; one that is not admissible changes nothing."""
        state, _, _ = self._house.step(command)
        return self._scene(state)

    def plan(self) -> tuple[str, ...] | None:
        """The planner's way from here to the goal, None where it finds that there is none. The game must be reset."""
        return self._house.plan()

    def close(self) -> None:
        """Leave the planner's library, of which every live game has its own, to the next game.

        It is never unloaded: its copies share a registry of functions (a symbol that is unique in the process), those
        of the copy that was loaded first, and a game that plans after that one is gone ends the process.
        """
        _FREE_LIBRARIES.append(self._house.downward_lib)

    def _scene(self, state: textworld.GameState) -> Scene:
        commands = tuple(command for command in state["admissible_commands"] if command != UNSEEN)
        return Scene(state["feedback"].strip(), commands, bool(state["won"]))


class _House(PddlEnv):  # type: ignore[misc]  # TextWorld has no types
    """TextWorld's environment, whose things are called "drawer 3" instead of by their place in the simulator."""

    def load(self, filename_or_data: Mapping[str, object]) -> None:
        """Load a game and name its things."""
        super().load(filename_or_data)
        self._commands: dict[tuple[str, ...], str] = {}
        demangler = Demangler(game_infos=self._entity_infos)
        for info in self._entity_infos.values():
            info.name = demangler.demangle_alfred_name(info.id)

    def plan(self) -> tuple[str, ...] | None:
        """Commands that reach the goal, () at the goal, None where there is no way."""
        commands = tuple(self._pddl_state.replan(self._entity_infos))
        return commands if commands or self._pddl_state.check_goal() else None

    def _gather_infos(self) -> None:
        actions = self._pddl_state.all_applicable_actions()
        commands = [self._command(action) for action in actions]
        self.state["won"] = self._pddl_state.check_goal()
        self.state["lost"] = False
        self.state["_valid_actions"] = actions
        self.state["_valid_commands"] = commands
        self.state["admissible_commands"] = sorted(set(commands))

    def _command(self, action: textworld.logic.Action) -> str:
        """An action as the policy types it."""
        key = (action.name, *(variable.name for variable in action.mapping.values()))
        command = self._commands.get(key)
        if command is None:
            infos = self._entity_infos
            context = {
                "state": self._pddl_state,
                "facts": list(self._pddl_state.facts),
                "variables": {place.name: infos[variable.name] for place, variable in action.mapping.items()},
                "mapping": action.mapping,
                "entity_infos": infos,
            }
            action.command_template = self._logic.grammar.derive(action.command_template, context)
            command = action.format_command({name: info.name for name, info in infos.items()})
            self._commands[key] = command
        return command


_FREE_LIBRARIES: list[object] = []
"""Copies of the planner's library whose games are closed."""


@functools.cache
def _remember() -> None:
    """Have TextWorld compute once what depends on the game's files alone. Done in the worker process, for all games."""
    parse = functools.lru_cache(_KEPT_QUERIES)(textgen._parse_and_convert)
    textgen._parse_and_convert = lambda text, rule_name, trace=False: copy.deepcopy(parse(text, rule_name=rule_name))
    rule = textworld.logic.Rule
    rule.parse_conjunctive_query = staticmethod(functools.lru_cache(_KEPT_QUERIES)(rule.parse_conjunctive_query))
    pddl_logic.GameLogic = functools.lru_cache(_KEPT_GRAMMARS)(pddl_logic.GameLogic)
    load = fast_downward.load_lib
    fast_downward.load_lib = lambda: _FREE_LIBRARIES.pop() if _FREE_LIBRARIES else load()
    translate = fast_downward.pddl2sas

    def pddl2sas(*arguments: object, **options: object) -> tuple[object, str]:
        task, translation = translate(*arguments, **options)
        if all(part in translation for part in _OUT_OF_REACH):
            raise NoWay("the game's goal can't be reached")
        return task, translation

    fast_downward.pddl2sas = functools.lru_cache(KEPT_TRANSLATIONS)(pddl2sas)
