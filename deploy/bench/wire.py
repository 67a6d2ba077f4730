"""The JSON that the simulated server reads and writes, as types: the part of SGLang's contract that it looks at."""

from __future__ import annotations

import msgspec

DEFAULT_NEW_TOKENS = 128


class SamplingParams(msgspec.Struct):
    """The part of SGLang's sampling parameters that the simulation looks at; others are accepted and ignored."""

    max_new_tokens: int = DEFAULT_NEW_TOKENS
    temperature: float = 1.0
    stop: str | list[str] | None = None
    sampling_seed: int | None = None


class GenerateRequest(msgspec.Struct):
    """Body of POST /generate."""

    input_ids: list[int]
    sampling_params: SamplingParams = msgspec.field(default_factory=SamplingParams)
    return_logprob: bool = False
    rid: str | None = None


class AdminRequest(msgspec.Struct):
    """Body of any administrative route: the fields that one of them reads."""

    mode: str = "abort"
    model_path: str = ""
    weight_version: str | None = None
    new_version: str = ""
    abort_all_requests: bool = False
    abort_all: bool = False
    rid: str = ""


class PacedInfo(msgspec.Struct, frozen=True):
    """The simulation's counters in /server_info.

    seconds, busy_seconds: simulated. cpu_seconds: of the server's process, not simulated.
    """

    seconds: float
    tokens: int
    requests: int
    steps: int
    busy_seconds: float
    cpu_seconds: float
    time_scale: float
    max_running_requests: int
    is_simulated: bool = True
