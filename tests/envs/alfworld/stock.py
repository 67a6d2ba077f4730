"""TextWorld as it comes, on one compiled game: reads {"game": ..., "commands": [...]}, prints what it says after each.

python stock.py < request.json
"""

from __future__ import annotations

import json
import sys
import tempfile

import textworld
from alfworld.agents.utils.misc import Demangler
from textworld.envs.pddl import PddlEnv


def main() -> None:
    request = json.load(sys.stdin)
    env = PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True))
    with tempfile.NamedTemporaryFile("w", suffix=".tw-pddl") as file:
        json.dump(request["game"], file)
        file.flush()
        env.load(file.name)
    demangler = Demangler(game_infos=env._entity_infos)
    for info in env._entity_infos.values():
        info.name = demangler.demangle_alfred_name(info.id)
    state = env.reset()
    seen = [[state.feedback.strip(), state.admissible_commands]]
    for command in request["commands"]:
        state, _, _ = env.step(command)
        seen.append([state.feedback.strip(), state.admissible_commands])
    json.dump([[text, [each for each in commands if each != "help"]] for text, commands in seen], sys.stdout)


if __name__ == "__main__":
    main()
