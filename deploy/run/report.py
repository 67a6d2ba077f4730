"""What a finished run is shown as: its results beside the references, what its episodes came to, figures one a line."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lamer.common.messages import Metric
from lamer.deploy.run.folder import RunFolder

if TYPE_CHECKING:
    from lamer.learner.measuring.diversity import Diversity
    from lamer.learner.measuring.evaluation import EvaluationResult

_PASS_AT = re.compile(r"^pass@(\d+)$")


@dataclass(frozen=True, slots=True)
class ResultRow:
    """pass_at[k]: share of tasks solved within k + 1 episodes, of this run or of a reference called `name`.

    intervals[k]: its 95% interval, none for references.
    """

    name: str
    pass_at: tuple[float, ...]
    is_ours: bool
    intervals: tuple[tuple[float, float], ...] = ()


def read_results(summary: Path) -> tuple[ResultRow, ...]:
    """The rows of `summary.json`: this run's evaluations first, then the references."""
    tree = json.loads(summary.read_text(encoding="utf-8"))
    after = "after training" if tree["updates"] > 0 else ""
    ours = ((after, tree.get("evaluation")), ("before training", tree.get("warm_start")))
    rows = [_row(f"{tree['run']}, {name}".removesuffix(", "), figures, is_ours=True) for name, figures in ours]
    rows += [_row(name, figures, is_ours=False) for name, figures in tree["reference"].items()]
    return tuple(row for row in rows if row.pass_at)


def results_table(rows: Sequence[ResultRow]) -> Table:
    """Rows as a table for a terminal, or for a log; under each of our shares its 95% interval."""
    table = Table(title="Share of tasks solved within k episodes", title_justify="left")
    table.add_column("")
    for k in range(1, max((len(row.pass_at) for row in rows), default=0) + 1):
        table.add_column(f"pass@{k}", justify="right")
    for row in rows:
        ends = [f"\n{low:.3f}..{high:.3f}" for low, high in row.intervals] or [""] * len(row.pass_at)
        shares = (f"{value:.3f}{end}" for value, end in zip(row.pass_at, ends, strict=True))
        table.add_row(row.name, *shares, style="bold" if row.is_ours else "dim")
    return table


def episodes_table(result: EvaluationResult) -> Table:
    """What an evaluation measured of each episode, and of all."""
    how = f"memory {result.memory.value}, temperature {result.sampling.temperature:g}"
    of = f"{result.tasks} tasks" + (f" x {result.rounds} rounds" if result.rounds > 1 else "")
    table = Table(title=f"{of}, {how}", title_justify="left")
    for heading in ("episode", "trials", "solved in it", "turns", "tokens", "valid actions", "diversity (nats)"):
        table.add_column(heading, justify="right")
    for number, each in enumerate(result.by_episode, start=1):
        if each.trials > 0:
            figures = (f"{each.solved:.3f}", f"{each.turns:.2f}", f"{each.tokens:.1f}", f"{each.valid_action_rate:.3f}")
            table.add_row(str(number), str(each.trials), *figures, _nats(each.diversity))
    whole = (f"{result.turns_per_episode:.2f}", f"{result.tokens_per_episode:.1f}", f"{result.valid_action_rate:.3f}")
    table.add_row("all", str(result.n), "", *whole, _nats(result.trial_diversity), style="bold")
    return table


def print_results(summary: Path) -> None:
    """A finished run's evaluation beside the references, and where the rest is."""
    from lamer.learner.measuring.evaluation import FINAL, evaluation_path, read_evaluation

    console = Console()
    rows = read_results(summary)
    if rows:
        console.print(results_table(rows))
    path = evaluation_path(summary.parent, FINAL)
    if path.is_file():
        result = read_evaluation(path)
        console.print(episodes_table(result))
        _print_losses(console, result)
        console.print(f"task by task: {path}", highlight=False, soft_wrap=True)
    console.print(f"all figures: {summary}", highlight=False, soft_wrap=True)
    print_lost_tracking(summary)


def print_lost_tracking(summary: Path) -> None:
    """Say that something of an ended run is missing in MLflow, and why, if so."""
    lost = json.loads(summary.read_text(encoding="utf-8"))["tracking_lost"] if summary.is_file() else None
    if lost:
        text = Text(f"tracking was lost: {lost}; metrics.jsonl has what is missing there", style="red")
        Console().print(text, soft_wrap=True)


def print_how_to_go_on(run: RunFolder, command: str) -> None:
    """Say by which `lamer` command an interrupted run goes on, and from which update if any is saved."""
    saved = max((int(path.name[5:]) for path in (run.path / "checkpoints").glob("step-*")), default=0)
    where = f" from update {saved}" if saved else ""
    again = shlex.join(("lamer", command, "--config", str(run.config), "--resume"))
    Console().print(Text(f"Go on{where} with: {again}"), soft_wrap=True)


def _print_losses(console: Console, result: EvaluationResult) -> None:
    """Which trials are missing from the figures, or count as unsolved for another reason than play."""
    if result.overflowed:
        why = "a prompt outgrew trial.max_prompt_tokens or the model's context"
        console.print(f"{result.overflowed} of {result.n} trials count as unsolved because {why}", style="yellow")
    if result.shortened:
        why = "to keep to trial.max_prompt_tokens"
        console.print(f"{result.shortened} prompts were shortened {why}", style="yellow")
    if result.failed:
        console.print(f"{result.failed} trials are left out: servers or environments failed in them", style="yellow")


def _nats(found: Diversity | None) -> str:
    return "-" if found is None else f"{found.nats:.3f}"


def print_metrics(title: str, metrics: Sequence[Metric]) -> None:
    """Figures under a title, one a line."""
    print(title)
    for metric in metrics:
        print(f"  {metric.name:<28} {metric.value:g}")


def _row(name: str, figures: object, *, is_ours: bool) -> ResultRow:
    if not isinstance(figures, Mapping):
        return ResultRow(name, (), is_ours)
    pass_at, ends = _by_k(figures), _by_k(figures.get("intervals", {}))
    shares = tuple(float(value) for value in pass_at)
    return ResultRow(name, shares, is_ours, tuple((float(low), float(high)) for low, high in ends))


def _by_k(figures: Mapping[str, Any]) -> list[Any]:
    """The values of pass@1, pass@2, ... in order."""
    found = {int(match.group(1)): value for key, value in figures.items() if (match := _PASS_AT.match(key))}
    return [found[k] for k in sorted(found)]
