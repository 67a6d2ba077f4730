"""Rates, staleness figures and drop counts on worked numbers."""

from __future__ import annotations

from lamer.common.messages import Metric
from lamer.common.records import Purpose
from lamer.learner.gateway.status import BatchFigures, DropCounts, RateWindow
from lamer.learner.journal.entries import TrialEntry


def test_rates_are_over_the_last_ten_seconds() -> None:
    window = RateWindow(now=0.0)
    for second in range(20):
        window.add(float(second), tokens=50)
    assert window.rates(19.5) == (1.0, 50.0)
    assert window.rates(40.0) == (0.0, 0.0)


def test_a_young_runs_rates_are_over_its_own_age() -> None:
    window = RateWindow(now=0.0)
    window.add(1.0, tokens=8)
    assert window.rates(2.0) == (0.5, 4.0)


def entry(slot: int, version: int, solved_at: int | None) -> TrialEntry:
    return TrialEntry(f"r/train/0/{slot}", 0, slot, Purpose.TRAIN, version, 1, solved_at)


def test_a_batchs_figures_are_ages_in_updates_and_pass_at_k() -> None:
    figures = BatchFigures.of([entry(0, 7, 0), entry(1, 7, None), entry(2, 6, 1), entry(3, 3, None)], trained_from=7)
    metrics = {metric.name: metric.value for metric in figures.metrics(episodes=2)}
    assert (figures.age_mean, figures.age_max) == (1.25, 4)
    assert (metrics["staleness/p50"], metrics["staleness/p90"]) == (1.0, 4.0)
    assert (metrics["staleness/share_0"], metrics["staleness/share_4"]) == (0.5, 0.25)
    assert (metrics["train/pass_at_1"], metrics["train/pass_at_2"]) == (0.25, 0.5)


def test_figures_before_the_first_batch_are_zero() -> None:
    assert (BatchFigures().age_mean, BatchFigures().age_max) == (0.0, 0)
    assert Metric("staleness/mean", 0.0) in BatchFigures().metrics(episodes=1)


def test_drops_are_counted_by_reason() -> None:
    drops = DropCounts()
    drops.add("stale", trials=8, solved=3)
    drops.add("stale", trials=8, solved=0)
    drops.add("context_overflow", trials=1, solved=0)
    assert drops.metrics() == (
        Metric("drops/groups", 3.0),
        Metric("drops/context_overflow", 1.0),
        Metric("drops/stale", 2.0),
    )
    assert (drops.trials, drops.solved) == (17, 3)
