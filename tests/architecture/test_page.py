"""`docs/architecture.md` draws the house as it stands: its tree, its arrows and its messages."""

from __future__ import annotations

import re
from collections import defaultdict

from lamer.common import messages
from lamer.learner.gateway import gateway
from tests.architecture import rules
from tests.architecture.house import CHECKOUT, House, room

PAGE = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
UNDRAWN = {"common", "deploy", "deploy/commands"}
"""common is imported by all, commands import what they call: the page says so in words."""


def blocks(kind: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == kind]


def drawn_tree() -> set[str]:
    """The folders of the page's tree, by their indentation."""
    found: set[str] = set()
    above: list[str] = []
    for line in blocks("")[0].splitlines():
        match = re.match(r"( *)([a-z_]+)/ ", line)
        assert match is not None, line
        above = [*above[: len(match[1]) // 2], match[2]]
        found.add("/".join(above))
    return found


def test_the_tree_is_the_one_that_stands() -> None:
    assert drawn_tree() == {room(path) for path in House().sources}


def test_the_import_arrows_are_those_of_the_sources() -> None:
    real = {(rules.home(each.path), rules.home(target)) for each, target in House().arrows}
    expected = {(a, b) for a, b in real if a != b and not {a, b} & UNDRAWN}
    drawn = set(re.findall(r"^  (\S+) --> (\S+)$", blocks("mermaid")[1], re.MULTILINE))
    assert drawn == expected


def test_the_messages_on_the_process_arrows_are_those_of_the_protocol() -> None:
    arrows = re.findall(r"^  (\w+) -->\|([^|]+)\| (\w+)$", blocks("mermaid")[0], re.MULTILINE)
    known = {kind.__name__ for kind in messages.MESSAGE_TYPES}
    to_gateway: dict[str, set[str]] = defaultdict(set)
    from_gateway: set[str] = set()
    for sender, text, receiver in arrows:
        names = {name.strip() for name in text.split(",")} & known
        if receiver == "gateway":
            to_gateway[sender] |= names
        elif sender == "gateway":
            from_gateway |= names
    expected: dict[str, set[str]] = defaultdict(set)
    for kind, role in gateway.SENDER.items():
        expected[role.value].add(kind.__name__)
    assert {**to_gateway, "observer": set()} == {**expected, "observer": set()}
    assert to_gateway["observer"] == {"StatusRequest"}

    for_all = {"Hello", "Heartbeat", "Goodbye", "Welcome", "Reject", "Shutdown", "ModelFilesRequest", "ModelFiles"}
    relayed = {"GroupJoin", "GroupState", "GroupOffer", "GroupUpdate", "GroupOrder"}
    sent = set().union(*to_gateway.values())
    assert sent | from_gateway | for_all == known
    assert from_gateway & sent <= relayed
