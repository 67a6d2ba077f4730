"""Servers that the contract tests run against, and what differs between them: keys, capabilities, start-up.

`Served` speaks SGLang's HTTP contract to one of them. The model is a tiny random Qwen3, with a second folder of the
same shape and other weights to update to, and a third whose only shard is cut short.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from lamer.deploy.inference.engines.launch import embedded_launch, free_port
from lamer.deploy.inference.engines.options import EngineLaunch, EngineOptions, Start
from lamer.deploy.inference.engines.sglang import CHECKOUT_PYTHON
from lamer.deploy.inference.engines.sglang import launch as sglang_launch

CHECKOUT = Path(__file__).resolve().parents[2]
VOCABULARY = 320
CONTEXT = 1024
END_ID = 2
HOST, API_KEY, ADMIN_KEY = "127.0.0.1", "key-of-actors", "key-of-the-host"
MOST_RUNNING, CACHE_TOKENS = 8, 8192
START_SECONDS = 400.0
SGLANG_PYTHON = os.environ.get("LAMER_TEST_SGLANG_PYTHON", "")
"""An interpreter with another release of SGLang than `make sglang-cpu` installs, to test against that."""


@dataclass(frozen=True)
class Capabilities:
    """What a server does beyond the common contract.

    survives_broken_shards: SGLang 0.5.23 reads the broken folder again to roll back, and dies. forgets_on_update: known
    prefixes are forgotten by an update without flush_cache, and flush_cache is no error while requests are held.
    sees_held_requests: load figures follow a pause, and an abort by id reaches a request that hangs in one.
    """

    checks_token_ids: bool = True
    refuses_two_prompts: bool = True
    has_seeds: bool = True
    input_logprobs_at_temperature: bool = True
    survives_broken_shards: bool = True
    forgets_on_update: bool = True
    sees_held_requests: bool = True


SGLANG_0_5_23 = Capabilities(
    checks_token_ids=False,
    refuses_two_prompts=False,
    has_seeds=False,
    input_logprobs_at_temperature=False,
    survives_broken_shards=False,
    forgets_on_update=False,
    sees_held_requests=False,
)


@dataclass(frozen=True)
class Answer:
    """One HTTP answer: its status, and its JSON body (None when it is none)."""

    status: int
    body: Any


def headers(key: str | None) -> dict[str, str]:
    """Headers of a request with a JSON body."""
    return {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}


@dataclass
class Served:
    """A running server. `folders`: base (served at the start), other, broken."""

    url: str
    folders: dict[str, Path]
    api_key: str = ""
    admin_key: str = ""
    capabilities: Capabilities = field(default_factory=Capabilities)
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(32))

    def call(self, path: str, body: object = None, key: str | None = None, method: str | None = None) -> Answer:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers(key))
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                raw, status = reply.read(), reply.status
        except urllib.error.HTTPError as error:
            raw, status = error.read(), error.code
        try:
            return Answer(status, json.loads(raw))
        except ValueError:
            return Answer(status, None)

    def admin(self, path: str, body: object = None) -> Answer:
        return self.call(path, {} if body is None else body, self.admin_key or self.api_key)

    def ask(self, **fields: object) -> Answer:
        return self.call("/generate", fields, self.api_key)

    def generate(
        self, ids: list[int], tokens: int = 8, *, top: dict[str, object] | None = None, **sampling: object
    ) -> Any:  # noqa: ANN401 - a JSON reply
        params = {"temperature": 0.0, "max_new_tokens": tokens, "ignore_eos": True, **sampling}
        answer = self.ask(input_ids=ids, return_logprob=True, sampling_params=params, **(top or {}))
        assert answer.status == 200, answer
        return answer.body

    def start(self, ids: list[int], tokens: int, *, top: dict[str, object] | None = None, **sampling: object) -> Future:
        """Sends a request without waiting for its answer."""
        return self.pool.submit(self.generate, ids, tokens, top=top, **sampling)

    def loads(self) -> tuple[int, int]:
        """(running, waiting)."""
        ranks = self.call("/v1/loads", key=self.api_key).body["loads"]
        return sum(rank["num_running_reqs"] for rank in ranks), sum(rank["num_waiting_reqs"] for rank in ranks)

    def wait_for(self, running: int | None = None, waiting: int | None = None) -> None:
        """Until the server says so; fails after 20 s."""
        deadline = time.monotonic() + 20
        while True:
            seen = self.loads()
            if running in (None, seen[0]) and waiting in (None, seen[1]):
                return
            assert time.monotonic() < deadline, f"loads stay at {seen}"

    def update(self, name: str, version: str | None, **fields: object) -> Answer:
        body = {"model_path": str(self.folders[name]), **fields}
        return self.admin("/update_weights_from_disk", body if version is None else {**body, "weight_version": version})

    def is_healthy(self) -> bool:
        try:
            return self.call("/health").status == 200
        except urllib.error.URLError:
            return False

    def lacks(self, capability: str, why: str) -> None:
        """Skips the test on a server without `capability`."""
        if not getattr(self.capabilities, capability):
            pytest.skip(why)

    def reset(self) -> None:
        """Nothing in flight, no pause, the base weights as version v0."""
        self.admin("/abort_request", {"abort_all": True})
        self.admin("/continue_generation")
        self.wait_for(running=0, waiting=0)
        assert self.update("base", "v0").status == 200


def write_models(folder: Path) -> dict[str, Path]:
    """The three model folders, and the path of one that does not exist."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|start|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(["the prize lies left of the open door </action>"], trainer)
    config = Qwen3Config(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=96, vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        eos_token_id=END_ID, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    folders = {name: folder / name for name in ("base", "other", "broken")}
    for seed, path in enumerate(folders.values()):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
        model.save_pretrained(path)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>").save_pretrained(
            path
        )
    shard = folders["broken"] / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    return {**folders, "missing": folder / "nowhere"}


def reference_logprobs(folder: Path, ids: list[int], temperature: float) -> np.ndarray:
    """transformers' own log-probabilities [len(ids), V] of the token after each position."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    return torch.log_softmax(logits / temperature, -1).numpy()


@contextmanager
def embedded(folders: dict[str, Path]) -> Iterator[Served]:
    """The embedded engine in a process of its own."""
    options = EngineOptions("embedded", HOST, free_port(HOST), MOST_RUNNING, CACHE_TOKENS)
    launch = embedded_launch(options, _start(options, folders))
    with serving(options, launch, folders, Capabilities()) as served:
        yield served


@contextmanager
def sglang(folders: dict[str, Path]) -> Iterator[Served]:
    """The real SGLang, started as a host starts it."""
    if not SGLANG_PYTHON and not CHECKOUT_PYTHON.is_file():
        pytest.skip("no SGLang here: `make sglang-cpu` builds its environment")
    options = EngineOptions("sglang", HOST, free_port(HOST), MOST_RUNNING, CACHE_TOKENS, python=SGLANG_PYTHON)
    launch = asyncio.run(sglang_launch(options, _start(options, folders)))
    with serving(options, launch, folders, SGLANG_0_5_23) as served:
        yield served


def _start(options: EngineOptions, folders: dict[str, Path]) -> Start:
    return Start(folders["base"], "0", options.port, API_KEY, ADMIN_KEY)


@contextmanager
def serving(
    options: EngineOptions, launch: EngineLaunch, folders: dict[str, Path], capabilities: Capabilities
) -> Iterator[Served]:
    """A server's process, once it is healthy; its output is shown when it does not get so."""
    log = folders["base"].parent / f"{options.engine}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            launch.command, stdout=output, stderr=subprocess.STDOUT, cwd=CHECKOUT, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **launch.environment},
        )  # fmt: skip
    served = Served(f"http://{options.host}:{options.port}", folders, API_KEY, ADMIN_KEY, capabilities)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not served.is_healthy():
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.2)
        yield served
    finally:
        launch.remove_keys()
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):  # SGLang's own children
            os.killpg(process.pid, signal.SIGKILL)
        served.pool.shutdown()
    if options.engine == "embedded":
        assert code == 0


ENGINES = {"embedded": embedded, "sglang": sglang}
