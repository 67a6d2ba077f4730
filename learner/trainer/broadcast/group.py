"""Who takes part in weight broadcasts, and how far each is: a state machine without sockets, threads or a clock.

    members join, leave or fail -> SETTLING -> FORMING -> IDLE -> ASKING -> SENDING -> IDLE
                                                           a published version: asked first, sent when all are ready

A process group can't change: whenever a host joins, leaves or fails, the next group is formed of those that are there.
Everything is bounded: a member that isn't ready in time is dropped, the others are told and fall back to their folders.
A dropped host joins again by itself. When several can't form a group, those among them that never were in one are
suspects, and are tried alone before they may join the others again. Rank 0 is the trainer
(`learner.trainer.broadcast.rank_zero`).
"""

from __future__ import annotations

import enum
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lamer.common.errors import LamerError
from lamer.common.messages import GroupAction, GroupJoin, GroupOffer, GroupOrder, GroupStage, GroupState, GroupUpdate
from lamer.common.records import Record
from lamer.common.weights import Bucket

log = logging.getLogger("lamer.trainer")


class Update(Record, frozen=True):
    """A published version as it is broadcast. folder: where the files with its tensors lie."""

    version: int
    identity: str
    folder: str
    files: tuple[str, ...]
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. settle: from a change of members to the next group. join: for all to enter it; servers generate nothing
    meanwhile, and hosts take them for hung after ten seconds. ready: for all to be paused. send: for one tensor, and,
    after the last one, for all to have loaded them.
    """

    settle: float = 0.5
    join: float = 8.0
    ready: float = 60.0
    send: float = 30.0


@dataclass(frozen=True, slots=True)
class MasterAddress:
    """Where members meet."""

    host: str
    port: int


class RankZero(Protocol):
    """The trainer's end of a group, one at a time. It works in the background; what comes of it is told to
    `UpdateGroup.opened` and `UpdateGroup.sent`.
    """

    def open(self, group: str, backend: str, world_size: int) -> MasterAddress:
        """Close any group before and wait for the members of this one.

        Raises:
            LamerError: this machine can't.
        """
        ...

    def send(self, group: str, update: Update) -> None:
        """Broadcast all buckets of an update."""
        ...

    def close(self) -> None:
        """Give up the group; members that wait in it get an error. Harmless without one."""
        ...


class Stage(enum.Enum):
    """What the group is doing."""

    EMPTY = enum.auto()
    SETTLING = enum.auto()
    FORMING = enum.auto()
    IDLE = enum.auto()
    ASKING = enum.auto()
    SENDING = enum.auto()


@dataclass(slots=True)
class _Member:
    host: str
    ranks: int
    reached: GroupStage | None = None
    is_proven: bool = False


class UpdateGroup:
    """Every method takes the time, in seconds of any clock. tell: sends a message to the host that it names.

    stage: what is being done. applied: the version that all members took last, -1 before the first.
    """

    def __init__(
        self, rank_zero: RankZero, tell: Callable[[GroupOffer | GroupUpdate | GroupOrder], None], limits: Limits
    ) -> None:
        self.stage = Stage.EMPTY
        self.applied = -1
        self._rank_zero = rank_zero
        self._tell = tell
        self._limits = limits
        self._members: dict[str, _Member] = {}
        self._newcomers: dict[str, _Member] = {}
        self._suspects: set[str] = set()
        self._backend = ""
        self._group = ""
        self._deadline = 0.0
        self._is_open = False
        self._was_sent = False
        self._has_changed = False
        self._pending: Update | None = None
        self._update: Update | None = None

    @property
    def hosts(self) -> tuple[str, ...]:
        """The members, and those who wait to be, in the order of their joining."""
        return (*self._members, *self._newcomers)

    # --- what happens ------------------------------------------------------------------------------------------

    def join(self, message: GroupJoin, now: float) -> None:
        """A host wants to take part, or again, with a server started anew."""
        self._newcomers.pop(message.host, None)
        if message.host in self._members:
            self._drop(self._members[message.host], "", now)
        if not self._members and not self._newcomers:
            self._backend = message.backend
        if message.backend != self._backend:
            reason = f"this run broadcasts by {self._backend} already, not by {message.backend}"
            self._tell(GroupOrder(message.host, "", GroupAction.LEAVE, reason=reason))
            return
        self._newcomers[message.host] = _Member(message.host, message.ranks)
        self._change(now)

    def heard(self, state: GroupState, now: float) -> None:
        """A member says how far it is; what it says of an earlier group no longer counts."""
        is_gone = state.stage is GroupStage.LEFT or (state.stage is GroupStage.FAILED and not state.group)
        if is_gone:
            self._newcomers.pop(state.host, None)
        if state.stage is GroupStage.LEFT:
            self._suspects.discard(state.host)
        member = self._members.get(state.host)
        if member is None:
            return
        if is_gone:
            self._drop(member, "", now)
        elif state.group != self._group or not self._group:
            return
        elif state.stage is GroupStage.FAILED:
            self._drop(member, state.reason, now)
        elif state.stage is GroupStage.DECLINED:
            self._decline(member, state, now)
        elif self._update is None or state.version == self._update.version:
            member.reached = state.stage
            self._advance(now)

    def publish(self, update: Update, now: float) -> None:
        """A new version is there; one that waited before it is forgotten."""
        self._pending = update
        self._advance(now)

    def opened(self, group: str, error: str, now: float) -> None:
        """Rank 0 is in the group, or `error`."""
        if group != self._group:
            return
        if error:
            self._fail_to_form(f"the group could not be formed: {error}", now)
            return
        self._is_open = True
        self._advance(now)

    def sent(self, group: str, error: str, now: float) -> None:
        """Rank 0 has broadcast the update, or `error`."""
        if group != self._group or self.stage is not Stage.SENDING:
            return
        if error:
            self._drop_all(f"the broadcast failed: {error}", now)
            return
        self._was_sent, self._deadline = True, now + self._limits.send
        self._advance(now)

    def tick(self, now: float) -> None:
        """Time went by."""
        if now < self._deadline or self.stage in (Stage.EMPTY, Stage.IDLE):
            return
        if self.stage is Stage.SETTLING:
            self._form(now)
            return
        if self.stage is Stage.FORMING:
            self._fail_to_form("the group could not be formed in time", now)
        elif self.stage is Stage.ASKING or self._was_sent:
            wanted = GroupStage.READY if self.stage is Stage.ASKING else GroupStage.APPLIED
            for member in self._lagging(wanted):
                self._drop(member, f"it was not {wanted.value} in time", now)

    def reset(self) -> None:
        """Forget everyone, as after the connection to the gateway was lost: who is there will be told again."""
        self._leave_group()
        self._members.clear()
        self._newcomers.clear()
        self._suspects.clear()
        self.stage = Stage.EMPTY

    # --- what follows ------------------------------------------------------------------------------------------

    def _change(self, now: float) -> None:
        """The members changed: this group is over, now or after the update that is being sent."""
        if self.stage is Stage.SENDING:
            self._has_changed = True
            return
        self._leave_group()
        self.stage, self._deadline = Stage.SETTLING, now + self._limits.settle

    def _leave_group(self) -> None:
        if self.stage is Stage.ASKING:
            self._withdraw("the members changed")
        self._rank_zero.close()
        self._group, self._update = "", None
        self._has_changed = self._is_open = self._was_sent = False

    def _form(self, now: float) -> None:
        waiting = self._members | self._newcomers
        alone = [host for host in waiting if host in self._suspects][:1]
        self._members = {host: waiting[host] for host in alone or waiting}
        self._newcomers = {host: member for host, member in waiting.items() if host not in self._members}
        if not self._members:
            self.stage = Stage.EMPTY
            return
        self._group = f"lamer-{secrets.token_hex(4)}"
        world_size = 1 + sum(member.ranks for member in self._members.values())
        try:
            address = self._rank_zero.open(self._group, self._backend, world_size)
        except LamerError as error:
            self._drop_all(str(error), now)
            return
        self.stage, self._deadline = Stage.FORMING, now + self._limits.join
        log.info("%d hosts form group %s of %d ranks", len(self._members), self._group, world_size)
        rank = 1
        for member in self._members.values():
            member.reached = None
            offer = GroupOffer(member.host, self._group, self._backend, address.host, address.port, rank, world_size)
            self._tell(offer)
            rank += member.ranks

    def _advance(self, now: float) -> None:
        if self.stage is Stage.FORMING and self._is_open and not self._lagging(GroupStage.JOINED):
            self._formed(now)
        elif self.stage is Stage.ASKING and not self._lagging(GroupStage.READY):
            self._go(now)
        elif self.stage is Stage.SENDING and self._was_sent and not self._lagging(GroupStage.APPLIED):
            self._finish(now)
        if self.stage is Stage.IDLE and self._pending is not None:
            self._ask(now)

    def _lagging(self, stage: GroupStage) -> list[_Member]:
        return [member for member in self._members.values() if member.reached is not stage]

    def _formed(self, now: float) -> None:
        self.stage = Stage.IDLE
        for member in self._members.values():
            member.is_proven = True
        self._suspects -= set(self._members)
        if self._newcomers:  # this one was tried alone
            self._change(now)

    def _fail_to_form(self, reason: str, now: float) -> None:
        """Drop those who may be why."""
        late = self._lagging(GroupStage.JOINED) or list(self._members.values())
        blamed = [member for member in late if not member.is_proven] or late
        if len(self._members) > 1:
            self._suspects |= {member.host for member in blamed}
        for member in blamed:
            self._drop(member, reason, now)

    def _ask(self, now: float) -> None:
        self._update, self._pending = self._pending, None
        assert self._update is not None
        self.stage, self._deadline = Stage.ASKING, now + self._limits.ready
        for member in self._members.values():
            member.reached = None
            update = self._update
            self._tell(GroupUpdate(member.host, self._group, update.version, update.identity, update.buckets))

    def _go(self, now: float) -> None:
        assert self._update is not None
        self.stage, self._was_sent, self._deadline = Stage.SENDING, False, now
        self._order_all(GroupAction.GO, "")
        self._rank_zero.send(self._group, self._update)

    def _finish(self, now: float) -> None:
        assert self._update is not None
        self.applied = self._update.version
        self._update, self.stage = None, Stage.IDLE
        if self._has_changed:
            self._change(now)

    def _decline(self, member: _Member, state: GroupState, now: float) -> None:
        if self._update is None or state.version != self._update.version:
            return
        if self.stage is Stage.SENDING:
            self._drop(member, "it declined an update that had begun", now)
        elif self.stage is Stage.ASKING:
            self._withdraw(f"another host declined it: {state.reason}", but=member.host)
            self._update, self.stage = None, Stage.IDLE
            self._advance(now)

    def _withdraw(self, reason: str, but: str = "") -> None:
        self._order_all(GroupAction.WITHDRAW, reason, but)

    def _order_all(self, action: GroupAction, reason: str, but: str = "") -> None:
        assert self._update is not None
        for host in self._members:
            if host != but:
                self._tell(GroupOrder(host, self._group, action, self._update.version, reason))

    def _drop(self, member: _Member, reason: str, now: float) -> None:
        """One member is gone. A broadcast that has begun can't end without it: the others get an error."""
        del self._members[member.host]
        if reason:
            log.warning("%s is dropped from group %s: %s", member.host, self._group, reason)
            self._tell(GroupOrder(member.host, self._group, GroupAction.LEAVE, reason=reason))
        if self.stage is Stage.SENDING:
            self.stage = Stage.IDLE
        self._change(now)

    def _drop_all(self, reason: str, now: float) -> None:
        log.warning("group %s is given up: %s", self._group, reason)
        for host in self._members:
            self._tell(GroupOrder(host, self._group, GroupAction.LEAVE, reason=reason))
        self._members.clear()
        self.stage = Stage.IDLE
        self._change(now)
