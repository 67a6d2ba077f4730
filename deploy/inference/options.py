"""How an inference server is started: what it is asked to be, and the command that makes it so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What one inference server is started with. port 0: a free one. max_running: sequences in a batch at once.

    What follows is SGLang's alone. python: the interpreter that has it, "" to look for it.
    dtype: auto, float32 or bfloat16. tensor_parallel, data_parallel: GPUs of one replica, and replicas.
    """

    engine: str
    model_path: Path
    host: str
    port: int
    max_running: int
    cache_tokens: int
    python: str = ""
    dtype: str = "auto"
    tensor_parallel: int = 1
    data_parallel: int = 1


@dataclass(frozen=True, slots=True)
class EngineLaunch:
    """A server's command line and the variables added to its environment.

    crash_line: the line of its stderr that says why it does not start; its last one is quoted.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    crash_line: re.Pattern[str]
