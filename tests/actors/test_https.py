"""Servers behind TLS: an actor trusts whom its machine trusts, or whom SSL_CERT_FILE names."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from tests.actors.sglang_server import SglangServer, saying

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")

ASK = """
import asyncio, sys, numpy as np
from lamer.actors.inference import InferenceClient, InferenceOptions, ServerUnavailable
from lamer.actors.policy import Request, RequestKind
from lamer.common.messages import ServerInfo

async def ask():
    request = Request(np.array([1], dtype=np.int32), 16, (), 1.0, 1.0, 0, 1, RequestKind.PLAY)
    async with InferenceClient(InferenceOptions(10.0, 0), 264) as client:
        try:
            print(len((await client.generate(ServerInfo("s", sys.argv[1], "", 0, 8), request)).ids), "tokens")
        except ServerUnavailable as error:
            print("unavailable:", error)

asyncio.run(ask())
"""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate of 127.0.0.1, with its key behind it."""
    file = tmp_path / "server.pem"
    names = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", str(file), *names)
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    file.write_text(made.stdout + file.read_text())
    return file


@pytest.mark.parametrize(("is_trusted", "said"), [(True, "2 tokens"), (False, "unavailable: ClientConnectorCert")])
async def test_a_server_behind_tls_is_used_if_its_certificate_is_trusted(
    certificate: Path, is_trusted: bool, said: str
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server, app = SglangServer(saying("ok")), web.Application()
    app.router.add_post("/generate", server.generate)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    environment = {**os.environ, **({"SSL_CERT_FILE": str(certificate)} if is_trusted else {})}
    try:
        asking = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ASK, f"https://127.0.0.1:{runner.addresses[0][1]}"),
            stdout=subprocess.PIPE,
            env=environment,
        )
        output, _ = await asking.communicate()
    finally:
        await runner.cleanup()
    assert output.decode().startswith(said)
