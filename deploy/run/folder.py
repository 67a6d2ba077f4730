"""The folder of a run: which one, what lies in it, and that only one learner works in it at a time.

    config.yaml    the resolved configuration            address   where the gateway listens, while it does
    journal.db     every trial, with segments/           keys/     CURVE keys, unless `gateway.keys` names others
    checkpoints/   weights/   model/                     logs/     output of child processes
    metrics.jsonl  summary.json                          lock      held by the learner
    trainer-keys/  the trainer's, of this start

The folder is `run.directory`/NAME. NAME is `run.name`, or the configuration file's name and the next free number:
doors-001, doors-002, ...
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lamer.common import config
from lamer.common.errors import BadInput, Missing
from lamer.common.keys import ensure_keys
from lamer.common.listening import Listener
from lamer.common.settings import Settings
from lamer.deploy.run.precision import adopted, asked, has_cuda, resolved

CONFIG_FILE = "config.yaml"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run's folder and the configuration it was opened with. is_resumed: it held a run before."""

    path: Path
    settings: Settings
    is_resumed: bool

    @property
    def name(self) -> str:
        """The run's name, which its trial ids start with."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG_FILE

    @property
    def address(self) -> Path:
        """The file in which the gateway writes its URL once it listens."""
        return self.path / "address"

    @property
    def summary(self) -> Path:
        """The run's results, written at its end."""
        return self.path / "summary.json"

    @property
    def keys(self) -> Path:
        """The run's keys folder: `gateway.keys`, else one of its own."""
        return Path(self.settings.gateway.keys) if self.settings.gateway.keys else self.path / "keys"

    @property
    def trainer_keys(self) -> Path:
        """What the run's own trainer connects with: written by each learner, and for nobody else."""
        return self.path / "trainer-keys"

    @property
    def logs(self) -> Path:
        """Output of the processes that `lamer train` starts."""
        return self.path / "logs"


def open_run(settings: Settings, files: Sequence[Path], is_resume: bool) -> RunFolder:
    """Create the run's folder, or find the one to go on with, and write the resolved configuration to it.

    Args:
        files: the configuration files; the last one names the run when `run.name` is empty.
        is_resume: go on with an existing folder. Without `run.name` it is the newest of that file's name.

    Raises:
        BadInput: the folder exists and `is_resume` is false, its configuration is another, the name, gateway.bind or
            gateway.keys is unusable, or a learner is at work in the folder, which is left as it is.
        Missing: there is nothing to resume, or the port is taken; nothing is left of a new run then.
    """
    directory = Path(settings.run.directory)
    stem = files[-1].stem if files else "run"
    name = settings.run.name or (_newest(directory, stem) if is_resume else "")
    if name and not _NAME.match(name):
        raise BadInput(f"run.name {name!r} can't be a run's name: letters, digits, '.', '_' and '-', no '/'")
    if is_resume:
        path = directory / name
        settings = _as_begun(path, settings)
    else:
        settings = asked(settings)
        if settings.gateway.keys:
            ensure_keys(Path(settings.gateway.keys))  # these two before there is a folder that has the name
        Listener(settings.gateway.bind, settings.gateway.port).close()
        path = directory / name if name else _reserve(directory, stem)
        if name:
            _create(path)
    settings = resolved(settings, is_on_cuda=has_cuda())
    run = RunFolder(path, replace(settings, run=replace(settings.run, name=path.name)), is_resume)
    with _held(path):
        _write_config(run)
    return run


def find_run(name: str, directory: Path = Path("runs")) -> Path:
    """The run folder that a user names by its path or by its name under `directory`.

    Raises:
        Missing: there is none.
    """
    for path in (Path(name), directory / name):
        if (path / CONFIG_FILE).is_file():
            return path
    runs = sorted((path.parent for path in directory.glob(f"*/{CONFIG_FILE}")), key=lambda path: path.stat().st_mtime)
    known = f"; runs here: {', '.join(path.name for path in runs[-5:])}" if runs else ""
    raise Missing(f"no run folder {name} (nor {directory / name}){known}")


@contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Hold the run's lock, which the kernel releases when this process ends, however it ends.

    Raises:
        BadInput: another process holds it.
    """
    with _held(run.path):
        _write_config(run)  # somebody may have opened the run since, and not begun
        try:
            run.address.unlink(missing_ok=True)
            yield
        finally:
            run.address.unlink(missing_ok=True)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BadInput(f"a learner is at work in {path} already: end it first, or choose another --name") from error
    try:
        yield
    finally:
        os.close(descriptor)


def _write_config(run: RunFolder) -> None:
    """Write the resolved configuration; for whoever holds the lock."""
    kept = config.to_yaml(run.settings)
    write_text(run.config, kept, is_private=kept != config.to_shown_yaml(run.settings))


def write_text(path: Path, text: str, *, is_private: bool = False) -> None:
    """Replace a file in one step: a reader sees the old text or the new, never a part.

    is_private: nobody but its owner may read it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    mode = 0o600 if is_private else 0o666
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _create(path: Path) -> None:
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        raise BadInput(f"{path} exists already: choose another --name, or go on with that run by --resume") from error
    except OSError as error:
        raise Missing(f"the run folder {path} can't be created: {error.strerror}") from error


def _numbered(directory: Path, stem: str) -> list[int]:
    found = (re.fullmatch(rf"{re.escape(stem)}-(\d+)", path.name) for path in directory.glob(f"{stem}-*"))
    return sorted(int(match.group(1)) for match in found if match is not None)


def _newest(directory: Path, stem: str) -> str:
    numbers = _numbered(directory, stem)
    if not numbers:
        raise Missing(f"nothing to resume: {directory} holds no run {stem}-NNN; name one with --name")
    return f"{stem}-{numbers[-1]:03d}"


def _reserve(directory: Path, stem: str) -> Path:
    """The next free number's folder, created; two runs that start at once get two numbers."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-") or "run"
    number = max(_numbered(directory, stem), default=0) + 1
    while (directory / f"{stem}-{number:03d}").exists():
        number += 1
    path = directory / f"{stem}-{number:03d}"
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return _reserve(directory, stem)
    except OSError as error:
        raise Missing(f"the run folder {path} can't be created: {error.strerror}") from error
    return path


def _as_begun(path: Path, settings: Settings) -> Settings:
    """The settings to resume a run with: its own precision where none is named.

    Raises:
        BadInput: the run's configuration is another. Missing: there is no run.
    """
    if not (path / CONFIG_FILE).is_file():
        raise Missing(f"nothing to resume: {path} holds no {CONFIG_FILE}")
    before = config.load([path / CONFIG_FILE])
    settings = adopted(settings, before)
    keys = config.differing_keys(before, settings)
    if not keys:
        return settings
    old, new = dict(config.parameters(before)), dict(config.parameters(settings))
    shown = ", ".join(f"{key} ({old.get(key, 'unset')} there, {new.get(key, 'unset')} here)" for key in keys[:5])
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    raise BadInput(f"{path} is a run of another configuration: {shown}{more}; resume it with its own, or choose --name")
