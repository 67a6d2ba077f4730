"""Figures of evaluations: what they show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lamer.common.messages import Sampling
from lamer.common.records import MemoryMode
from lamer.learner.measuring.evaluation import EvaluationResult
from lamer.learner.measuring.figures import draw_figures
from lamer.learner.measuring.intervals import Interval
from lamer.learner.measuring.pass_figures import draw_evaluations, draw_progress
from lamer.learner.measuring.result import ReferenceFigure

REFERENCES = (ReferenceFigure("best_policy", (0.2, 0.6, 1.0)), ReferenceFigure("independent", (0.2, 0.36, 0.488)))
FINAL = EvaluationResult(
    name="final",
    policy_version=40,
    n=40,
    failed=0,
    pass_at=(0.2, 0.6, 0.9),
    valid_action_rate=1.0,
    mean_turns=2.0,
    mean_response_tokens=5.0,
    first_action_entropy=0.5,
    sampling=Sampling(0.7, 1.0, 0, 8, 8),
    seconds=3.0,
    intervals=(Interval(0.1, 0.3), Interval(0.5, 0.7), Interval(0.85, 0.95)),
    memory=MemoryMode.BOTH,
)
INITIAL = replace(FINAL, name="initial", policy_version=0, pass_at=(0.2, 0.3, 0.4))
MIDDLE = replace(FINAL, name="update-20", policy_version=20, pass_at=(0.2, 0.4, 0.6))


def test_shares_have_their_intervals_beside_every_reference() -> None:
    figure = draw_evaluations((INITIAL, FINAL), "doors-001", REFERENCES)
    assert figure is not None
    (axes,) = figure.axes
    names = {text.get_text() for text in axes.get_legend().get_texts()}
    assert names == {"best policy", "independent", "before training (memory: both)", "after training (memory: both)"}
    segments = axes.containers[1].lines[2][0].get_segments()
    assert np.array([segment[:, 1] for segment in segments]) == pytest.approx(
        np.array([[0.1, 0.3], [0.5, 0.7], [0.85, 0.95]])
    )


def test_a_curve_over_the_updates_shows_every_version_measured() -> None:
    figure = draw_progress((FINAL, INITIAL, MIDDLE), "doors-001", REFERENCES)
    assert figure is not None
    last = next(line for line in figure.axes[0].lines if line.get_label() == "pass@3")
    assert last.get_xdata().tolist() == [0, 20, 40]
    assert last.get_ydata().tolist() == [0.4, 0.6, 0.9]


def test_there_is_no_curve_of_two_ends_and_no_figure_of_nothing(tmp_path: Path) -> None:
    assert draw_progress((INITIAL, FINAL), "run", ()) is None
    assert draw_evaluations((), "run", REFERENCES) is None
    assert draw_evaluations((replace(FINAL, n=0, intervals=()),), "run", ()) is None
    assert draw_figures(tmp_path / "missing.jsonl", tmp_path, "run", REFERENCES) == ()


def test_an_evaluation_alone_is_drawn_without_any_metrics(tmp_path: Path) -> None:
    written = draw_figures(tmp_path / "missing.jsonl", tmp_path, "eval-001", REFERENCES, (FINAL,))
    assert [path.name for path in written] == ["evaluation.png"]
    written = draw_figures(tmp_path / "missing.jsonl", tmp_path, "run", REFERENCES, (INITIAL, MIDDLE, FINAL))
    assert [path.name for path in written] == ["evaluation.png", "evaluation_curve.png"]
