"""ALFWorld: household tasks in text, played by the TextWorld engine in worker processes.

- factory.py: configuration, and the factory behind the name
- games.py: which games a dataset folder holds, and which one a seed plays
- messages.py: what is asked of a game in a worker, and the scenes that come back
- engine.py: TextWorld on one game (in a worker)
- compiled.py: what the engine loads, and where it is kept; compiling.py: ALFRED's files -> that (in a worker)
- hosting.py: a game as a worker hosts it (in a worker)
- houses.py: a game as its environment sees it: scenes, at once or awaited
- dataset.py: a whole dataset compiled ahead of play
- parsing.py: which command a response names
- prompts.py: full and compact prompts
- references.py: the planner's share of solved games
- env.py: the environment: rewards, anchor states, scripted play
"""
