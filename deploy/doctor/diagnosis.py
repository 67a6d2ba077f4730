"""What `lamer doctor` looks at on this machine: each check is a function that returns one finding.

What is looked at beyond it is in `deploy.doctor.connectivity`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

OLDEST_PYTHON = (3, 11)
LEAST_DISK_GB = 2.0
BASE = (
    "aiohttp",
    "jinja2",
    "msgpack",
    "msgspec",
    "numpy",
    "omegaconf",
    "pyzmq",
    "rich",
    "tokenizers",
    "typer",
    "zstandard",
)
LEARNER = ("torch", "transformers", "safetensors", "torchao")
TRACKING = ("mlflow", "matplotlib")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what it is, what was found, and whether it will do. what_for: who needs it."""

    what: str
    what_for: str
    found: str
    is_ok: bool
    is_required: bool


def diagnose() -> tuple[Finding, ...]:
    """All findings about this machine. Starts nothing and leaves nothing behind."""
    packages = [
        *(_package(name, "every part", is_required=True) for name in BASE),
        *(_package(name, "learner, embedded engine: pip install 'lamer[learner]'") for name in LEARNER),
        *(_package(name, "tracking: pip install 'lamer[mlflow]'") for name in TRACKING),
    ]
    return (_python(), *packages, _processor(), _gpu(), _port(), _disk())


def table(findings: tuple[Finding, ...]) -> Table:
    """Findings as a table for a terminal."""
    drawn = Table(box=None, header_style="bold")
    for title in ("", "what", "found", "needed by"):
        drawn.add_column(title, overflow="fold")
    for finding in findings:
        mark = "[green]ok[/]" if finding.is_ok else "[red]fails[/]" if finding.is_required else "[yellow]absent[/]"
        drawn.add_row(mark, finding.what, escape(finding.found), escape(finding.what_for))
    return drawn


def _python() -> Finding:
    found = f"{platform.python_version()} ({sys.executable})"
    return Finding("Python", "every part, 3.11 or later", found, sys.version_info >= OLDEST_PYTHON, is_required=True)


def _package(name: str, what_for: str, *, is_required: bool = False) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, what_for, "not installed", is_ok=False, is_required=is_required)
    return Finding(name, what_for, version, is_ok=True, is_required=is_required)


def _processor() -> Finding:
    return Finding("processor", "every part", f"{os.cpu_count()} cores", is_ok=True, is_required=False)


def _gpu() -> Finding:
    what_for = "learner and inference of larger models"
    if importlib.util.find_spec("torch") is None:
        return Finding("GPU", what_for, "not looked for: torch is not installed", is_ok=False, is_required=False)
    import torch

    if not torch.cuda.is_available():
        return Finding(
            "GPU", what_for, "none: the pocket model and the embedded engine", is_ok=False, is_required=False
        )
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return Finding("GPU", what_for, names, is_ok=True, is_required=False)


def _port() -> Finding:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            found = f"127.0.0.1:{probe.getsockname()[1]} could be bound"
    except OSError as error:
        return Finding("TCP port", "learner, inference", str(error), is_ok=False, is_required=True)
    return Finding("TCP port", "learner, inference", found, is_ok=True, is_required=True)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    found = f"{free:.1f} GB free in {Path.cwd()}"
    return Finding("disk", f"runs, at least {LEAST_DISK_GB:.0f} GB", found, free >= LEAST_DISK_GB, is_required=True)
