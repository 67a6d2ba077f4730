"""What auto stands for in trainer.dtype and inference.dtype: decided once, equal for both; the run stays the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lamer.common.config import config_hash, differing_keys, from_json, load, to_json
from lamer.common.errors import BadInput
from lamer.common.schema import ConfigError
from lamer.common.settings import Settings
from lamer.deploy.run import folder, precision
from lamer.deploy.run.configuration import read_settings
from lamer.deploy.run.precision import adopted, asked, has_cuda, resolved


def settings(*overrides: str) -> Settings:
    return load([], overrides)


def dtypes(settings: Settings) -> tuple[str, str]:
    return settings.trainer.dtype, settings.inference.dtype


SGLANG = "inference.engine=sglang"


@pytest.mark.parametrize(
    ("overrides", "is_on_cuda", "expected"),
    [
        ((), False, ("float32", "float32")),
        ((SGLANG,), False, ("float32", "float32")),
        ((), True, ("float32", "float32")),
        ((SGLANG,), True, ("bfloat16", "bfloat16")),
        ((SGLANG, "trainer.device=cuda:1"), True, ("bfloat16", "bfloat16")),
        ((SGLANG, "trainer.device=cpu"), True, ("float32", "float32")),
        (("optimizer.kind=adamw_8bit",), False, ("bfloat16", "bfloat16")),
        (("trainer.dtype=bfloat16",), False, ("bfloat16", "bfloat16")),
        ((SGLANG, "inference.dtype=float32"), True, ("float32", "float32")),
        (("optimizer.kind=adamw_8bit", "inference.dtype=float32"), False, ("bfloat16", "float32")),
        (("trainer.dtype=bfloat16", "inference.dtype=float32"), False, ("bfloat16", "float32")),
    ],
)
def test_one_precision_for_engine_and_trainer_unless_both_are_named(
    overrides: tuple[str, ...], is_on_cuda: bool, expected: tuple[str, str]
) -> None:
    assert dtypes(resolved(settings(*overrides), is_on_cuda=is_on_cuda)) == expected


def test_a_run_is_the_same_whatever_machine_resolved_it() -> None:
    plain = settings(SGLANG)
    short, long = (resolved(plain, is_on_cuda=is_on_cuda) for is_on_cuda in (True, False))
    assert dtypes(short) != dtypes(long)
    assert config_hash(short) == config_hash(long) == config_hash(plain)
    assert differing_keys(short, plain) == ()
    assert from_json(to_json(short)) == short
    named = resolved(settings(SGLANG, "trainer.dtype=bfloat16"), is_on_cuda=True)
    assert differing_keys(short, named) == ("trainer.dtype",), "one that was named is another run, as before"


def test_a_resumed_run_keeps_the_precision_that_it_was_begun_with() -> None:
    begun = resolved(settings(SGLANG), is_on_cuda=True)
    for again in (settings(SGLANG), begun):
        assert resolved(adopted(again, begun), is_on_cuda=False) == begun
    other = adopted(settings(SGLANG, "trainer.dtype=float32"), begun)
    assert differing_keys(begun, other) == ("trainer.dtype",)
    earlier = settings(SGLANG)  # begun before precisions were resolved
    went_on = resolved(adopted(settings(SGLANG), earlier), is_on_cuda=True)
    assert dtypes(went_on) == ("bfloat16", "bfloat16")
    assert differing_keys(earlier, went_on) == ()


def test_a_new_run_from_the_configuration_of_another_is_resolved_anew() -> None:
    begun = resolved(settings(SGLANG), is_on_cuda=True)
    assert dtypes(resolved(asked(begun), is_on_cuda=False)) == ("float32", "float32")
    changed = replace(begun, trainer=replace(begun.trainer, dtype="float32"))
    assert asked(changed).trainer.dtype == "float32"
    assert config_hash(asked(changed)) == config_hash(settings(SGLANG, "trainer.dtype=float32"))


def test_weights_of_16_bits_are_not_computed_with_in_32() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.dtype must be bfloat16 or auto, not float32"):
        settings("optimizer.kind=adamw_8bit", "trainer.dtype=float32")


@pytest.mark.parametrize(
    ("gpu", "torch", "expected"), [(True, "2.13.0", True), (True, "2.13.0+cpu", False), (False, "2.13.0", False)]
)
def test_cuda_needs_a_gpu_and_a_torch_that_is_no_build_for_cpus(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, torch: str, expected: bool
) -> None:
    monkeypatch.setattr(precision, "has_nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(precision, "version", lambda _: torch)
    assert has_cuda() is expected


def test_a_run_folder_names_one_precision_and_keeps_it_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = settings(SGLANG, f"run.directory={tmp_path}", "run.name=one")
    monkeypatch.setattr(folder, "has_cuda", lambda: True)
    begun = folder.open_run(here, (), is_resume=False)
    monkeypatch.setattr(folder, "has_cuda", lambda: False)
    again = folder.open_run(here, (), is_resume=True)
    written = load([begun.config])
    assert dtypes(begun.settings) == dtypes(again.settings) == dtypes(written) == ("bfloat16", "bfloat16")
    with pytest.raises(BadInput, match=r"trainer\.dtype \(bfloat16 there, float32 here\)"):
        folder.open_run(
            settings(SGLANG, f"run.directory={tmp_path}", "run.name=one", "trainer.dtype=float32"), (), is_resume=True
        )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), ("float32", "float32")),
        (("trainer.dtype=bfloat16", "inference.dtype=bfloat16"), ("bfloat16", "bfloat16")),
        (("trainer.dtype=bfloat16",), ("bfloat16", "bfloat16")),
        (("inference.dtype=bfloat16",), ("bfloat16", "bfloat16")),
        (("optimizer.kind=adamw_8bit",), ("bfloat16", "bfloat16")),
    ],
)
def test_a_new_run_from_a_runs_own_file_takes_what_is_named_beside_it(
    tmp_path: Path, overrides: tuple[str, ...], expected: tuple[str, str]
) -> None:
    begun = folder.open_run(settings(f"run.directory={tmp_path}", "run.name=one"), (), is_resume=False)
    assert dtypes(begun.settings) == ("float32", "float32")
    again = read_settings([begun.config], [*overrides, "run.name=two"])
    assert dtypes(folder.open_run(again, (), is_resume=False).settings) == expected


@pytest.mark.parametrize(("visible", "expected"), [(None, True), ("0", True), ("", False), ("-1", False)])
def test_gpus_that_are_hidden_are_none(monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: bool) -> None:
    monkeypatch.setattr(precision.Path, "glob", lambda *_: [Path("/dev/nvidia0")])
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert precision.has_nvidia_gpu() is expected
