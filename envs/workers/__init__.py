"""Worker processes for game engines that block, take memory, or crash: the event loop of an actor does none of it.

- game.py: what a worker hosts: a game that answers requests, bytes for bytes
- messages.py: what passes between a worker and its owner, and how it is framed
- process.py: the worker process: `python -m lamer.envs.workers.process`; one thread that serves, one that watches
- worker.py: one worker as its owner sees it: a thread that sends a request and waits for the reply, with a deadline
- pool.py: as many workers as the machine has cores: which one hosts a new game, when one is replaced, what is counted
"""
