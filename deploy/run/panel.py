"""What a user sees while a run goes on: one live panel on a terminal, a plain line now and then where there is none.

Both are views of `Status` (`deploy.run.observer.View`). Rates are over the last ten seconds, pass@k over the trials of
the last update.
"""

from __future__ import annotations

import contextlib
import sys
import termios
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lamer.common.messages import Phase, Status
from lamer.deploy.run.observer import View

PLAIN_LINES = 24
PLAIN_SECONDS = 30.0


def make_view(is_plain: bool) -> View:
    """The live panel when stdout is a terminal and `is_plain` is false, else plain lines."""
    console = Console()
    return PlainView() if is_plain or not console.is_terminal else PanelView(console)


class PanelView:
    """A live panel, redrawn with every status; notes scroll above it."""

    is_plain = False

    def __init__(self, console: Console) -> None:
        self._live = Live(Text("waiting for the run's first figures", style="dim"), console=console, transient=False)
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(_keys_unseen())
        self._stack.enter_context(self._live)

    def show(self, status: Status) -> None:
        """Redraw the panel."""
        self._live.update(render(status), refresh=True)

    def note(self, text: str) -> None:
        """Print a line above the panel."""
        self._live.console.print(Text(text, style="yellow"))

    def close(self) -> None:
        """Leave the panel as it was drawn last."""
        self._stack.close()


@contextlib.contextmanager
def _keys_unseen() -> Iterator[None]:
    """While the block runs, the terminal shows no `^C` in the middle of the panel."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = [*before]
    quiet[3] = before[3] & ~(termios.ECHOCTL | termios.ECHO)
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


class PlainView:
    """A line when the phase changes, about `PLAIN_LINES` lines of training, and one at least every `PLAIN_SECONDS`."""

    is_plain = True

    def __init__(self) -> None:
        self._last: Status | None = None

    def show(self, status: Status) -> None:
        """Print a line if there is enough to tell."""
        if self._last is None or self._is_due(self._last, status):
            self._last = status
            print(plain_line(status), flush=True)

    def note(self, text: str) -> None:
        """Print a line on stderr."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing to restore."""

    @staticmethod
    def _is_due(last: Status, status: Status) -> bool:
        step = max(1, status.updates // PLAIN_LINES)
        is_later = status.update // step > last.update // step
        return status.phase is not last.phase or is_later or status.seconds - last.seconds >= PLAIN_SECONDS


def plain_line(status: Status) -> str:
    """How the run is, as one line."""
    if status.phase is Phase.EVALUATING:
        head = f"evaluating {status.evaluated}/{status.evaluations}"
    elif status.phase is Phase.TRAINING:
        head = f"update {status.update}/{status.updates}"
    else:
        head = status.phase.value
    parts = [f"{_clock(status.seconds)}  {head}"]
    if status.phase is Phase.TRAINING and status.pass_at:
        parts += [f"pass@{k} {value:.3f}" for k, value in enumerate(status.pass_at, start=1)]
    if status.phase in (Phase.TRAINING, Phase.EVALUATING):
        parts += [f"{status.trials_per_second:.1f} trials/s", f"{status.tokens_per_second:.0f} tokens/s"]
        parts += [
            f"{status.in_flight} in flight",
            f"staleness {status.staleness_mean:.1f} (max {status.staleness_max})",
        ]
        parts += [f"weights {_age(status.weight_age)}"]
    if status.dropped:
        parts.append(f"{status.dropped} groups dropped")
    return "  ".join(parts)


def render(status: Status) -> Panel:
    """How the run is, as a panel."""
    is_evaluating = status.phase is Phase.EVALUATING
    done, total = (status.evaluated, status.evaluations) if is_evaluating else (status.update, status.updates)
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True, justify="right")
    unit = "trials" if is_evaluating else "updates"
    times = f"{_clock(status.seconds)}" + (f" · {_clock(left)} left" if (left := _left(status)) else "")
    bar.add_row(f"{done}/{total} {unit}", ProgressBar(total=max(total, 1), completed=done), times)

    figures = Table.grid(padding=(0, 2))
    for _ in range(3):
        figures.add_column(style="dim", no_wrap=True)
        figures.add_column(justify="right", no_wrap=True, min_width=9)
    figures.add_row(*_cells(status))
    for row in _rows(status):
        figures.add_row(*row)
    parts: list[RenderableType] = [bar, Text(""), figures]
    if status.mlflow_url:
        parts += [Text(""), Text(f"MLflow {status.mlflow_url}", style="dim", overflow="fold")]
    title = f"[bold]{status.run}[/bold] · {status.phase.value} · policy version {status.policy_version}"
    return Panel(Group(*parts), title=title, title_align="left", border_style=_COLOURS[status.phase])


_COLOURS = {
    Phase.STARTING: "yellow",
    Phase.EVALUATING: "cyan",
    Phase.TRAINING: "green",
    Phase.DONE: "blue",
    Phase.FAILED: "red",
}


def _cells(status: Status) -> list[str]:
    """pass@1, pass@2 and pass@3 as label and figure; a trial with more episodes shows its last beside the first two."""
    named = [(f"pass@{k}", f"{value:.3f}") for k, value in enumerate(status.pass_at, start=1)]
    if len(named) > 3:
        named = [*named[:2], named[-1]]
    named += [("pass@1", "-")] * (not named)
    return [text for pair in named for text in pair]


def _rows(status: Status) -> list[tuple[str, ...]]:
    return [
        (
            *("trials/s", f"{status.trials_per_second:.1f}"),
            *("tokens/s", f"{status.tokens_per_second:,.0f}"),
            *("in flight", f"{status.in_flight}"),
        ),
        (
            *("staleness", f"{status.staleness_mean:.2f}"),
            *("at most", f"{status.staleness_max}"),
            *("weights changed", f"{_age(status.weight_age)} ago"),
        ),
        (
            *("actors + servers", f"{status.actors} + {status.servers}"),
            *("trials", f"{status.trials:,}"),
            *("groups dropped", f"{status.dropped}"),
        ),
    ]


def _left(status: Status) -> float:
    """Seconds that the remaining updates will take at the pace so far, 0 when there is none to tell it by."""
    if status.phase is not Phase.TRAINING or status.update == 0:
        return 0.0
    return status.seconds / status.update * (status.updates - status.update)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def _age(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else _clock(seconds)
