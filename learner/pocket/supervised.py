"""Supervised fine-tuning: next-token cross-entropy over responses and, with a weight of its own, over prompts.

    Example       one prompt and one response to it
    fine_tune     model folder + examples -> a new model folder, whole or not at all, and what the training measured

The response part teaches the format. The prompt part gives a model of random weights what a pretrained one brings
along: it can read. It says nothing about what to answer, since the responses stay random whatever the prompt.

Batches are drawn from a shuffled order, sorted by length within a window of a few batches so that little is padding.
The learning rate rises over the first
twentieth of the steps and falls linearly to nothing, which averages the noise of sampled targets away.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from lamer.common.errors import BadInput, RunFailed
from lamer.common.folders import whole_folder
from lamer.common.records import TokenIds
from lamer.common.weights import companion_files

_WINDOW_BATCHES = 8
_MAX_GRAD_NORM = 1.0
_LOSS_WINDOW = 20


@dataclass(frozen=True, slots=True)
class Example:
    """prompt_ids: int32 [P], P >= 1. response_ids: int32 [R], R >= 1, the end-of-sequence token included."""

    prompt_ids: TokenIds
    response_ids: TokenIds

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True, slots=True)
class FineTuning:
    """How to train: AdamW `steps` of `batch` examples each, peak `learning_rate`, on `threads` threads of the CPU.

    prompt_weight: of the mean cross-entropy over prompt tokens, beside 1 for that over response tokens.
    """

    steps: int
    batch: int
    learning_rate: float
    prompt_weight: float = 0.0
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True, slots=True)
class FineTuned:
    """What it measured. loss: mean cross-entropy in nats per response token over the last steps."""

    loss: float
    first_loss: float
    steps: int
    tokens: int
    seconds: float


def fine_tune(model_path: Path, examples: Sequence[Example], plan: FineTuning, output: Path) -> FineTuned:
    """Train the model of `model_path` in fp32 on the CPU and write the result, with its other files, to `output`.

    Raises:
        BadInput: there are no examples, or one is longer than the model's context.
        RunFailed: the loss is not finite.
    """
    started = time.perf_counter()
    torch.set_num_threads(plan.threads)
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32, use_safetensors=True)
    _check_examples(examples, int(model.config.max_position_embeddings))
    model.train()
    losses, tokens = _train(model, examples, plan)
    with whole_folder(output) as temporary:
        copy_other_files(model_path, temporary)
        model.save_pretrained(temporary)
    recent = losses[-_LOSS_WINDOW:]
    return FineTuned(
        loss=sum(recent) / len(recent),
        first_loss=losses[0],
        steps=len(losses),
        tokens=tokens,
        seconds=time.perf_counter() - started,
    )


def copy_other_files(source: Path, target: Path) -> None:
    """Copy the files of a model folder that are not weights: configuration, tokenizer, chat template."""
    for path in companion_files(source):
        shutil.copyfile(path, target / path.name)


def _train(model: torch.nn.Module, examples: Sequence[Example], plan: FineTuning) -> tuple[list[float], int]:
    """The loss of every step, and how many tokens went through the model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    warm_up = max(1, plan.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (plan.steps - step) / max(1, plan.steps - warm_up))
    )
    losses: list[float] = []
    tokens = 0
    batches = _batches([len(example) for example in examples], plan)
    for step, chosen in zip(range(plan.steps), batches, strict=False):
        parts = token_losses(model, [examples[index] for index in chosen])
        loss = parts.response + plan.prompt_weight * parts.prompt
        losses.append(float(parts.response.detach()))
        if not np.isfinite(losses[-1]):
            raise RunFailed(
                f"the warm start's loss is {losses[-1]} at step {step + 1} of {plan.steps}:"
                f" lower model.warmstart.learning_rate ({plan.learning_rate})"
            )
        tokens += sum(len(examples[index]) for index in chosen)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()
    return losses, tokens


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Mean cross-entropy in nats per response token, and per prompt token after the first."""

    response: torch.Tensor
    prompt: torch.Tensor


def token_losses(model: torch.nn.Module, examples: Sequence[Example]) -> TokenLosses:
    """The losses of a batch. Padding stands on the right, out of causal attention's sight."""
    length = max(len(example) for example in examples)
    ids = np.zeros((len(examples), length), dtype=np.int64)
    is_response = np.zeros((len(examples), length), dtype=bool)
    is_prompt = np.zeros((len(examples), length), dtype=bool)
    for row, example in enumerate(examples):
        start, end = len(example.prompt_ids), len(example)
        ids[row, :start], ids[row, start:end] = example.prompt_ids, example.response_ids
        is_prompt[row, :start], is_response[row, start:end] = True, True
    tokens = torch.from_numpy(ids)
    hidden = model.base_model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state  # type: ignore[operator]
    means = []
    for chosen in (torch.from_numpy(is_response[:, 1:]), torch.from_numpy(is_prompt[:, 1:])):
        logits = model.get_output_embeddings()(hidden[chosen])  # type: ignore[operator]
        total = functional.cross_entropy(logits.float(), tokens[:, 1:][chosen], reduction="sum")
        means.append(total / max(1, int(chosen.sum())))
    return TokenLosses(means[0], means[1])


def _batches(lengths: Sequence[int], plan: FineTuning) -> Iterator[np.ndarray]:
    """Indices of one batch after another, without end; every example comes up once in each pass over the data."""
    rng = np.random.default_rng(plan.seed)
    sizes = np.asarray(lengths)
    batch = min(plan.batch, len(sizes))
    while True:
        order = rng.permutation(len(sizes))
        window = batch * _WINDOW_BATCHES
        chunks: list[np.ndarray] = []
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(sizes[part], kind="stable")]
            chunks.extend(part[low : low + batch] for low in range(0, len(part) - batch + 1, batch))
        for index in rng.permutation(len(chunks)):
            yield chunks[index]


def _check_examples(examples: Sequence[Example], context: int) -> None:
    if not examples:
        raise BadInput("the warm start has no examples: model.warmstart.trials must be played out at least once")
    longest = max(len(example) for example in examples)
    if longest > context:
        raise BadInput(
            f"the longest example of the warm start has {longest} tokens, the model's context {context}:"
            " raise model.pocket.context or choose a shorter prompt (env.options)"
        )
