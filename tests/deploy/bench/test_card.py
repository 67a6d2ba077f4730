"""`lamer bench card`: a step that fails, hangs or is missing stops no other, and what has ended is on disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lamer.deploy.bench.card import CardOptions, Step, run_stages


def step(name: str, code: str, limit: float = 20.0, report: Path | None = None, missing: str = "") -> Step:
    return Step(name, (sys.executable, "-S", "-c", code), limit, report, missing)


async def test_every_step_is_reported_however_it_ends(tmp_path: Path) -> None:
    figures, output = tmp_path / "figures.json", tmp_path / "card.json"
    reports: list[int] = []

    def say(_: str) -> None:
        reports.append(len(json.loads(output.read_text())["steps"]))

    stages = (
        (step("good", f"open({str(figures)!r}, 'w').write('{{\"speed\": 7}}')", report=figures),),
        (step("bad", "print('lamer: no card'); raise SystemExit(1)"),),
        (step("hangs", "import time; time.sleep(60)", limit=0.5), step("absent", "", missing="no SGLang")),
        (step("needs", "print('lamer: no data'); raise SystemExit(3)"),),
    )
    report = await run_stages(stages, CardOptions(output), tmp_path, say)
    ends = {each.name: (each.status, each.said) for each in report.steps}
    assert ends == {
        "good": ("ok", ""),
        "bad": ("failed", "no card"),
        "hangs": ("too long", "it did not end within 0.5 s"),
        "absent": ("missing", "no SGLang"),
        "needs": ("missing", "no data"),
    }
    assert report.steps[0].figures == {"speed": 7}
    assert reports == [1, 2, 3, 4, 5]
    assert json.loads(output.read_text())["planned"] == ["good", "bad", "hangs", "absent", "needs"]


async def test_no_step_begins_when_the_time_of_all_is_up(tmp_path: Path) -> None:
    stages = ((step("first", "import time; time.sleep(60)"),), (step("second", ""),))
    options = CardOptions(tmp_path / "card.json", seconds=0.3)
    report = await run_stages(stages, options, tmp_path, lambda _: None)
    assert [each.status for each in report.steps] == ["too long", "too long"]
    assert report.steps[1].said == "no time is left"
    assert report.seconds < 20
