"""The embedded engine beside transformers' own two ways to generate, on one thread and the same requests.

    embedded            the engine of `deploy.inference.embedded`, its log-probabilities included
    left_padded         `model.generate` on one left-padded batch
    continuous          `model.generate_batch`, transformers' continuous batching with its paged cache

Every request has a prompt of its own (no shared prefix) and generates to its full length with a random Qwen3 model of
about 3.7 million parameters. The contenders take turns in one process with one thread: first each answers a whole
batch as a warm-up, then each a batch in every round, all of them the same prompts. Figures are medians over rounds,
ratios are medians of the ratios within a round, so that what else the machine does meets all of them alike.
"""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

import msgspec

from lamer.common.errors import BadInput, RunFailed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_VOCABULARY = 2048
_CONTEXT = 4096
_PAGE_TOKENS = 256
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

Prompts = tuple[tuple[int, ...], ...]
Generate = Callable[[Prompts], int]
"""Answers a whole batch; returns how many tokens were made."""


@dataclass(frozen=True)
class EngineBenchPlan:
    """What every contender does: `requests` prompts of `prompt_tokens` random tokens, `new_tokens` each."""

    requests: int = 32
    prompt_tokens: int = 600
    new_tokens: int = 64
    rounds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.requests, self.prompt_tokens, self.new_tokens, self.rounds) < 1:
            raise BadInput(f"requests, prompt tokens, new tokens and rounds must each be at least 1, got {self}")
        if self.prompt_tokens + self.new_tokens > _CONTEXT:
            raise BadInput(f"prompt and new tokens must fit {_CONTEXT} together, got {self}")


@dataclass(frozen=True)
class ContenderFigure:
    """Medians over the rounds. seconds: wall clock of a whole batch; cpu_seconds: what the process computed in it;
    tokens_per_second: new tokens by the wall clock.
    """

    name: str
    seconds: float
    cpu_seconds: float
    new_tokens: int
    tokens_per_second: float


@dataclass(frozen=True)
class EngineBenchReport:
    """One run. `over_...`: how many times as fast the embedded engine is by the wall clock, the median over rounds;
    `cpu_over_...`: the same for CPU time, which other processes on the machine disturb less.
    """

    plan: EngineBenchPlan
    parameters: int
    embedded: ContenderFigure
    left_padded: ContenderFigure
    continuous: ContenderFigure
    over_left_padded: float
    over_continuous: float
    cpu_over_left_padded: float
    cpu_over_continuous: float

    def to_json(self) -> bytes:
        """The report as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)


def run_engine_bench(plan: EngineBenchPlan | None = None) -> EngineBenchReport:
    """Lets the three contenders take turns and compares them. Takes about two minutes on one core."""
    plan = plan or EngineBenchPlan()
    with (
        tempfile.TemporaryDirectory(prefix="lamer-engine-bench-") as name,
        _one_thread(),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(_run_rounds, Path(name), plan).result()


def _run_rounds(folder: Path, plan: EngineBenchPlan) -> EngineBenchReport:
    """The whole benchmark, in the process of this call."""
    import torch

    torch.set_num_threads(1)
    parameters = _write_model(folder, plan)
    contenders = {"embedded": _embedded, "left_padded": _left_padded, "continuous": _continuous}
    prepared = {name: prepare(folder, plan) for name, prepare in contenders.items()}
    passes: dict[str, list[_Pass]] = {name: [] for name in prepared}
    for number in range(plan.rounds + 1):
        prompts = _make_prompts(plan, plan.seed + number)
        for name, generate in prepared.items():
            done = _time_pass(name, generate, prompts, plan)
            if number > 0:  # the first round warms up
                passes[name].append(done)
    embedded, padded, continuous = (_figure(name, passes[name], plan) for name in contenders)
    return EngineBenchReport(
        plan=plan,
        parameters=parameters,
        embedded=embedded,
        left_padded=padded,
        continuous=continuous,
        over_left_padded=_ratio(passes, "left_padded", "seconds"),
        over_continuous=_ratio(passes, "continuous", "seconds"),
        cpu_over_left_padded=_ratio(passes, "left_padded", "cpu_seconds"),
        cpu_over_continuous=_ratio(passes, "continuous", "cpu_seconds"),
    )


@dataclass(frozen=True)
class _Pass:
    """One batch of one contender: wall clock and CPU time of the process."""

    seconds: float
    cpu_seconds: float


def _time_pass(name: str, generate: Generate, prompts: Prompts, plan: EngineBenchPlan) -> _Pass:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    made = generate(prompts)
    done = _Pass(time.perf_counter() - wall, time.process_time() - cpu)
    if made != plan.requests * plan.new_tokens:
        raise RunFailed(f"{name} made {made} tokens instead of {plan.requests * plan.new_tokens}")
    return done


def _figure(name: str, passes: list[_Pass], plan: EngineBenchPlan) -> ContenderFigure:
    seconds = median(one.seconds for one in passes)
    made = plan.requests * plan.new_tokens
    return ContenderFigure(name, seconds, median(one.cpu_seconds for one in passes), made, made / seconds)


def _ratio(passes: dict[str, list[_Pass]], other: str, kind: Literal["seconds", "cpu_seconds"]) -> float:
    """The other's time over the embedded engine's, round by round; the median."""
    rounds = zip(passes[other], passes["embedded"], strict=True)
    return median(float(getattr(theirs, kind) / getattr(ours, kind)) for theirs, ours in rounds)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Child processes started inside compute on one thread, in every thread that they start themselves."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _write_model(folder: Path, plan: EngineBenchPlan) -> int:
    """Writes the model; returns its number of parameters."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    torch.manual_seed(plan.seed)
    config = Qwen3Config(
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=768,
        vocab_size=_VOCABULARY,
        max_position_embeddings=_CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def _load(folder: Path) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()


def _make_prompts(plan: EngineBenchPlan, seed: int) -> Prompts:
    import numpy as np

    drawn = np.random.default_rng(seed).integers(1, _VOCABULARY, (plan.requests, plan.prompt_tokens))
    return tuple(tuple(row) for row in drawn.tolist())


def _embedded(folder: Path, plan: EngineBenchPlan) -> Generate:
    from lamer.deploy.inference.embedded.api import parse_generate
    from lamer.deploy.inference.embedded.engine import Engine, EngineOptions

    total = 2 * plan.requests * (plan.prompt_tokens + plan.new_tokens)
    engine = Engine(EngineOptions(folder, max_running=plan.requests, max_total_tokens=max(total, _CONTEXT)))

    async def answer(prompts: Prompts) -> int:
        sampling = {"max_new_tokens": plan.new_tokens, "ignore_eos": True, "temperature": 1.0}
        body = {"input_ids": prompts, "return_logprob": True, "sampling_params": sampling}
        engine.flush_cache()
        stepping = asyncio.create_task(engine.run())
        sequences = (await parse_generate(msgspec.json.encode(body), engine)).sequences
        engine.submit(sequences)
        await asyncio.gather(*(sequence.done for sequence in sequences))
        stepping.cancel()
        await asyncio.gather(stepping, return_exceptions=True)
        return sum(len(sequence.saved.ids) for sequence in sequences)

    return lambda prompts: asyncio.run(answer(prompts))


def _left_padded(folder: Path, plan: EngineBenchPlan) -> Generate:
    import torch

    model = _load(folder)

    def generate(prompts: Prompts) -> int:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                max_new_tokens=plan.new_tokens,
                min_new_tokens=plan.new_tokens,
            )
        return int(out[:, ids.shape[1] :].numel())

    return generate


def _continuous(folder: Path, plan: EngineBenchPlan) -> Generate:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = _load(folder)
    pages = -(-(plan.prompt_tokens + plan.new_tokens) // _PAGE_TOKENS) + 1
    batching = ContinuousBatchingConfig(
        page_size=_PAGE_TOKENS,
        num_blocks=plan.requests * pages,
        max_batch_tokens=plan.requests * _PAGE_TOKENS // 4,
        max_requests_per_batch=plan.requests,
        use_cuda_graph=False,
        use_async_batching=False,
    )

    def generate(prompts: Prompts) -> int:
        settings = GenerationConfig(
            max_new_tokens=plan.new_tokens, do_sample=True, top_k=0, eos_token_id=-1, pad_token_id=0
        )
        out = model.generate_batch(
            [[*prompt] for prompt in prompts],
            generation_config=settings,
            continuous_batching_config=batching,
            progress_bar=False,
            warmup=False,
        )
        return sum(len(one.generated_tokens) for one in out.values())

    return generate
