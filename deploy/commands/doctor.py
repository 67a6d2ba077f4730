"""`lamer doctor`: whether this machine has what the parts of a run need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Connect = Annotated[str, typer.Option("--connect", metavar="URL", help="Also: whether this learner can be reached.")]
Keys = Annotated[Path | None, typer.Option("--keys", metavar="DIR", help="Also: whether these keys can be used.")]
Server = Annotated[str, typer.Option("--server", metavar="URL", help="Also: whether this inference server answers.")]
SglangPython = Annotated[str, typer.Option("--sglang-python", metavar="FILE", help="The interpreter that has SGLang.")]


def doctor(connect: Connect = "", keys: Keys = None, server: Server = "", sglang_python: SglangPython = "") -> None:
    """Check this machine, and what it is to reach; exit code 3 when something needed is missing."""
    import asyncio

    from rich.console import Console

    from lamer.common.errors import Missing
    from lamer.deploy.doctor.connectivity import check_joining, check_sglang
    from lamer.deploy.doctor.diagnosis import diagnose, table

    findings = (*diagnose(), asyncio.run(check_sglang(sglang_python)), *check_joining(connect, keys, server))
    Console().print(table(findings))
    missing = [finding.what for finding in findings if finding.is_required and not finding.is_ok]
    if missing:
        raise typer.Exit(Missing.exit_code)
