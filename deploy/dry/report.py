"""A dry run as tables for a terminal, or for a log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lamer.common.settings import Settings
from lamer.deploy.dry.prompts import SCRIPTED_TRIALS
from lamer.deploy.dry.run import GPU_BYTES, DryRun, TrainerColumn
from lamer.deploy.dry.timing import Hardware
from lamer.deploy.models.suitability import unsuited
from lamer.learner.memory.advice import room_of
from lamer.learner.memory.trainer import TrainerMemory

_WIDTH = 100


def print_dry_run(found: DryRun, console: Console | None = None) -> None:
    """Everything that a dry run found, at most 100 columns wide."""
    out = console or Console(width=min(_WIDTH, Console().width))
    out.print(_head(found), highlight=False)
    is_training = found.settings.batch.updates > 0
    if is_training:
        out.print("", update_table(found))
        out.print(_steps(found), highlight=False)
        out.print("", memory_table(found))
        out.print(_fitting(found), highlight=False)
    out.print("", server_table(found))
    if is_training:
        out.print("", time_table(found))
    else:
        out.print(f"\nEstimated time on H100s: {_seconds(found.served.evaluation_seconds)} s", highlight=False)
    out.print("Times are estimates. They rest on assumptions, none of them measured:", style="bold", highlight=False)
    out.print(_assumptions(found), style="dim", highlight=False)
    for warning in (*([found.warning] if found.warning else ()), *unsuited(found.settings)):
        out.print(Text.assemble(("warning: ", "bold yellow"), warning))


def update_table(found: DryRun) -> Table:
    """Trajectories, responses and tokens of one update."""
    table = _table(f"One update: {found.work.trials} trials", "expected", "at most")
    expected, worst = found.work.expected, found.work.worst
    rows = (
        ("trajectories (episodes)", expected.episodes, worst.episodes),
        ("turns", expected.turns, worst.turns),
        ("reflections", expected.reflections, worst.reflections),
        ("prompt tokens", expected.prompt_tokens, worst.prompt_tokens),
        ("response tokens", expected.response_tokens, worst.response_tokens),
        ("tokens", expected.tokens, worst.tokens),
    )
    for name, usual, most in rows:
        table.add_row(name, _count(usual), _count(most))
    return table


def memory_table(found: DryRun) -> Table:
    """GB on the trainer's card: as configured, and with what makes it fit."""
    table = _trainer_table("Trainer: GB on its card", found)
    small = any(column.plan.optimizer.kind == "adamw_8bit" for column in found.trainer)
    parts: tuple[tuple[str, Callable[[TrainerMemory], float]], ...] = (
        ("weights", lambda memory: memory.weights),
        ("gradients", lambda memory: memory.gradients),
        ("moments" if small else "AdamW moments", lambda memory: memory.moments),
        ("separate critic, KL reference", lambda memory: memory.others),
        ("bfloat16 copies of weights", lambda memory: memory.copies),
        ("kept for the backward pass", lambda memory: memory.activations),
        ("on its way: head or layer", lambda memory: memory.work),
    )
    for name, part in parts:
        values = [part(column.memory) for column in found.trainer]
        if any(values):
            table.add_row(name, *(_gigabytes(value) for value in values))
    table.add_section()
    table.add_row("total", *(_fits(column.memory.total, column.room) for column in found.trainer))
    table.add_row("of so many", *(_gigabytes(column.room) for column in found.trainer))
    return table


def _fitting(found: DryRun) -> Table:
    """With which settings each column was computed, two columns."""
    table = Table.grid(padding=(0, 2))
    for column in found.trainer:
        plan = column.plan
        said = f"packs of {plan.optimizer.pack_tokens:,}, {plan.optimizer.kind}, layers "
        said += "computed again" if plan.is_recomputed else "kept"
        table.add_row(column.name, f"{said}{': ' if column.changes else ''}{' '.join(column.changes)}")
    if not any(column.name == "beside its server" for column in found.trainer):
        last = found.trainer[-1]
        room = room_of(GPU_BYTES, found.beside)
        verb = "fits" if last.memory.total <= room else "does not fit"
        table.add_row("", f"{verb} beside a server of {found.beside / 1e9:.1f} GB (weights and inference.cache_tokens)")
    else:
        table.add_row("", f"a server on the same card takes {found.beside / 1e9:.1f} GB (weights and its cache)")
    return table


def server_table(found: DryRun) -> Table:
    """What one replica of the inference server holds."""
    served, plan = found.served, found.settings.inference
    gpus = "one GPU" if served.gpus == 1 else f"each of {served.gpus} GPUs"
    table = _table(f"Inference: {served.replicas} x {plan.engine}, GB on {gpus} of a replica", "expected", "at most")
    longest = found.settings.trial.max_prompt_tokens + found.settings.trial.max_response_tokens
    usual, most = (
        served.memory.cache(plan.max_running, served.sequence_tokens),
        served.memory.cache(plan.max_running, longest),
    )
    weights = served.memory.weights
    table.add_row("bfloat16 weights", _gigabytes(weights), _gigabytes(weights))
    table.add_row(f"cache of {plan.max_running} sequences", _gigabytes(usual), _gigabytes(most))
    table.add_row("of tokens each", _count(served.sequence_tokens), _count(longest))
    table.add_row("total", _fits(weights + usual), _fits(weights + most))
    fitting = served.memory.fitting_tokens
    table.add_row(
        "sequences that fit", _count(fitting // served.sequence_tokens), _count(fitting // longest), style="bold"
    )
    return table


def time_table(found: DryRun) -> Table:
    """Estimated seconds of an update and hours of the run."""
    served = found.served
    table = _trainer_table("Estimated time on H100s, servers on GPUs of their own", found)
    table.add_row("training, s an update", *(_seconds(row.seconds) for row in found.trainer))
    rollout = f"rollout by {served.replicas * served.gpus} GPU{'s' * (served.replicas * served.gpus > 1)}, s an update"
    table.add_row(rollout, *(_seconds(served.seconds) for _ in found.trainer))
    table.add_row("update (the longer of the two), s", *(_seconds(_update(found, row)) for row in found.trainer))
    evaluations = f"{found.evaluations} evaluation{'s' * (found.evaluations > 1)}, s each"
    table.add_row(evaluations, *(_seconds(served.evaluation_seconds) for _ in found.trainer))
    hours = [f"{run_seconds(found, row) / 3600:.1f}" for row in found.trainer]
    table.add_row(f"run of {found.settings.batch.updates} updates, h", *hours, style="bold")
    return table


def run_seconds(found: DryRun, row: TrainerColumn) -> float:
    """Estimated seconds of the whole run: its updates and its evaluations, one after another."""
    return found.settings.batch.updates * _update(found, row) + found.evaluations * found.served.evaluation_seconds


def _update(found: DryRun, row: TrainerColumn) -> float:
    return max(row.seconds, found.served.seconds)


def _head(found: DryRun) -> Table:
    """What was looked at, two columns."""
    model, settings, lengths = found.model, found.settings, found.glimpse.lengths
    trial, plan = settings.trial, settings.evaluation
    counted = "estimated from its text" if lengths.is_estimate else "by the model's tokenizer"
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row(
        "model",
        f"{escape(model.name)}: {model.parameters:,} parameters, {model.layers} layers of {model.hidden}, "
        f"context {model.context:,}",
    )
    table.add_row("", f"[dim]{escape(_where(settings.model.path))}; sizes: {escape(model.source)}[/]")
    table.add_row(
        "environment",
        f"{escape(settings.env.name)}: the first prompt has {lengths.first} tokens, {counted}; those of "
        f"{SCRIPTED_TRIALS} scripted trials {lengths.play:.0f} on average and at most "
        f"{lengths.longest} of {trial.max_prompt_tokens}"
        f"{', so that some are shortened' if lengths.longest > trial.max_prompt_tokens else ''}",
    )
    table.add_row("method", escape(_method(settings)))
    table.add_row(
        "evaluation",
        f"{plan.rounds} x {plan.tasks} tasks, pass@1 to pass@{plan.episodes}, temperature {plan.temperature:g}, "
        f"top_p {plan.top_p:g}, top_k {plan.top_k}",
    )
    return table


def _method(settings: Settings) -> str:
    trial, credit = settings.trial, settings.credit
    if not settings.batch.updates:
        return f"no training; prompting {trial.prompting.value}, memory {trial.memory.value}"
    return (
        f"{settings.advantage.estimator}, {trial.episodes} episode{'s' * (trial.episodes > 1)} a trial, memory "
        f"{trial.memory.value}, groups of {settings.batch.group_size}, discounts {credit.step_discount:g} and "
        f"{credit.trial_discount:g}"
    )


def _where(path: str) -> str:
    if not path:
        return "created when it is first trained"
    return f"model.path {path}" if Path(path).is_dir() else f"model.path {path} is not there"


def _steps(found: DryRun) -> str:
    plan = found.settings
    samples, most = found.work.expected.responses, found.work.worst.responses
    steps = plan.optimizer.minibatches
    return (
        f"{steps} optimizer step{'s' * (steps > 1)} an update, {steps * plan.batch.updates:,} in the run; a minibatch "
        f"is about {samples / steps:.0f} responses, at most {most / steps:.0f}"
    )


def _assumptions(found: DryRun) -> Table:
    """What the times rest on, two columns."""
    habits, hardware, served = found.habits, found.hardware, found.served
    table = Table.grid(padding=(0, 2))
    table.add_row(
        "play",
        f"an episode is solved with {habits.success:.2f} and takes {habits.turn_share:.0%} of its turns; responses are "
        f"log-normal, median {habits.response_median:.0f}, sigma {habits.response_sigma:.2f}",
    )
    if found.settings.batch.updates:
        table.add_row("training", _training(hardware))
    table.add_row(
        "rollout",
        f"{served.pace.running} sequences at {served.pace.tokens_per_second:,.0f} tokens/s a replica (reads at "
        f"{hardware.decode_share:.0%} of {hardware.bandwidth / 1e12:.2f} TB/s); {hardware.uncached:.0%} of "
        "prompt tokens computed",
    )
    table.add_row("left out", "start, checkpoints, weight updates, the environment itself")
    return table


def _training(hardware: Hardware) -> str:
    return (
        f"6 N operations a token and 2 N for each further forward pass, at {hardware.training_share:.0%} of "
        f"{hardware.flops / 1e12:.0f} TFLOP/s; no prompt shared in a pack"
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", min_width=60)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _trainer_table(title: str, found: DryRun) -> Table:
    return _table(title, *(column.name for column in found.trainer))


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.1f}" if value >= 5e7 else f"{value / 1e9:.4f}"


def _fits(value: float, room: float = GPU_BYTES) -> Text:
    is_over = value > room
    return Text(f"{_gigabytes(value)}{' over' * is_over}", style="bold red" if is_over else "bold green")


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
