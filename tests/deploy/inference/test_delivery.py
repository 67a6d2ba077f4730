"""Delivery of weights as folders: by path, and streamed over a real socket, with cuts, damage and lies."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import torch

from lamer.common.codec import decode_message, encode_message
from lamer.common.errors import BadInput
from lamer.common.messages import (
    AnyMessage,
    ChunkRequest,
    ManifestRequest,
    ModelFiles,
    ModelFilesRequest,
    Role,
    WeightAnnouncement,
    WeightChunk,
    WeightManifest,
)
from lamer.common.transport import DealerEndpoint
from lamer.common.weights import Block, Encoding, NamedFile, WeightFile, weight_files
from lamer.deploy.inference.fetching import stream
from lamer.deploy.inference.fetching.base import DeliveryFailed
from lamer.deploy.inference.fetching.folders import AutoDelivery, PathDelivery, StreamDelivery, make_folder_delivery
from tests.deploy.inference import fetching_host as fetching
from tests.deploy.inference.delivering import Loopback, Proxy, learner
from tests.deploy.inference.fetching_host import fetching_host
from tests.learner.scripted import TIMEOUT, hello
from tests.learner.weights import TinyModel, same_weights

replace = msgspec.structs.replace
CHUNK = 64 * 1024


def config_of(folder: Path) -> dict[str, str]:
    config: dict[str, str] = json.loads((folder / "config.json").read_text())
    return config


def flip(path: Path, place: int = -1) -> None:
    """Damage one byte."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


# --- by path -------------------------------------------------------------------------------------------------------


async def test_a_folder_that_holds_what_was_announced_is_delivered_where_it_lies(tmp_path: Path) -> None:
    wanted = TinyModel().publish(tmp_path / "v0", 0)
    fetched = await PathDelivery().fetch(wanted)
    assert (fetched.folder, fetched.size) == (tmp_path / "v0", 0)


async def test_a_truncated_file_and_an_altered_one_are_refused_by_name_with_both_values(tmp_path: Path) -> None:
    wanted = TinyModel().publish(tmp_path / "v0", 0)
    path, size = tmp_path / "v0" / "model.safetensors", wanted.files[0].size
    flip(path)
    with pytest.raises(
        DeliveryFailed, match=rf"model.safetensors has SHA-256 .*{wanted.files[0].digest} was announced"
    ):
        await PathDelivery().fetch(wanted)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DeliveryFailed, match=rf"model.safetensors has {size - 10} bytes, {size} were announced"):
        await PathDelivery().fetch(wanted)


@pytest.mark.parametrize(
    "name",
    ["../v0/model.safetensors", "/etc/model.safetensors", "..", ".model.safetensors", "model.bin", "a\0.safetensors"],
)
async def test_a_name_that_is_no_plain_weight_file_is_refused(tmp_path: Path, name: str) -> None:
    wanted = TinyModel().publish(tmp_path / "v0", 0)
    wrong = replace(wanted, files=(replace(wanted.files[0], name=name),))
    with pytest.raises(DeliveryFailed, match="no name of a weight file"):
        await PathDelivery().fetch(wrong)
    async with Loopback(tmp_path, TinyModel()) as run:
        with pytest.raises(DeliveryFailed, match="no name of a weight file"):
            await run.delivery.fetch(wrong)
        assert run.asked == []


async def test_an_index_that_names_files_outside_the_announcement_is_refused(tmp_path: Path) -> None:
    wanted = TinyModel().publish(tmp_path / "v0", 0)
    index = tmp_path / "v0" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"embed.weight": "model.safetensors"}}))
    assert (await PathDelivery().fetch(wanted)).folder == tmp_path / "v0"
    index.write_text(json.dumps({"weight_map": {"embed.weight": "../../secret.safetensors"}}))
    with pytest.raises(DeliveryFailed, match=r"index.json names ../../secret.safetensors"):
        await PathDelivery().fetch(wanted)


async def test_a_link_out_of_the_folder_is_refused_but_for_a_hugging_face_cache(tmp_path: Path) -> None:
    TinyModel().publish(tmp_path / "elsewhere", 0)
    linked = tmp_path / "v0"
    linked.mkdir()
    (linked / "model.safetensors").symlink_to(tmp_path / "elsewhere" / "model.safetensors")
    with pytest.raises(DeliveryFailed, match="leads out of its folder"):
        await PathDelivery().fetch(WeightAnnouncement(0, str(linked), weight_files(linked)))
    snapshot = tmp_path / "hub" / "snapshots" / "revision"
    snapshot.mkdir(parents=True)
    (tmp_path / "hub" / "blobs").mkdir()
    shutil.copy(tmp_path / "elsewhere" / "model.safetensors", tmp_path / "hub" / "blobs" / "abc")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    assert await PathDelivery().fetch(WeightAnnouncement(0, str(snapshot), weight_files(snapshot)))


async def test_auto_reads_a_folder_that_is_here_and_streams_one_that_is_not_or_is_damaged(tmp_path: Path) -> None:
    async with Loopback(tmp_path, TinyModel()) as run:
        auto = AutoDelivery(PathDelivery(), run.delivery)
        assert (await auto.fetch(run.current)).folder == tmp_path / "v0"
        elsewhere = replace(run.current, path="/no/such/folder")
        streamed = await auto.fetch(elsewhere)
        assert streamed.folder.is_relative_to(tmp_path / "cache")
        other_model = tmp_path / "same path, other machine"
        shutil.copytree(tmp_path / "v0", other_model)
        flip(other_model / "model.safetensors")
        assert (await auto.fetch(replace(run.current, path=str(other_model)))).folder == streamed.folder


def test_every_kind_of_delivery_is_made_by_its_name_and_others_are_refused(tmp_path: Path) -> None:
    async def mail(message: AnyMessage) -> None:
        pass

    kinds = {kind: type(make_folder_delivery(kind, tmp_path, mail, 8)) for kind in ("path", "stream", "auto")}
    assert kinds == {"path": PathDelivery, "stream": StreamDelivery, "auto": AutoDelivery}
    with pytest.raises(BadInput, match="carrier pigeon"):
        make_folder_delivery("carrier pigeon", tmp_path, mail, 8)


# --- streamed over a socket ----------------------------------------------------------------------------------------


async def test_fifty_deltas_in_a_row_leave_the_trainers_weights_bit_for_bit(tmp_path: Path) -> None:
    moved = []
    async with (
        learner(tmp_path, TinyModel()) as run,
        fetching_host(run.url, run.run.keys(Role.HOST), tmp_path / "cache") as host,
    ):
        await host.delivery.fetch(await host.announcement(0))
        for version in range(1, 51):
            published = await run.publish(version)
            fetched = await host.delivery.fetch(await host.announcement(version))
            assert same_weights(published, fetched.folder)
            assert config_of(fetched.folder) == {"dtype": "bfloat16"}
            moved.append(fetched.size / published.files[0].size)
            shutil.rmtree(run.folder / f"v{version - 1}", ignore_errors=True)  # as a trainer that keeps only the last
            if version % 2:
                await host.delivery.fetch(published)  # asking again moves nothing
    cached = [path.name.partition("-")[0] for path in (tmp_path / "cache").glob("v*")]
    assert sorted(cached) == ["v49", "v50"]
    print(f"{sum(moved) / len(moved):.1%} of the weights a version")


async def test_a_download_that_is_cut_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CHUNK_BYTES", CHUNK)
    model = TinyModel(vocabulary=20_000)  # a payload of 31 chunks
    async with learner(tmp_path, model) as run, Proxy(run.url) as proxy:
        async with fetching_host(proxy.url, run.run.keys(Role.HOST), tmp_path / "cache") as host:
            wanted = await host.announcement(0)
            proxy.hold_after = wanted.files[0].size // 2
            fetching = asyncio.create_task(host.delivery.fetch(wanted))
            await proxy.held.wait()
            await proxy.cut()
            fetched = await fetching
        assert same_weights(wanted, fetched.folder)
        assert proxy.passed < fetched.size + (stream.WINDOW + 2) * CHUNK  # what was asked for at the cut came twice


async def test_a_host_process_killed_in_a_download_goes_on_where_it_was(tmp_path: Path) -> None:
    async def start(url: str) -> asyncio.subprocess.Process:
        arguments = (url, str(tmp_path / "keys"), str(tmp_path / "cache"))
        return await asyncio.create_subprocess_exec(
            *(sys.executable, fetching.__file__, *arguments), stdout=asyncio.subprocess.PIPE
        )

    async with learner(tmp_path, TinyModel(vocabulary=600_000)) as run, Proxy(run.url) as proxy:
        # Chunks come in any order, a window of them at most beyond what is written: of so many the first two are.
        proxy.hold_after = (stream.WINDOW + 3) * stream.CHUNK_BYTES
        first = await start(proxy.url)
        await proxy.held.wait()
        (partial,) = (tmp_path / "cache" / "partial").iterdir()
        async with asyncio.timeout(TIMEOUT):
            while partial.stat().st_size < 2 * stream.CHUNK_BYTES:  # noqa: ASYNC110 - another process writes
                await asyncio.sleep(0.01)
        first.send_signal(signal.SIGKILL)
        await first.wait()
        await proxy.cut()
        had = partial.stat().st_size
        second = await start(proxy.url)
        output, _ = await second.communicate()
        async with fetching_host(run.url, run.run.keys(Role.HOST), tmp_path / "other cache") as host:
            whole = (await host.delivery.fetch(await host.announcement(0))).size
        (folder,) = (tmp_path / "cache").glob("v0-*")
        assert same_weights(WeightAnnouncement(0, str(tmp_path / "model"), weight_files(tmp_path / "model")), folder)
    assert had >= 2 * stream.CHUNK_BYTES
    assert 0 < int(output) <= whole - had


async def test_a_host_that_does_not_read_holds_up_no_other(tmp_path: Path) -> None:
    model = TinyModel(vocabulary=300_000)
    async with learner(tmp_path, model) as run:
        keys = run.run.keys(Role.HOST)
        deaf = DealerEndpoint(run.url, keys.pair, keys.server_public)
        await deaf.connected(TIMEOUT)
        await deaf.send(encode_message(replace(hello(Role.HOST, "deaf"), instance="deaf")))
        wanted = run.model.publish(tmp_path / "model", 0)
        await deaf.send(encode_message(ManifestRequest(wanted.identity)))
        while not isinstance(manifest := decode_message(await deaf.receive()), WeightManifest):
            pass
        for _ in range(8):
            for offset in range(0, manifest.size - stream.CHUNK_BYTES, stream.CHUNK_BYTES):
                await deaf.send(encode_message(ChunkRequest(manifest.payload, offset, stream.CHUNK_BYTES)))
        async with fetching_host(run.url, run.run.keys(Role.HOST), tmp_path / "cache") as host:
            fetched = await host.delivery.fetch(await host.announcement(0))
        assert same_weights(wanted, fetched.folder)
        assert fetched.size > 4 * stream.CHUNK_BYTES
        deaf.close(linger_ms=0)


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["altered", "truncated", "file gone", "folder gone", "forgotten by the learner"])
async def test_a_base_that_cannot_be_built_on_leads_to_a_full_copy(tmp_path: Path, damage: str) -> None:
    async with Loopback(tmp_path, TinyModel()) as run:
        first = run.current
        held = (await run.delivery.fetch(first)).folder / "model.safetensors"
        match damage:
            case "altered":
                flip(held)
            case "truncated":
                held.write_bytes(held.read_bytes()[:-1000])
            case "file gone":
                held.unlink()
            case "folder gone":
                shutil.rmtree(held.parent)
            case "forgotten by the learner":
                shutil.rmtree(tmp_path / "v0")
        wanted = run.publish()
        fetched = await run.delivery.fetch(wanted)
        assert same_weights(wanted, fetched.folder)
        bases = [message.base for message in run.asked if isinstance(message, ManifestRequest)][1:]
        asked_once = {"folder gone": [""], "forgotten by the learner": [first.identity]}
        assert bases == asked_once.get(damage, [first.identity, ""])
        assert fetched.size > 0.5 * wanted.files[0].size


async def test_a_full_copy_builds_on_nothing_when_asked_for_and_at_every_anchor(tmp_path: Path) -> None:
    async with Loopback(tmp_path, TinyModel()) as run:
        run.delivery = StreamDelivery(tmp_path / "cache", run.mail, anchor_every=3)
        for is_full in (False, False, True, False, False):
            await run.delivery.fetch(run.current, is_full=is_full)
            run.publish()
        bases = [bool(message.base) for message in run.asked if isinstance(message, ManifestRequest)]
        assert bases == [False, True, False, False, True]  # versions 0 to 4: 2 was asked for in full, 3 is an anchor


async def test_a_damaged_full_copy_is_refused_and_the_next_try_starts_afresh(tmp_path: Path) -> None:
    def damage(message: AnyMessage) -> AnyMessage:
        if isinstance(message, WeightChunk):
            return replace(message, data=message.data[:-1] + bytes([message.data[-1] ^ 1]))
        return message

    async with Loopback(tmp_path, TinyModel()) as run:
        run.alter = damage
        with pytest.raises(DeliveryFailed, match=r"can't be built|was announced"):
            await run.delivery.fetch(run.current)
        assert [path.name for path in (tmp_path / "cache").glob("*v0*")] == []
        run.alter = lambda message: message
        assert same_weights(run.current, (await run.delivery.fetch(run.current, is_full=True)).folder)


async def test_a_damaged_folder_of_the_cache_is_fetched_again(tmp_path: Path) -> None:
    async with Loopback(tmp_path, TinyModel()) as run:
        first = await run.delivery.fetch(run.current)
        flip(first.folder / "model.safetensors")
        again = await run.delivery.fetch(run.current)
        assert again.size > 0
        assert same_weights(run.current, again.folder)


async def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    async with Loopback(tmp_path, TinyModel()) as run:
        half = tmp_path / "cache" / ".v0-abc.xyz"
        half.mkdir(parents=True)
        (half / "model.safetensors").write_bytes(b"half")
        await run.delivery.fetch(run.current)
        assert not half.exists()


# --- answers that do not come --------------------------------------------------------------------------------------


async def test_answers_that_are_lost_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CHUNK_BYTES", CHUNK)
    seen: set[object] = set()

    def lose_first(message: AnyMessage) -> AnyMessage | None:
        key = (type(message), message.offset if isinstance(message, WeightChunk) else 0)
        is_first = key not in seen
        seen.add(key)
        return None if is_first else message

    async with Loopback(tmp_path, TinyModel(vocabulary=5000), answer_seconds=0.3) as run:
        run.alter = lose_first
        assert same_weights(run.current, (await run.delivery.fetch(run.current)).folder)
        assert len(seen) > 8


async def test_a_learner_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_SILENCES", 2)
    async with Loopback(tmp_path, TinyModel(), answer_seconds=0.1) as run:
        run.alter = lambda message: None
        with pytest.raises(DeliveryFailed, match="asked 2 times and did not answer"):
            await run.delivery.fetch(run.current)


async def test_a_payload_that_the_learner_dropped_is_asked_for_anew(tmp_path: Path) -> None:
    gone = [WeightChunk("", 0, b"", error="dropped")]

    def drop_once(message: AnyMessage) -> AnyMessage:
        return replace(gone.pop(), payload=message.payload) if isinstance(message, WeightChunk) and gone else message

    async with Loopback(tmp_path, TinyModel()) as run:
        run.alter = drop_once
        assert same_weights(run.current, (await run.delivery.fetch(run.current)).folder)
        assert [type(message) for message in run.asked].count(ManifestRequest) == 2


async def test_weights_that_the_learner_does_not_have_fail_with_its_reason(tmp_path: Path) -> None:
    async with Loopback(tmp_path, TinyModel()) as run:
        other = replace(run.current, files=(WeightFile("model.safetensors", 7, "0" * 64),))
        with pytest.raises(DeliveryFailed, match="not published by this learner"):
            await run.delivery.fetch(other)


async def test_a_cancelled_fetch_leaves_nothing_behind_and_makes_way_for_the_next(tmp_path: Path) -> None:
    async with Loopback(tmp_path, TinyModel()) as run:
        first = run.current
        run.alter = lambda message: None if isinstance(message, WeightChunk) else message
        fetching = asyncio.create_task(run.delivery.fetch(first))
        while not any(isinstance(message, ChunkRequest) for message in run.asked):  # noqa: ASYNC110 - counts messages
            await asyncio.sleep(0.01)
        newer = run.publish()
        next_fetch = asyncio.create_task(run.delivery.fetch(newer))
        run.alter = lambda message: message
        fetching.cancel()
        assert same_weights(newer, (await next_fetch).folder)
        assert fetching.cancelled()
        assert sorted(path.name[:3] for path in (tmp_path / "cache").iterdir()) == ["com", "par", "v1-"]
        assert list((tmp_path / "cache" / "partial").iterdir()) == []


# --- what lies beside the weights ----------------------------------------------------------------------------------


async def test_each_version_has_the_configuration_of_its_own_weights_and_it_is_sent_once(tmp_path: Path) -> None:
    async with Loopback(tmp_path, TinyModel()) as run:
        assert config_of((await run.delivery.fetch(run.current)).folder) == {"dtype": "bfloat16"}
        for version in (1, 2, 3):
            run.server.announce(run.model.publish(tmp_path / f"v{version}", version, torch.float32))
            run.model.step()
            assert config_of((await run.delivery.fetch(run.current)).folder) == {"dtype": "float32"}
        assert len([message for message in run.asked if isinstance(message, ModelFilesRequest)]) == 2


async def test_a_model_file_named_outside_its_folder_is_refused(tmp_path: Path) -> None:
    wrong = ModelFiles((NamedFile("../../.profile", b"evil"),))

    def lie(message: AnyMessage) -> AnyMessage:
        if isinstance(message, WeightManifest):
            return replace(message, companions=wrong.digest)
        return message

    async with Loopback(tmp_path, TinyModel()) as run:
        run.alter = lie
        fetching = asyncio.create_task(run.delivery.fetch(run.current))
        while not any(isinstance(message, ModelFilesRequest) for message in run.asked):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        run.delivery.take(wrong)
        with pytest.raises(DeliveryFailed, match="no plain file name"):
            await fetching


# --- manifests that lie --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lie:
    """How a manifest is altered, and what the host says."""

    name: str
    tell: Callable[[WeightManifest], WeightManifest]
    said: str


def with_block(manifest: WeightManifest, **changes: object) -> WeightManifest:
    """The second block altered."""
    (file,) = manifest.files
    blocks = list(file.blocks)
    blocks[1] = replace(blocks[1], **changes)
    return replace(manifest, files=(replace(file, blocks=tuple(blocks)),))


def with_file(manifest: WeightManifest, **changes: object) -> WeightManifest:
    (file,) = manifest.files
    return replace(manifest, files=(replace(file, file=replace(file.file, **changes)),))


def with_blocks(manifest: WeightManifest, change: Callable[[tuple[Block, ...]], tuple[Block, ...]]) -> WeightManifest:
    (file,) = manifest.files
    return replace(manifest, files=(replace(file, blocks=change(file.blocks)),))


def with_header(manifest: WeightManifest, change: Callable[[bytes], bytes]) -> WeightManifest:
    (file,) = manifest.files
    return replace(manifest, files=(replace(file, header=change(file.header)),))


LIES = (
    Lie("file outside", lambda m: with_file(m, name="../../v9/model.safetensors"), "not what was announced"),
    Lie("absolute file", lambda m: with_file(m, name="/tmp/model.safetensors"), "not what was announced"),
    Lie("other size", lambda m: with_file(m, size=10), "not what was announced"),
    Lie("other digest", lambda m: with_file(m, digest="0" * 64), "not what was announced"),
    Lie("no files", lambda m: replace(m, files=()), "no files, which is not what was announced"),
    Lie("file twice", lambda m: replace(m, files=m.files * 2), "not what was announced"),
    Lie("payload outside", lambda m: replace(m, payload="../../../etc/passwd"), "no digests"),
    Lie("companions outside", lambda m: replace(m, companions="../../.ssh"), "no digests"),
    Lie("other base", lambda m: replace(m, base="f" * 32), "holds nothing"),
    Lie("negative start", lambda m: with_block(m, start=-5), "no block of"),
    Lie("past the tensor", lambda m: with_block(m, size=1 << 40), "can't be"),
    Lie("empty block", lambda m: with_block(m, size=0), "can't be"),
    Lie("payload before its start", lambda m: with_block(m, offset=-1), "can't be"),
    Lie("payload past its end", lambda m: with_block(m, length=1 << 50), "can't be"),
    Lie("difference from nothing", lambda m: with_block(m, encoding=Encoding.XOR), "can't be"),
    Lie("same as nothing", lambda m: with_block(m, encoding=Encoding.SAME, length=0), "can't be"),
    Lie("unknown tensor", lambda m: with_block(m, tensor="lm_head"), "no block of"),
    Lie("block missing", lambda m: with_blocks(m, lambda blocks: blocks[:-1]), "no block of"),
    Lie("block too many", lambda m: with_blocks(m, lambda blocks: (*blocks, blocks[-1])), "past its end"),
    Lie("huge payload", lambda m: replace(m, size=1 << 60), "of a payload of"),
    Lie("header of nothing", lambda m: with_header(m, lambda header: b""), "wrong header"),
    Lie("header cut", lambda m: with_header(m, lambda header: header[:-3]), "wrong header"),
    Lie("header with a gap", lambda m: with_header(m, lambda h: h.replace(b"[0,", b"[1,")), "wrong header"),
)


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
async def test_a_manifest_that_lies_is_refused_before_anything_is_fetched(tmp_path: Path, lie: Lie) -> None:
    async with Loopback(tmp_path, TinyModel()) as run:
        run.alter = lambda message: lie.tell(message) if isinstance(message, WeightManifest) else message
        with pytest.raises(DeliveryFailed, match=lie.said):
            await run.delivery.fetch(run.current)
        assert [type(message) for message in run.asked] == [ManifestRequest]
        assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


async def test_a_frame_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    bomb = bytes.fromhex("28b52ffde0") + (1 << 45).to_bytes(8, "little")

    def lie(message: AnyMessage) -> AnyMessage:
        if isinstance(message, WeightChunk):
            return replace(message, data=bomb + message.data[len(bomb) :])
        return message

    async with Loopback(tmp_path, TinyModel()) as run:
        run.alter = lie
        with pytest.raises(DeliveryFailed, match=f"a frame of {1 << 45} bytes came for a block"):
            await run.delivery.fetch(run.current)


async def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    async with Loopback(tmp_path, TinyModel()) as run:
        with pytest.raises(DeliveryFailed, match=rf"the cache can't take policy version 0: .*{tmp_path}"):
            await run.delivery.fetch(run.current)
