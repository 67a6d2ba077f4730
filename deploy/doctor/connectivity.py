"""What `lamer doctor` looks at beyond this machine: keys, the learner, an inference server, SGLang's environment."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from lamer.common.errors import LamerError
from lamer.common.keys import ClientKeys, described, load_client_keys, load_server_keys, read_client_keys
from lamer.common.messages import PROTOCOL_VERSION, Hello, Role
from lamer.common.session import Session
from lamer.deploy.doctor.diagnosis import Finding

CONNECT_SECONDS = 10.0
SERVER_SECONDS = 5.0
_TIP = "every part on another machine"
_MAKE_ONE = "on the learner, lamer keys create --role actor NAME (or host, or observer) makes one that does"
_COMMANDS = {
    Role.ACTOR: "lamer actor",
    Role.HOST: "lamer serve",
    Role.OBSERVER: "lamer top",
    Role.TRAINER: "the learner",
}


def check_keys(folder: Path) -> Iterator[Finding]:
    """Whether a keys folder can be used, what for, and whether its secrets are secret."""
    is_learners = (folder / "server.key_secret").is_file()
    try:
        if is_learners:
            clients = load_server_keys(folder).allow_list().files()
        else:
            role = read_client_keys(folder).role
    except LamerError as error:
        yield _failed("keys", _TIP, str(error))
        return
    open_secrets = [path for path in sorted(folder.rglob("*.key_secret")) if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if open_secrets:
        named = " ".join(map(str, open_secrets))
        yield _failed("keys", _TIP, f"others can read what is secret: chmod 600 {named}")
    else:
        yield _fine("keys", _TIP, f"{folder} holds whole pairs, which only their owner can read")
    if is_learners:
        names = ", ".join(f"{client.name} ({client.role.value})" for client in clients) or "nobody"
        yield Finding("allowed", "learner", f"{folder} lets in {names}", bool(clients), is_required=True)
    elif role is None:
        yield _failed("role", _TIP, f"{folder / 'client.key'} says no role: {_MAKE_ONE}")
    else:
        yield _fine("role", _TIP, f"{folder} is for {described(role)}: {_COMMANDS[role]}")


async def check_learner(url: str, keys: ClientKeys) -> Finding:
    """Whether a learner answers at `url` and takes these keys for their role: says Hello, and Goodbye at once."""
    role = keys.role or Role.OBSERVER
    name = f"doctor-{socket.gethostname()}-{os.getpid()}"
    hello = Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, role, name, capacity=int(role is Role.ACTOR))
    try:
        session = await Session.open(url, keys, hello, CONNECT_SECONDS)
        await session.close("the doctor has seen enough")
    except LamerError as error:
        return _failed("learner", _TIP, str(error))
    return _fine("learner", _TIP, f"{url} answers, and takes these keys as {described(role)}'s")


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
        found.append(asyncio.run(check_learner(connect, _client_keys(keys))))
    if server:
        found.append(asyncio.run(check_server(server)))
    return tuple(found)


def _client_keys(folder: Path) -> ClientKeys:
    """What to connect with: a client's keys, or what a learner's folder holds for observers of its own machine."""
    is_learners = (folder / "server.key_secret").is_file()
    return load_client_keys(folder, Role.OBSERVER) if is_learners else read_client_keys(folder)


def _fine(what: str, what_for: str, found: str) -> Finding:
    return Finding(what, what_for, found, is_ok=True, is_required=True)


def _failed(what: str, what_for: str, found: str) -> Finding:
    return Finding(what, what_for, found, is_ok=False, is_required=True)
