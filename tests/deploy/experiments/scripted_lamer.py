"""`lamer train` and `lamer eval` without the work: run folders as the real ones leave them, in an instant.

A run called crash* fails, one called bad* can't be resumed, one called slow* trains until it is interrupted or
`FOLDER/go` is there. Every call is a line of FOLDER/calls.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

from lamer.common.messages import Sampling
from lamer.common.records import MemoryMode
from lamer.common.settings import Settings
from lamer.deploy.run.configuration import read_settings
from lamer.deploy.run.folder import RunFolder, open_run
from lamer.learner.measuring.evaluation import EvaluationResult, write_evaluation
from lamer.learner.measuring.intervals import Interval
from lamer.learner.measuring.result import ReferenceFigure, RunResult
from lamer.learner.measuring.summary import write_summary


def main(arguments: list[str]) -> int:
    files, overrides, name, is_resume = [], [], "", False
    rest = iter(arguments[1:] if arguments[0] == "train" else arguments[2:])
    for argument in rest:
        if argument == "-c":
            files.append(Path(next(rest)))
        elif argument == "--name":
            name = next(rest)
        elif argument == "--resume":
            is_resume = True
        elif argument != "--plain":
            overrides.append(argument)
    if arguments[0] == "eval":
        overrides += [f"model.path={json.dumps(arguments[1])}", "batch.updates=0", "evaluation.initial=false"]
    settings = read_settings(files, overrides, name)
    with (Path(settings.run.directory) / "calls").open("a") as calls:
        calls.write(f"{arguments[0]} {name}{' --resume' if is_resume else ''}\n")
    run = open_run(settings, files, is_resume)
    if name.startswith("crash"):
        print("lamer: the trainer died too often", file=sys.stderr)
        return 1
    if name.startswith("bad"):
        print(f"lamer: {'the checkpoint is of other settings' if is_resume else 'a server died'}", file=sys.stderr)
        return 2 if is_resume else 1
    for step in range(1, settings.batch.updates + 1):
        with (run.path / "metrics.jsonl").open("a") as file:
            shares = {f"train/pass@{k}": 0.1 * k * step / 4 for k in (1, 2, 3)}
            file.write(json.dumps({"step": step, "staleness/mean": 0.5, **shares}) + "\n")
    if name.startswith("slow"):
        wait(run.path.parent / "go")
    finish(run, settings)
    return 0


def wait(go: Path) -> None:
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    while not go.exists():
        time.sleep(0.02)


def finish(run: RunFolder, settings: Settings) -> None:
    last = 0.7 + 0.1 * settings.run.seed
    final = evaluation("final", settings, (0.2, 0.5, last))
    evaluations = [final] if settings.batch.updates == 0 else [evaluation("initial", settings, (0.2, 0.3, 0.4)), final]
    for each in evaluations:
        write_evaluation(each, run.path)
    result = RunResult(
        run=run.name, exit_code=0, updates=settings.batch.updates, policy_version=settings.batch.updates,
        evaluations=tuple(evaluations), references=(ReferenceFigure("best_policy", (0.2, 0.6, 1.0)),), warmstart=(),
        seconds=9.0, training_seconds=8.0, trials=960, response_tokens=5000, drops=(), dropped_trials=0,
        dropped_solved=0, staleness_max=1, resumed_from=None,
    )  # fmt: skip
    write_summary(run.summary, result, settings, run.path / "model")


def evaluation(name: str, settings: Settings, pass_at: tuple[float, ...]) -> EvaluationResult:
    return EvaluationResult(
        name=name, policy_version=settings.batch.updates if name == "final" else 0, n=settings.evaluation.tasks,
        failed=0, pass_at=pass_at, valid_action_rate=1.0, mean_turns=3.0, mean_response_tokens=4.0,
        first_action_entropy=1.5, sampling=Sampling(0.7, 1.0, 0, 8, 8), seconds=1.0,
        intervals=tuple(Interval(share - 0.02, share + 0.02) for share in pass_at), memory=MemoryMode.BOTH,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
