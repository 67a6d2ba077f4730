"""The simulated GPU's pace on a virtual clock driven by hand: all times are worked out from the design's figures."""

from __future__ import annotations

import statistics

import pytest

from lamer.common.records import FinishReason
from lamer.deploy.bench.pace import NEVER, Finished, Pace, PacedEngine, ResponseLengths

PREFILL_700 = 0.3 * 700 / 45_000
ALONE = 0.006 + 0.000035
PAIR = 0.006 + 2 * 0.000035


def submit(engine: PacedEngine, now: float, rid: str, length: int) -> None:
    engine.submit(now, rid, prompt_tokens=700, length=length, finish=FinishReason.STOP)


def drain(engine: PacedEngine) -> dict[str, Finished]:
    """Run from event to event until the engine is idle; what left it, by request id."""
    left = {finished.sequence.rid: finished for finished in engine.take_finished()}
    while (event := engine.next_event()) != NEVER:
        engine.advance(event)
        left.update({finished.sequence.rid: finished for finished in engine.take_finished()})
    return left


def test_one_request_takes_its_prefill_and_one_step_a_token() -> None:
    engine = PacedEngine(Pace())
    submit(engine, 10.0, "a", 100)
    finished = drain(engine)["a"]
    assert finished.time == pytest.approx(10.0 + PREFILL_700 + 100 * ALONE)
    assert finished.tokens == 100
    assert finished.finish is FinishReason.STOP


def test_a_step_grows_longer_with_every_running_sequence() -> None:
    engine = PacedEngine(Pace())
    engine.pause(0.0)
    for index in range(512):
        submit(engine, 0.0, str(index), 50)
    engine.resume(0.0)
    last = max(finished.time for finished in drain(engine).values())
    assert last == pytest.approx(512 * PREFILL_700 + 50 * (0.006 + 512 * 0.000035))


def test_a_request_that_arrives_during_a_step_joins_at_its_end_and_its_prefill_blocks_the_others() -> None:
    engine = PacedEngine(Pace())
    submit(engine, 0.0, "first", 10)
    submit(engine, PREFILL_700 + 2.5 * ALONE, "second", 10)  # in the middle of the third step
    left = drain(engine)
    assert left["first"].time == pytest.approx(2 * PREFILL_700 + 3 * ALONE + 7 * PAIR)
    assert left["second"].time == pytest.approx(2 * PREFILL_700 + 3 * ALONE + 7 * PAIR + 3 * ALONE)


def test_how_often_the_engine_is_asked_changes_nothing() -> None:
    coarse, fine = PacedEngine(Pace()), PacedEngine(Pace())
    for engine in (coarse, fine):
        for index, length in enumerate((30, 7, 100, 64)):
            submit(engine, 0.01 * index, str(index), length)
    left = drain(coarse)
    for tick in range(2000):
        fine.advance(0.03 + 0.001 * tick)
    times = {finished.sequence.rid: finished.time for finished in fine.take_finished()}
    assert times == pytest.approx({rid: finished.time for rid, finished in left.items()})


def test_requests_over_the_limit_wait_first_come_first_served() -> None:
    engine = PacedEngine(Pace(max_running=512))
    for index in range(515):
        submit(engine, 0.0, str(index), 1000 if index else 400)
    engine.advance(5.0)
    assert (engine.running, engine.waiting) == (512, 3)
    left = drain(engine)
    order = sorted(("512", "513", "514"), key=lambda rid: left[rid].time)
    assert order == ["512", "513", "514"]
    assert left["512"].time > left["0"].time


def test_an_aborted_request_frees_its_place_and_returns_what_it_has() -> None:
    engine = PacedEngine(Pace(max_running=1))
    submit(engine, 0.0, "running", 1000)
    submit(engine, 0.0, "waiting", 5)
    submit(engine, 0.0, "aborted in the queue", 5)
    engine.abort(PREFILL_700 + 9.5 * ALONE, "running")
    engine.abort(PREFILL_700 + 9.5 * ALONE, "aborted in the queue")
    left = drain(engine)
    assert (left["running"].finish, left["running"].tokens) == (FinishReason.ABORT, 10)
    assert (left["aborted in the queue"].finish, left["aborted in the queue"].tokens) == (FinishReason.ABORT, 0)
    assert left["waiting"].time == pytest.approx(2 * PREFILL_700 + 15 * ALONE)


def test_the_id_of_an_aborted_request_can_be_used_again() -> None:
    engine = PacedEngine(Pace())
    submit(engine, 0.0, "a", 100)
    engine.abort(0.1, "a")
    engine.take_finished()
    submit(engine, 0.2, "a", 200)
    finished = drain(engine)["a"]
    assert (finished.finish, finished.tokens) == (FinishReason.STOP, 200)


def test_tokens_carry_the_version_that_generated_them() -> None:
    engine = PacedEngine(Pace(), version="3")
    submit(engine, 0.0, "a", 20)
    engine.pause(PREFILL_700 + 7.5 * ALONE)
    engine.set_version(1.0, "4")
    engine.resume(1.0)
    spans = drain(engine)["a"].sequence.spans
    assert [tuple(span) for span in spans] == [("3", 0, 8), ("4", 8, 20)]


def test_a_pause_stops_the_clock_of_running_and_waiting_requests() -> None:
    engine = PacedEngine(Pace())
    submit(engine, 0.0, "a", 20)
    engine.pause(PREFILL_700 + 10 * ALONE - 1e-6)
    submit(engine, 50.0, "b", 1)
    assert engine.next_event() == NEVER
    engine.resume(100.0)
    assert drain(engine)["a"].time == pytest.approx(100.0 + PREFILL_700 + PAIR + 9 * ALONE)


def test_a_retracted_request_recomputes_its_whole_prefix_and_keeps_its_tokens() -> None:
    engine = PacedEngine(Pace(), version="0")
    submit(engine, 0.0, "a", 20)
    engine.pause(PREFILL_700 + 7.5 * ALONE, retract=True)
    assert (engine.running, engine.waiting) == (0, 1)
    engine.set_version(1.0, "1")
    engine.resume(1.0)
    finished = drain(engine)["a"]
    assert finished.time == pytest.approx(1.0 + (700 + 8) / 45_000 + 12 * ALONE)
    assert [tuple(span) for span in finished.sequence.spans] == [("0", 0, 8), ("1", 8, 20)]
    assert finished.sequence.retractions == 1


def test_totals_count_every_token_and_only_busy_time() -> None:
    engine = PacedEngine(Pace())
    submit(engine, 0.0, "a", 10)
    drain(engine)
    submit(engine, 100.0, "b", 15)
    drain(engine)
    totals = engine.totals(200.0)
    assert (totals.tokens, totals.requests, totals.steps) == (25, 2, 25)
    assert totals.busy_seconds == pytest.approx(2 * PREFILL_700 + 25 * ALONE)


def test_512_running_sequences_are_saturation_at_about_16_800_tokens_a_second() -> None:
    engine, lengths, now, ordinal = PacedEngine(Pace()), ResponseLengths(), 0.0, 0
    for ordinal in range(600):
        submit(engine, now, str(ordinal), lengths.draw(ordinal))
    marks = []
    for end in (20.0, 80.0):
        while now < end:
            now = max(now, engine.next_event())
            engine.advance(now)
            for _ in engine.take_finished():
                ordinal += 1
                submit(engine, now, str(ordinal), lengths.draw(ordinal))
        marks.append(engine.totals(now))
    assert (marks[1].tokens - marks[0].tokens) / (marks[1].seconds - marks[0].seconds) == pytest.approx(
        16_800, rel=0.03
    )


def test_response_lengths_follow_the_designs_distribution_and_the_seed_alone() -> None:
    lengths = ResponseLengths(seed=1)
    drawn = [lengths.draw(key) for key in range(4000)]
    assert statistics.median(drawn) == pytest.approx(320, rel=0.05)
    assert statistics.mean(drawn) == pytest.approx(370, rel=0.05)
    assert min(drawn) >= 20
    assert max(drawn) == 1024
    assert drawn[:50] == [ResponseLengths(seed=1).draw(key) for key in range(50)]
    assert drawn[:50] != [ResponseLengths(seed=2).draw(key) for key in range(50)]
