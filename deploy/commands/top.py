"""`lamer top`: watch a run that is going on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamer.deploy.commands.options import Plain, run_async

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or name, or its address tcp://host:port.")]
Keys = Annotated[
    Path | None, typer.Option("--keys", metavar="DIR", help="Folder of CURVE keys; the run's own if left out.")
]
CONNECT_SECONDS = 10.0


def top(run: Run, keys: Keys = None, plain: Plain = False) -> None:
    """Show the live panel of a run, from any machine that has its keys."""
    run_async(_watch(run, keys, plain))


async def _watch(run: str, keys: Path | None, is_plain: bool) -> int:
    from lamer.common.errors import BadInput, Missing
    from lamer.common.keys import load_client_keys
    from lamer.common.messages import Role
    from lamer.deploy.run.folder import find_run
    from lamer.deploy.run.observer import follow
    from lamer.deploy.run.panel import make_view

    if run.startswith("tcp://"):
        if keys is None:
            raise BadInput(f"watching {run} needs its keys: name their folder with --keys")
        url = run
    else:
        folder = find_run(run)
        if not (folder / "address").is_file():
            raise Missing(f"no learner is at work in {folder}")
        url, keys = (folder / "address").read_text(encoding="utf-8").strip(), keys or folder / "keys"
    loaded = load_client_keys(keys, Role.OBSERVER)
    view = make_view(is_plain)
    try:
        shutdown = await follow(url, loaded, view, CONNECT_SECONDS)
        view.note(f"the run is over: {shutdown.reason}")
    finally:
        view.close()
    return 0
