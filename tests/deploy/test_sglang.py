"""How SGLang is started and judged, without a server; `tests/contract` and `tests/sglang` run the real one."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from common.errors import BadInput, Missing
from deploy.inference import sglang
from deploy.inference.options import EngineOptions

OPTIONS = EngineOptions("sglang", Path("model"), "127.0.0.1", 30000, 16, 8192, tensor_parallel=2, data_parallel=3)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that says it has SGLang 0.5.23."""
    file = tmp_path / "python"
    file.write_text("#!/bin/sh\necho 0.5.23\n")
    file.chmod(0o755)
    return file


def flags(python: Path, monkeypatch: pytest.MonkeyPatch, *, has_gpu: bool) -> tuple[dict[str, str], dict[str, str]]:
    """(flags with their values, environment) of a launch on a machine with or without a GPU."""
    monkeypatch.setattr(sglang, "has_nvidia_gpu", lambda: has_gpu)
    monkeypatch.setattr(sglang, "find_python", lambda _: python)
    launch = asyncio.run(sglang.launch(OPTIONS, 30001, "api", "admin"))
    words = launch.command[3:]
    named = {word: following for word, following in zip(words, (*words[1:], ""), strict=True) if word.startswith("--")}
    return named, dict(launch.environment)


def test_without_a_gpu_the_cpu_engine_is_started_with_a_core_for_each_rank(
    python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, environment = flags(python, monkeypatch, has_gpu=False)
    assert (named["--device"], named["--attention-backend"], named["--dtype"]) == ("cpu", "torch_native", "float32")
    assert named["--max-total-tokens"] == "8192"
    assert environment["SGLANG_USE_CPU_ENGINE"] == "1"
    cores = [int(core) for core in environment["SGLANG_CPU_OMP_THREADS_BIND"].split("|")]
    assert len(cores) == 2 * 3
    assert set(cores) <= os.sched_getaffinity(0)


def test_with_a_gpu_sglang_chooses_kernels_and_cache_itself(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, environment = flags(python, monkeypatch, has_gpu=True)
    assert named["--dtype"] == "bfloat16"
    assert not {"--device", "--attention-backend", "--max-total-tokens", "--disable-cuda-graph"} & named.keys()
    assert (named["--tp-size"], named["--dp-size"]) == ("2", "3")
    assert "CUDA_VISIBLE_DEVICES" not in environment


def test_both_keys_and_version_zero_are_given(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, _ = flags(python, monkeypatch, has_gpu=True)
    assert (named["--api-key"], named["--admin-api-key"], named["--weight-version"]) == ("api", "admin", "0")
    assert (named["--port"], named["--max-running-requests"]) == ("30001", "16")


@pytest.mark.parametrize(
    ("text", "mode"), [("0.5.17", "abort"), ("0.5.22", "abort"), ("0.5.23", "retract"), ("0.5.23.post1", "retract")]
)
def test_releases_without_versions_of_tokens_are_paused_by_aborting(text: str, mode: str) -> None:
    assert sglang.parse_release(text).update_mode("retract") == mode


@pytest.mark.parametrize(("text", "said"), [("0.5.16", "0.5.17 or later"), ("main", "is no version")])
def test_a_release_that_lacks_weight_updates_is_refused(text: str, said: str) -> None:
    with pytest.raises(Missing, match=said):
        sglang.parse_release(text)


def test_an_interpreter_without_sglang_is_refused_with_what_to_do() -> None:
    with pytest.raises(Missing, match="make sglang-cpu"):
        asyncio.run(sglang.installed_release(Path(sys.executable)))


def test_a_named_interpreter_must_exist(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such interpreter"):
        sglang.find_python(str(tmp_path / "python"))
