"""An inference server whose machine is cut off in the middle of a request: the actor notices, long before its time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.namespaces import Machine, network, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

SILENT = """
import socket
listening = socket.create_server(("0.0.0.0", 8000))
print("listening", flush=True)
connection = listening.accept()[0]
connection.recv(65536)
print("asked", flush=True)
connection.recv(1)
"""
ASKING = """
import asyncio, sys, numpy as np
from lamer.actors import inference
from lamer.actors.policy import Request, RequestKind
from lamer.common.messages import ServerInfo

inference.VANISHED_SECONDS, inference._PROBE_SECONDS = int(sys.argv[2]), int(sys.argv[3])

async def ask():
    prompt = np.array([1], dtype=np.int32)
    request = Request(prompt, 16, (), 1.0, 1.0, 0, 1, RequestKind.PLAY)
    async with inference.InferenceClient(inference.InferenceOptions(600.0, 0), 10) as client:
        try:
            await client.generate(ServerInfo("s", f"http://{sys.argv[1]}:8000", "", 0, 8), request)
        except inference.ServerUnavailable as error:
            print("given up:", error)

asyncio.run(ask())
"""
PATIENCE = (4, 1)
"""Seconds after which a silent connection is given up, and between probes."""


def start(machine: Machine, script: str, *arguments: str) -> subprocess.Popen[str]:
    command = machine.enter(sys.executable, "-c", script, *arguments)
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def test_a_request_to_a_machine_that_was_cut_off_fails_soon(tmp_path: Path) -> None:
    with network(tmp_path, ("server", "actor")) as of:
        server, actor = of.machines["server"], of.machines["actor"]
        silent = start(server, SILENT)
        assert silent.stdout is not None
        assert silent.stdout.readline() == "listening\n"
        asking = start(actor, ASKING, server.address, *map(str, PATIENCE))
        try:
            assert silent.stdout.readline() == "asked\n"
            time.sleep(2 * PATIENCE[0])
            assert asking.poll() is None  # a server may take its time as long as its machine is there
            of.wire.cut()
            output = asking.communicate(timeout=60.0)[0]
        finally:
            for process in (asking, silent):
                process.kill()
                process.wait()
    assert "given up: " in output
