"""Servers that the contract tests run against, and what differs between them: keys, capabilities, start-up.

`Served` speaks SGLang's HTTP contract to one of them. The model is a tiny random Qwen3, with a second folder of the
same shape and other weights to update to, and a third whose only shard is cut short.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
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
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

CHECKOUT = Path(__file__).resolve().parents[2]
VOCABULARY = 320
CONTEXT = 1024
END_ID = 2


@dataclass(frozen=True)
class Capabilities:
    """What a server does beyond the common contract."""

    checks_token_ids: bool = True
    has_seeds: bool = True
    input_logprobs_at_temperature: bool = True


@dataclass(frozen=True)
class Answer:
    """One HTTP answer: its status, and its JSON body (None when it is none)."""

    status: int
    body: Any


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
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        if key:
            request.add_header("Authorization", f"Bearer {key}")
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
        total = self.call("/v1/loads", key=self.api_key).body["aggregate"]
        return total["total_running_reqs"], total["total_waiting_reqs"]

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

    def reset(self) -> None:
        """Nothing in flight, no pause, the base weights as version v0."""
        self.admin("/abort_request", {"abort_all": True})
        self.admin("/continue_generation")
        self.wait_for(running=0, waiting=0)
        assert self.update("base", "v0").status == 200


def write_models(folder: Path) -> dict[str, Path]:
    """The three model folders."""
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
        tokenizer.save(str(path / "tokenizer.json"))
    shard = folders["broken"] / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    return folders


def reference_logprobs(folder: Path, ids: list[int], temperature: float) -> np.ndarray:
    """transformers' own log-probabilities [len(ids), V] of the token after each position."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    return torch.log_softmax(logits / temperature, -1).numpy()


@contextmanager
def embedded(folders: dict[str, Path], *, api_key: str = "", admin_key: str = "", **flags: object) -> Iterator[Served]:
    """The embedded engine in a process of its own."""
    options = {"model-path": folders["base"], "port": 0, "weight-version": "v0", **flags}
    if api_key:
        options["api-key"] = api_key
    if admin_key:
        options["admin-api-key"] = admin_key
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.inference.embedded", *words],
        stdout=subprocess.PIPE, cwd=CHECKOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
    )  # fmt: skip
    served = None
    try:
        served = Served(_read_url(process), folders, api_key, admin_key)
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert process.stdout is not None
        process.stdout.close()
        if served is not None:
            served.pool.shutdown()


def _read_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], 90)
    assert readable, "the server was not ready after 90 s"
    line = process.stdout.readline()
    assert line.startswith("ready http://"), line
    return line.split()[1]


ENGINES = {"embedded": embedded}
