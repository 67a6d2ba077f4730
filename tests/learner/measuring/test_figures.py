"""Figures from metrics.jsonl: what they hold, and what they leave out."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lamer.learner.measuring.figures import COLOURS, Curve, History, draw_figures, draw_pass_at
from lamer.learner.measuring.result import ReferenceFigure

REFERENCES = (ReferenceFigure("optimum", (0.2, 0.6, 1.0)), ReferenceFigure("independent", (0.2, 0.36, 0.488)))


def write(path: Path, updates: int, **more: float) -> Path:
    lines = []
    for step in range(1, updates + 1):
        share = step / updates
        metrics = {"train/pass@1": 0.2, "train/pass@2": 0.2 + 0.4 * share, "train/pass@3": 0.3 + 0.7 * share}
        metrics |= {"reward/episode_1": 2.0, "staleness/mean": 1.0, "staleness/max": 2.0}
        metrics |= {"rollout/tokens_per_second": 900.0, "trainer/seconds": 0.4} | more
        lines.append(json.dumps({"step": step, **metrics}))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_figure_is_drawn_as_a_png_of_readable_size(tmp_path: Path) -> None:
    written = draw_figures(write(tmp_path / "metrics.jsonl", 30), tmp_path / "figures", "doors-001", REFERENCES)
    names = ["pass_at_k.png", "reward_by_episode.png", "staleness.png", "throughput.png"]
    assert [path.name for path in written] == names == sorted(path.name for path in (tmp_path / "figures").iterdir())
    for path in written:
        header = path.read_bytes()[:24]
        assert header.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", header[16:24])
        assert width >= 800
        assert height >= 400


def test_a_run_without_metrics_draws_nothing_and_one_update_is_enough(tmp_path: Path) -> None:
    assert draw_figures(tmp_path / "missing.jsonl", tmp_path / "figures", "run") == ()
    assert len(draw_figures(write(tmp_path / "metrics.jsonl", 1), tmp_path / "figures", "run")) == 4


def test_the_pass_figure_shows_each_k_and_what_later_episodes_add(tmp_path: Path) -> None:
    figure = draw_pass_at(History.read(write(tmp_path / "metrics.jsonl", 40)), "doors-001", REFERENCES)
    assert figure is not None
    top, low = figure.axes
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["pass@1", "pass@2", "pass@3"]
    gain = next(line for line in low.lines if to_hex(line.get_color()) == COLOURS[3].lower())
    assert gain.get_ydata()[-1] == pytest.approx(0.8), "pass@3 - pass@1 of the last update"
    dashed = [line for line in top.lines if line.get_linestyle() == "--"]
    assert sorted(line.get_ydata()[0] for line in dashed) == [0.488, 1.0], "references of pass@3"
    assert {text.get_text() for text in low.texts} == {"optimum 0.800", "independent 0.288"}


def test_names_of_references_do_not_overlap(tmp_path: Path) -> None:
    close = tuple(ReferenceFigure(f"r{k}", (0.1, 0.2, 0.5 + k / 1000)) for k in range(4))
    figure = draw_pass_at(History.read(write(tmp_path / "metrics.jsonl", 5)), "run", close)
    assert figure is not None
    heights = sorted(text.xy[1] for text in figure.axes[0].texts)
    assert min(np.diff(heights)) > 0.05


def test_of_a_repeated_update_the_last_line_counts_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", 3)
    with path.open("a") as file:
        file.write(json.dumps({"step": 2, "train/pass@1": 0.9}) + "\n" + '{"step": 4, "train/pa')
    curve = History.read(path).get("train/pass@1")
    assert curve is not None
    assert curve.updates.tolist() == [1.0, 2.0, 3.0]
    assert curve.values.tolist() == [0.2, 0.9, 0.2]


def test_the_running_mean_keeps_a_constant_and_the_length() -> None:
    curve = Curve(np.arange(100.0), np.full(100, 3.0))
    assert curve.smoothed().tolist() == pytest.approx([3.0] * 100)
    noisy = Curve(np.arange(100.0), np.tile([0.0, 1.0], 50))
    assert noisy.smoothed()[10:90].std() < 0.2 < noisy.values.std()
