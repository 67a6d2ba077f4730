"""Which weights are current, which servers hold which version, and so which version is applied.

The gateway announces the current weights to every host; a host reports what its server was verified to hold. The
*applied* version is the lowest among the servers that actors use: no token generated from here on is older, since it
never falls, but with a trainer that goes back to a checkpoint. So a server that joins, or comes back, with an older one
is not used before it has caught up. Nor is one that falls back by more than `max_staleness` versions while another has
not: what it generates could not be trained, and it would hold back admission for all.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from lamer.common.errors import Missing
from lamer.common.messages import HostStatus, Metric, ServerInfo, WeightAnnouncement
from lamer.common.weights import weight_files


def first_weights(model_path: Path) -> WeightAnnouncement:
    """Policy version 0: the model folder that the run starts from.

    Raises:
        Missing: there is no such folder.
    """
    if not model_path.is_dir():
        raise Missing(f"the model folder {model_path} is not there")
    return WeightAnnouncement(0, str(model_path), weight_files(model_path))


def newest_folder(weights: Path) -> int:
    """The highest version in the folder of a run's published weights, 0 without one: an earlier gateway of the run may
    have announced it, and trials that were played with it may still be on their way.
    """
    return max((int(path.name[1:]) for path in weights.glob("v*") if path.name[1:].isdecimal()), default=0)


class Announcer:
    """The run's published weights and its hosts. newest_version: the highest that was ever published."""

    def __init__(
        self, first: WeightAnnouncement, resume_step: int | None, max_staleness: int = 0, newest_version: int = 0
    ) -> None:
        """Start at version 0, or, going on from a later one, without current weights until they are published.

        newest_version: the highest that an earlier gateway of the run may have announced.
        """
        self.newest_version = max(first.version, resume_step or 0, newest_version)
        self.current = None if resume_step else first
        self._published = {first.version: first}
        self._lineage = 0
        self._max_staleness = max_staleness
        self._floor = 0
        self._hosts: dict[str, HostStatus] = {}
        self._applied_since: float | None = None

    def announce(self, weights: WeightAnnouncement) -> None:
        """Make these weights current. Going back to an earlier version begins a new lineage."""
        if self.current is not None and weights.version <= self.current.version:
            self._lineage += weights.identity != self.current.identity
            self._floor = min(self._floor, weights.version)
        self.newest_version = max(self.newest_version, weights.version)
        self.current = msgspec.structs.replace(weights, lineage=self._lineage)
        self._published[weights.version] = self.current

    def go_back(self, version: int) -> bool:
        """Make an earlier version current again; False if it was not published while this gateway ran."""
        if version not in self._published:
            return False
        self.announce(self._published[version])
        return True

    def find(self, identity: str) -> WeightAnnouncement | None:
        """The newest published weights with this identity."""
        found = [weights for weights in self._published.values() if weights.identity == identity]
        return max(found, key=lambda weights: weights.version, default=None)

    def report(self, host: str, status: HostStatus, now: float) -> bool:
        """Take a host's report; whether the list of servers that actors see changed."""
        before, applied = self._offered(), self.applied_version
        last = self._hosts.get(host)
        server = msgspec.structs.replace(status.server, report=last.server.report + 1 if last is not None else 1)
        self._hosts[host] = msgspec.structs.replace(status, server=server)
        if self.applied_version != applied:
            self._applied_since = now
        if self.current is not None and self.applied_version is not None:
            self._floor = max(self._floor, min(self.applied_version, self.current.version))
        return self._offered() != before

    def remove(self, host: str) -> bool:
        """Forget a host that left or died; whether it had a server that actors see."""
        before = self._offered()
        self._hosts.pop(host, None)
        return self._offered() != before

    @property
    def applied_version(self) -> int | None:
        """The lowest policy version among the servers in use, None without any."""
        return min((status.server.policy_version for status in self._in_use()), default=None)

    def servers(self, version: int | None = None) -> tuple[ServerInfo, ...]:
        """The servers in use; those that hold `version`, if one is given."""
        servers = (status.server for status in self._in_use())
        return tuple(server for server in servers if version is None or server.policy_version == version)

    def age(self, now: float) -> float:
        """Seconds since the applied version changed, 0 before it was known."""
        return 0.0 if self._applied_since is None else now - self._applied_since

    def metrics(self) -> tuple[Metric, ...]:
        """Of the last weight update, on the server in use where each figure is largest."""
        ready = self._in_use()

        def largest(name: str) -> float:
            return max((float(getattr(status, name)) for status in ready), default=0.0)

        names = ("update_seconds", "pause_seconds", "download_seconds", "download_bytes")
        return tuple(Metric(f"weights/{name}", largest(name)) for name in names)

    def _offered(self) -> tuple[ServerInfo, ...]:
        """The servers in use without their loads, which change all the time."""
        return tuple(msgspec.structs.replace(server, running=0, waiting=0, report=0) for server in self.servers())

    def _in_use(self) -> tuple[HostStatus, ...]:
        """The ready servers, without those that lag behind or have yet to come to what was applied before."""
        hosts = self._hosts.values()
        ready = tuple(host for host in hosts if host.is_ready and host.server.policy_version >= self._floor)
        oldest = self.current.version - self._max_staleness if self.current is not None else 0
        fresh = tuple(status for status in ready if status.server.policy_version >= oldest)
        return fresh or ready
