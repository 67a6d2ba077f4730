"""What `lamer inspect` shows: the trials of a run as a list, or one trial as it was played.

    inspect_run   run folder -> list or trial on the terminal
    trial_list    rows of the journal as a table
    trial_view    one trial: its task, every episode's prompts and responses, its reflections

Texts are decoded with the tokenizer that the run's policy has, from the ids that were sent and returned.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lamer.actors.rendering import Renderer
from lamer.common import config
from lamer.common.errors import BadInput, Missing
from lamer.common.masking import masked_json
from lamer.common.records import Completion, Episode, Reflection, Trial
from lamer.deploy.models.preparation import model_folder
from lamer.learner.journal.reader import JournalReader, TrialFilter, TrialRow


def inspect_run(
    run: Path,
    trial: str | None = None,
    step: int | None = None,
    is_solved: bool | None = None,
    limit: int = 20,
    console: Console | None = None,
) -> None:
    """Show the trials of run folder `run`, or one of them in full.

    Args:
        run: the run's folder.
        trial: a trial's id, or its end ("train/3/0"); None: a list.
        step: list only what this update trained on.
        is_solved: list only solved, or only unsolved trials.
        limit: most trials listed.
        console: where to; the terminal by default.

    Raises:
        Missing: no journal, no such trial, nothing to list, or no tokenizer to decode with.
        BadInput: `limit` is below 1.
    """
    if limit < 1:
        raise BadInput(f"--limit must be at least 1, got {limit}")
    console = console or Console()
    reader = JournalReader(run / "journal.db")
    if trial is not None:
        row, found = reader.trial(trial)
        console.print(trial_view(row, found, find_renderer(run)))
        return
    wanted = TrialFilter(step=step, is_solved=is_solved, limit=limit)
    rows = reader.rows(wanted)
    if not rows:
        raise Missing(f"{run} holds no such trials: update {'any' if step is None else step}, {_outcomes(is_solved)}")
    console.print(trial_list(rows, reader.trials(rows), reader.count(wanted)))


def trial_list(rows: Sequence[TrialRow], trials: Sequence[Trial | None], total: int) -> Table:
    """One line a trial, its id without the run; `trials` are those of `rows`, out of `total` in the journal.

    Of a trial that was pruned (None) there is only its row.
    """
    table = Table(
        title=f"{len(rows)} of {total} trials", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("trial", overflow="fold")
    table.add_column("state", no_wrap=True)
    for title in ("update", "age", "episodes", "turns", "tokens", "shortened", "reward"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for row, trial in zip(rows, trials, strict=True):
        table.add_row(
            escape(row.trial_id.partition("/")[2]),
            row.state,
            _or_dash(row.step),
            _or_dash(row.age),
            *(_figures(row, trial) if trial is not None else _figures_of_row(row)),
        )
    return table


def _figures(row: TrialRow, trial: Trial) -> tuple[str, ...]:
    """The columns of `trial_list` from "episodes" on."""
    return (
        str(len(trial.episodes)),
        str(sum(len(episode.turns) for episode in trial.episodes)),
        str(row.response_tokens),
        str(len(trial.left_out_tokens) or "-"),
        f"{sum(episode.reward for episode in trial.episodes):g}",
        trial.episodes[-1].status.value if trial.episodes else "not played",
    )


def _figures_of_row(row: TrialRow) -> tuple[str, ...]:
    """Those of a trial that was pruned."""
    return "-", "-", str(row.response_tokens), "-", "-", "pruned"


def trial_view(row: TrialRow, trial: Trial, renderer: Renderer) -> RenderableType:
    """One trial as it was played: prompts dim, responses bright, what came of them after each."""
    facts = Table.grid(padding=(0, 2))
    for key, value in (
        ("task", f"{trial.task.env}, seed {trial.task.seed}, {masked_json(trial.task.env_config)}"),
        ("outcome", _outcome(trial)),
        ("state", row.state if row.step is None else f"{row.state}, update {row.step}, age {row.age}"),
        ("actor", f"{trial.actor}, {trial.seconds:.2f} s, {trial.response_tokens} response tokens"),
        ("prompts", _shortened(trial)),
    ):
        facts.add_row(Text(key, style="dim"), Text(value))
    parts: list[RenderableType] = [Text(trial.trial_id, style="bold"), facts]
    for episode in trial.episodes:
        parts.extend(_episode_parts(episode, renderer))
        if episode.index < len(trial.reflections):
            parts.append(_reflection_panel(trial.reflections[episode.index], episode.index, renderer))
    return Group(*parts)


def find_renderer(run: Path) -> Renderer:
    """A renderer with the tokenizer of the run's policy.

    It is looked for in the run's final model, its newest weights, the model that its summary names, and the one that
    its configuration names or describes.

    Raises:
        Missing: there is none.
    """
    folders = [
        run / "model",
        *sorted((run / "weights").glob("v*"), key=lambda path: path.stat().st_mtime, reverse=True),
    ]
    summary = run / "summary.json"
    if summary.is_file():
        folders.append(Path(str(json.loads(summary.read_text(encoding="utf-8")).get("model", ""))))
    if (run / "config.yaml").is_file():
        folders.append(model_folder(config.load([run / "config.yaml"])))
    for folder in folders:
        if (folder / "tokenizer.json").is_file():
            return Renderer.load(folder, use_chat_template=False)
    raise Missing(f"no tokenizer to decode trials with: neither in {run / 'weights'} nor in the run's model folder")


def _episode_parts(episode: Episode, renderer: Renderer) -> list[RenderableType]:
    colour = "green" if episode.is_solved else "red"
    title = f"[bold]episode {episode.index + 1}[/] [{colour}]{episode.status.value}[/], reward {episode.reward:g}"
    parts: list[RenderableType] = [Rule(title, align="left")]
    for number, turn in enumerate(episode.turns, start=1):
        action = "no valid action" if turn.action is None else turn.action
        result = Text.assemble(("action ", "dim"), action, ("  reward ", "dim"), f"{turn.reward:g}")
        if turn.score is not None:
            result.append_text(Text.assemble(("  score ", "dim"), f"{turn.score:g}"))
        parts.append(_exchange(f"turn {number}", turn.completion, renderer, result))
    return parts


def _reflection_panel(reflection: Reflection, index: int, renderer: Renderer) -> RenderableType:
    kept = reflection.text if reflection.is_valid else "no valid remark"
    result = Text.assemble(("kept in memory ", "dim"), kept)
    return _exchange(f"reflection on episode {index + 1}", reflection.completion, renderer, result, "magenta")


def _exchange(
    title: str, completion: Completion, renderer: Renderer, result: Text, border: str = "blue"
) -> RenderableType:
    versions = ", ".join(f"v{span.version} for tokens {span.start}-{span.end - 1}" for span in completion.versions)
    if len(completion.versions) == 1:
        versions = f"v{completion.versions[0].version}"
    left_out = f" ({completion.left_out_tokens} left out)" if completion.left_out_tokens else ""
    sizes = f"{len(completion.prompt_ids)}{left_out} + {len(completion.ids)} tokens"
    counts = f"{sizes}, {versions}, {completion.finish_reason.value}"
    body = Group(
        Text(renderer.decode(completion.prompt_ids), style="dim"),
        Text(renderer.decode(completion.ids), style="bold"),
        result,
    )
    return Panel(body, title=title, title_align="left", subtitle=counts, subtitle_align="right", border_style=border)


def _shortened(trial: Trial) -> str:
    """How many of a trial's prompts were shortened, and by how much."""
    asked, left_out = sum(1 for _ in trial.completions()), trial.left_out_tokens
    if not left_out:
        return f"{asked}, none shortened"
    return f"{asked}, {len(left_out)} of them shortened by {sum(left_out)} tokens in all"


def _outcome(trial: Trial) -> str:
    if trial.solved_at is not None:
        return f"solved in episode {trial.solved_at + 1}"
    return trial.episodes[-1].status.value if trial.episodes else "not played"


def _outcomes(is_solved: bool | None) -> str:
    return "solved or not" if is_solved is None else "solved" if is_solved else "unsolved"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
