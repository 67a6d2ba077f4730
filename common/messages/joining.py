"""How a process joins the run and leaves it."""

from __future__ import annotations

import enum

from lamer.common.messages.base import Message
from lamer.common.records import Int64
from lamer.common.text import one_line
from lamer.common.weights import ModelFingerprint

PROTOCOL_VERSION = 1


class Role(enum.StrEnum):
    """What a process that says Hello is."""

    ACTOR = "actor"
    HOST = "host"
    TRAINER = "trainer"
    OBSERVER = "observer"


MAX_NAME = 128
"""Characters of the name by which a process is known to the others."""


def name_problem(name: str) -> str:
    """Why a process can't be called so, "" if it can: names stand in logs, in tables and on the panel."""
    if not name or len(name) > MAX_NAME or not name.isprintable():
        shown = one_line(name, MAX_NAME)
        return f"a name has 1 to {MAX_NAME} characters, none of which controls a terminal or ends a line, got {shown!r}"
    return ""


class Hello(Message, frozen=True):
    """First message of every connection and of every reconnection.

    capacity: trials an actor runs at once, 0 for the other roles. run and config_hash: what the sender expects, "" for
    whatever the gateway runs. fingerprint: of the model folder that a host was given, None where it was given none.
    instance: random, the same on every reconnection of one process (`common.session` fills it in).
    """

    protocol_min: Int64
    protocol_max: Int64
    role: Role
    name: str
    run: str = ""
    config_hash: str = ""
    capacity: Int64 = 0
    fingerprint: ModelFingerprint | None = None
    instance: str = ""


class Welcome(Message, frozen=True):
    """The gateway accepted a Hello.

    epoch: changes when the gateway restarts. config: the run's resolved configuration as JSON (`common.config`).
    model_path: folder of the policy's tokenizer and first weights. credit_trials / credit_bytes: what may be
    unacknowledged. dead_after_seconds: silence after which either end takes the other for dead. fingerprint: of the
    policy's model, None where the learner has none.
    """

    protocol: Int64
    epoch: Int64
    run: str
    config: str
    config_hash: str
    policy_version: Int64
    model_path: str
    credit_trials: Int64
    credit_bytes: Int64
    heartbeat_seconds: float
    dead_after_seconds: float = 20.0
    fingerprint: ModelFingerprint | None = None


class Reject(Message, frozen=True):
    """The gateway refused a Hello; the sender exits with code 2 and prints `reason`."""

    reason: str


class Heartbeat(Message, frozen=True):
    """Sent from the event loop by both ends, so that its absence means a dead or blocked process."""

    in_flight: Int64 = 0


class Goodbye(Message, frozen=True):
    """The sender leaves on purpose: its leases are given to others at once."""

    reason: str


class Shutdown(Message, frozen=True):
    """The run is over: exit with `exit_code`."""

    reason: str
    exit_code: Int64
