"""What a user gets wrong, with real processes: one line on stderr and the right exit code, 2 or 3, and no traceback.

Keys, types and values of the configuration are tests/deploy/test_cli.py's.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lamer.common import config
from lamer.deploy.models.preparation import default_cache, prepare_model
from tests.integration.processes import TINY, Started, start, updates, wait_until

pytestmark = pytest.mark.timeout(180)
Lamer = Callable[..., Started]
NOBODY, NOWHERE = "tcp://127.0.0.1:1", "tcp://no-such-machine.invalid:5555"


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    """The model of tiny.yaml, as its runs in `folder` create it."""
    settings = config.load([TINY], [f"run.directory={folder / 'runs'}"])
    return prepare_model(settings, default_cache(settings)).path


@pytest.fixture(scope="module", autouse=True)
def without_learner(folder: Path) -> Iterator[tuple[Started, ...]]:
    """An actor and a host that look for a learner which is not there, while the other tests go on."""
    assert start(["keys", "create", "keys"], folder, "keys").wait() == 0
    whom = (("actor", NOBODY), ("serve", NOBODY), ("actor", NOWHERE))
    started = tuple(start([part, "--connect", url, "--keys", "keys"], folder, part) for part, url in whom)
    yield started
    for process in started:
        process.end()


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port at which somebody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_a_taken_port_a_wrong_key_and_an_unusable_model_are_told_by_learner_and_server(
    folder: Path, lamer: Lamer, model: Path, taken_port: int
) -> None:
    arguments = ("learner", "-c", str(TINY), "--plain", f"model.path={model}")
    on_taken = lamer(*arguments, "--name", "taken", "--port", str(taken_port))
    assert on_taken.wait() == 3, on_taken.text
    assert f"port {taken_port}" in on_taken.error

    run = folder / "runs" / "bad-input"
    learner = lamer(*arguments, "--name", "bad-input")
    wait_until((run / "address").exists, lambda: learner.text)
    joins = ("--connect", (run / "address").read_text().strip(), "--keys", str(run / "keys"))
    shutil.copytree(model, folder / "no-tokenizer", ignore=shutil.ignore_patterns("tokenizer.json"))
    shutil.copytree(model, folder / "unknown")
    (folder / "unknown" / "config.json").write_text('{"model_type": "no-such-architecture"}')
    shutil.copytree(model, folder / "headless")
    tensors = load_file(folder / "headless" / "model.safetensors")
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "headless" / "model.safetensors", metadata={"format": "pt"})
    assert lamer("keys", "create", "other").wait() == 0
    for name, files in {"stranger": ("client.key", "client.key_secret"), "mixed": ("client.key",)}.items():
        shutil.copytree(run / "keys" / "actor", folder / name)
        for file in files:
            shutil.copy(folder / "other" / "actor" / file, folder / name / file)
    (run / "keys" / "gpu-1").mkdir()
    for file in ("server.key", "client.key", "client.key_secret"):  # a host's key that its file calls an actor's
        shutil.copy(run / "keys" / "host" / file, run / "keys" / "gpu-1" / file)
    key = (run / "keys" / "host" / "client.key").read_text().split()[1]
    (run / "keys" / "gpu-1" / "client.key").write_text(f"actor {key}")
    refused = {
        "is taken": (lamer("serve", *joins, "--port", str(taken_port)), 3),
        "there is no model folder nowhere": (lamer("serve", *joins, "--model", "nowhere"), 3),
        "lacks tokenizer.json": (lamer("serve", *joins, "--model", "no-tokenizer"), 3),
        "headless lacks model.embed_tokens.weight": (lamer("serve", *joins, "--model", "headless"), 2),
        "is another one than the run's: architecture": (lamer("serve", *joins, "--model", "unknown"), 2),
        "has another key than server.key": (lamer("actor", *joins[:3], "other"), 3),
        "does not allow this client's public key; there, `lamer keys create --role": (
            lamer("actor", *joins[:3], "stranger"),
            3,
        ),
        "client.key_secret in mixed does not belong to client.key": (lamer("actor", *joins[:3], "mixed"), 2),
        "host/client.key is a host's key: make an actor's": (lamer("actor", *joins[:3], str(run / "keys" / "host")), 2),
        "says that it is an actor, but its key, host, is a host's": (
            lamer("actor", *joins[:3], str(run / "keys" / "gpu-1")),
            2,
        ),
    }
    for message, (process, code) in refused.items():
        assert (message, process.wait(), message in process.error) == (message, code, True), process.text
    findings = {
        str(run / "keys"): (0, "takes these keys as an observer's"),
        str(run / "keys" / "host"): (0, "takes these keys as a host's"),
        str(run / "keys" / "gpu-1"): (3, "its key host is a host's"),
        "stranger": (3, "does not allow this client's public key"),
        "mixed": (3, "does not belong to client.key"),
    }
    doctors = {keys: lamer("doctor", *joins[:3], keys) for keys in findings}
    for keys, (code, finding) in findings.items():
        assert (keys, doctors[keys].wait()) == (keys, code), doctors[keys].text
        printed = {word.strip(":;,") for word in doctors[keys].text.split()}  # in a table, which breaks lines
        assert set(finding.split()) <= printed, doctors[keys].text
    assert learner.interrupted() == 130, learner.text


def test_training_on_a_taken_port_ends_with_the_learners_error(lamer: Lamer, model: Path, taken_port: int) -> None:
    process = lamer(
        *("train", "-c", str(TINY), "--name", "taken-train", "--plain"),
        *(f"model.path={model}", f"gateway.port={taken_port}"),
    )
    assert process.wait() == 3, process.text
    assert f"port {taken_port}" in process.error


def test_prompts_that_outgrow_the_models_context_end_their_trials_and_are_counted(
    folder: Path, lamer: Lamer, model: Path
) -> None:
    """A context that first prompts fit into and second ones do not: trials are trained if solved at once."""
    short = folder / "short-context"
    shutil.copytree(model, short)
    longest = max(len(ids) for ids in _first_prompts(model))
    limits = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**limits, "max_position_embeddings": longest + 8}))
    process = lamer(
        *("train", "-c", str(TINY), "--name", "overflow", "--plain", f"model.path={short}"),
        *("batch.groups=1", "batch.group_size=1", "batch.updates=3", "evaluation.tasks=3"),
    )
    assert process.wait() == 0, process.text
    run = folder / "runs" / "overflow"
    assert json.loads((run / "summary.json").read_text())["drops"]["context_overflow"] > 0
    assert len(updates(run)) == 3


def _first_prompts(model: Path) -> list[list[int]]:
    """Ids of the prompts of first turns in scripted play."""
    from lamer.deploy.play.scripted import play_scripted

    trials = play_scripted(config.load([TINY]), model, 20)
    return [trial.episodes[0].turns[0].completion.prompt_ids.tolist() for trial in trials]


def test_a_run_whose_every_prompt_is_too_long_fails_with_a_clear_error(lamer: Lamer, model: Path) -> None:
    process = lamer(
        *("train", "-c", str(TINY), "--name", "all-overflow", "--plain", f"model.path={model}"),
        *("trial.max_prompt_tokens=3", "evaluation.tasks=3"),
    )
    assert process.wait() == 1, process.text
    assert "trial.max_prompt_tokens" in process.error


def test_invalid_actions_are_counted_and_trained(folder: Path, lamer: Lamer, model: Path) -> None:
    """A policy that answers nearly at random hardly ever names a door."""
    process = lamer(
        *("train", "-c", str(TINY), "--name", "invalid", "--plain"),
        *(f"model.path={model}", "trial.temperature=50", "batch.updates=2", "evaluation.tasks=0"),
    )
    assert process.wait() == 0, process.text
    assert all(line.metrics["train/valid_actions"] < 0.5 for line in updates(folder / "runs" / "invalid"))


def test_an_actor_and_a_server_without_a_learner_say_so(without_learner: tuple[Started, ...]) -> None:
    *without_listener, without_machine = without_learner
    for process in without_listener:
        assert process.wait(90.0) == 3, process.text
        assert f"can't reach the learner at {NOBODY}" in process.error
        assert "nothing listens at port 1" in process.error
    assert without_machine.wait(90.0) == 3, without_machine.text
    assert f"can't reach the learner at {NOWHERE}" in without_machine.error
