"""What is said of a child that died."""

from __future__ import annotations

import traceback
from pathlib import Path

from lamer.deploy.run.processes import last_error


def test_of_a_group_of_exceptions_the_error_is_told_and_not_the_frame_around_it(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    group = ExceptionGroup("tasks", [OSError(28, "No space left on device", "state.json")])
    log.write_text("".join(traceback.format_exception(group)))
    assert log.read_text().strip().endswith("-----"), "what Python draws under it"
    assert last_error(log) == "OSError: [Errno 28] No space left on device: 'state.json'"
    log.write_text(log.read_text() + "lamer: the disk is full\n")
    assert last_error(log) == "the disk is full"


def test_a_last_line_without_a_word_is_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("Killed\n-----\n\n")
    assert last_error(log) == "Killed"
    log.write_text("")
    assert last_error(log) == ""
