"""Sokoban: push every box onto a target; several moves a turn.

- factory.py: configuration, and the factory behind the name
- room.py: the rules
- generator.py: the room of a seed, by reverse play from the solved room
- levels.py: rooms from level files in Boxoban's format
- solver.py: shortest solutions by breadth-first search
- references.py: a solver and a random walk, and their pass@k
- parsing.py: which moves a response names
- prompts.py: full and compact prompts
- env.py: the environment: rewards, anchor states, scripted play
"""
