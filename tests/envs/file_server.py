"""A real HTTP server for files, with ranges, that misbehaves when it is told to."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """Serves `files` by name, and keeps the ranges that were asked for ("" for none).

    cuts: bytes after which the next answers break off, one each. knows_ranges: else every answer begins at byte 0.
    statuses: of the next answers, errors without a body. content_type: of every answer.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    knows_ranges: bool = True
    content_type: str = "application/octet-stream"
    ranges: list[str] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def serving_files(files: dict[str, bytes]) -> Iterator[FileServer]:
    """A server on a free port of this machine while the block runs."""
    scene = FileServer(dict(files))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, scene)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        scene.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield scene
        finally:
            server.shutdown()
            thread.join()


def answer(request: BaseHTTPRequestHandler, scene: FileServer) -> None:
    asked = request.headers.get("Range", "")
    scene.ranges.append(asked)
    content = scene.files.get(request.path.strip("/"))
    if scene.statuses or content is None:
        request.send_error(scene.statuses.pop(0) if scene.statuses else 404)
        return
    match = re.fullmatch(r"bytes=(\d+)-", asked)
    begin = int(match[1]) if match is not None and scene.knows_ranges else 0
    if begin >= len(content):
        request.send_error(416)
        return
    request.send_response(206 if begin else 200)
    request.send_header("Content-Type", scene.content_type)
    request.send_header("Content-Length", str(len(content) - begin))
    if begin:
        request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
    request.end_headers()
    body = content[begin:]
    request.wfile.write(body[: scene.cuts.pop(0)] if scene.cuts else body)
