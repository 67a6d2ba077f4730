"""`docs/architecture.md` draws the sources as they are: the tree, the import arrows, the messages between processes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

import pytest

from lamer.common import messages
from lamer.learner.gateway.checking.permissions import SENDERS
from tests.architecture import rules
from tests.architecture.tree import CHECKOUT, SourceTree, room

PAGE = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
UNDRAWN = {"common", "deploy", "deploy/commands"}
"""common is imported by all, commands import what they call: the page says so in words."""

FROM_GATEWAY = {
    "actor": {"Lease", "Ack", "Nack", "Servers", "ModelFiles"},
    "host": {
        "WeightAnnouncement",
        "WeightManifest",
        "WeightChunk",
        "ModelFiles",
        "GroupOffer",
        "GroupUpdate",
        "GroupOrder",
    },
    "trainer": {"Batch", "GroupJoin", "GroupState"},
    "observer": {"Status"},
}
WITH_EVERYBODY = {"Hello", "Heartbeat", "Goodbye", "Welcome", "Reject", "Shutdown"}


def blocks(page: str, kind: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == kind]


def wrong_folders(page: str) -> set[str]:
    """Folders of the page's tree that are not there, and those that it lacks."""
    drawn: set[str] = set()
    above: list[str] = []
    for line in blocks(page, "")[0].splitlines():
        match = re.match(r"( *)([a-z_]+)/ ", line)
        assert match is not None, line
        above = [*above[: len(match[1]) // 2], match[2]]
        drawn.add("/".join(above))
    return drawn ^ {room(path) for path in SourceTree().sources}


def wrong_arrows(page: str) -> set[tuple[str, str]]:
    """Import arrows of the page that no source has, and those that it lacks."""
    real = {(rules.home(each.path), rules.home(target)) for each, target in SourceTree().arrows}
    expected = {(a, b) for a, b in real if a != b and not {a, b} & UNDRAWN}
    return expected ^ set(re.findall(r"^  (\S+) --> (\S+)$", blocks(page, "mermaid")[1], re.MULTILINE))


def wrong_messages(page: str) -> set[tuple[str, str, str]]:
    """(sender, message, receiver) on the page's arrows that the protocol does not have, and those that it lacks."""
    known = {kind.__name__ for kind in messages.MESSAGE_TYPES}
    drawn = {
        (sender, name, receiver)
        for sender, text, receiver in re.findall(r"^  (\w+) -->\|([^|]+)\| (\w+)$", blocks(page, "mermaid")[0], re.M)
        for name in re.split(r",\s*|<br/>", text)
        if name in known
    }
    sent: dict[str, set[str]] = defaultdict(set)
    for kind, roles in SENDERS.items():
        for role in roles if kind.__name__ not in WITH_EVERYBODY else ():
            sent[role.value].add(kind.__name__)
    expected = {(role, name, "gateway") for role, names in sent.items() for name in names}
    expected |= {("gateway", name, role) for role, names in FROM_GATEWAY.items() for name in names}
    return expected ^ drawn


def test_the_tree_is_that_of_the_sources() -> None:
    assert wrong_folders(PAGE) == set()


def test_the_import_arrows_are_those_of_the_sources() -> None:
    assert wrong_arrows(PAGE) == set()


def test_the_messages_on_the_arrows_are_those_of_the_protocol_and_none_is_missing() -> None:
    assert wrong_messages(PAGE) == set()
    named = {name for names in FROM_GATEWAY.values() for name in names}
    named |= {kind.__name__ for kind in SENDERS} | WITH_EVERYBODY
    assert named == {kind.__name__ for kind in messages.MESSAGE_TYPES}
    assert all(name in PAGE for name in WITH_EVERYBODY)


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        (wrong_folders, "  journal/ ", "  diary/ "),
        (wrong_arrows, "  deploy/play --> actors\n", ""),
        (wrong_arrows, "  deploy/play --> actors\n", "  deploy/play --> actors\n  actors --> deploy/play\n"),
        (wrong_messages, "|Status|", "|Status, Batch|"),
        (wrong_messages, "TrialDone, ", ""),
    ],
)
def test_a_page_that_is_out_of_date_is_noticed(check: Callable[[str], set[object]], old: str, new: str) -> None:
    assert old in PAGE
    assert check(PAGE.replace(old, new)) != set()
