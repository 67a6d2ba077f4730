"""`lamer serve --attach`: a server that somebody else started, with its own keys, that comes and goes."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest

from lamer.common.errors import BadInput
from lamer.common.keys import create_keys, load_client_keys
from lamer.common.messages import Role
from lamer.common.weights import read_fingerprint
from lamer.deploy.inference.engines.launch import free_port
from lamer.deploy.inference.engines.options import HostOptions, ServerKeys
from tests.contract.served import write_models
from tests.deploy.inference.hosts import announce, ask, host_scene, serves, start_server
from tests.integration.processes import Started, start

pytestmark = pytest.mark.timeout(120)
API, ADMIN = "key-of-actors", "key-of-the-host"
KEYS = ServerKeys(API, ADMIN)
NOWHERE = ("--connect", "tcp://127.0.0.1:1", "--keys", "keys")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


class Somebody:
    """Who runs the server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = start_server(self.folder, self.port, API, ADMIN)

    def wait_up(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(self.url + "/health", timeout=5).close()
            except urllib.error.URLError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def somebody(models: dict[str, Path]) -> Iterator[Somebody]:
    made = Somebody(models["base"])
    made.start()
    made.wait_up()
    yield made
    made.kill()


async def test_the_server_is_checked_and_loaded_and_left_running(
    somebody: Somebody, tmp_path: Path, models: dict[str, Path]
) -> None:
    async with host_scene(tmp_path, attach=somebody.url, server_keys=KEYS) as scene:
        assert scene.hello.fingerprint == read_fingerprint(models["base"])
        server = await scene.holds(announce(models["other"], 7))
        assert (server.url, server.api_key, server.max_running) == (somebody.url, API, 8)
        assert (await ask(server, "/model_info"))["weight_version"] == "7"
        assert await serves(server, models["other"])
        assert await scene.finish() == 0
    assert somebody.process is not None
    assert somebody.process.poll() is None


async def test_a_server_that_comes_back_is_loaded_again_before_it_gets_work(
    somebody: Somebody, tmp_path: Path, models: dict[str, Path]
) -> None:
    async with host_scene(tmp_path, attach=somebody.url, server_keys=KEYS) as scene:
        server = await scene.holds(announce(models["other"], 7))
        somebody.kill()
        status = await scene.error("does not answer any more")
        assert not status.is_ready
        scene.gateway.send(announce(models["other"], 8))
        somebody.start()
        assert (await scene.ready_at(8)).url == somebody.url
        assert await serves(server, models["other"])


async def test_weights_that_somebody_else_changed_are_loaded_again(
    somebody: Somebody, tmp_path: Path, models: dict[str, Path]
) -> None:
    async with host_scene(tmp_path, attach=somebody.url, server_keys=KEYS) as scene:
        server = await scene.holds(announce(models["other"], 7))
        body = {"model_path": str(models["base"]), "weight_version": "mine"}
        await ask(msgspec.structs.replace(server, api_key=ADMIN), "/update_weights_from_disk", body)
        status = await scene.error("holds version 'mine' instead of 7")
        assert not status.is_ready
        await scene.ready_at(7)
        assert await serves(server, models["other"])


# -- what a user gets wrong, at the real command line ---------------------------------------------------------------
@pytest.fixture
def lamer(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    started = []

    def run(*arguments: str) -> Started:
        started.append(start([*arguments], tmp_path, "lamer"))
        return started[-1]

    assert run("keys", "create", "keys").wait() == 0
    yield run
    for each in started:
        each.end()


@pytest.fixture
def key_files(tmp_path: Path) -> tuple[str, ...]:
    for name, key in (("api", API), ("admin", ADMIN), ("wrong", "wrong")):
        (tmp_path / name).write_text(key + "\n")
    (tmp_path / "empty").write_text("")
    return ("--api-key-file", "api", "--admin-key-file", "admin")


@pytest.mark.parametrize("flag", ["attach", "public_url"])
def test_an_address_with_a_password_is_refused_and_not_shown(flag: str, tmp_path: Path) -> None:
    create_keys(tmp_path / "keys")
    given = {flag: "http://someone:pa55@host:30000"}
    options = HostOptions(
        "tcp://127.0.0.1:1", load_client_keys(tmp_path / "keys", Role.HOST), "host", "127.0.0.1", 0, **given
    )  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"http://\*\*\*@host:30000.*--api-key-file") as refused:
        options.check()
    assert "pa55" not in str(refused.value)


def test_an_unreachable_server_is_exit_code_3(lamer: Callable[..., Started]) -> None:
    serve = lamer("serve", *NOWHERE, "--attach", f"http://127.0.0.1:{free_port('127.0.0.1')}")
    assert serve.wait(30) == 3
    assert "no inference server answers at http://127.0.0.1:" in serve.error


def test_wrong_keys_are_exit_code_3_and_the_error_says_which(
    somebody: Somebody, lamer: Callable[..., Started], key_files: tuple[str, ...]
) -> None:
    attach = ("serve", *NOWHERE, "--attach", somebody.url)
    without = lamer(*attach)
    wrong_admin = lamer(*attach, "--api-key-file", "api", "--admin-key-file", "wrong")
    empty = lamer(*attach, "--api-key-file", "empty")
    assert (without.wait(30), wrong_admin.wait(30), empty.wait(30)) == (3, 3, 2)
    assert "refuses the api key (401)" in without.error
    assert "--api-key-file" in without.error
    assert "refuses the admin key (401)" in wrong_admin.error
    assert "holds no key" in empty.error


def test_right_keys_get_as_far_as_the_learner(
    somebody: Somebody, lamer: Callable[..., Started], key_files: tuple[str, ...]
) -> None:
    serve = lamer("serve", *NOWHERE, "--attach", somebody.url, *key_files)
    assert serve.wait(60) == 3
    assert "can't reach the learner" in serve.error


class _OldSglang(BaseHTTPRequestHandler):
    """Says that it is a release without what updates need, or one that lacks routes."""

    version = "0.5.9"

    def do_GET(self) -> None:
        bodies = {"/server_info": {"version": self.version}, "/openapi.json": {"paths": {"/generate": {}}}}
        body = json.dumps(bodies.get(self.path, {"model_path": "/nowhere"})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the name is the standard library's

    def log_message(self, *_: object) -> None:
        pass


class _Router(_OldSglang):
    version = "0.5.23"


@pytest.mark.parametrize(
    ("kind", "said"),
    [(_OldSglang, "SGLang 0.5.9 lacks what weight updates need"), (_Router, "lacks /model_info, /server_info")],
)
def test_a_server_that_lacks_something_is_exit_code_3(
    lamer: Callable[..., Started], kind: type[BaseHTTPRequestHandler], said: str
) -> None:
    with HTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        serve = lamer("serve", *NOWHERE, "--attach", f"http://127.0.0.1:{server.server_address[1]}")
        assert serve.wait(30) == 3
        server.shutdown()
    assert said in serve.error


async def test_another_architecture_is_refused(somebody: Somebody, tmp_path: Path, models: dict[str, Path]) -> None:
    other = tmp_path / "llama"
    shutil.copytree(models["base"], other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    async with host_scene(tmp_path, attach=somebody.url, server_keys=KEYS) as scene:
        scene.gateway.send(announce(other, 1))
        with pytest.raises(BadInput, match="serves Qwen3ForCausalLM, the run's model is LlamaForCausalLM"):
            await scene.host


def test_a_port_without_http_is_exit_code_3(lamer: Callable[..., Started]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serve = lamer("serve", *NOWHERE, "--attach", f"http://127.0.0.1:{listener.getsockname()[1]}")
        connection, _ = listener.accept()
        connection.close()
        listener.close()
        assert serve.wait(30) == 3
    assert "no inference server answers" in serve.error
