"""Delivery of weights as folders: by path, and streamed over a real socket, with cuts, damage and lies."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import torch

from common.codec import decode_message, encode_message
from common.errors import BadInput
from common.messages import (
    AnyMessage,
    ChunkRequest,
    Heartbeat,
    ManifestRequest,
    ModelFiles,
    ModelFilesRequest,
    Role,
    WeightAnnouncement,
    WeightChunk,
    WeightManifest,
)
from common.transport import DealerEndpoint
from common.weights import Block, Encoding, NamedFile, WeightFile, weight_files
from deploy.inference.delivery import stream
from deploy.inference.delivery.base import DeliveryFailed
from deploy.inference.delivery.folders import AutoDelivery, PathDelivery, StreamDelivery, make_folder_delivery
from tests.deploy.delivering import Loopback, Proxy, fetching_host, learner
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
    async with learner(tmp_path, TinyModel()) as run, fetching_host(run.url, run.run.keys, tmp_path / "cache") as host:
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
