"""How an inference host and its server are started: what is asked for, and the command that makes it so."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from lamer.common.errors import BadInput
from lamer.common.keys import ClientKeys
from lamer.common.masking import masked
from lamer.common.settings import InferenceSettings

ANY_ADDRESS = ("0.0.0.0", "::", "")


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """Keys of a server that somebody else started; "" for one that it does not have."""

    api: str = ""
    admin: str = ""


def read_server_keys(api_key_file: Path | None, admin_key_file: Path | None, *, is_attached: bool) -> ServerKeys:
    """The keys of a server to attach to, from files or the environment: a command line can be read by anyone.

    Raises:
        BadInput: a file can't be read or is empty, or is named though our own server makes its keys itself.
    """
    if not is_attached:
        if api_key_file is not None or admin_key_file is not None:
            raise BadInput("--api-key-file and --admin-key-file go with --attach: a server of ours gets random keys")
        return ServerKeys()
    return ServerKeys(
        _read_key("--api-key-file", api_key_file, "SGLANG_API_KEY"),
        _read_key("--admin-key-file", admin_key_file, "SGLANG_ADMIN_KEY"),
    )


def _read_key(flag: str, file: Path | None, variable: str) -> str:
    if file is None:
        return os.environ.get(variable, "").strip()
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{flag} {file} can't be read: {error}") from error
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise BadInput(f"{flag} {file} holds no key: it should be one word on one line")
    return key


@dataclass(frozen=True, slots=True)
class HostOptions:
    """How an inference host is started. What is None, the run's configuration says.

    port 0: a free one. model_path: the host's own copy of the model. attach: URL of a server that runs already, with
    its keys. public_url: at which actors reach the server, "" for its own. tls_cert, tls_key: PEM files; with attach
    tls_cert alone, which is trusted. cache: folder of fetched weights. extra: flags for SGLang.
    """

    url: str
    keys: ClientKeys
    name: str
    host: str
    port: int
    model_path: Path | None = None
    attach: str = ""
    server_keys: ServerKeys = ServerKeys()
    public_url: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cache: Path | None = None
    engine: str | None = None
    max_running: int | None = None
    cache_tokens: int | None = None
    update_mode: str | None = None
    delivery: str | None = None
    sglang_python: str | None = None
    dtype: str | None = None
    tensor_parallel: int | None = None
    data_parallel: int | None = None
    extra: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what does not go together, before anything is connected or started.

        Raises:
            BadInput: flags contradict one another, or a file is not there.
        """
        for flag, file in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key)):
            if file is not None and not file.is_file():
                raise BadInput(f"{flag} {file}: there is no such file")
        for flag, url in (("--attach", self.attach), ("--public-url", self.public_url)):
            if "@" in url:
                raise BadInput(
                    f"{flag} {masked(url)}: an address with a user or password in it can't be used, since every actor "
                    "is told the address; the server's key is given by --api-key-file or $SGLANG_API_KEY"
                )
            if url and not re.fullmatch(r"https?://[^/?#\s]+", url):
                raise BadInput(f"{flag} {masked(url)} is no URL such as http://host:30000, without a path")
        stray = next((word for word in self.extra[:1] if not word.startswith("-")), None)
        if stray is not None:
            raise BadInput(
                f"{stray!r} is no flag: what follows -- is handed to SGLang, such as -- --chunked-prefill-size 4096"
            )
        if self.attach:
            self._check_attach()
        elif (self.tls_cert is None) != (self.tls_key is None):
            raise BadInput("--tls-cert and --tls-key belong together: name both, or none")
        elif self.host in ANY_ADDRESS and not self.public_url:
            raise BadInput(f"--host {self.host} is every address: name the one that actors use with --public-url")

    def _check_attach(self) -> None:
        ours = (("--tls-key", self.tls_key), ("--engine", self.engine), ("SGLang's own flags", self.extra))
        named = [flag for flag, value in ours if value]
        if named:
            raise BadInput(f"--attach takes a server as it runs: {', '.join(named)} can't be given with it")

    def resolved(self, run: InferenceSettings) -> InferenceSettings:
        """The run's `inference` section with what was named here in its place."""
        return replace(
            run,
            engine=self.engine or run.engine,
            max_running=self.max_running or run.max_running,
            cache_tokens=self.cache_tokens or run.cache_tokens,
            update_mode=self.update_mode or run.update_mode,
            delivery=self.delivery or run.delivery,
            sglang_python=self.sglang_python or run.sglang_python,
            dtype=self.dtype or run.dtype,
            tensor_parallel=self.tensor_parallel or run.tensor_parallel,
            data_parallel=self.data_parallel or run.data_parallel,
        )


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What one inference server is started with. port 0: a free one. max_running: sequences in a batch at once.

    public_url: at which actors reach it, "" for its own. tls_cert, tls_key: PEM files, both or none.

    What follows is SGLang's alone. python: the interpreter that has it, "" to look for it.
    dtype: auto, float32 or bfloat16. tensor_parallel, data_parallel: GPUs of one replica, and replicas. extra: flags
    handed on as they are. group_interface: by which it meets others in a broadcast, "" for gloo's own choice.
    """

    engine: str
    host: str
    port: int
    max_running: int
    cache_tokens: int
    public_url: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    python: str = ""
    dtype: str = "auto"
    tensor_parallel: int = 1
    data_parallel: int = 1
    extra: tuple[str, ...] = ()
    group_interface: str = ""

    @classmethod
    def of(cls, options: HostOptions, run: InferenceSettings) -> EngineOptions:
        """What `options` and the run's `inference` section, already merged by `HostOptions.resolved`, ask for.

        Raises:
            BadInput: the embedded engine is asked for what only SGLang has.
        """
        if run.engine == "embedded" and options.extra:
            raise BadInput(f"{' '.join(options.extra)}: only SGLang takes flags after --; use --engine sglang")
        if run.engine == "embedded" and options.tls_cert is not None:
            raise BadInput(
                "the embedded engine speaks no TLS: put nginx in front and name it with --public-url "
                "(docs/two-machines.md), or use --engine sglang"
            )
        return cls(
            engine=run.engine,
            host=options.host,
            port=options.port,
            max_running=run.max_running,
            cache_tokens=run.cache_tokens,
            public_url=options.public_url,
            tls_cert=options.tls_cert,
            tls_key=options.tls_key,
            python=run.sglang_python,
            dtype=run.dtype,
            tensor_parallel=run.tensor_parallel,
            data_parallel=run.data_parallel,
            extra=options.extra,
        )


@dataclass(frozen=True, slots=True)
class Start:
    """What a server is started with each time: its model folder and label, a free port, and fresh keys."""

    folder: Path
    weight_version: str
    port: int
    api_key: str
    admin_key: str


@dataclass(frozen=True, slots=True)
class EngineLaunch:
    """A server's command line and the variables added to its environment.

    crash_line: the line of its stderr that says why it does not start; its last one is quoted. key_file: a file with
    its keys, to be removed once it has started.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    crash_line: re.Pattern[str]
    key_file: Path | None = None

    def remove_keys(self) -> None:
        """Remove the file of keys. Harmless when called again."""
        if self.key_file is not None:
            self.key_file.unlink(missing_ok=True)


def claim_cache(named: Path | None, run: str) -> Path:
    """The folder in which this process alone keeps fetched weights, until it ends: `named`, else the first free one
    of `lamer/weights/RUN/1`, `2` ... in the user's cache folder.

    Raises:
        BadInput: another host uses `named`, or it can't be written.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lamer" / "weights" / run
    numbers = itertools.count(1)
    while True:
        folder = named or home / str(next(numbers))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if named is not None:
                raise BadInput(f"--cache {named}: another inference host uses it, name another folder") from error
        except OSError as error:
            raise BadInput(f"weights can't be kept in {folder}: {error}; name a folder with --cache") from error
        else:
            _locks.append(lock)
            return folder


_locks: list[IO[str]] = []
"""Held until the process ends."""
