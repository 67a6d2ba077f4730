"""The dry run: its formulas against numbers worked out by hand and against the trainer itself, and what it prints."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from lamer.common.config import PACKAGED, load
from lamer.common.errors import BadInput, Missing
from lamer.common.settings import ModelSettings, OptimizerSettings, Settings
from lamer.deploy.cli import app
from lamer.deploy.dry.architecture import described, load_architecture
from lamer.deploy.dry.checks import check, longest_sequence
from lamer.deploy.dry.prompts import estimate_tokens
from lamer.deploy.dry.report import print_dry_run
from lamer.deploy.dry.run import GPU_BYTES, dry_run, load_settings
from lamer.deploy.dry.timing import (
    Hardware,
    RolloutPace,
    operations_per_token,
    rollout_pace,
    rollout_seconds,
    training_seconds,
)
from lamer.deploy.dry.workload import Habits, Load, PromptLengths, episodes_per_trial, workload
from lamer.learner.memory.advice import TrainerPlan, fit, room_of
from lamer.learner.memory.architecture import Architecture
from lamer.learner.memory.server import beside_trainer, server_memory

QWEN = Architecture("qwen3-4b", "", 4_022_468_096, 151936, 2560, 9728, 36, 32, 8, 128, 40960, True)
LLAMA = Architecture("llama-3.1-8b", "", 8_030_261_248, 128256, 4096, 14336, 32, 32, 8, 128, 131072, False, False)
PROMPTS = PromptLengths(first=500, play=800.0, reflection=1000.0, longest=1200, is_estimate=True)


def lamer(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="lamer")


def paper(*overrides: str) -> Settings:
    return load([Path("paper/sokoban-lamer.yaml")], overrides)


def parameters_by_hand(model: Architecture, query_and_key_norms: bool) -> int:
    """Embedding (and head), then for each layer four attention and three feed-forward matrices and its norms."""
    attention = 2 * model.hidden * model.query_size + 2 * model.hidden * model.key_size
    norms = 2 * model.hidden + (2 * model.head_dim if query_and_key_norms else 0)
    layer = attention + 3 * model.hidden * model.intermediate + norms
    return (1 if model.is_tied else 2) * model.vocabulary * model.hidden + model.layers * layer + model.hidden


@pytest.mark.parametrize(("expected", "has_norms"), [(QWEN, True), (LLAMA, False)], ids=lambda value: str(value)[:20])
def test_parameters_counted_without_weights_are_those_that_were_published(
    expected: Architecture, has_norms: bool
) -> None:
    assert replace(described(expected.name), source="") == expected
    assert parameters_by_hand(expected, has_norms) == expected.parameters


def test_a_models_folder_goes_before_its_description(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "qwen3", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, '
        '"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 64, '
        '"tie_word_embeddings": true}'
    )
    found = load_architecture(ModelSettings(path=str(tmp_path)))
    assert (found.hidden, found.context, found.parameters) == (8, 64, parameters_by_hand(found, True))
    with pytest.raises(BadInput, match=r"holds a model of [\d,]+ parameters, model\.architecture qwen3-4b has 4,022"):
        load_architecture(ModelSettings(path=str(tmp_path), architecture="qwen3-4b"))


def test_a_model_of_which_nothing_is_known_is_missing() -> None:
    with pytest.raises(Missing, match=r"no/such is not there; .* llama-3\.1-8b, qwen3-0\.6b, qwen3-4b"):
        load_architecture(ModelSettings(path="no/such"))


def test_a_trial_that_ends_at_its_first_success_plays_this_many_episodes() -> None:
    assert episodes_per_trial(0.45, 3) == pytest.approx(1 + 0.55 + 0.3025)
    assert episodes_per_trial(0.0, 3) == 3
    assert episodes_per_trial(1.0, 3) == 1


def test_response_lengths_are_cut_at_the_limit() -> None:
    assert Habits().response_tokens(10**9) == pytest.approx(320 * 2.718281828 ** (0.55**2 / 2))  # 372.2
    assert Habits().response_tokens(1024) == pytest.approx(368.2, abs=3)
    assert Habits().response_tokens(8) == pytest.approx(8, abs=1e-6)


def test_an_update_of_the_paper_by_hand() -> None:
    """16 x 8 trials, three episodes of seven turns, two reflections: 2,688 turns and 256 reflections at most."""
    work = workload(paper(), 7, PROMPTS, Habits(success=0.5, turn_share=1.0, response_sigma=1e-6))
    assert (work.trials, work.worst.episodes, work.worst.turns, work.worst.reflections) == (128, 384, 2688, 256)
    assert (work.worst.prompt_tokens, work.worst.response_tokens) == (2944 * 2048, 2944 * 1024)
    assert (work.expected.episodes, work.expected.turns, work.expected.reflections) == (224, 1568, 96)
    assert work.expected.prompt_tokens == 1568 * 800 + 96 * 1000
    assert work.expected.response_tokens == pytest.approx((1568 + 96) * 320)


def test_plain_rl_reflects_on_nothing() -> None:
    work = workload(load([Path("paper/sokoban-gigpo.yaml")]), 7, PROMPTS, Habits())
    assert (work.trials, work.worst.turns, work.worst.reflections, work.expected.episodes) == (384, 2688, 0, 384)


def test_an_inference_servers_memory_by_hand() -> None:
    """147,456 bytes of cache a token: keys and values, 36 layers, 8 heads of 128, two bytes."""
    server = server_memory(QWEN, 1, GPU_BYTES)
    assert (server.weights, server.cache_token) == (2 * QWEN.parameters, 147_456)
    assert server.cache(256, 1000) == 256 * 1000 * 147_456
    assert server.fitting_tokens == int((0.85 * 80e9 - 2 * QWEN.parameters) / 147_456)
    assert server_memory(replace(QWEN, parameters=10**12), 1, GPU_BYTES).fitting_tokens == 0
    assert server_memory(QWEN, 2, GPU_BYTES).cache_token == 147_456 / 2


def test_operations_of_a_token_by_hand() -> None:
    n = QWEN.parameters
    plain = Settings(optimizer=OptimizerSettings(minibatches=1))
    assert operations_per_token(QWEN, plain, is_checkpointed=False) == 6 * n  # one minibatch: no proximal pass
    assert operations_per_token(QWEN, plain, is_checkpointed=True) == 8 * n
    many = load([], ["optimizer.minibatches=4", "loss.kl_weight=0.1"])
    assert operations_per_token(QWEN, many, is_checkpointed=False) == (6 + 2 * 0.75 + 2) * n
    ppo = load([], ["advantage.estimator=ppo", "critic.kind=separate"])
    assert operations_per_token(QWEN, ppo, is_checkpointed=False) == 14 * n


def test_training_time_by_hand() -> None:
    """2.4e10 operations x 1e6 tokens at 0.3 of 989e12 a second: 80.9 s."""
    assert training_seconds(2.4e10, 1e6, 1, Hardware()) == pytest.approx(80.9, abs=0.05)
    assert training_seconds(2.4e10, 1e6, 4, Hardware()) == pytest.approx(80.9 / 4, abs=0.05)


def test_decoding_time_by_hand() -> None:
    """100 sequences of 1,000 tokens: (8.045e9 + 14.75e9 bytes) / 2.01e12 + 2 ms = 13.3 ms a step of 100 tokens."""
    pace = rollout_pace(QWEN, server_memory(QWEN, 1, GPU_BYTES), 100, 1000.0, 1, Hardware())
    assert pace.running == 100
    assert pace.tokens_per_second == pytest.approx(100 / 0.01334, rel=1e-3)
    assert (
        rollout_pace(QWEN, server_memory(QWEN, 1, GPU_BYTES), 10**6, 1000.0, 1, Hardware()).running == 406
    )  # the cache is full


def test_rollout_time_is_decoding_and_the_prompt_tokens_that_are_new() -> None:
    pace = RolloutPace(running=1, tokens_per_second=100.0, prefill_rate=1000.0)
    load_ = Load(episodes=1, turns=1, reflections=0, prompt_tokens=10_000, response_tokens=500)
    assert rollout_seconds(load_, pace, 2, Hardware(uncached=0.3)) == (5.0 + 3.0) / 2


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("up, down", 3),
        ("Row 12: # # X", 8),
        ("environment", 2),
        ("a\n\n  b", 3),
        ("<action>(1,2)</action>", 9),
    ],
)
def test_tokens_are_estimated_from_the_pieces_of_a_text(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("trial.max_prompt_tokens=1000", "trial.shorten=false"),
            "a prompt of scripted play has about 1200 tokens, trial.max_prompt_tokens is",
        ),
        (
            ("trial.max_prompt_tokens=400",),
            "a prompt of scripted play has about 500 tokens, trial.max_prompt_tokens is",
        ),
        (("optimizer.pack_tokens=3000",), "optimizer.pack_tokens 3000 is under the longest prompt and response, 3072"),
        (
            ("trial.max_prompt_tokens=40000",),
            "longest prompt and response are 41024 tokens, the context of qwen3-4b is",
        ),
        (("batch.group_size=1",), "batch.group_size is 1: gigpo compares the trials of a group with each other"),
        (("optimizer.minibatches=129",), "can't be divided into optimizer.minibatches = 129"),
    ],
)
def test_what_would_end_a_run_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadInput) as refused:
        check(paper(*overrides), QWEN, PROMPTS)
    assert message in str(refused.value)


def test_the_papers_own_settings_are_not_refused() -> None:
    settings = paper()
    check(settings, QWEN, PROMPTS)
    assert longest_sequence(settings) == 2048 + 1024


def printed(name: str, *overrides: str) -> str:
    out = StringIO()
    print_dry_run(dry_run(load_settings([Path(name)], overrides)), Console(file=out, width=100))
    return " ".join(out.getvalue().split())


def test_a_dry_run_prints_tokens_memory_and_time() -> None:
    text = printed("paper/sokoban-lamer.yaml")
    assert "qwen3-4b: 4,022,468,096 parameters" in text
    assert "│ turns │ 1,328 │ 2,688 │" in text
    assert "46 optimizer steps an update, 13,800 in the run" in text
    assert "│ weights │ 16.1 │ 8.0 │" in text
    assert "trainer.recompute=layers optimizer.kind=adamw_8bit a server on the same card takes 17.7 GB" in text
    assert "│ bfloat16 weights │ 8.0 │ 8.0 │" in text
    assert "run of 300 updates, h" in text
    assert "Times are estimates" in text
    assert "warning" not in text
    text = printed("paper/sokoban-lamer.yaml", "trainer.recompute=none")
    assert "a card of 80 GB has 77.0 GB for it: set trainer.recompute=layers (then 72." in text


def test_a_prompting_row_is_evaluated_and_not_trained() -> None:
    text = printed("paper/minesweeper-reflexion.yaml")
    assert "no training; prompting react, memory reflection" in text
    assert "optimizer steps" not in text
    assert "warning" not in text


def test_a_run_that_fits_one_gpu_is_not_warned_of() -> None:
    text = printed("doors.yaml")
    assert "pocket: " in text
    assert "warning" not in text


def test_a_setting_for_a_model_of_another_size_is_warned_of() -> None:
    assert "warning: optimizer.learning_rate is 1e-06" in printed("doors.yaml", "optimizer.learning_rate=1e-6")


def test_no_line_of_a_dry_run_is_over_100_columns() -> None:
    out = StringIO()
    print_dry_run(dry_run(load_settings([Path("paper/minesweeper-ppo.yaml")], ())), Console(file=out, width=100))
    assert max(map(len, out.getvalue().splitlines())) <= 100


@pytest.mark.parametrize("env", ["alfworld", "webshop"])
def test_missing_data_of_an_environment_is_one_line(env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMER_DATA", str(tmp_path))
    result = lamer("train", "--dry-run", "-c", f"paper/{env}-lamer.yaml")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert f"lamer data fetch {env}" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_environment_without_its_data_says_in_one_line_what_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMER_DATA", str(tmp_path))
    result = lamer("train", "--dry-run", "-c", "paper/alfworld-lamer.yaml")
    assert result.exit_code == 3
    assert "run `" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_dry_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert lamer("train", "--dry-run", "-c", "doors.yaml").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_training_without_the_papers_model_says_where_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = lamer("train", "-c", "paper/sokoban-lamer.yaml")
    assert (result.exit_code, "models/Qwen3-4B is not there" in result.stderr) == (3, True)


TRAINED = sorted(path for path in (PACKAGED / "paper").glob("*.yaml") if load([path]).batch.updates)


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_every_row_of_the_paper_can_be_run_on_one_card_of_80_gb(path: Path) -> None:
    """With its server on another card; rows of Qwen3-4B beside it as well, with 40 GB at most unless there is a critic
    of the same size.
    """
    settings = load([path])
    model = described(settings.model.architecture)
    plan = TrainerPlan.of(settings, is_cuda=True)
    assert plan.longest == longest_sequence(settings)
    assert fit(plan, model, room_of(GPU_BYTES)) is not None
    beside = fit(plan, model, room_of(GPU_BYTES, beside_trainer(model, settings.inference.cache_tokens)))
    if model.name == "llama-3.1-8b":
        return
    assert beside is not None
    assert beside.memory.total <= (60e9 if path.stem.endswith("-ppo") else 40e9)


def test_a_dry_run_shows_what_makes_a_row_fit() -> None:
    found = dry_run(load_settings([Path("paper/sokoban-ppo.yaml")], ()))
    assert [(column.name, column.fits) for column in found.trainer] == [
        ("as configured", False),
        ("to fit one card", True),
    ]
    assert found.trainer[1].changes == ("trainer.recompute=layers", "optimizer.kind=adamw_8bit")
    assert found.trainer[1].memory.total + found.beside < GPU_BYTES
