"""The paper's settings: every row of its tables is one name, and holds the values that the paper gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamer.common.config import PACKAGED, load, parameters
from lamer.deploy.dry.architecture import described_names
from lamer.envs import registry

PAPER = PACKAGED / "paper"
RL = ("ppo", "rloo", "grpo", "gigpo")
PROMPTING = ("zero-shot", "react", "reflexion")

ALL = {  # every row
    "trial.temperature": "1.0",  # App. C
    "trial.max_response_tokens": "1024",  # App. C
    "trial.max_reflection_tokens": "1024",  # App. C
    "credit.form": "paper",  # Eq. 4
    "credit.step_discount": "0.95",  # script
    "advantage.invalid_action_penalty": "0.5",  # script
    "loss.clip_low": "0.2",  # script
    "loss.clip_high": "0.2",  # script
    "loss.dual_clip": "3.0",  # script
    "loss.entropy": "0.001",  # script
    "loss.entropy_final": "0.001",  # script
    "loss.kl_weight": "0.0",  # script
    "optimizer.learning_rate": "1e-06",  # App. C
    "optimizer.schedule": "constant",  # script
    "optimizer.weight_decay": "0.01",  # script
    "optimizer.max_grad_norm": "1.0",  # script
    "evaluation.tasks": "128",  # script
    "evaluation.rounds": "4",  # Table 1: multiples of 1/512
    "evaluation.episodes": "3",  # Table 1
    "evaluation.temperature": "0.7",  # App. C
    "evaluation.top_p": "0.8",  # script
    "evaluation.top_k": "20",  # script
}
ENVIRONMENTS = {
    "sokoban": {
        "env.options.rows": "6",  # App. A
        "env.options.cols": "6",  # App. A
        "env.options.boxes": "2",  # App. A
        "env.options.max_turns": "7",  # script
        "env.options.actions_per_turn": "3",  # script
        "env.options.max_moves": "30",  # script
        "env.options.reward": "paper",  # App. C
        "env.options.prompt": "full",  # App. B
        "trial.max_prompt_tokens": "2048",  # script
        "batch.groups": "16",  # App. C
    },
    "minesweeper": {
        "env.options.board": "6",  # App. A
        "env.options.mines": "3",  # App. A
        "env.options.max_turns": "7",  # script
        "env.options.reward": "paper",  # App. C
        "env.options.prompt": "full",  # App. B
        "trial.max_prompt_tokens": "2048",  # script
        "batch.groups": "16",  # App. C
    },
    "webshop": {
        "trial.max_turns": "12",  # script
        "trial.max_prompt_tokens": "8192",  # script
        "batch.groups": "8",  # App. C
    },
    "alfworld": {
        "env.options.split": "train",  # App. A
        "env.options.prompt": "full",  # App. B
        "trial.max_turns": "10",  # script
        "trial.max_prompt_tokens": "4096",  # script
        "batch.groups": "8",  # App. C
    },
}
UPDATES = {"sokoban": "300", "minesweeper": "300", "webshop": "150", "alfworld": "150"}  # App. C
SINGLE = {"trial.episodes": "1", "trial.memory": "none", "batch.group_size": "24", "credit.trial_discount": "0.0"}
METHODS = {
    "lamer": {
        "trial.episodes": "3",  # Sec. 5.1
        "trial.memory": "both",  # Sec. 4
        "batch.group_size": "8",  # Sec. 5.1
        "credit.trial_discount": "0.6",  # Sec. 5.1
        "advantage.estimator": "gigpo",  # Sec. 5.1
        "advantage.normalise": "mean",  # script
    },
    "gigpo": SINGLE | {"advantage.estimator": "gigpo", "advantage.normalise": "mean"},
    "grpo": SINGLE | {"advantage.estimator": "grpo", "advantage.normalise": "mean_std"},
    "rloo": SINGLE | {"advantage.estimator": "rloo"},
    "ppo": SINGLE | {"advantage.estimator": "ppo", "advantage.gae_lambda": "1.0", "critic.kind": "separate"},
    "zero-shot": {"trial.episodes": "3", "trial.memory": "none", "trial.prompting": "act", "batch.updates": "0"},
    "react": {"trial.episodes": "3", "trial.memory": "none", "trial.prompting": "react", "batch.updates": "0"},
    "reflexion": {
        "trial.episodes": "3",
        "trial.memory": "reflection",
        "trial.prompting": "react",
        "batch.updates": "0",
    },
}
ON_LLAMA = [(env, method) for env in ("sokoban", "minesweeper") for method in ("lamer", "gigpo")]  # Table 4
ROWS = [
    *((env, method, "") for env in ENVIRONMENTS for method in METHODS),
    *((env, method, "-llama") for env, method in ON_LLAMA),
]


@pytest.mark.parametrize(("env", "method", "model"), ROWS)
def test_a_row_of_the_papers_tables_has_the_papers_values(env: str, method: str, model: str) -> None:
    expected = ALL | ENVIRONMENTS[env] | {"env.name": env, "batch.updates": UPDATES[env]} | METHODS[method]
    expected["model.architecture"] = "llama-3.1-8b" if model else "qwen3-4b"  # Sec. 5.1; App. D.1
    found = dict(parameters(load([Path(f"paper/{env}-{method}{model}.yaml")])))
    assert {key: found.get(key) for key in expected} == expected


def test_there_is_a_file_for_every_row_and_no_other() -> None:
    assert {path.stem for path in PAPER.glob("*.yaml")} == {f"{env}-{method}{model}" for env, method, model in ROWS}


@pytest.mark.parametrize("env", ENVIRONMENTS)
@pytest.mark.parametrize("method", ["lamer", *RL])
def test_a_minibatch_holds_64_responses_where_no_trial_is_solved(env: str, method: str) -> None:
    settings = load([Path(f"paper/{env}-{method}.yaml")])
    turns = settings.trial.max_turns or settings.env.options["max_turns"]
    reflections = settings.trial.episodes - 1 if settings.trial.memory.has_reflections else 0
    responses = settings.batch.groups * settings.batch.group_size * (settings.trial.episodes * turns + reflections)
    assert responses / settings.optimizer.minibatches == 64  # script: ppo_mini_batch_size


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_rl_and_meta_rl_train_on_as_many_trajectories_an_update(env: str) -> None:
    meta, *others = (load([Path(f"paper/{env}-{method}.yaml")]) for method in ("lamer", *RL))
    assert {each.batch.groups * each.batch.group_size for each in others} == {meta.batch.groups * 8 * 3}


def test_values_that_the_paper_or_its_scripts_give_have_their_source_beside_them() -> None:
    lines = [line for path in sorted((PAPER / "layers").glob("*.yaml")) for line in path.read_text().splitlines()]
    values = [line for line in lines if ": " in line and not line.lstrip().startswith("#")]
    without = [
        line
        for line in values
        if "#" not in line and not line.startswith(("base:", "env: {name", "  name:", "  path:", "  architecture:"))
    ]
    assert without == []


@pytest.mark.parametrize("name", ["doors", "minesweeper", "sokoban", "webshop", "alfworld"])
def test_the_environments_that_are_there_take_the_papers_options(name: str) -> None:
    for path in [path for path in PAPER.glob("*.yaml") if path.stem.startswith(name)]:
        registry.decode_config(name, load([path]).env.options)


def test_every_architecture_that_can_be_named_is_described() -> None:
    from lamer.common.settings import ModelSettings

    choices = ModelSettings.__dataclass_fields__["architecture"].metadata["choices"]
    assert set(choices) - {""} == set(described_names())
