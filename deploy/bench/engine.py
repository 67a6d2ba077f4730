"""The embedded engine beside transformers' own two ways to generate, on one thread and the same requests.

    embedded            the engine of `deploy.inference.embedded`, its log-probabilities included
    left_padded         `model.generate` on one left-padded batch
    continuous          `model.generate_batch`, transformers' continuous batching with its paged cache

Every request has a prompt of its own (no shared prefix) and generates to its full length with a random Qwen3 model of
about 3.7 million parameters. Each contender runs in a fresh process with one thread, warmed up by a whole batch
of other prompts first.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from common.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_VOCABULARY = 2048
_CONTEXT = 4096
_PAGE_TOKENS = 256
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

Result = TypeVar("Result")
Prompts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class EngineBenchPlan:
    """What every contender does: `requests` prompts of `prompt_tokens` random tokens, `new_tokens` each."""

    requests: int = 32
    prompt_tokens: int = 600
    new_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.requests, self.prompt_tokens, self.new_tokens) < 1:
            raise BadInput(f"an engine benchmark needs requests, prompt and new tokens of at least 1, got {self}")
        if self.prompt_tokens + self.new_tokens > _CONTEXT:
            raise BadInput(f"prompt and new tokens must fit {_CONTEXT} together, got {self}")


@dataclass(frozen=True)
class ContenderFigure:
    """seconds: wall clock of the whole batch; cpu_seconds: what its process computed; tokens_per_second: new tokens."""

    name: str
    seconds: float
    cpu_seconds: float
    new_tokens: int
    tokens_per_second: float


@dataclass(frozen=True)
class EngineBenchReport:
    """One run. `over_...`: ratios of wall-clock throughput, embedded over the other; `cpu_over_...`: the same for a
    CPU-second, which other processes on the machine disturb less.
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
    """Runs the three contenders one after the other and compares them. Takes about two minutes on one core."""
    plan = plan or EngineBenchPlan()
    with tempfile.TemporaryDirectory(prefix="lamer-engine-bench-") as name, _one_thread():
        folder = Path(name)
        parameters = _apart(_write_model, folder, plan)
        embedded, padded, continuous = (_apart(run, folder, plan) for run in (_embedded, _left_padded, _continuous))
    return EngineBenchReport(
        plan=plan,
        parameters=parameters,
        embedded=embedded,
        left_padded=padded,
        continuous=continuous,
        over_left_padded=embedded.tokens_per_second / padded.tokens_per_second,
        over_continuous=embedded.tokens_per_second / continuous.tokens_per_second,
        cpu_over_left_padded=padded.cpu_seconds / embedded.cpu_seconds,
        cpu_over_continuous=continuous.cpu_seconds / embedded.cpu_seconds,
    )


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


def _apart(run: Callable[[Path, EngineBenchPlan], Result], folder: Path, plan: EngineBenchPlan) -> Result:
    """`run(folder, plan)` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run, folder, plan).result()


def _write_model(folder: Path, plan: EngineBenchPlan) -> int:
    """Writes the model; returns its number of parameters."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

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

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _make_prompts(plan: EngineBenchPlan, seed: int) -> Prompts:
    import numpy as np

    drawn = np.random.default_rng(seed).integers(1, _VOCABULARY, (plan.requests, plan.prompt_tokens))
    return tuple(tuple(row) for row in drawn.tolist())


def _measure(name: str, plan: EngineBenchPlan, generate: Callable[[Prompts, int], int]) -> ContenderFigure:
    """Times `generate(prompts, new tokens each) -> tokens made`, after the same on other prompts: memory is mapped."""
    generate(_make_prompts(plan, plan.seed + 1), plan.new_tokens)
    prompts = _make_prompts(plan, plan.seed)
    wall, cpu = time.perf_counter(), time.process_time()
    made = generate(prompts, plan.new_tokens)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if made != plan.requests * plan.new_tokens:
        raise RuntimeError(f"{name} made {made} tokens instead of {plan.requests * plan.new_tokens}")
    return ContenderFigure(name, wall, cpu, made, made / wall)


def _embedded(folder: Path, plan: EngineBenchPlan) -> ContenderFigure:
    import torch

    from deploy.inference.embedded.api import parse_generate
    from deploy.inference.embedded.engine import Engine, EngineOptions

    torch.set_num_threads(1)
    total = 2 * plan.requests * (plan.prompt_tokens + plan.new_tokens)
    engine = Engine(EngineOptions(folder, max_running=plan.requests, max_total_tokens=max(total, _CONTEXT)))

    async def answer(prompts: Prompts, new_tokens: int) -> int:
        sampling = {"max_new_tokens": new_tokens, "ignore_eos": True, "temperature": 1.0}
        body = {"input_ids": prompts, "return_logprob": True, "sampling_params": sampling}
        engine.flush_cache()
        stepping = asyncio.create_task(engine.run())
        sequences = parse_generate(msgspec.json.encode(body), engine).sequences
        engine.submit(sequences)
        await asyncio.gather(*(sequence.done for sequence in sequences))
        stepping.cancel()
        await asyncio.gather(stepping, return_exceptions=True)
        return sum(len(sequence.saved.ids) for sequence in sequences)

    return _measure("embedded", plan, lambda prompts, new: asyncio.run(answer(prompts, new)))


def _left_padded(folder: Path, plan: EngineBenchPlan) -> ContenderFigure:
    import torch

    model = _load(folder)

    def generate(prompts: Prompts, new_tokens: int) -> int:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
            )
        return int(out[:, ids.shape[1] :].numel())

    return _measure("left_padded", plan, generate)


def _continuous(folder: Path, plan: EngineBenchPlan) -> ContenderFigure:
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

    def generate(prompts: Prompts, new_tokens: int) -> int:
        settings = GenerationConfig(max_new_tokens=new_tokens, do_sample=True, top_k=0, eos_token_id=-1, pad_token_id=0)
        out = model.generate_batch(
            [[*prompt] for prompt in prompts],
            generation_config=settings,
            continuous_batching_config=batching,
            progress_bar=False,
            warmup=False,
        )
        return sum(len(one.generated_tokens) for one in out.values())

    return _measure("continuous", plan, generate)
