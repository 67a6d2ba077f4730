"""lamer: asynchronous Meta-RL training of language agents.

The packages lie in folders at the top of the repository; the links beside this file give them one import name:
`lamer.common`, `lamer.envs`, `lamer.actors`, `lamer.learner`, `lamer.deploy`.
"""
