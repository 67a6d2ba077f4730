"""How SGLang is started and judged, without a server; `tests/contract` and `tests/sglang` run the real one."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lamer.common.errors import BadInput, Missing
from lamer.deploy.inference.engines import sglang
from lamer.deploy.inference.engines.base import Idling
from lamer.deploy.inference.engines.options import EngineLaunch, EngineOptions, Start

OPTIONS = EngineOptions("sglang", "127.0.0.1", 30000, 16, 8192, tensor_parallel=2, data_parallel=3)
START = Start(Path("model"), "7", 30001, "api-secret", "admin-secret")


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that says it has SGLang 0.5.23."""
    file = tmp_path / "python"
    file.write_text("#!/bin/sh\necho 0.5.23\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def launched(python: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., EngineLaunch]]:
    """How the server is started on a machine with or without a GPU, some options changed."""
    launches = []

    def launch(*, has_gpu: bool, **changed: object) -> EngineLaunch:
        monkeypatch.setattr(sglang, "has_nvidia_gpu", lambda: has_gpu)
        monkeypatch.setattr(sglang, "find_python", lambda _: python)
        launches.append(asyncio.run(sglang.launch(replace(OPTIONS, **changed), START)))  # type: ignore[arg-type]
        return launches[-1]

    yield launch
    for each in launches:
        each.remove_keys()


def flags(launch: EngineLaunch) -> dict[str, str]:
    """Flags with their values."""
    words = launch.command[2:]
    return {word: following for word, following in zip(words, (*words[1:], ""), strict=True) if word.startswith("--")}


def test_without_a_gpu_the_cpu_engine_is_started_with_a_core_for_each_rank(
    launched: Callable[..., EngineLaunch],
) -> None:
    launch = launched(has_gpu=False)
    named = flags(launch)
    assert (named["--device"], named["--attention-backend"], named["--dtype"]) == ("cpu", "torch_native", "float32")
    assert named["--max-total-tokens"] == "8192"
    assert launch.environment["SGLANG_USE_CPU_ENGINE"] == "1"
    cores = [int(core) for core in launch.environment["SGLANG_CPU_OMP_THREADS_BIND"].split("|")]
    assert len(cores) == 2 * 3
    assert set(cores) <= os.sched_getaffinity(0)


def test_with_a_gpu_sglang_chooses_kernels_and_cache_itself(launched: Callable[..., EngineLaunch]) -> None:
    launch = launched(has_gpu=True)
    named = flags(launch)
    assert named["--dtype"] == "bfloat16"
    assert "--enable-fp32-lm-head" in named
    assert not {"--device", "--attention-backend", "--max-total-tokens", "--disable-cuda-graph"} & named.keys()
    assert (named["--tp-size"], named["--dp-size"]) == ("2", "3")
    assert "CUDA_VISIBLE_DEVICES" not in launch.environment


def test_keys_are_in_a_file_of_the_owner_alone_and_not_on_the_command_line(
    launched: Callable[..., EngineLaunch],
) -> None:
    launch = launched(has_gpu=True)
    assert not [word for word in (*launch.command, *launch.environment.values()) if "secret" in word]
    file = Path(flags(launch)["--config"])
    assert file.read_text() == "api-key: 'api-secret'\nadmin-api-key: 'admin-secret'\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    launch.remove_keys()
    assert not file.exists()


def test_a_server_is_started_on_its_folder_with_its_version(launched: Callable[..., EngineLaunch]) -> None:
    named = flags(launched(has_gpu=True))
    assert (named["--model-path"], named["--weight-version"]) == ("model", "7")
    assert (named["--port"], named["--max-running-requests"]) == ("30001", "16")
    assert "--ssl-certfile" not in named


def test_tls_and_flags_after_the_dashes_are_handed_on(launched: Callable[..., EngineLaunch]) -> None:
    extra = ("--chunked-prefill-size", "4096")
    launch = launched(has_gpu=True, tls_cert=Path("cert.pem"), tls_key=Path("key.pem"), extra=extra)
    named = flags(launch)
    assert (named["--ssl-certfile"], named["--ssl-keyfile"]) == ("cert.pem", "key.pem")
    assert launch.command[-2:] == extra


@pytest.mark.parametrize("flag", ["--api-key=x", "--config", "--port"])
def test_a_flag_that_is_ours_to_give_is_not_handed_on(launched: Callable[..., EngineLaunch], flag: str) -> None:
    with pytest.raises(BadInput, match="can't be handed to SGLang"):
        launched(has_gpu=True, extra=(flag, "x"))


@pytest.mark.parametrize(
    ("text", "mode", "idling"),
    [
        ("0.5.17", "abort", Idling.PAUSE),
        ("0.5.22", "abort", Idling.PAUSE),
        ("0.5.23", "retract", Idling.DRAIN),
        ("0.5.23.post1", "retract", Idling.DRAIN),
    ],
)
def test_releases_without_versions_of_tokens_are_paused_by_aborting(text: str, mode: str, idling: Idling) -> None:
    release = sglang.parse_release(text)
    assert (release.update_mode("retract"), release.idling) == (mode, idling)


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
