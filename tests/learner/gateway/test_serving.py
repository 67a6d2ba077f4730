"""The learner's side of streamed weights: payloads made once, their size, and what it answers when it has nothing."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lamer.common.messages import ChunkRequest, ManifestRequest, WeightManifest
from lamer.common.weights import Encoding
from lamer.learner.gateway.weights import serving as weight_stream
from lamer.learner.gateway.weights.announcing import Announcer
from lamer.learner.gateway.weights.serving import StreamServer
from tests.learner.weights import TinyModel


@dataclass
class Published:
    """A model's versions 0 and 1 and what streams them."""

    model: TinyModel
    server: Announcer
    stream: StreamServer
    folder: Path
    payloads: Path

    def step(self) -> str:
        """Publish the next version; its identity."""
        assert self.server.current is not None
        version = self.server.current.version + 1
        self.model.step()
        self.server.announce(self.model.publish(self.folder / f"v{version}", version))
        return self.server.current.identity


@contextlib.asynccontextmanager
async def published(folder: Path, model: TinyModel | None = None) -> AsyncIterator[tuple[Published, str, str]]:
    """Versions 0 and 1, one AdamW step apart, and their identities."""
    model = model or TinyModel()
    server = Announcer(model.publish(folder / "v0", 0), None)
    assert server.current is not None
    first = server.current.identity
    stream = StreamServer(server, folder / "stream")
    run = Published(model, server, stream, folder, folder / "stream")
    try:
        yield run, first, run.step()
    finally:
        await stream.close()


def full_size(manifest: WeightManifest) -> int:
    return sum(file.file.size for file in manifest.files)


async def test_an_adamw_step_at_a_learning_rate_of_1e_6_is_at_most_a_tenth_of_the_weights(tmp_path: Path) -> None:
    model = TinyModel(vocabulary=4000, width=128, layers=4, lr=1e-6)
    async with published(tmp_path, model) as (run, base, wanted):
        delta = await run.stream.manifest(ManifestRequest(wanted, base))
        full = await run.stream.manifest(ManifestRequest(wanted))
        print(f"delta {delta.size / full_size(delta):.1%}, full copy {full.size / full_size(full):.1%}")
        assert (delta.base, full.base) == (base, "")
        assert 0 < delta.size <= 0.10 * full_size(delta)
        assert full.size < 0.80 * full_size(full)


async def test_hosts_that_ask_at_once_share_one_payload(tmp_path: Path) -> None:
    async with published(tmp_path) as (run, base, wanted):
        request = ManifestRequest(wanted, base)
        manifests = await asyncio.gather(*(run.stream.manifest(request) for _ in range(5)))
        assert manifests == [manifests[0]] * 5
        assert [path.name for path in run.payloads.iterdir()] == [manifests[0].payload]


async def test_tensors_that_did_not_change_do_not_travel(tmp_path: Path) -> None:
    async with published(tmp_path) as (run, _, base):
        with torch.no_grad():
            run.model.parameters["embed.weight"].mul_(2)
        wanted = run.model.publish(tmp_path / "v2", 2)
        run.server.announce(wanted)
        manifest = await run.stream.manifest(ManifestRequest(wanted.identity, base))
        encodings = {block.tensor: block.encoding for block in manifest.files[0].blocks}
        assert encodings.pop("embed.weight") is Encoding.XOR
        assert set(encodings.values()) == {Encoding.SAME}


async def test_a_base_whose_files_are_gone_gets_a_full_copy(tmp_path: Path) -> None:
    async with published(tmp_path) as (run, base, wanted):
        shutil.rmtree(tmp_path / "v0")
        manifest = await run.stream.manifest(ManifestRequest(wanted, base))
        assert (manifest.base, manifest.error) == ("", "")


async def test_weights_of_another_dtype_travel_whole(tmp_path: Path) -> None:
    async with published(tmp_path) as (run, base, _):
        run.server.announce(run.model.publish(tmp_path / "v2", 2, torch.float32))
        assert run.server.current is not None
        manifest = await run.stream.manifest(ManifestRequest(run.server.current.identity, base))
        assert {block.encoding for block in manifest.files[0].blocks} == {Encoding.FULL}
        beside = run.stream.model_files(manifest.companions)
        assert beside is not None
        assert {file.name: file.data for file in beside.files}["config.json"] == b'{"dtype": "float32"}'


@pytest.mark.parametrize("what", ["unknown", "gone", "truncated", "altered"])
async def test_weights_that_cannot_be_had_are_an_error_that_says_why(tmp_path: Path, what: str) -> None:
    async with published(tmp_path) as (run, base, wanted):
        path = tmp_path / "v1" / "model.safetensors"
        data = path.read_bytes()
        match what:
            case "gone":
                shutil.rmtree(tmp_path / "v1")
            case "truncated":
                path.write_bytes(data[:-100])
            case "altered":
                path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        manifest = await run.stream.manifest(ManifestRequest("0" * 32 if what == "unknown" else wanted, base))
        said = {"unknown": "not published", "gone": "v1", "truncated": "bytes of tensors", "altered": "SHA-256"}
        assert said[what] in manifest.error
        assert list(run.payloads.glob("*")) == []


async def test_chunks_outside_a_payload_are_refused(tmp_path: Path) -> None:
    async with published(tmp_path) as (run, base, wanted):
        manifest = await run.stream.manifest(ManifestRequest(wanted, base))
        for offset, size in ((-1, 4), (0, 0), (0, manifest.size + 1), (manifest.size, 1), (0, 1 << 40)):
            assert (await run.stream.chunk(ChunkRequest(manifest.payload, offset, size))).error
        assert (await run.stream.chunk(ChunkRequest("../v1/model.safetensors", 0, 4))).error
        chunk = await run.stream.chunk(ChunkRequest(manifest.payload, manifest.size - 4, 4))
        assert (len(chunk.data), chunk.error) == (4, "")


async def test_old_payloads_go_unless_a_host_fetched_them_lately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with published(tmp_path) as (run, base, wanted):
        first = await run.stream.manifest(ManifestRequest(wanted, base))
        newest = wanted
        for _ in range(6):
            previous, newest = newest, run.step()
            await run.stream.manifest(ManifestRequest(newest, previous))
        assert not (await run.stream.chunk(ChunkRequest(first.payload, 0, 4))).error
        monkeypatch.setattr(weight_stream, "IN_USE_SECONDS", 0.0)
        last = await run.stream.manifest(ManifestRequest(run.step(), newest))
        assert len(list(run.payloads.iterdir())) == weight_stream.KEPT_PAYLOADS
        assert not (await run.stream.chunk(ChunkRequest(last.payload, 0, 4))).error


async def test_closing_ends_a_payload_that_is_being_made_and_leaves_nothing(tmp_path: Path) -> None:
    async with published(tmp_path) as (run, base, wanted):
        asking = asyncio.create_task(run.stream.manifest(ManifestRequest(wanted, base)))
        await asyncio.sleep(0)
        await run.stream.close()
        await asking
        assert not run.payloads.exists()
