"""lamer: asynchronous Meta-RL training of language agents.

The packages lie in folders at the top of the repository; the links beside this file give them one import name:
`lamer.common`, `lamer.envs`, `lamer.actors`, `lamer.learner`, `lamer.deploy`.

transformers imports torchao wherever it is installed, and torchao warns of parts of its own that nobody here uses: not
in the output of our processes.
"""

import logging

for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
