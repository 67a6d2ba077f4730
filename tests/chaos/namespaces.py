"""Machines made of Linux namespaces: each has a network, folders, processes and a name of its own.

    machine --- veth --- +--------+ --- wire (`tests.chaos.wire`: delays, can be cut) --- machine
    machine --- veth --- | switch |
                         +--------+

A machine sees its own folder and an empty one where the others' lie, so that nothing but the network joins them; the
installation (interpreter, packages, this checkout) is the same for all. A namespace lives as long as the process that
holds it, which ends with the pipe to its stdin: nothing is left when a test dies, however it dies.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.integration.processes import Started

NET = "10.77.0"
_TOOLS = ("ip", "unshare", "nsenter", "mount")
_HOLD = """
set -e
cd "$2"
hostname "$1"
mount -t tmpfs tmpfs "$3"
mkdir -p "$2"
mount --no-canonicalize --bind /proc/self/cwd "$2"
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
echo ready
read -r _
"""


def why_not() -> str:
    """Why machines can't be made here, "" if they can."""
    if sys.platform != "linux":
        return f"network namespaces are Linux's, this is {sys.platform}"
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"no {', '.join(lacking)} here"
    if os.geteuid() != 0:
        return "not root: network namespaces need CAP_NET_ADMIN and CAP_SYS_ADMIN"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun here"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "ip", "link", "add", "type", "veth"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


class Held:
    """A process that ends with its stdin and says `ready` on stdout once it has done what it is for."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.expect("ready")

    def say(self, line: str) -> None:
        """Send a line, and wait until it is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self.expect(line)

    def expect(self, line: str) -> None:
        """Read the next line; fails unless it is `line`."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        assert said == line, f"{self.process.args} said {said!r}, not {line!r}"

    def end(self) -> None:
        """Let it end, and with it all that it holds."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10.0)


@dataclass(frozen=True)
class Machine:
    """A machine: its name, its address, and the folder that is its own. pid: of its first process, seen from here."""

    name: str
    address: str
    folder: Path
    pid: int

    def enter(self, *command: str) -> tuple[str, ...]:
        """The command line that runs a command there."""
        spaces = ("--net", "--mount", "--uts", "--pid")
        return ("nsenter", f"--target={self.pid}", *spaces, "env", f"--chdir={self.folder}", *command)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end."""
        return subprocess.run(
            self.enter(*command), env=self._environment(), capture_output=True, text=True, check=False
        )

    def lamer(self, *arguments: str) -> Started:
        """Start `lamer ARGUMENTS` there, in its folder; its output goes to a file there."""
        output = self.folder / f"{arguments[0]}-{len(list(self.folder.glob('*.out')))}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                self.enter(sys.executable, "-m", "lamer.deploy.cli", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )
        return Started(process, output)

    def _environment(self) -> dict[str, str]:
        own = {"HOME": str(self.folder), "TMPDIR": str(self.folder), "XDG_CACHE_HOME": str(self.folder / ".cache")}
        return {**os.environ, **own, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


class Wire:
    """The cable of one machine."""

    def __init__(self, held: Held) -> None:
        self._held = held

    def delay(self, seconds: float) -> None:
        """From now on, frames take so long each way."""
        self._held.say(f"delay {seconds}")

    def cut(self) -> None:
        """From now on, frames are lost without a word."""
        self._held.say("cut")

    def mend(self) -> None:
        """From now on, frames arrive again."""
        self._held.say("mend")


@dataclass(frozen=True)
class Network:
    """Machines by name, and the wire of the first of them."""

    machines: dict[str, Machine]
    wire: Wire


@contextmanager
def network(base: Path, names: Sequence[str]) -> Iterator[Network]:
    """Machines joined by one switch, the first of them through a wire; all gone afterwards.

    base: an empty folder, in which each machine gets its own.
    """
    with ExitStack() as stack:

        def hold(*command: str) -> Held:
            held = Held(command)
            stack.callback(held.end)
            return held

        switch = _first_process(hold("unshare", "--net", "--fork", "--kill-child", "sh", "-c", "echo ready; read -r _"))
        _in_net(switch, "ip", "link", "add", "switch", "type", "bridge")
        _in_net(switch, "ip", "link", "set", "switch", "up")
        machines = {}
        for number, name in enumerate(names, 1):
            folder = base / name
            folder.mkdir(parents=True)
            own = ("--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
            pid = _first_process(hold("unshare", *own, "sh", "-c", _HOLD, "sh", name, str(folder), str(base)))
            machines[name] = Machine(name, f"{NET}.{number}", folder, pid)
        first, *others = machines.values()
        script = str(Path(__file__).with_name("wire.py"))
        wire = hold("nsenter", f"--target={switch}", "--net", sys.executable, script, "port1", "cable")
        _plug_in(switch, first, 1)
        for number, machine in enumerate(others, 2):
            _in_net(switch, "ip", "link", "add", f"port{number}", "type", "veth", "peer", "name", "cable")
            _plug_in(switch, machine, number)
        yield Network(machines, Wire(wire))


def _plug_in(switch: int, machine: Machine, number: int) -> None:
    """Move the end `cable` of a link into the machine, and make the other end, `portNUMBER`, a port of the switch."""
    _in_net(switch, "ip", "link", "set", "cable", "netns", str(machine.pid))
    _in_net(switch, "ip", "link", "set", f"port{number}", "master", "switch", "up")
    _in_net(machine.pid, "ip", "address", "add", f"{machine.address}/24", "dev", "cable")
    _in_net(machine.pid, "ip", "link", "set", "cable", "up")


def _in_net(pid: int, *command: str) -> None:
    subprocess.run(["nsenter", f"--target={pid}", "--net", *command], check=True, capture_output=True)


def _first_process(held: Held) -> int:
    """The child of `unshare --fork`, which is in the new namespaces."""
    return int(psutil.Process(held.process.pid).children()[0].pid)
