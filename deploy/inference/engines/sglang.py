"""SGLang as an inference server: its interpreter, command line and environment, and how its releases differ.

    launch    options -> how the server is started on this machine, with a GPU or without
    check     a started server -> its `Release`, once it has generated a token
    inspect   a server that runs already -> its `Release`

SGLang lives in an environment of its own and shares no module with us. Without a GPU its CPU engine computes with
torch's own attention, one thread a rank; `make sglang-cpu` builds the environment for that. With a GPU SGLang chooses
kernels and the cache's size itself.

SGLang takes its keys as flags or from a file of flags, which keeps them out of the list of processes; it would tell
them to everyone with the api key, which `sglang_guard/start.py` keeps it from.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lamer.common.errors import BadInput, Missing
from lamer.deploy.inference.engines.base import Idling
from lamer.deploy.inference.engines.client import ServerClient
from lamer.deploy.inference.engines.options import EngineLaunch, EngineOptions, Start
from lamer.deploy.run.precision import AUTO, BFLOAT16, FLOAT32, has_nvidia_gpu

OLDEST = (0, 5, 17)
SPANS_SINCE = (0, 5, 23)
"""The first release tested that gives a version for each token. Earlier ones also die of a flush that finds held
requests, which `retract` leaves behind."""
CHECKOUT_PYTHON = Path(__file__).resolve().parents[3] / ".venv-sglang" / "bin" / "python"
_START = Path(__file__).with_name("sglang_guard") / "start.py"
HEALTHY_SECONDS = 300.0
DISCONNECT_SECONDS = 1
"""How often a server looks whether the client of a request is still there: actors abort by disconnecting."""
_ROUTES = (
    "/generate",
    "/model_info",
    "/server_info",
    "/v1/loads",
    "/pause_generation",
    "/continue_generation",
    "/abort_request",
    "/update_weights_from_disk",
)
_OUR_FLAGS = (
    "--model-path",
    "--model",
    "--host",
    "--port",
    "--api-key",
    "--admin-api-key",
    "--weight-version",
    "--config",
)
_CRASH_LINE = re.compile(r"^(?:launch_server\.py: error: |[\w.]*(?:Error|Exception): ).+$", re.MULTILINE)
_GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
_FIND = "from importlib.metadata import version; print(version('sglang'))"
_HOW = "`make sglang-cpu` builds the environment for a machine without a GPU; name another with --sglang-python"


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """A release of SGLang, and what depends on it."""

    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, self.numbers))

    def update_mode(self, wanted: str) -> str:
        """How a weight update may pause this release: `wanted`, or abort where tokens have no versions of their own,
        so that no response has tokens of two.
        """
        return wanted if self.numbers >= SPANS_SINCE else "abort"

    @property
    def idling(self) -> Idling:
        """How this release is brought to have nothing in flight. One that dies of a flush which comes a step too early
        is paused, which takes a second more.
        """
        return Idling.DRAIN if self.numbers >= SPANS_SINCE else Idling.PAUSE


def parse_release(text: str) -> Release:
    """`0.5.23`, also with a suffix such as `.post1`.

    Raises:
        Missing: no version, or one older than `OLDEST`.
    """
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    if found is None:
        raise Missing(f"{text!r} is no version of SGLang: {_HOW}")
    release = Release(tuple(map(int, found.groups())))
    if release.numbers < OLDEST:
        raise Missing(f"SGLang {text} lacks what weight updates need: install {Release(OLDEST)} or later")
    return release


async def launch(options: EngineOptions, start: Start) -> EngineLaunch:
    """How a server is started. The caller removes the file of keys.

    Raises:
        Missing: there is no SGLang, or too old a one. BadInput: a flag handed on is ours to give.
    """
    ours = [flag for flag in options.extra if flag.partition("=")[0] in _OUR_FLAGS]
    if ours:
        raise BadInput(f"{', '.join(ours)} can't be handed to SGLang: lamer gives it itself, see `lamer serve --help`")
    python = find_python(options.python)
    await installed_release(python)
    has_gpu = has_nvidia_gpu()
    ranks = options.tensor_parallel * options.data_parallel
    tls = ("--ssl-certfile", str(options.tls_cert), "--ssl-keyfile", str(options.tls_key)) if options.tls_cert else ()
    key_file = _write_keys(start)
    return EngineLaunch(
        command=(
            *(str(python), str(_START), "--model-path", str(start.folder)),
            *("--config", str(key_file), "--host", options.host, "--port", str(start.port), *tls),
            *("--weight-version", start.weight_version, "--max-running-requests", str(options.max_running)),
            *_precision_flags(options.dtype, has_gpu),
            *("--tp-size", str(options.tensor_parallel), "--dp-size", str(options.data_parallel)),
            *("--log-level", "error"),
            *(() if has_gpu else _cpu_flags(options.cache_tokens)),
            *options.extra,
        ),
        environment={
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
            "SGLANG_REQUEST_STATE_WAIT_TIMEOUT": str(DISCONNECT_SECONDS),
            **({} if has_gpu else _cpu_environment(start.port, ranks)),
            **_group_environment(options.group_interface),
        },
        crash_line=_CRASH_LINE,
        key_file=key_file,
    )


def _write_keys(start: Start) -> Path:
    """A file of flags that its owner alone can read."""
    descriptor, name = tempfile.mkstemp(prefix="lamer-sglang-", suffix=".yaml")
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"api-key: '{start.api_key}'\nadmin-api-key: '{start.admin_key}'\n")
    return Path(name)


async def check(client: ServerClient) -> Release:
    """Wait until a started server has generated a token, and see that it can do what a host asks of it.

    Raises:
        Missing: it does not get healthy, is too old, or lacks a route.
    """
    await client.wait_healthy(HEALTHY_SECONDS)
    return await inspect(client)


async def inspect(client: ServerClient) -> Release:
    """See that a server can do what a host asks of it.

    Raises:
        Missing: it is too old, or lacks a route.
    """
    release = parse_release((await client.server_info()).version)
    routes = await client.routes()
    lacking = [route for route in _ROUTES if route not in routes]
    if lacking:
        raise Missing(f"the server at {client.url} (SGLang {release}) lacks {', '.join(lacking)}: is it a router?")
    return release


def find_python(named: str) -> Path:
    """The interpreter that runs SGLang: the one named, else the checkout's `.venv-sglang`, else ours.

    Raises:
        BadInput: the one named does not exist.
    """
    if named and not Path(named).is_file():
        raise BadInput(f"--sglang-python {named}: there is no such interpreter")
    if named:
        return Path(named).absolute()
    return CHECKOUT_PYTHON if CHECKOUT_PYTHON.is_file() else Path(sys.executable)


async def installed_release(python: Path) -> Release:
    """The release that `python` would run.

    Raises:
        Missing: it has none, or too old a one.
    """
    process = await asyncio.create_subprocess_exec(
        *(str(python), "-c", _FIND), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise Missing(f"SGLang is not installed for {python}: {_HOW}")
    return parse_release(output.decode().strip())


def _precision_flags(wanted: str, has_gpu: bool) -> tuple[str, ...]:
    """The dtype of weights and activations; logits are computed in float32 in any case, as the trainer does."""
    dtype = wanted if wanted != AUTO else BFLOAT16 if has_gpu else FLOAT32
    return ("--dtype", dtype, *(("--enable-fp32-lm-head",) if dtype == BFLOAT16 else ()))


def _cpu_flags(cache_tokens: int) -> tuple[str, ...]:
    return (
        *("--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
        *("--disable-cuda-graph", "--mem-fraction-static", "0.3", "--max-total-tokens", str(cache_tokens)),
    )


def _group_environment(interface: str) -> Mapping[str, str]:
    """Without it gloo listens where this machine's name leads, which is often the machine itself."""
    return {_GLOO_INTERFACE: interface} if interface and _GLOO_INTERFACE not in os.environ else {}


def _cpu_environment(port: int, ranks: int) -> Mapping[str, str]:
    """One thread and one core a rank; `port` spreads the servers of one machine over its cores."""
    cores = sorted(os.sched_getaffinity(0))
    return {
        "SGLANG_USE_CPU_ENGINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "SGLANG_CPU_OMP_THREADS_BIND": "|".join(str(cores[(port + rank) % len(cores)]) for rank in range(ranks)),
    }
