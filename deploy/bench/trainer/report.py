"""What the trainer benchmark found, as a record, as JSON and as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class WorkFigures:
    """The trials of a round, on average.

    flat_tokens: that our packs hold. effective_tokens: prompts and responses if nothing were shared. response_tokens:
    scored. head_rows: positions that go through our output head. prompt_mean, response_mean: tokens.
    """

    source: str
    sharing: str
    trials: float
    responses: float
    flat_tokens: float
    effective_tokens: float
    response_tokens: float
    head_rows: float
    prompt_mean: float
    response_mean: float


@dataclass(frozen=True, slots=True)
class OurFigures:
    """Medians over rounds of whole updates on trials that were never seen before.

    Tokens a second are without publishing. repeated_seconds: of the next update on the same trials. first_seconds: of
    the first update of all, compilation included. mfu: operations of the matrix products over the card's peak,
    attention's left out; None where no peak is known. peak_kind: how `peak_bytes` was measured. phases: seconds.
    gradient_seconds: packing, forward and backward pass alone, which the ratios compare.
    """

    flat_tokens_per_second: float
    effective_tokens_per_second: float
    mfu: float | None
    peak_bytes: int
    peak_kind: str
    seconds: float
    repeated_seconds: float
    first_seconds: float
    gradient_seconds: float
    phases: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class OtherFigures:
    """Another way to the same gradient. failed: why there is none, "" otherwise; figures are 0 then.

    seconds: the median. tokens: computed, padding included. loss_difference, gradient_difference: from ours, relative;
    None where it computes another loss.
    """

    seconds: float
    tokens: float
    loss_difference: float | None
    gradient_difference: float | None
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Ratios:
    """Speeds, medians over rounds; None where the other way was not measured.

    over_padded, over_packed_transformers: how many times as fast ours is. of_bare_layers: the share of their speed that
    ours has. new_over_repeated_shapes: speed on trials never seen before over that on the same trials again.
    """

    over_padded: float | None
    over_packed_transformers: float | None
    of_bare_layers: float | None
    new_over_repeated_shapes: float


@dataclass(frozen=True, slots=True)
class TrainerReport:
    """One run. model: its name. lengths: mean tokens of prompts and responses. clock: what seconds are measured by;
    phases are always measured by the wall clock.
    """

    model: str
    parameters: int
    device: str
    precision: str
    versions: Mapping[str, str]
    settings: Mapping[str, str]
    lengths: Mapping[str, float]
    sharing: str
    rounds: int
    threads: int
    clock: str
    work: WorkFigures
    ours: OurFigures
    others: Mapping[str, OtherFigures]
    ratios: Ratios

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    def print(self, console: Console) -> None:
        """Show the report."""
        work, ours = self.work, self.ours
        shared = f"{work.effective_tokens / work.flat_tokens:.1f}x"
        console.print(
            f"{self.model}, {self.parameters:,} parameters, {self.precision}, {self.device}; "
            f"{', '.join(f'{key}={value}' for key, value in self.settings.items())}; seconds by {self.clock}",
            highlight=False,
        )
        console.print(
            f"{work.source}, sharing {work.sharing}: {work.trials:.0f} trials of {work.responses:.0f} responses, "
            f"prompts of {work.prompt_mean:.0f} and responses of {work.response_mean:.0f} tokens; "
            f"{work.flat_tokens:,.0f} flat tokens for {work.effective_tokens:,.0f} ({shared})",
            highlight=False,
        )
        mfu = "" if ours.mfu is None else f", {ours.mfu:.1%} MFU"
        console.print(
            f"[bold]{ours.flat_tokens_per_second:,.0f} flat tokens/s, {ours.effective_tokens_per_second:,.0f} effective"
            f"[/bold]{mfu}, peak {ours.peak_bytes / 1e9:.2f} GB ({ours.peak_kind})",
            highlight=False,
        )
        console.print(_phase_table(ours))
        if self.others:
            console.print(_other_table(self))


def _phase_table(ours: OurFigures) -> Table:
    table = Table(title=f"An update: {ours.seconds:.3f} s; again {ours.repeated_seconds:.3f} s", title_justify="left")
    table.add_column("first")
    for name in ours.phases:
        table.add_column(name, justify="right")
    table.add_row(f"{ours.first_seconds:.3f} s", *(f"{seconds:.3f} s" for seconds in ours.phases.values()))
    return table


def _other_table(report: TrainerReport) -> Table:
    ours, ratios = report.ours, report.ratios
    table = Table(title="The same gradient, one round's median", title_justify="left")
    for heading in ("", "s", "tokens computed", "ours is as fast", "loss differs by", "gradient differs by"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("ours", f"{ours.gradient_seconds:.3f}", f"{report.work.flat_tokens:,.0f}", "1.00x", "", "")
    shown = {
        "padded": ratios.over_padded,
        "packed_transformers": ratios.over_packed_transformers,
        "bare_layers": ratios.of_bare_layers,
    }
    for name, figures in report.others.items():
        ratio = shown[name]
        if figures.failed or ratio is None:
            table.add_row(name.replace("_", " "), figures.failed, "", "", "", "")
            continue
        differences = (figures.loss_difference, figures.gradient_difference)
        table.add_row(
            name.replace("_", " "),
            f"{figures.seconds:.3f}",
            f"{figures.tokens:,.0f}",
            f"{ratio:.2f}x",
            *("" if each is None else f"{each:.1e}" for each in differences),
        )
    return table
