"""MLflow's own server over a sqlite file, behind a door that refuses chosen requests as a busy proxy does."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from werkzeug.serving import make_server


@dataclass
class Door:
    """refuse: by the end of a request's path, how many are refused with 503 before the server hears of them; lose: how
    many it answers, but with its answer lost. seen: paths of all requests. login: user:password that is asked for.
    """

    refuse: dict[str, int] = field(default_factory=dict)
    lose: dict[str, int] = field(default_factory=dict)
    login: str = ""
    seen: list[str] = field(default_factory=list)
    url: str = ""

    def around(self, app: Any) -> Any:  # noqa: ANN401 -- WSGI
        """The server's application behind this door."""

        def behind(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:  # noqa: ANN401
            path = environ["PATH_INFO"]
            self.seen.append(path)
            expected = "Basic " + base64.b64encode(self.login.encode()).decode()
            if self.login and environ.get("HTTP_AUTHORIZATION") != expected:
                start_response("401 Unauthorized", [])
                return [b"who are you?"]
            if self._takes(self.refuse, path):
                start_response("503 Service Unavailable", [])
                return [b"QueuePool limit reached"]
            if self._takes(self.lose, path):
                b"".join(app(environ, lambda *_: None))
                start_response("503 Service Unavailable", [])
                return [b"the answer is lost"]
            answer: Iterable[bytes] = app(environ, start_response)
            return answer

        return behind

    @staticmethod
    def _takes(counts: dict[str, int], path: str) -> bool:
        for end, left in counts.items():
            if path.endswith(end) and left > 0:
                counts[end] -= 1
                return True
        return False


@contextmanager
def served(folder: Path) -> Iterator[Door]:
    """A server whose data lie in `folder`."""
    from mlflow.server import app, handlers

    handlers.initialize_backend_stores(
        f"sqlite:///{folder / 'server.db'}", default_artifact_root=str(folder / "artefacts")
    )
    door = Door()
    server = make_server("127.0.0.1", 0, door.around(app), threaded=True)
    door.url = f"http://127.0.0.1:{server.port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield door
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
