"""The trainer's end of a weight-update group: rank 0 of a torch process group of its own, beside any default one.

SGLang's servers enter a group through torch's internal helper, which puts three prefixes before the keys of the
rendezvous: the group's name, the name and a slash, and the device; the same are used here. Each group has a thread; the
store by which members meet belongs to the loop's side, since dropping it is what frees a thread, and servers, that wait
for a member in vain. Tensors are read from the published files: parameters being trained are never touched.
"""

from __future__ import annotations

import datetime
import logging
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch._C._distributed_c10d import (
    BroadcastOptions,
    PrefixStore,
    ProcessGroupGloo,
    Store,
    TCPStore,
    Work,
)

from lamer.common.errors import BadInput
from lamer.common.weights import Bucket
from lamer.learner.trainer.broadcast.group import MasterAddress, Update

log = logging.getLogger("lamer.trainer")

_DTYPES = {
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
}
_STORE_SECONDS = 30.0
_WATCHDOG_SECONDS = 7 * 24 * 3600.0
"""NCCL's own watchdog ends the whole process; waits are bounded one by one instead."""


def plan_buckets(folder: Path, files: Sequence[str], bucket_bytes: int) -> tuple[Bucket, ...]:
    """The tensors of weight files, in the files' order, in buckets of at most `bucket_bytes`; a larger tensor has one
    to itself.

    Raises:
        BadInput: a file is no safetensors file, or holds a dtype that can't be broadcast.
    """
    buckets: list[Bucket] = []
    rows: list[tuple[str, str, tuple[int, ...]]] = []
    filled = 0
    for name, dtype, shape in _tensors(folder, files):
        size = torch.Size(shape).numel() * getattr(torch, dtype).itemsize
        if rows and filled + size > bucket_bytes:
            buckets.append(_bucket(rows))
            rows, filled = [], 0
        rows.append((name, dtype, shape))
        filled += size
    return (*buckets, _bucket(rows)) if rows else tuple(buckets)


def _tensors(folder: Path, files: Sequence[str]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for file in files:
        try:
            with safe_open(folder / file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    described = opened.get_slice(name)
                    dtype = described.get_dtype()
                    if dtype not in _DTYPES:
                        raise BadInput(f"{name} in {folder / file} is {dtype}, which can't be broadcast")
                    yield name, _DTYPES[dtype], tuple(described.get_shape())
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{folder / file} can't be broadcast: {error}") from error


def _bucket(rows: Sequence[tuple[str, str, tuple[int, ...]]]) -> Bucket:
    names, dtypes, shapes = zip(*rows, strict=True)
    return Bucket(names, dtypes, shapes)


def group_address(configured: str, bind: str) -> str:
    """Where members meet: the configured address, else that of the gateway's socket (`tcp://HOST`), else, where it
    listens everywhere, the address from which this machine's default route leaves.
    """
    bound = bind.removeprefix("tcp://").strip("[]")
    if configured or bound not in ("*", "0.0.0.0", "::"):
        return configured or bound
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


class Entered(Protocol):
    """What is used of a torch process group of either backend."""

    def broadcast(self, tensors: list[torch.Tensor], options: BroadcastOptions) -> Work:
        """Begin to broadcast one tensor."""
        ...

    def abort(self) -> None:
        """Give up what was begun."""
        ...


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Called from a group's thread: (group, "" or the error)."""

    opened: Callable[[str, str], None]
    sent: Callable[[str, str], None]


class TorchRankZero:
    """`learner.trainer.broadcast.group.RankZero` with torch.distributed. One group at a time; used from one thread."""

    def __init__(self, address: str, outcomes: Outcomes, join_seconds: float, send_seconds: float) -> None:
        self._address = address
        self._outcomes = outcomes
        self._join_seconds = join_seconds
        self._send_seconds = send_seconds
        self._meeting: TCPStore | None = None
        self._jobs: queue.SimpleQueue[Update | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def open(self, group: str, backend: str, world_size: int) -> MasterAddress:
        """Close any group before and wait for the members of this one, in a thread.

        Raises:
            BadInput: the backend is not there, or the address is none of this machine.
        """
        self.close()
        check_backend(backend)
        try:
            listening = socket.create_server((self._address, 0), family=_family(self._address))
        except OSError as error:
            raise BadInput(
                f"hosts can't meet at {self._address} ({error}): set trainer.group_address to one of this machine's own"
            ) from error
        port = listening.getsockname()[1]
        self._meeting = TCPStore(
            self._address,
            port,
            None,
            True,
            _span(_STORE_SECONDS),
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
        self._jobs = queue.SimpleQueue()
        address = MasterAddress(self._address, port)
        entrance = TCPStore(
            self._address, port, None, False, _span(self._join_seconds), wait_for_workers=False
        )  # connected here: a thread that still tried to connect would not notice `close`
        member = _Member(group, backend, world_size, address, entrance, self._join_seconds, self._send_seconds)
        arguments = (member, self._jobs, self._outcomes)
        self._thread = threading.Thread(target=_work, args=arguments, name=f"broadcast {group}", daemon=True)
        self._thread.start()
        return address

    def send(self, group: str, update: Update) -> None:
        """Broadcast all buckets of an update to the group that is open."""
        self._jobs.put(update)

    def close(self) -> None:
        """Give up the group. A broadcast on its way ends with its tensor."""
        self._jobs.put(None)
        self._meeting = None

    def join(self, seconds: float) -> None:
        """After `close`: wait for the thread, which a process must not leave behind in torch's hands when it ends."""
        if self._thread is not None:
            self._thread.join(seconds)


def check_backend(backend: str) -> None:
    """See that this machine can broadcast that way.

    Raises:
        BadInput: it can't.
    """
    if backend == "nccl" and not (dist.is_nccl_available() and torch.cuda.is_available()):
        raise BadInput("inference.delivery is nccl, but the trainer has no GPU: use gloo, stream or path")
    if backend not in ("gloo", "nccl"):
        raise BadInput(f"weights can be broadcast by gloo or nccl, not by {backend!r}")


@dataclass(frozen=True, slots=True)
class _Member:
    group: str
    backend: str
    world_size: int
    address: MasterAddress
    entrance: Store
    join_seconds: float
    send_seconds: float

    def enter(self) -> Entered:
        """Meet the others; blocks."""
        store = self.entrance
        device = "cuda" if self.backend == "nccl" else "cpu"
        for prefix in (self.group, f"{self.group}/", f"{device}/"):
            store = PrefixStore(prefix, store)
        if self.backend == "nccl":
            patient = dist.ProcessGroupNCCL.Options()
            patient._timeout = _span(_WATCHDOG_SECONDS)
            return cast(Entered, dist.ProcessGroupNCCL(store, 0, self.world_size, patient))
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = _span(max(self.join_seconds, self.send_seconds))
        options._devices = [ProcessGroupGloo.create_device(hostname=self.address.host)]
        return cast(Entered, ProcessGroupGloo(store, 0, self.world_size, options))

    @property
    def device(self) -> torch.device:
        """Where tensors must lie."""
        return torch.device("cuda" if self.backend == "nccl" else "cpu")


def _work(member: _Member, jobs: queue.SimpleQueue[Update | None], outcomes: Outcomes) -> None:
    """A group's life, in its own thread: enter, broadcast what comes, leave at None or after an error."""
    try:
        entered = member.enter()
    except Exception as error:  # whatever torch raises ends this group, not the trainer
        outcomes.opened(member.group, _first_line(error))
        return
    outcomes.opened(member.group, "")
    try:
        with _own_stream(member.device):
            while (update := jobs.get()) is not None:
                _broadcast(entered, update, member)
                outcomes.sent(member.group, "")
    except Exception as error:  # as above
        outcomes.sent(member.group, _first_line(error))
    finally:
        if member.backend == "nccl":
            entered.abort()


def _broadcast(entered: Entered, update: Update, member: _Member) -> None:
    """Every tensor of every bucket, in order; a bucket at a time is on the device."""
    options = BroadcastOptions()
    options.rootRank = options.rootTensor = 0
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(Path(update.folder) / file, "pt")) for file in update.files]
        holder = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 - not a dict
        for bucket in update.buckets:
            tensors = [holder[name].get_tensor(name).to(member.device).contiguous() for name in bucket.names]
            for work in [entered.broadcast([tensor], options) for tensor in tensors]:
                work.wait(_span(member.send_seconds))


def _own_stream(device: torch.device) -> AbstractContextManager[object]:
    """On a GPU, copies and broadcasts stay out of the stream in which training computes."""
    if device.type == "cuda":
        return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
    return nullcontext()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _span(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=seconds)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
