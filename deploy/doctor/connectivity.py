"""What `lamer doctor` looks at beyond this machine: keys, the learner, an inference server, SGLang's environment."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lamer.common.errors import LamerError
from lamer.common.keys import ClientKeys, load_client_keys, load_server_keys
from lamer.common.transport import DealerEndpoint
from lamer.deploy.doctor.diagnosis import Finding

CONNECT_SECONDS = 10.0
SERVER_SECONDS = 5.0
_TIP = "every part on another machine"


def check_keys(folder: Path) -> Iterator[Finding]:
    """Whether a keys folder can be used, and whether its secrets are secret."""
    try:
        client = load_client_keys(folder)
        server = load_server_keys(folder) if (folder / "server.key_secret").is_file() else None
    except LamerError as error:
        yield _failed("keys", _TIP, str(error))
        return
    open_secrets = [path for path in sorted(folder.glob("*.key_secret")) if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if open_secrets:
        named = " ".join(map(str, open_secrets))
        yield _failed("keys", _TIP, f"others can read what is secret: chmod 600 {named}")
    else:
        yield _fine("keys", _TIP, f"{folder} holds whole pairs, which only their owner can read")
    if server is not None:
        is_allowed = server.is_allowed(client.pair.public)
        found = f"client.key is {'' if is_allowed else 'not '}in {server.allowed}"
        yield Finding("allowed", "learner", found, is_allowed, is_required=True)


async def check_learner(url: str, keys: ClientKeys) -> Finding:
    """Whether a learner answers at `url` and takes these keys. It is not joined."""
    try:
        endpoint = DealerEndpoint(url, keys.pair, keys.server_public)
        try:
            await endpoint.connected(CONNECT_SECONDS)
        finally:
            endpoint.close(linger_ms=0)
    except LamerError as error:
        return _failed("learner", _TIP, str(error))
    return _fine("learner", _TIP, f"{url} answers and takes these keys")


async def check_server(url: str) -> Finding:
    """Whether an inference server answers at `url`, as an actor of this machine needs it to."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=SERVER_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(f"{url.rstrip('/')}/ready") as answer:
            status = answer.status
    except aiohttp.InvalidURL:
        return _failed("server", "actors", f"{url!r} is no address such as http://host:port")
    except aiohttp.ClientConnectorCertificateError as error:
        return _failed(
            "server", "actors", f"{url}: its certificate is not trusted ({error.certificate_error}): set SSL_CERT_FILE"
        )
    except TimeoutError:
        return _failed("server", "actors", f"{url}: no answer within {SERVER_SECONDS:g} s: is its port open?")
    except aiohttp.ClientConnectorError as error:
        number = error.os_error.errno or 0
        why = os.strerror(number) if number > 0 else str(error.os_error)
        return _failed("server", "actors", f"{url}: {why}: is it running, and is this its address?")
    except (aiohttp.ClientError, OSError) as error:
        return _failed("server", "actors", f"{url}: {error}: is it http or https?")
    return Finding("server", "actors", f"{url} answers with status {status}", status == 200, is_required=True)


async def check_sglang(python: str) -> Finding:
    """Whether an interpreter has SGLang: the one named, else the one that `lamer serve --engine sglang` would take."""
    from lamer.deploy.inference.engines.sglang import find_python, installed_release

    what_for = "lamer serve --engine sglang"
    try:
        found = find_python(python)
        release = await installed_release(found)
    except LamerError as error:
        return Finding("sglang", what_for, str(error), is_ok=False, is_required=bool(python))
    return _fine("sglang", what_for, f"{release} ({found})")


def check_joining(connect: str, keys: Path | None, server: str) -> tuple[Finding, ...]:
    """The findings about what a user named; "" and None are not looked at."""
    found = list(check_keys(keys)) if keys is not None else []
    if connect and keys is None:
        found.append(_failed("learner", _TIP, f"to reach {connect} its keys are needed: name their folder with --keys"))
    elif connect and keys is not None and all(finding.is_ok for finding in found):
        found.append(asyncio.run(check_learner(connect, load_client_keys(keys))))
    if server:
        found.append(asyncio.run(check_server(server)))
    return tuple(found)


def _fine(what: str, what_for: str, found: str) -> Finding:
    return Finding(what, what_for, found, is_ok=True, is_required=True)


def _failed(what: str, what_for: str, found: str) -> Finding:
    return Finding(what, what_for, found, is_ok=False, is_required=True)
