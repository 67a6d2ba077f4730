"""What the weights benchmark found: seconds lost and paused for each way of updating, as a record, JSON and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

PAUSE_BOUND = 1.5
"""A pause should take at most so many times as long as loading the same file on an idle server."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most of `count` measurements."""

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class ModeFigures:
    """One way of updating a server under load.

    pause_seconds: from asking for the pause until generation may go on, for each update. lost_seconds: generation time
    lost for each update, one value a round. over_bare_load: median pause over the median bare load; lost_over_bare_load
    likewise. in_flight: responses that were under way over an update, counted once for each update. split: those that
    older weights began and newer ones went on with. wrong_spans: responses whose versions do not rise, or were never
    held by the server meanwhile. responses: that were asked for. whole: those of them that came back with every token.
    """

    mode: str
    updates: int
    pause_seconds: Spread
    lost_seconds: Spread
    over_bare_load: float
    lost_over_bare_load: float
    in_flight: int
    split: int
    wrong_spans: int
    responses: int
    whole: int

    @property
    def is_within_bound(self) -> bool:
        """Whether the median pause is at most `PAUSE_BOUND` bare loads."""
        return self.over_bare_load <= PAUSE_BOUND


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """One model on one server.

    file_bytes: of its weight files. response_tokens: of a response, on average. bare_load_seconds: loading the files on
    the idle server. tokens_per_second: of the saturated server in rounds without updates. baseline_seconds: those
    rounds. step_seconds: of one token of every stream, median; a pause begins when the step under way is over.
    """

    model: str
    parameters: int
    file_bytes: int
    streams: int
    response_tokens: int
    bare_load_seconds: Spread
    tokens_per_second: Spread
    baseline_seconds: Spread
    step_seconds: float
    modes: tuple[ModeFigures, ...]


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """All figures of one run. engine: embedded, or sglang with its release."""

    engine: str
    rounds: int
    updates_per_round: int
    seed: int
    models: tuple[ModelFigures, ...]

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    def print(self, console: Console) -> None:
        """Show the report."""
        for model in self.models:
            console.print(_model_table(self.engine, model))
            for figures in model.modes:
                console.print(_verdict(figures), highlight=False)


def _verdict(figures: ModeFigures) -> str:
    colour, word = ("green", "within") if figures.is_within_bound else ("yellow", "over")
    text = (
        f"{figures.mode}: pause {figures.over_bare_load:.2f}x a bare load, "
        f"[{colour}]{word} {PAUSE_BOUND:g}x[/{colour}]; "
        f"{figures.whole} of {figures.responses} responses whole; {figures.in_flight} in flight over an update, "
        f"{figures.split} of them split there"
    )
    return text + (f"; [red]{figures.wrong_spans} with wrong versions[/red]" if figures.wrong_spans else "")


def _model_table(engine: str, model: ModelFigures) -> Table:
    size = f"{model.parameters / 1e6:.1f}M parameters, {model.file_bytes / 1e6:.0f} MB"
    bare = model.bare_load_seconds
    title = (
        f"{engine}: {model.model}, {size}, {model.streams} streams, {model.tokens_per_second.median:,.0f} tokens/s, "
        f"step {model.step_seconds:.3f} s; bare load {_seconds(bare)} s"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("mode", "updates", "pause, s", "x bare load", "lost per update, s", "x bare load"):
        table.add_column(heading, justify="left" if heading == "mode" else "right")
    for figures in model.modes:
        table.add_row(
            figures.mode,
            str(figures.updates),
            _seconds(figures.pause_seconds),
            f"{figures.over_bare_load:.2f}",
            _seconds(figures.lost_seconds),
            f"{figures.lost_over_bare_load:.2f}",
        )
    return table


def _seconds(spread: Spread) -> str:
    return f"{spread.median:.3f} ({spread.least:.3f} .. {spread.most:.3f})"
