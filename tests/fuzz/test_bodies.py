"""The attack of `tests.fuzz.bodies` at a size for every day; `make fuzz` has the whole one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamer.deploy.inference.embedded.engine import Engine, EngineOptions
from tests.contract.served import write_models
from tests.fuzz.bodies import fuzz_bodies

BODIES = 500


async def test_odd_bodies_are_nobody_elses_trouble(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(EngineOptions(write_models(tmp_path)["base"], max_running=8, max_total_tokens=8192))
    result = await fuzz_bodies(engine, seed=1, bodies=BODIES)
    print(result)
    assert result.honest_errors == 0
    assert result.honest > 0
    assert set(result.answers) <= {200, 400}, caplog.text
    assert min(result.answers[200], result.answers[400]) > BODIES // 50
