"""Runs in SGLang's own environment in place of `python -m sglang.launch_server`: the same, but it keeps its keys.

SGLang answers GET /server_info, which takes the api key, with all its arguments, the admin key among them. Here the
keys are blacked out of whatever a GET answers. Imports nothing of ours: that environment does not have it.
"""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Event, Receive, Send], Awaitable[None]]


class KeepKeys:
    """ASGI middleware. keys: what no answer to a GET may hold."""

    def __init__(self, app: App, keys: tuple[bytes, ...]) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one request; each key is replaced by as many asterisks, so that the length stays."""

        async def redact(event: Event) -> None:
            body = event.get("body", b"")
            for key in self._keys:
                body = body.replace(key, b"*" * len(key))
            await send({**event, "body": body} if "body" in event else event)

        is_get = scope["type"] == "http" and scope["method"] == "GET"
        await self._app(scope, receive, redact if is_get else send)


def read_keys(arguments: list[str]) -> tuple[bytes, ...]:
    """The keys in the file of flags that `arguments` name."""
    file = Path(arguments[arguments.index("--config") + 1])
    return tuple(key.encode() for key in re.findall(r"key: '([^']+)'", file.read_text(encoding="ascii")))


def main() -> None:
    """Start SGLang with our arguments."""
    keys = read_keys(sys.argv)
    server = importlib.import_module("sglang.srt.entrypoints.http_server")
    server.app.add_middleware(KeepKeys, keys=keys)
    runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
