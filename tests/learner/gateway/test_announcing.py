from __future__ import annotations

from lamer.common.messages import HostStatus, ServerInfo, WeightAnnouncement
from lamer.common.weights import WeightFile
from lamer.learner.gateway.weights.announcing import Announcer


def weights(version: int, digest: str = "") -> WeightAnnouncement:
    return WeightAnnouncement(version, f"v{version}", (WeightFile("model.safetensors", 1, digest or str(version)),))


def server_of(max_staleness: int = 1) -> Announcer:
    return Announcer(weights(0), None, max_staleness)


def report(server: Announcer, host: str, version: int, *, is_ready: bool = True) -> bool:
    info = ServerInfo(host, f"http://{host}", "key", version, 8)
    return server.report(host, HostStatus(info, is_ready), 0.0)


def names(server: Announcer) -> list[str]:
    return [info.name for info in server.servers()]


def test_the_applied_version_is_the_lowest_in_use() -> None:
    server = server_of(max_staleness=2)
    server.announce(weights(2))
    assert server.applied_version is None
    assert report(server, "b", 0)
    assert report(server, "a", 2)
    assert report(server, "c", 1, is_ready=False) is False
    assert server.applied_version == 0
    assert names(server) == ["b", "a"]


def test_a_server_that_lags_too_far_behind_is_not_used_until_it_has_caught_up() -> None:
    server = server_of(max_staleness=1)
    report(server, "fast", 0)
    report(server, "slow", 0)
    for version in (1, 2):
        server.announce(weights(version))
        report(server, "fast", version)
    assert names(server) == ["fast"]
    assert server.applied_version == 2
    assert report(server, "slow", 2)
    assert names(server) == ["fast", "slow"]


def test_servers_that_all_lag_are_used() -> None:
    server = server_of(max_staleness=0)
    report(server, "a", 0)
    server.announce(weights(3))
    assert names(server) == ["a"]


def test_a_server_that_joins_with_an_older_version_is_used_once_it_has_caught_up() -> None:
    server = server_of(max_staleness=4)
    for version in (1, 2, 3):
        server.announce(weights(version))
    report(server, "a", 2)
    assert report(server, "new", 1) is False
    assert server.applied_version == 2
    assert report(server, "new", 2)
    assert names(server) == ["a", "new"]


def test_the_applied_version_does_not_fall_when_the_fresh_servers_are_lost() -> None:
    server = server_of(max_staleness=0)
    report(server, "fast", 0)
    report(server, "slow", 0)
    server.announce(weights(1))
    report(server, "fast", 1)
    assert names(server) == ["fast"]
    assert server.remove("fast")
    assert names(server) == []
    assert report(server, "slow", 1)
    assert names(server) == ["slow"]


def test_going_back_to_a_checkpoint_begins_a_lineage_in_which_newer_versions_are_still_used() -> None:
    server = server_of(max_staleness=1)
    for version in (1, 2, 3):
        server.announce(weights(version))
    report(server, "a", 3)
    assert server.current is not None
    assert server.current.lineage == 0
    server.announce(weights(2))  # the same weights again
    assert server.go_back(1)
    assert server.current.version == 1
    assert server.current.lineage == 2
    assert names(server) == ["a"]
    report(server, "a", 3)
    report(server, "a", 1)
    assert names(server) == ["a"]
    assert server.applied_version == 1


def test_the_same_weights_published_again_are_no_new_lineage() -> None:
    server = server_of()
    server.announce(weights(1))
    server.announce(weights(1))
    assert server.current is not None
    assert server.current.lineage == 0
    server.announce(weights(1, "other"))
    assert server.current.lineage == 1
