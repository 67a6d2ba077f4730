"""`lamer`: the command line. A command is a module of `deploy.commands`, which imports what it needs when it is called.

    train eval experiment        whole runs on this machine
    learner serve actor top      one part each, on any machine
    keys config model data       what a run is made of
    inspect journal              what a run left
    play warmstart bench doctor  tools

Exit codes: 0 ok, 1 the run failed, 2 bad configuration or input, 3 something needed is missing or unreachable, 130
interrupted. An error that a user can act on is one line on stderr, `lamer: ...`.
"""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from lamer.common.errors import failure_of
from lamer.deploy.commands import (
    actor,
    bench,
    config,
    data,
    doctor,
    evaluate,
    experiment,
    inspect,
    journal,
    keys,
    learner,
    model,
    play,
    serve,
    top,
    train,
    warmstart,
)

INTERRUPTED = 130


class LamerGroup(TyperGroup):
    """The root command: turns errors into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 -- typer keeps its context class private
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(INTERRUPTED) from interrupt
        except Exception as error:
            failure = failure_of(error)
            if failure is None:
                raise
            print_error(str(failure))
            raise typer.Exit(failure.exit_code) from error


def print_error(message: str) -> None:
    """One line on stderr, red on a terminal."""
    line = f"lamer: {' '.join(message.split())}"
    print(f"\033[31m{line}\033[0m" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)


app = typer.Typer(
    cls=LamerGroup,
    name="lamer",
    help="Asynchronous Meta-RL training of language agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
RUN, PARTS, TOOLS = "A run on this machine", "Parts of a run, on any machine", "Tools"
app.command("train", rich_help_panel=RUN)(train.train)
app.command("eval", rich_help_panel=RUN)(evaluate.evaluate)
app.command("experiment", rich_help_panel=RUN)(experiment.experiment)
app.command("inspect", rich_help_panel=RUN)(inspect.inspect)
app.add_typer(journal.app, name="journal", rich_help_panel=RUN)
app.command("learner", rich_help_panel=PARTS)(learner.learner)
app.command("serve", rich_help_panel=PARTS)(serve.serve)
app.command("actor", rich_help_panel=PARTS)(actor.actor)
app.command("top", rich_help_panel=PARTS)(top.top)
app.add_typer(keys.app, name="keys", rich_help_panel=PARTS)
app.add_typer(config.app, name="config", rich_help_panel=TOOLS)
app.add_typer(model.app, name="model", rich_help_panel=TOOLS)
app.add_typer(data.app, name="data", rich_help_panel=TOOLS)
app.command("play", rich_help_panel=TOOLS)(play.play)
app.command("warmstart", rich_help_panel=TOOLS)(warmstart.warmstart)
app.add_typer(bench.app, name="bench", rich_help_panel=TOOLS)
app.command("doctor", rich_help_panel=TOOLS)(doctor.doctor)


def main() -> None:
    """Entry point of the `lamer` script."""
    app(prog_name="lamer")


if __name__ == "__main__":
    main()
