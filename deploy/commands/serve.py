"""`lamer serve`: one inference host, which runs a server and keeps it at the run's policy version."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from deploy.commands.options import Connect, KeysFolder, default_name, log_to, run_async


class Engine(enum.StrEnum):
    """The inference servers that a host can run."""

    EMBEDDED = "embedded"
    SGLANG = "sglang"


class UpdateMode(enum.StrEnum):
    """How a weight update pauses a server, in SGLang's words."""

    IN_PLACE = "in_place"
    RETRACT = "retract"
    ABORT = "abort"


class Precision(enum.StrEnum):
    """What SGLang computes with; auto: bfloat16 on a GPU, float32 elsewhere."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


RUNS_OWN = "the run's configuration when left out"
Name = Annotated[str, typer.Option("--name", help="What the learner calls this host.")]
EngineOption = Annotated[Engine | None, typer.Option("--engine", help=f"The server to run; {RUNS_OWN}.")]
Host = Annotated[str, typer.Option("--host", help="Address of this machine at which actors reach the server.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="The server's port; 0 for a free one.")]
Model = Annotated[Path | None, typer.Option("--model", metavar="DIR", help="The model's folder on this machine.")]
MaxRunning = Annotated[
    int | None, typer.Option("--max-running", min=1, help=f"Sequences in a batch at once; {RUNS_OWN}.")
]
CacheTokens = Annotated[
    int | None, typer.Option("--cache-tokens", min=64, help=f"Tokens that the key-value cache holds; {RUNS_OWN}.")
]
Mode = Annotated[
    UpdateMode | None, typer.Option("--update-mode", help=f"How a weight update pauses the server; {RUNS_OWN}.")
]

SglangPython = Annotated[
    Path | None, typer.Option("--sglang-python", metavar="FILE", help="The interpreter that has SGLang.")
]
Dtype = Annotated[Precision | None, typer.Option("--dtype", help=f"SGLang's precision; {RUNS_OWN}.")]
TensorParallel = Annotated[
    int | None, typer.Option("--tensor-parallel", min=1, help=f"SGLang: GPUs of one replica; {RUNS_OWN}.")
]
DataParallel = Annotated[int | None, typer.Option("--data-parallel", min=1, help=f"SGLang: replicas; {RUNS_OWN}.")]


def serve(
    connect: Connect,
    keys: KeysFolder,
    name: Name = "",
    engine: EngineOption = None,
    host: Host = "127.0.0.1",
    port: Port = 0,
    model: Model = None,
    max_running: MaxRunning = None,
    cache_tokens: CacheTokens = None,
    update_mode: Mode = None,
    sglang_python: SglangPython = None,
    dtype: Dtype = None,
    tensor_parallel: TensorParallel = None,
    data_parallel: DataParallel = None,
) -> None:
    """Run an inference server for the learner at URL until its run is over."""
    from common.keys import load_client_keys
    from deploy.inference.host import HostOptions, run_host

    log_to(None)
    options = HostOptions(
        url=connect,
        keys=load_client_keys(keys),
        name=name or default_name("server"),
        host=host,
        port=port,
        model_path=str(model) if model is not None else None,
        engine=engine.value if engine is not None else None,
        max_running=max_running,
        cache_tokens=cache_tokens,
        update_mode=update_mode.value if update_mode is not None else None,
        sglang_python=str(sglang_python) if sglang_python is not None else None,
        dtype=dtype.value if dtype is not None else None,
        tensor_parallel=tensor_parallel,
        data_parallel=data_parallel,
    )
    run_async(run_host(options))
