"""`lamer serve`: one inference host, which runs a server and keeps it at the run's policy version."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from lamer.deploy.commands.options import Connect, KeysFolder, default_name, log_to, run_async


class Engine(enum.StrEnum):
    """The inference servers that a host can run."""

    EMBEDDED = "embedded"
    SGLANG = "sglang"


class UpdateMode(enum.StrEnum):
    """What a weight update does to running requests: the first three are SGLang's words; wait lets them end first."""

    IN_PLACE = "in_place"
    RETRACT = "retract"
    ABORT = "abort"
    WAIT = "wait"


class DeliveryKind(enum.StrEnum):
    """How weights reach a host."""

    AUTO = "auto"
    PATH = "path"
    STREAM = "stream"
    GLOO = "gloo"
    NCCL = "nccl"


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
Dtype = Annotated[Precision | None, typer.Option("--dtype", help=f"The server's precision; {RUNS_OWN}.")]
TensorParallel = Annotated[
    int | None, typer.Option("--tensor-parallel", min=1, help=f"SGLang: GPUs of one replica; {RUNS_OWN}.")
]
DataParallel = Annotated[int | None, typer.Option("--data-parallel", min=1, help=f"SGLang: replicas; {RUNS_OWN}.")]
Attach = Annotated[str, typer.Option("--attach", metavar="URL", help="Use the server at URL, which runs already.")]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option("--api-key-file", metavar="FILE", help="With --attach: its api key; $SGLANG_API_KEY when left out."),
]
AdminKeyFile = Annotated[
    Path | None,
    typer.Option("--admin-key-file", metavar="FILE", help="With --attach: admin key; $SGLANG_ADMIN_KEY when left out."),
]
PublicUrl = Annotated[
    str,
    typer.Option("--public-url", metavar="URL", help="At which actors reach the server, if not at its own address."),
]
TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", metavar="FILE", help="SGLang speaks TLS with it; with --attach, it is trusted."),
]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="The certificate's key.")]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Where fetched weights are kept; ~/.cache/lamer/weights if left out."),
]
Delivery = Annotated[DeliveryKind | None, typer.Option("--delivery", help=f"How weights reach this host; {RUNS_OWN}.")]
Extra = Annotated[
    list[str] | None, typer.Argument(metavar="-- FLAGS", help="Flags for SGLang, after --.", show_default=False)
]


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
    attach: Attach = "",
    api_key_file: ApiKeyFile = None,
    admin_key_file: AdminKeyFile = None,
    public_url: PublicUrl = "",
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    cache: Cache = None,
    delivery: Delivery = None,
    extra: Extra = None,
) -> None:
    """Run an inference server for the learner at URL until its run is over."""
    from lamer.common.keys import load_client_keys
    from lamer.common.messages import Role
    from lamer.deploy.inference.engines.options import HostOptions, read_server_keys
    from lamer.deploy.inference.joining import run_host

    log_to(None)
    options = HostOptions(
        url=connect,
        keys=load_client_keys(keys, Role.HOST),
        name=name or default_name("server"),
        host=host,
        port=port,
        model_path=model,
        attach=attach.rstrip("/"),
        server_keys=read_server_keys(api_key_file, admin_key_file, is_attached=bool(attach)),
        public_url=public_url.rstrip("/"),
        tls_cert=tls_cert,
        tls_key=tls_key,
        cache=cache,
        engine=engine,
        max_running=max_running,
        cache_tokens=cache_tokens,
        update_mode=update_mode,
        delivery=delivery,
        sglang_python=str(sglang_python) if sglang_python is not None else None,
        dtype=dtype,
        tensor_parallel=tensor_parallel,
        data_parallel=data_parallel,
        extra=tuple(extra or ()),
    )
    run_async(run_host(options))
