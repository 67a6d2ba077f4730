"""How long what is left of an experiment will take, told from the cells that are done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lamer.deploy.experiments.page import total_seconds
from lamer.deploy.experiments.state import CellState, Stage


@dataclass(frozen=True, slots=True)
class Estimated:
    """A cell and the seconds that it still takes; None where nothing like it has been run."""

    state: CellState
    seconds: float | None


def estimates(states: Sequence[CellState]) -> tuple[Estimated, ...]:
    """For every cell that is not done the mean time of those of its arm that are, else of all that are."""
    return tuple(Estimated(state, _seconds(state, states)) for state in states)


def _seconds(state: CellState, states: Sequence[CellState]) -> float | None:
    if state.stage is Stage.DONE:
        return 0.0
    done = [each for each in states if each.result is not None and each.stage is Stage.DONE]
    alike = [each for each in done if each.cell.key.arm == state.cell.key.arm] or done
    times = [total_seconds(each.result) for each in alike if each.result is not None]
    if not times:
        return None
    mean = math.fsum(times) / len(times)
    trained = math.fsum(each.result.wall_seconds for each in alike if each.result is not None) / len(times)
    return mean - trained if state.stage is Stage.TRAINED else mean
