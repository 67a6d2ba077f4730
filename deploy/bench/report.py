"""What the rollout benchmark found: figures of a SIMULATED server, as a record, as JSON and as a table."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

BUSY_CPU_SHARE = 0.85
IDLE_SERVER_SHARE = 0.05
STEADY_SHARE = 0.03
"""Of the tokens generated, at most so many may have been neither trained nor dropped in a steady state."""
SERVER = "simulated server"


@dataclass(frozen=True, slots=True)
class ProcessLoad:
    """Share of one CPU core that a process used while a schedule was measured."""

    process: str
    cpu_share: float


@dataclass(frozen=True, slots=True)
class TokenBalance:
    """What became of response tokens while a schedule was measured.

    generated: by the server. trained: of the trials in the batches. dropped: of trials that were played and dropped.
    """

    generated: int
    trained: int
    dropped: int

    @property
    def excess(self) -> float:
        """Share of the tokens generated that stayed in the system; below 0 when more left it than were generated."""
        return (self.generated - self.trained - self.dropped) / self.generated

    @property
    def is_steady(self) -> bool:
        """Whether what was trained was made in the same time: otherwise seconds per update say little."""
        return abs(self.excess) <= STEADY_SHARE


@dataclass(frozen=True, slots=True)
class ScheduleFigures:
    """One schedule, measured over `updates` updates.

    max_staleness: None in lock step. seconds_per_update, tokens_per_second: simulated. saturation_share: of the
    throughput with a full batch. busy_share: share of the time in which the server computed at all. in_flight: trials
    being played, on average; staleness: of the trained trials, in updates, of the last batch; both None in lock step,
    where the schedule gives them.
    """

    name: str
    max_staleness: int | None
    updates: int
    trajectories_per_update: int
    seconds_per_update: float
    tokens_per_second: float
    saturation_share: float
    busy_share: float
    tokens: TokenBalance
    loads: tuple[ProcessLoad, ...]
    in_flight: float | None = None
    staleness_mean: float | None = None
    staleness_max: int | None = None
    dropped_groups: int | None = None

    @property
    def label(self) -> str:
        """The schedule's name with its staleness bound S."""
        return self.name if self.max_staleness is None else f"{self.name} (S={self.max_staleness})"

    @property
    def trained_tokens_per_update(self) -> float:
        """Response tokens of a batch, on average."""
        return self.tokens.trained / self.updates

    @property
    def trained_tokens_per_second(self) -> float:
        """Response tokens a simulated second that end in a batch: those generated, less the share that is dropped.

        It doesn't count what a batch takes from a stock of older trials, so that it lasts.
        """
        return self.tokens_per_second * (1.0 - self.tokens.dropped / self.tokens.generated)


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times as long an update takes in lock step as in ours.

    over_metarl_lockstep, over_rl_lockstep: as measured. equal_tokens_*: had each of our batches held as many tokens as
    those of lock-step Meta-RL, and all of them been generated in the time measured. per_token_over_rl_lockstep: of
    trained tokens a second.
    """

    max_staleness: int
    over_metarl_lockstep: float
    over_rl_lockstep: float
    equal_tokens_over_metarl_lockstep: float
    equal_tokens_over_rl_lockstep: float
    per_token_over_rl_lockstep: float

    @classmethod
    def of(cls, rl: ScheduleFigures, metarl: ScheduleFigures, ours: ScheduleFigures) -> Speedup:
        """Ours beside both schedules in lock step."""
        seconds = metarl.trained_tokens_per_update / ours.trained_tokens_per_second
        return cls(
            max_staleness=ours.max_staleness or 0,
            over_metarl_lockstep=metarl.seconds_per_update / ours.seconds_per_update,
            over_rl_lockstep=rl.seconds_per_update / ours.seconds_per_update,
            equal_tokens_over_metarl_lockstep=metarl.seconds_per_update / seconds,
            equal_tokens_over_rl_lockstep=rl.seconds_per_update / seconds,
            per_token_over_rl_lockstep=ours.trained_tokens_per_second / rl.trained_tokens_per_second,
        )


@dataclass(frozen=True, slots=True)
class RolloutReport:
    """All figures of one benchmark run. Everything in it was measured on a simulated server.

    metarl_over_rl_lockstep: seconds of an update; metarl_tokens_over_rl: tokens of a batch, of as many trajectories at
    most.
    """

    server: str
    scale: float
    time_scale: float
    seed: int
    saturation_tokens_per_second: float
    metarl_over_rl_lockstep: float
    metarl_tokens_over_rl: float
    speedups: tuple[Speedup, ...]
    schedules: tuple[ScheduleFigures, ...]
    warnings: tuple[str, ...]

    @classmethod
    def of(
        cls,
        scale: float,
        time_scale: float,
        seed: int,
        saturation: float,
        rl: ScheduleFigures,
        metarl: ScheduleFigures,
        ours: tuple[ScheduleFigures, ...],
    ) -> RolloutReport:
        """The report on measured schedules: ratios of seconds per update, and warnings about the measurement itself."""
        schedules = (rl, metarl, *ours)
        return cls(
            server=SERVER,
            scale=scale,
            time_scale=time_scale,
            seed=seed,
            saturation_tokens_per_second=saturation,
            metarl_over_rl_lockstep=metarl.seconds_per_update / rl.seconds_per_update,
            metarl_tokens_over_rl=metarl.trained_tokens_per_update / rl.trained_tokens_per_update,
            speedups=tuple(Speedup.of(rl, metarl, figures) for figures in ours),
            schedules=schedules,
            warnings=machine_warnings(schedules),
        )

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    def print(self, console: Console) -> None:
        """Show the report."""
        console.print(_schedule_table(self))
        console.print(
            f"lock-step Meta-RL takes {self.metarl_over_rl_lockstep:.2f}x the time of lock-step RL ({SERVER})"
        )
        for speedup in self.speedups:
            console.print(
                f"ours at max_staleness {speedup.max_staleness}, at equal tokens an update: "
                f"{speedup.equal_tokens_over_metarl_lockstep:.2f}x as fast as lock-step Meta-RL and "
                f"{speedup.equal_tokens_over_rl_lockstep:.2f}x as fast as lock-step RL, "
                f"{speedup.per_token_over_rl_lockstep:.2f}x for each token (as measured: "
                f"{speedup.over_metarl_lockstep:.2f}x and {speedup.over_rl_lockstep:.2f}x; {SERVER})"
            )
        console.print(
            f"[dim]A Meta-RL batch holds {self.metarl_tokens_over_rl:.2f} times the tokens of an RL batch, since a "
            "trial ends at its first success: hence the difference between an update and a token.[/dim]"
        )
        for figures in self.schedules:
            loads = ", ".join(f"{load.process} {load.cpu_share:.0%}" for load in figures.loads)
            console.print(f"[dim]CPU of {figures.label}: {loads}[/dim]")
        for warning in self.warnings:
            console.print(f"[yellow]{warning}[/yellow]")


def machine_warnings(schedules: tuple[ScheduleFigures, ...]) -> tuple[str, ...]:
    """Where this machine, rather than the simulated server, may have set the pace."""
    warnings = [
        f"{figures.label}: process '{load.process}' used {load.cpu_share:.0%} of a core, so that this machine may have "
        "limited it: run again with a lower time scale"
        for figures in schedules
        for load in figures.loads
        if load.cpu_share > BUSY_CPU_SHARE
    ]
    warnings += [
        f"{figures.label}: the simulated server stood idle {1 - figures.busy_share:.0%} of the time, waiting for this "
        "machine, and would do better: run again with a lower time scale"
        for figures in schedules
        if figures.busy_share < 1.0 - IDLE_SERVER_SHARE
    ]
    warnings += [
        f"{figures.label}: not a steady state: {figures.tokens.excess:+.1%} of the tokens generated were neither "
        "trained nor dropped while it was measured: only the figures at equal tokens count"
        for figures in schedules
        if not figures.tokens.is_steady
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for figures in schedules:
        total = sum(load.cpu_share for load in figures.loads)
        if total > BUSY_CPU_SHARE * cores:
            warnings.append(
                f"{figures.label}: its processes used {total:.2f} of this machine's {cores} cores: run again with a "
                "lower time scale"
            )
    return tuple(warnings)


def _schedule_table(report: RolloutReport) -> Table:
    table = Table(title=f"Rollout on a {SERVER} (scale {report.scale:g}, clock x{report.time_scale:g})")
    for heading in ("schedule", "s/update", "tokens/s", "tokens/update", "stock", "of full", "in flight", "age"):
        table.add_column(heading, justify="left" if heading == "schedule" else "right")
    for figures in report.schedules:
        table.add_row(
            figures.label,
            f"{figures.seconds_per_update:.1f}",
            f"{figures.tokens_per_second:,.0f}",
            f"{figures.trained_tokens_per_update:,.0f}",
            f"{figures.tokens.excess:+.1%}",
            f"{figures.saturation_share:.0%}",
            "" if figures.in_flight is None else f"{figures.in_flight:.0f}",
            "" if figures.staleness_max is None else f"{figures.staleness_mean:.1f}/{figures.staleness_max}",
        )
    table.add_row("full batch", "", f"{report.saturation_tokens_per_second:,.0f}", "", "", "100%", "", "")
    return table
