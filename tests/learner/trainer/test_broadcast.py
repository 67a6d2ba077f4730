"""Weights by broadcast, the trainer's side: buckets, who is in a group when, and torch's process group itself."""

from __future__ import annotations

import datetime
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import save_file
from torch._C._distributed_c10d import BroadcastOptions, PrefixStore, ProcessGroupGloo, Store, TCPStore

from lamer.common.errors import BadInput
from lamer.common.messages import (
    GroupAction,
    GroupJoin,
    GroupOffer,
    GroupOrder,
    GroupStage,
    GroupState,
    GroupUpdate,
)
from lamer.learner.trainer.broadcast.group import Limits, MasterAddress, Stage, Update, UpdateGroup
from lamer.learner.trainer.broadcast.rank_zero import (
    Entered,
    Outcomes,
    TorchRankZero,
    check_backend,
    group_address,
    plan_buckets,
)

LIMITS = Limits(settle=1.0, join=10.0, ready=20.0, send=30.0)
SECONDS = 15.0


# --- buckets ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files: tensors a and b of 40 bytes, c of 200 (bfloat16); d of 40."""
    save_file(
        {"a": torch.arange(10.0), "b": torch.ones(2, 5), "c": torch.full((100,), 0.5, dtype=torch.bfloat16)},
        tmp_path / "one.safetensors",
    )
    save_file({"d": torch.zeros(10)}, tmp_path / "two.safetensors")
    return tmp_path


FILES = ("one.safetensors", "two.safetensors")


def test_buckets_hold_at_most_so_many_bytes_and_every_tensor_once(folder: Path) -> None:
    buckets = plan_buckets(folder, FILES, 80)
    assert [bucket.names for bucket in buckets] == [("a", "b"), ("c",), ("d",)]
    assert buckets[0].shapes == ((10,), (2, 5))
    assert buckets[1].dtypes == ("bfloat16",)


def test_a_tensor_larger_than_a_bucket_is_one_by_itself(folder: Path) -> None:
    assert [bucket.names for bucket in plan_buckets(folder, FILES, 1)] == [("a",), ("b",), ("c",), ("d",)]


def test_one_bucket_takes_all_that_fits_across_files(folder: Path) -> None:
    assert [bucket.names for bucket in plan_buckets(folder, FILES, 320)] == [("a", "b", "c", "d")]


def test_a_damaged_file_is_refused_by_name(folder: Path) -> None:
    (folder / "two.safetensors").write_bytes(b"short")
    with pytest.raises(BadInput, match=r"two\.safetensors can't be broadcast"):
        plan_buckets(folder, FILES, 80)


@pytest.mark.parametrize(
    ("configured", "bind", "address"),
    [
        ("10.0.0.7", "tcp://127.0.0.1", "10.0.0.7"),
        ("", "tcp://127.0.0.1", "127.0.0.1"),
        ("", "tcp://10.1.2.3", "10.1.2.3"),
    ],
)
def test_hosts_meet_where_the_gateway_listens_unless_told_otherwise(configured: str, bind: str, address: str) -> None:
    assert group_address(configured, bind) == address


def test_where_the_gateway_listens_everywhere_hosts_are_given_an_address_that_is_one() -> None:
    assert group_address("", "tcp://0.0.0.0") not in ("", "0.0.0.0")


def test_nccl_without_a_gpu_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BadInput, match="the trainer has no GPU"):
        check_backend("nccl")


# --- who is in a group when ------------------------------------------------------------------------------------


@dataclass
class ScriptedRankZero:
    """Notes what it is asked."""

    opened: list[tuple[str, int]] = field(default_factory=list)
    sent: list[tuple[str, int]] = field(default_factory=list)
    is_open: bool = False
    refusal: str = ""

    def open(self, group: str, backend: str, world_size: int) -> MasterAddress:
        if self.refusal:
            raise BadInput(self.refusal)
        self.opened.append((group, world_size))
        self.is_open = True
        return MasterAddress("learner", 1000 + len(self.opened))

    def send(self, group: str, update: Update) -> None:
        self.sent.append((group, update.version))

    def close(self) -> None:
        self.is_open = False


@dataclass
class Scene:
    """A group on a clock that the test moves, and what its hosts were told."""

    now: float = 0.0
    rank_zero: ScriptedRankZero = field(default_factory=ScriptedRankZero)
    told: list[GroupOffer | GroupUpdate | GroupOrder] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.group = UpdateGroup(self.rank_zero, self.told.append, LIMITS)

    def join(self, host: str, ranks: int = 1, backend: str = "gloo") -> None:
        self.group.join(GroupJoin(backend, ranks, host), self.now)

    def hosts(self) -> tuple[str, ...]:
        return self.group.hosts

    def stage(self) -> Stage:
        return self.group.stage

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.group.tick(self.now)

    @property
    def name(self) -> str:
        return self.rank_zero.opened[-1][0]

    def say(self, host: str, stage: GroupStage, version: int = -1, group: str | None = None) -> None:
        state = GroupState(self.name if group is None else group, stage, version, "a reason", host)
        self.group.heard(state, self.now)

    def form(self, *hosts: str) -> None:
        """These hosts join, and all are in."""
        for host in hosts:
            self.join(host)
        self.wait(LIMITS.settle)
        self.enter(*hosts)

    def enter(self, *hosts: str) -> None:
        self.group.opened(self.name, "", self.now)
        for host in hosts:
            self.say(host, GroupStage.JOINED)

    def publish(self, version: int) -> None:
        update = Update(version, f"identity-{version}", "folder", (), ())
        self.group.publish(update, self.now)

    def heard_by(self, host: str) -> list[str]:
        """What the host was told since asked last, as words."""
        heard = [message for message in self.told if message.host == host]
        self.told[:] = [message for message in self.told if message.host != host]
        return [
            message.action.value if isinstance(message, GroupOrder) else type(message).__name__ for message in heard
        ]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_hosts_that_join_together_are_offered_one_group_with_a_rank_for_each_process(scene: Scene) -> None:
    scene.join("a", ranks=2)
    scene.join("b", ranks=4)
    scene.wait(LIMITS.settle)
    offers = [message for message in scene.told if isinstance(message, GroupOffer)]
    assert [(offer.host, offer.rank_offset, offer.world_size) for offer in offers] == [("a", 1, 7), ("b", 3, 7)]
    assert len({(offer.group, offer.master_address, offer.master_port) for offer in offers}) == 1


def test_an_update_is_sent_only_when_every_member_is_ready(scene: Scene) -> None:
    scene.form("a", "b")
    scene.publish(1)
    scene.say("a", GroupStage.READY, 1)
    assert scene.rank_zero.sent == []
    scene.say("b", GroupStage.READY, 1)
    assert scene.rank_zero.sent == [(scene.name, 1)]
    assert scene.heard_by("a") == ["GroupOffer", "GroupUpdate", "go"]


def test_the_newest_of_several_versions_follows_the_one_that_is_on_its_way(scene: Scene) -> None:
    scene.form("a")
    scene.publish(1)
    scene.publish(2)
    scene.publish(3)
    scene.say("a", GroupStage.READY, 1)
    scene.group.sent(scene.name, "", scene.now)
    scene.say("a", GroupStage.APPLIED, 1)
    asked = [message.version for message in scene.told if isinstance(message, GroupUpdate)]
    assert asked == [1, 3]


def test_a_host_that_joins_later_is_in_the_next_group_of_all(scene: Scene) -> None:
    scene.form("a")
    first = scene.name
    scene.join("b")
    scene.wait(LIMITS.settle)
    assert scene.name != first
    assert scene.rank_zero.opened[-1][1] == 3
    scene.enter("a", "b")
    assert scene.stage() is Stage.IDLE


def test_a_host_that_joins_during_a_broadcast_waits_for_its_end(scene: Scene) -> None:
    scene.form("a")
    scene.publish(1)
    scene.say("a", GroupStage.READY, 1)
    scene.join("b")
    assert scene.rank_zero.is_open
    scene.group.sent(scene.name, "", scene.now)
    scene.say("a", GroupStage.APPLIED, 1)
    scene.wait(LIMITS.settle)
    assert scene.rank_zero.opened[-1][1] == 3


def test_those_who_are_ready_hear_at_once_when_another_does_not_want_a_version(scene: Scene) -> None:
    scene.form("a", "b")
    scene.publish(1)
    scene.say("a", GroupStage.READY, 1)
    scene.say("b", GroupStage.DECLINED, 1)
    assert scene.heard_by("a")[-1] == "withdraw"
    assert scene.heard_by("b") == ["GroupOffer", "GroupUpdate"]
    assert scene.rank_zero.sent == []
    scene.publish(2)  # in the same group, without forming it anew
    assert len(scene.rank_zero.opened) == 1
    assert scene.heard_by("b") == ["GroupUpdate"]


def test_a_host_that_is_not_ready_in_time_is_dropped_and_the_others_are_told(scene: Scene) -> None:
    scene.form("a", "b")
    scene.publish(1)
    scene.say("a", GroupStage.READY, 1)
    scene.wait(LIMITS.ready - 0.1)
    assert scene.hosts() == ("a", "b")
    scene.wait(0.1)
    assert scene.hosts() == ("a",)
    assert scene.heard_by("a")[-1] == "withdraw"
    assert scene.heard_by("b")[-1] == "leave"
    scene.wait(LIMITS.settle)
    assert scene.rank_zero.opened[-1][1] == 2


def test_a_host_that_does_not_enter_in_time_is_dropped(scene: Scene) -> None:
    scene.join("a")
    scene.join("b")
    scene.wait(LIMITS.settle)
    scene.say("a", GroupStage.JOINED)
    scene.wait(LIMITS.join)
    assert scene.hosts() == ("a",)
    scene.wait(LIMITS.settle)
    scene.enter("a")
    assert scene.stage() is Stage.IDLE


def test_a_group_that_the_trainer_does_not_get_into_is_given_up_in_time(scene: Scene) -> None:
    scene.join("a")
    scene.wait(LIMITS.settle)
    scene.say("a", GroupStage.JOINED)
    scene.wait(LIMITS.join)
    assert scene.heard_by("a")[-1] == "leave"
    assert not scene.rank_zero.is_open


@pytest.mark.parametrize("stage", [GroupStage.LEFT, GroupStage.FAILED])
def test_a_member_that_is_gone_ends_the_broadcast_and_the_rest_form_the_next_group(
    scene: Scene, stage: GroupStage
) -> None:
    scene.form("a", "b")
    scene.publish(1)
    scene.say("a", GroupStage.READY, 1)
    scene.say("b", GroupStage.READY, 1)
    scene.say("b", stage, group="")
    assert not scene.rank_zero.is_open
    scene.wait(LIMITS.settle)
    scene.enter("a")
    scene.publish(2)
    scene.say("a", GroupStage.READY, 2)
    assert scene.rank_zero.sent[-1] == (scene.name, 2)


def test_after_a_failed_broadcast_everyone_is_told_to_join_again(scene: Scene) -> None:
    scene.form("a", "b")
    scene.publish(1)
    scene.say("a", GroupStage.READY, 1)
    scene.say("b", GroupStage.READY, 1)
    scene.group.sent(scene.name, "connection closed", scene.now)
    assert scene.heard_by("a")[-1] == scene.heard_by("b")[-1] == "leave"
    scene.wait(LIMITS.settle)
    assert scene.stage() is Stage.EMPTY
    scene.form("a")
    assert scene.stage() is Stage.IDLE


def test_a_member_that_does_not_load_what_was_sent_is_dropped(scene: Scene) -> None:
    scene.form("a", "b")
    scene.publish(1)
    scene.say("a", GroupStage.READY, 1)
    scene.say("b", GroupStage.READY, 1)
    scene.wait(1000.0)  # however long the trainer itself sends
    assert scene.hosts() == ("a", "b")
    scene.group.sent(scene.name, "", scene.now)
    scene.say("a", GroupStage.APPLIED, 1)
    scene.wait(LIMITS.send)
    assert scene.hosts() == ("a",)


def test_a_newcomer_that_breaks_a_group_is_dropped_and_tried_alone_before_it_may_join_again(scene: Scene) -> None:
    scene.form("a")
    scene.join("b")
    scene.wait(LIMITS.settle)
    scene.group.opened(scene.name, "no connection", scene.now)
    assert scene.hosts() == ("a",)
    scene.wait(LIMITS.settle)
    scene.enter("a")
    assert scene.stage() is Stage.IDLE

    scene.join("b")
    scene.told.clear()
    scene.wait(LIMITS.settle)
    assert [message.host for message in scene.told if isinstance(message, GroupOffer)] == ["b"]
    scene.enter("b")
    assert scene.stage() is Stage.SETTLING
    scene.wait(LIMITS.settle)
    assert scene.rank_zero.opened[-1][1] == 3
    scene.enter("a", "b")
    assert scene.stage() is Stage.IDLE


def test_a_host_that_can_not_even_join_alone_keeps_the_others_waiting_for_one_attempt_only(scene: Scene) -> None:
    scene.form("a")
    for _ in range(2):
        scene.join("b")
        scene.wait(LIMITS.settle)
        scene.wait(LIMITS.join)
        scene.wait(LIMITS.settle)
        scene.enter("a")
        assert (scene.stage(), scene.hosts()) == (Stage.IDLE, ("a",))
    assert [size for _, size in scene.rank_zero.opened] == [2, 3, 2, 2, 2]


def test_what_a_host_says_of_an_earlier_group_does_not_count(scene: Scene) -> None:
    scene.form("a")
    before = scene.name
    scene.join("b")
    scene.wait(LIMITS.settle)
    scene.say("a", GroupStage.FAILED, group=before)
    scene.group.opened(before, "too late", scene.now)
    scene.enter("a", "b")
    assert scene.stage() is Stage.IDLE


def test_hosts_with_another_backend_are_sent_away(scene: Scene) -> None:
    scene.form("a")
    scene.join("b", backend="nccl")
    assert scene.heard_by("b") == ["leave"]
    assert scene.stage() is Stage.IDLE


def test_a_machine_that_can_not_open_a_group_says_why_and_goes_on(scene: Scene) -> None:
    scene.rank_zero.refusal = "no such address"
    scene.join("a")
    scene.wait(LIMITS.settle)
    assert scene.told == [GroupOrder("a", scene.told[0].group, GroupAction.LEAVE, reason="no such address")]
    scene.rank_zero.refusal = ""
    scene.form("a")
    assert scene.stage() is Stage.IDLE


def test_after_the_connection_was_lost_only_those_who_join_again_are_members(scene: Scene) -> None:
    scene.form("a", "b")
    scene.group.reset()
    assert not scene.rank_zero.is_open
    scene.form("b")
    assert scene.hosts() == ("b",)


# --- torch's process group -------------------------------------------------------------------------------------


@dataclass
class Heard:
    """Outcomes of groups, from their threads."""

    opened: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    sent: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)

    @property
    def outcomes(self) -> Outcomes:
        return Outcomes(lambda _, error: self.opened.put(error), lambda _, error: self.sent.put(error))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def rank_zero(heard: Heard) -> Iterator[TorchRankZero]:
    made = TorchRankZero("127.0.0.1", heard.outcomes, SECONDS, SECONDS)
    yield made
    made.close()
    made.join(SECONDS)


def enter(
    address: MasterAddress, group: str, rank: int, world_size: int, on_met: Callable[[], None] = lambda: None
) -> Entered:
    """A member as SGLang makes one: torch's helper puts these prefixes before the keys."""
    span = datetime.timedelta(seconds=SECONDS)
    store: Store = TCPStore(address.host, address.port, world_size, False, span, wait_for_workers=False)
    on_met()
    for prefix in (group, f"{group}/", "cpu/"):
        store = PrefixStore(prefix, store)
    return cast(Entered, ProcessGroupGloo(store, rank, world_size, span))


def receiving(
    address: MasterAddress, group: str, rank: int, world_size: int, tensors: list[torch.Tensor]
) -> threading.Thread:
    """A member that fills `tensors`."""

    def work() -> None:
        entered = enter(address, group, rank, world_size)
        options = BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        for tensor in tensors:
            entered.broadcast([tensor], options).wait()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_every_member_gets_every_tensor_in_the_announced_order(
    folder: Path, rank_zero: TorchRankZero, heard: Heard
) -> None:
    address = rank_zero.open("g", "gloo", 3)
    got = [
        [torch.empty(10), torch.empty(2, 5), torch.empty(100, dtype=torch.bfloat16), torch.empty(10)] for _ in range(2)
    ]
    members = [receiving(address, "g", rank + 1, 3, tensors) for rank, tensors in enumerate(got)]
    assert heard.opened.get(timeout=SECONDS) == ""
    rank_zero.send("g", Update(1, "identity", str(folder), FILES, plan_buckets(folder, FILES, 80)))
    assert heard.sent.get(timeout=SECONDS) == ""
    for member in members:
        member.join(SECONDS)
    for tensors in got:
        assert torch.equal(tensors[0], torch.arange(10.0))
        assert torch.equal(tensors[1], torch.ones(2, 5))
        assert torch.equal(tensors[2], torch.full((100,), 0.5, dtype=torch.bfloat16))
        assert torch.equal(tensors[3], torch.zeros(10))


def test_closing_frees_a_member_that_waits_for_another_in_vain(rank_zero: TorchRankZero, heard: Heard) -> None:
    address = rank_zero.open("g", "gloo", 3)
    met = threading.Event()
    failures: queue.SimpleQueue[str] = queue.SimpleQueue()

    def work() -> None:
        try:
            enter(address, "g", 1, 3, met.set)
        except RuntimeError as error:
            failures.put(str(error))

    threading.Thread(target=work, daemon=True).start()
    assert met.wait(SECONDS)
    rank_zero.close()
    assert failures.get(timeout=SECONDS / 2)
    assert heard.opened.get(timeout=SECONDS / 2)


def test_closing_right_after_opening_ends_the_wait_for_members_too(rank_zero: TorchRankZero, heard: Heard) -> None:
    for _ in range(5):
        rank_zero.open("g", "gloo", 2)
        rank_zero.close()
        assert heard.opened.get(timeout=SECONDS / 2)


def test_files_that_are_gone_end_a_broadcast_with_an_error(
    folder: Path, rank_zero: TorchRankZero, heard: Heard
) -> None:
    address = rank_zero.open("g", "gloo", 2)
    receiving(address, "g", 1, 2, [])
    assert heard.opened.get(timeout=SECONDS) == ""
    update = Update(1, "identity", str(folder), FILES, plan_buckets(folder, FILES, 80))
    (folder / "two.safetensors").unlink()
    rank_zero.send("g", update)
    assert "two.safetensors" in heard.sent.get(timeout=SECONDS)


@pytest.mark.parametrize("address", ["192.0.2.77", "nowhere.invalid"])
def test_an_address_of_another_machine_is_refused_by_the_name_of_its_setting(address: str, heard: Heard) -> None:
    elsewhere = TorchRankZero(address, heard.outcomes, SECONDS, SECONDS)
    with pytest.raises(BadInput, match=r"trainer\.group_address"):
        elsewhere.open("g", "gloo", 2)
