"""Which weights are current, which servers hold which version, and so which version is applied.

The gateway announces the current weights to every host; a host reports what its server was verified to hold. The
*applied* version is the lowest among ready servers: no token generated from here on is older.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from common.errors import Missing
from common.messages import HostStatus, ServerInfo, WeightAnnouncement


def first_weights(model_path: Path) -> WeightAnnouncement:
    """Policy version 0: the model folder that the run starts from. Its digest is "" if the model is in several files.

    Raises:
        Missing: there is no such folder.
    """
    if not model_path.is_dir():
        raise Missing(f"the model folder {model_path} is not there")
    weights = model_path / "model.safetensors"
    if not weights.exists():
        return WeightAnnouncement(0, str(model_path), "")
    with weights.open("rb") as file:
        return WeightAnnouncement(0, str(model_path), hashlib.file_digest(file, "sha256").hexdigest())


class WeightServer:
    """The run's published weights and its hosts."""

    def __init__(self, first: WeightAnnouncement, resume_step: int | None) -> None:
        """Start at version 0, or, going on from a later one, without current weights until they are published."""
        self.current = None if resume_step else first
        self._published = {first.version: first}
        self._hosts: dict[str, HostStatus] = {}
        self._applied_since: float | None = None

    def publish(self, weights: WeightAnnouncement) -> None:
        """Make these weights current."""
        self._published[weights.version] = weights
        self.current = weights

    def go_back(self, version: int) -> bool:
        """Make an earlier version current again; False if it was not published while this gateway ran."""
        if version not in self._published:
            return False
        self.current = self._published[version]
        return True

    def report(self, host: str, status: HostStatus, now: float) -> bool:
        """Take a host's report; whether the list of servers that actors see changed."""
        before, applied = self.servers(), self.applied_version
        self._hosts[host] = status
        if self.applied_version != applied:
            self._applied_since = now
        return self.servers() != before

    def remove(self, host: str) -> bool:
        """Forget a host that left or died; whether it had a server that actors see."""
        status = self._hosts.pop(host, None)
        return status is not None and status.is_ready

    @property
    def applied_version(self) -> int | None:
        """The lowest policy version among ready servers, None without any."""
        return min((status.server.policy_version for status in self._ready()), default=None)

    def servers(self, version: int | None = None) -> tuple[ServerInfo, ...]:
        """The ready servers; those that hold `version`, if one is given."""
        servers = (status.server for status in self._ready())
        return tuple(server for server in servers if version is None or server.policy_version == version)

    def age(self, now: float) -> float:
        """Seconds since the applied version changed, 0 before it was known."""
        return 0.0 if self._applied_since is None else now - self._applied_since

    @property
    def update_seconds(self) -> float:
        """How long the slowest ready server's last weight update took."""
        return max((status.update_seconds for status in self._ready()), default=0.0)

    @property
    def pause_seconds(self) -> float:
        """How long generation stood still in the last weight update, on the server where it did longest."""
        return max((status.pause_seconds for status in self._ready()), default=0.0)

    def _ready(self) -> tuple[HostStatus, ...]:
        return tuple(status for status in self._hosts.values() if status.is_ready)
