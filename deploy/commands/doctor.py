"""`lamer doctor`: whether this machine has what the parts of a run need."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Check Python, packages, GPU, ports and disk of this machine; exit code 3 when something needed is missing."""
    from rich.console import Console

    from common.errors import Missing
    from deploy.diagnosis import diagnose, table

    findings = diagnose()
    Console().print(table(findings))
    missing = [finding.what for finding in findings if finding.is_required and not finding.is_ok]
    if missing:
        raise typer.Exit(Missing.exit_code)
