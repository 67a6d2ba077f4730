"""`lamer bench card`: everything that only a card can show, in one command of four minutes at most.

    trainer-0.6b, trainer-0.6b-recomputed, trainer-4b    `lamer bench trainer` on random weights
    contract                                             the contract tests against SGLang
    doors                                                `lamer train -c doors.yaml inference.engine=sglang`

Each step is a process of its own with a limit of its own; the last two run side by side, since both wait for a server
to start. A step that fails, is not there or takes too long is reported, and the others go on. The report is written
after every step, so that an end from outside loses nothing but the step it meets.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from lamer.common.errors import LamerError, Missing
from lamer.deploy.run import processes

CARD_SECONDS = 240.0
_CHECKOUT = Path(__file__).resolve().parents[2]
_CONTRACT = _CHECKOUT / "tests" / "contract"
_END_SECONDS = 2.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CardOptions:
    """is_small: tiny models and the embedded engine, to rehearse on a CPU. python: the interpreter that has SGLang, ""
    for the one that is found.
    """

    output: Path
    is_small: bool = False
    python: str = ""
    seconds: float = CARD_SECONDS


@dataclass(frozen=True, slots=True)
class Step:
    """A command and how long it may take, in seconds. report: JSON that it writes, None if it writes none. missing:
    what it would need and is not there, "" if it can be run. tests: whether it runs tests, of which some have to pass.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    report: Path | None = None
    missing: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    tests: bool = False


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a step ended: ok, failed, missing, or too long. said: its last line. figures: what it wrote."""

    name: str
    status: str
    seconds: float
    limit_seconds: float
    command: str
    said: str
    figures: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class CardReport:
    """All steps so far, in the order in which they ended. planned: names of all of them."""

    small: bool
    cards: tuple[str, ...]
    started: str
    seconds: float
    planned: tuple[str, ...]
    steps: tuple[StepResult, ...]

    def write(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
        part.replace(path)


def run_card_bench(options: CardOptions, say: Say) -> CardReport:
    """All steps, stage by stage. say: is told how each step ended."""
    with TemporaryDirectory(prefix="lamer-card-") as name:
        return asyncio.run(run_stages(_stages(options, Path(name)), options, Path(name), say))


async def run_stages(stages: Sequence[tuple[Step, ...]], options: CardOptions, folder: Path, say: Say) -> CardReport:
    """Stages one after another, the steps of one side by side; logs below `folder`."""
    begin, started = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%S")
    planned = tuple(step.name for stage in stages for step in stage)
    ended: list[StepResult] = []

    def report() -> CardReport:
        return CardReport(options.is_small, _cards(), started, time.monotonic() - begin, planned, tuple(ended))

    async def follow(step: Step) -> None:
        left = options.seconds - (time.monotonic() - begin)
        found = await _run(step, min(step.limit, left), folder)
        ended.append(found)
        report().write(options.output)
        say(f"{found.name}: {found.status} after {found.seconds:.0f} s{': ' if found.said else ''}{found.said}")

    report().write(options.output)
    for stage in stages:
        async with asyncio.TaskGroup() as group:
            for step in stage:
                group.create_task(follow(step))
    return report()


async def _run(step: Step, limit: float, folder: Path) -> StepResult:
    command, begin = " ".join(step.command), time.monotonic()
    if step.missing or limit <= 0:
        status = "missing" if step.missing else "too long"
        return StepResult(step.name, status, 0.0, step.limit, command, step.missing or "no time is left", None)
    log = folder / f"{step.name}.log"
    process = await processes.start(step.command, log, environment=step.environment)
    try:
        async with asyncio.timeout(limit):
            code = await process.wait()
        status = {0: "ok", Missing.exit_code: "missing"}.get(code, "failed")
        if status == "ok" and step.tests and " passed" not in log.read_text(errors="replace"):
            status = "missing"
    except TimeoutError:
        status = "too long"
    finally:
        await processes.end_all([process], _END_SECONDS)
    figures = None
    if step.report is not None and step.report.is_file():
        figures = msgspec.json.decode(step.report.read_bytes())
    said = f"it did not end within {limit:g} s" if status == "too long" else ""
    if status in ("failed", "missing"):
        said = processes.last_error(log)
    return StepResult(step.name, status, time.monotonic() - begin, step.limit, command, said, figures)


def _cards() -> tuple[str, ...]:
    import torch

    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _stages(options: CardOptions, folder: Path) -> tuple[tuple[Step, ...], ...]:
    trainers = _small_trainers(folder) if options.is_small else _trainers(folder)
    return (*((step,) for step in trainers), (_contract(options), _doors(options, folder)))


def _trainer(name: str, limit: float, folder: Path, *arguments: str) -> Step:
    report = folder / f"{name}.json"
    command = processes.lamer_command("bench", "trainer", "--output", str(report), *arguments)
    return Step(name, command, limit, report)


def _trainers(folder: Path) -> tuple[Step, ...]:
    packs = "optimizer.pack_tokens=16384"
    small, again = ("optimizer.kind=adamw_8bit", "trainer.recompute=layers")
    return (
        _trainer(
            "trainer-0.6b", 60.0, folder, "--model", "qwen3-0.6b", "--rounds", "2", packs, "trainer.recompute=none"
        ),
        _trainer(
            "trainer-0.6b-recomputed", 35.0, folder, "--model", "qwen3-0.6b", "--rounds", "1", "--alone", packs, again
        ),
        _trainer(
            "trainer-4b",
            50.0,
            folder,
            *("--model", "qwen3-4b", "--groups", "1", "--rounds", "1", "--alone", packs, small, again),
        ),
    )


def _small_trainers(folder: Path) -> tuple[Step, ...]:
    shape = ("--groups", "1", "--group-size", "4", "--lengths", "0.1", "--rounds", "1")
    packs, cpu = "optimizer.pack_tokens=1024", "trainer.device=cpu"
    return (
        _trainer("trainer-0.6b", 60.0, folder, "--model", "tiny", *shape, packs, cpu),
        _trainer(
            "trainer-0.6b-recomputed",
            60.0,
            folder,
            *("--model", "tiny", "--alone", *shape, packs, cpu, "trainer.recompute=layers"),
        ),
        _trainer("trainer-4b", 60.0, folder, "--model", "pocket", "--alone", *shape, packs, cpu),
    )


def _contract(options: CardOptions) -> Step:
    missing = "" if _CONTRACT.is_dir() else f"there are no tests in {_CONTRACT}: run it in a checkout"
    if not options.is_small:
        missing = missing or _lacks_sglang(options.python)
    tests = _CONTRACT / "test_control_contract.py" if options.is_small else _CONTRACT
    marks = "not sglang" if options.is_small else "sglang and not slow"
    command = (sys.executable, "-P", "-m", "pytest", "-q", "-x", "-m", marks, str(tests))
    environment = {"LAMER_TEST_SGLANG_PYTHON": options.python} if options.python else {}
    return Step("contract", command, 95.0, missing=missing, environment=environment, tests=True)


def _doors(options: CardOptions, folder: Path) -> Step:
    run = ("train", "-c", "doors.yaml", "--plain", f"run.directory={folder / 'runs'}", "tracking.mlflow=false")
    if options.is_small:
        size = ("batch.updates=2", "batch.groups=4", "evaluation.tasks=8", "model.warmstart.steps=50")
        return Step("doors", processes.lamer_command(*run, *size), 95.0)
    engine = ("inference.engine=sglang", f"inference.sglang_python={options.python}", "batch.updates=20")
    return Step("doors", processes.lamer_command(*run, *engine), 95.0, missing=_lacks_sglang(options.python))


def _lacks_sglang(python: str) -> str:
    """Why SGLang can't be started, "" if it can."""
    from lamer.deploy.inference.engines.sglang import find_python, installed_release

    try:
        asyncio.run(installed_release(find_python(python)))
    except LamerError as error:
        return str(error)
    return ""
