"""Weights for hosts without a shared disk: what the learner's side sends over the run's socket.

manifest   what a host has to fetch to come from the weights it holds to those it wants
chunk      a piece of that
"""

from __future__ import annotations

from pathlib import Path

from common.messages import ChunkRequest, ManifestRequest, WeightChunk, WeightManifest
from learner.weight_server import WeightServer


class WeightStream:
    """Makes and serves payloads; belongs to the gateway's event loop, does its work in threads."""

    def __init__(self, weights: WeightServer, folder: Path) -> None:
        """folder: where payloads are kept while hosts may fetch them."""
        self._weights = weights
        self._folder = folder

    async def manifest(self, request: ManifestRequest) -> WeightManifest:
        """How to come to the weights asked for. One that can't be served has an `error`."""
        return WeightManifest(request.identity, "", "", 0, (), error="streaming is not there yet")

    async def chunk(self, request: ChunkRequest) -> WeightChunk:
        """A piece of a payload. One that can't be served has an `error`."""
        return WeightChunk(request.payload, request.offset, b"", error="streaming is not there yet")

    async def close(self) -> None:
        """End what is being made."""
