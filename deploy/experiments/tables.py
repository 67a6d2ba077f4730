"""Tables of a page: records of text, pure functions of an experiment and its cells' results. Shares are in percent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamer.deploy.experiments.cells import value_text
from lamer.deploy.experiments.definition import FINAL, Block, Experiment
from lamer.deploy.experiments.results import CellResult
from lamer.deploy.experiments.rows import Results, Row, axis_lines, axis_of, make_rows, references
from lamer.deploy.experiments.statistics import Estimate

NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """A header, rows of as many cells, and what has to be said below."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The table and its notes; numbers are aligned to the right."""
        lines = [_line(self.header), _line(["---", *(["---:"] * (len(self.header) - 1))])]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])


def percent(share: float | None) -> str:
    """.7442 as 74.4; a dash for none."""
    return NOTHING if share is None else f"{100 * share:.1f}"


def with_interval(estimate: Estimate) -> str:
    """A mean with its interval: 74.4 [70.1, 78.0]."""
    return f"{percent(estimate.mean)} [{percent(estimate.low)}, {percent(estimate.high)}]"


def pass_at_table(experiment: Experiment, results: Results, block: Block) -> Table:
    """Rows: arms (at each point of the axes), then references. Columns: pass@k, the paper's beside each."""
    rows = make_rows(experiment, results, block.arms, block.evaluation)
    known = references(_of(results, rows), block.evaluation)
    episodes = max([len(row.pass_at) for row in rows] + [len(row.paper) for row in rows], default=0)
    has_paper = any(row.paper for row in rows)
    header = ["method", "seeds"]
    for k in range(1, episodes + 1):
        header += [f"pass@{k}", "paper"] if has_paper else [f"pass@{k}"]
    if episodes == 0:
        return Table(("method", "seeds"), tuple((row.label, _seeds(row)) for row in rows), _notes(rows))
    header.append(f"pass@{episodes} of each seed")
    body = [_pass_at_row(row, episodes, has_paper) for row in rows]
    for name, figures in known.items():
        cells = [f"*{name.replace('_', ' ')}*", NOTHING]
        for k in range(episodes):
            cells += [percent(figures[k] if k < len(figures) else None)] + ([NOTHING] if has_paper else [])
        body.append((*cells, NOTHING))
    return Table(tuple(header), tuple(body), _notes(rows))


def axis_table(experiment: Experiment, results: Results, block: Block) -> Table:
    """Rows: arms, then references. Columns: pass@k of the last k (or `block.k`) at each value of the axis.

    Where the paper has figures, the table is that of `pass_at`, which has room for them.
    """
    axis = axis_of(experiment, block)
    rows = make_rows(experiment, results, block.arms, block.evaluation)
    if any(row.paper for row in rows):
        return pass_at_table(experiment, results, block)
    body = [
        (line.label, *(_share(row, block.k) for row in line.rows)) for line in axis_lines(experiment, rows, block.axis)
    ]
    for name, figures in references(_of(results, rows), block.evaluation).items():
        share = percent(_at(figures, block.k))
        body.append((f"*{name.replace('_', ' ')}*", *[share] * len(axis.values)))
    header = ("method", *(f"{axis.label} {value_text(value)}" for value in axis.values))
    return Table(header, tuple(body), _notes(rows))


def _share(row: Row, k: int) -> str:
    """pass@k with its interval, or why there is none."""
    return with_interval(row.pass_at[chosen_k(row, k)]) if row.pass_at else _why_empty(row)


def _pass_at_row(row: Row, episodes: int, has_paper: bool) -> tuple[str, ...]:
    cells = [row.label, _seeds(row)]
    for k in range(episodes):
        cells.append(with_interval(row.pass_at[k]) if k < len(row.pass_at) else NOTHING)
        if has_paper:
            cells.append(percent(row.paper[k] if k < len(row.paper) else None))
    each = " / ".join(percent(value) for value in row.pass_at[-1].values) if row.pass_at else NOTHING
    return (*cells, each)


def evaluations_table(experiment: Experiment, results: Results, block: Block) -> Table:
    """Rows: arms. Columns: pass@k of the last k (or `block.k`) of each evaluation, the paper's beside it."""
    names = block.evaluations or (FINAL, *(each.name for each in experiment.evaluations))
    by_evaluation = [make_rows(experiment, results, block.arms, name) for name in names]
    header = ["method"]
    columns: list[list[str]] = [[row.label for row in by_evaluation[0]]]
    for name, rows in zip(names, by_evaluation, strict=True):
        header.append(f"{experiment.evaluation_label(name)}, {_k_name(rows, block.k)}")
        columns.append([_share(row, block.k) for row in rows])
        if any(row.paper for row in rows):
            header.append("paper")
            columns.append([percent(_at(row.paper, block.k)) for row in rows])
    body = list(zip(*columns, strict=True))
    every = [row for rows in by_evaluation for row in rows]
    return Table(tuple(header), (*body, *_reference_rows(results, names, by_evaluation, header, block)), _notes(every))


def _reference_rows(
    results: Results, names: Sequence[str], by_evaluation: Sequence[Sequence[Row]], header: Sequence[str], block: Block
) -> list[tuple[str, ...]]:
    """The references of each evaluation's tasks, under its column."""
    known = [references(_of(results, rows), name) for name, rows in zip(names, by_evaluation, strict=True)]
    body: list[tuple[str, ...]] = []
    for name in dict.fromkeys(name for each in known for name in each):
        shares = iter([percent(_at(each.get(name, ()), block.k)) for each in known])
        filled = [NOTHING if column == "paper" else next(shares) for column in header[1:]]
        body.append((f"*{name.replace('_', ' ')}*", *filled))
    return body


def diversity_table(experiment: Experiment, results: Results, block: Block) -> Table:
    """Rows: arms. Columns: entropies in nats, and the success that they go with."""
    rows = make_rows(experiment, results, block.arms, block.evaluation)
    header = (
        "method", "seeds", "trajectories of the first episode, nats", "of whole trials, nats", "first action, nats",
        "pass@1", "pass@K", "pass@K - pass@1", "valid actions", "tokens an episode",
    )  # fmt: skip
    body = [
        (
            row.label,
            _seeds(row),
            _nats(row.mean("episode_diversity")),
            _nats(row.mean("trial_diversity")),
            _nats(row.mean("first_action_entropy")),
            with_interval(row.pass_at[0]) if row.pass_at else NOTHING,
            with_interval(row.pass_at[-1]) if row.pass_at else NOTHING,
            percent(row.gain()),
            percent(row.mean("valid_action_rate")),
            _count(row.mean("tokens_per_episode")),
        )
        for row in rows
    ]
    return Table(header, tuple(body), _notes(rows))


def figures_table(experiment: Experiment, results: Results, block: Block) -> Table:
    """Rows: arms at the points of the axes that were run. Columns: the end of training (`results.FIGURES`)."""
    rows = [row for row in make_rows(experiment, results, block.arms) if row.results]
    body = [(row.label, _seeds(row), *(_small(row.figure(name)) for name in block.figures)) for row in rows]
    return Table(("method", "seeds", *block.figures), tuple(body), _notes(rows))


def chosen_k(row: Row, k: int) -> int:
    """The index of pass@k in a row; 0 stands for the last."""
    return min(k or len(row.pass_at), len(row.pass_at)) - 1


def _k_name(rows: Sequence[Row], k: int) -> str:
    found = {chosen_k(row, k) + 1 for row in rows if row.pass_at} or {len(row.paper) for row in rows if row.paper}
    return f"pass@{k or (found.pop() if len(found) == 1 else 'K')}"


def _at(figures: Sequence[float | None], k: int) -> float | None:
    return figures[min(k, len(figures)) - 1] if figures else None


def _of(results: Results, rows: Sequence[Row]) -> list[CellResult]:
    wanted = {result.cell for row in rows for result in row.results}
    return [result for cell, result in results.items() if cell in wanted]


def _why_empty(row: Row) -> str:
    return "not run" if row.arm.not_run else "not yet"


def _seeds(row: Row) -> str:
    if row.arm.not_run:
        return "not run"
    missing = f"not yet: {', '.join(map(str, row.missing))}" if row.missing else ""
    done = ", ".join(map(str, row.seeds))
    return f"{done} ({missing})" if done and missing else done or missing


def _notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Where the paper's numbers stand, and why arms were not run, reason by reason."""
    sources = dict.fromkeys(row.source for row in rows if row.source)
    notes = [f"Paper: {'; '.join(sources)}."] if sources else []
    for reason in dict.fromkeys(row.arm.not_run for row in rows if row.arm.not_run):
        labels = dict.fromkeys(row.arm.label for row in rows if row.arm.not_run == reason)
        notes.append(f"Not run ({', '.join(labels)}): {reason}.")
    return tuple(notes)


def _nats(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _small(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}"


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
