"""One policy update: trials -> samples -> packs -> gradient steps -> the next policy version.

`PolicyUpdater` owns the model, the optimizer and the version counter; it knows nothing of sockets or the journal. An
update is a function of its state and of the set of trials: on CPU in float32 the same trials give bit-equal
parameters.

A batch is trained in `optimizer.minibatches` optimizer steps. The proximal logprobs are those of the policy that the
update starts from. For the first minibatch they are the current ones, since nothing has changed yet; for the others
they are computed before the first step. With a single minibatch no token needs a second pass, whatever its age.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.errors import BadInput, RunFailed
from common.messages import Metric
from common.records import Trial
from common.settings import OptimizerSettings, Settings
from common.weights import WeightFile
from learner import checkpoint
from learner.loss import TokenLogprobs, entropy_coefficient, policy_loss
from learner.metrics import TokenMeter, sample_metrics, trial_metrics
from learner.model import PackInput, PolicyModel
from learner.packing import Pack, pack
from learner.parity import engine_parity
from learner.samples import Sample, make_samples


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What an update measured."""

    metrics: tuple[Metric, ...]


@dataclass(slots=True)
class _LoadedPack:
    """A pack on the model's device. proximal: logprobs [N] under the policy before the update, None while not
    computed.
    """

    source: Pack
    data: PackInput
    behaviour: torch.Tensor
    advantages: torch.Tensor
    ages: torch.Tensor
    proximal: torch.Tensor | None = None


def split_minibatches(samples: Sequence[Sample], minibatches: int, seed: int, step: int) -> list[list[Sample]]:
    """Samples dealt to at most `minibatches` parts of equal size (within one), by a permutation that seed and step
    decide.
    """
    if minibatches == 1:
        return [list(samples)]
    order = np.random.default_rng((seed, step)).permutation(len(samples))
    parts = np.array_split(order, minibatches)
    return [[samples[index] for index in np.sort(part)] for part in parts if len(part)]


class PolicyUpdater:
    """The policy being trained, its optimizer, and the version they have reached."""

    def __init__(self, settings: Settings, model_path: Path) -> None:
        """Load the model in folder `model_path` as policy version 0.

        Raises:
            Missing: no model there.
            BadInput: a model that can't be trained, or `optimizer.pack_tokens` too small for one prompt and response.
        """
        trial = settings.trial
        longest = trial.max_prompt_tokens + max(trial.max_response_tokens, trial.max_reflection_tokens)
        if settings.optimizer.pack_tokens < longest:
            raise BadInput(
                f"optimizer.pack_tokens {settings.optimizer.pack_tokens} is under the longest prompt and response, "
                f"{longest} tokens"
            )
        torch.set_num_threads(settings.trainer.threads)
        self._settings = settings
        self._model = PolicyModel(model_path, settings.trainer)
        self._parameters = list(self._model.parameters().values())
        self._optimizer = _make_optimizer(self._parameters, settings.optimizer)
        self._version = 0

    @property
    def version(self) -> int:
        """The policy version held: the number of batches trained."""
        return self._version

    def update(self, step: int, trials: Sequence[Trial]) -> UpdateResult:
        """Train on the batch of update `step` = version + 1; afterwards the version is `step`.

        Args:
            step: 1, 2, ...
            trials: every trial of the batch's groups, in any order.

        Raises:
            BadInput: another step than the next one, or a trial that can't be trained.
            RunFailed: a loss or gradient that is not finite; the step that would have used it is not taken.
        """
        if step != self._version + 1:
            raise BadInput(
                f"policy version {self._version} can be trained on batch {self._version + 1}, got batch {step}"
            )
        begin = time.perf_counter()
        settings = self._settings
        samples = make_samples(trials, self._version, settings.credit, settings.advantage)
        batches = [
            [self._load(item) for item in pack(part, settings.optimizer.pack_tokens)]
            for part in split_minibatches(samples, settings.optimizer.minibatches, settings.run.seed, step)
        ]
        if settings.loss.kind == "decoupled_ppo":
            self._compute_proximal([item for batch in batches[1:] for item in batch])
        coefficient = entropy_coefficient(settings.loss, step, settings.batch.updates)
        meter = TokenMeter(settings.batch.max_staleness)
        rate = learning_rate(settings.optimizer, step, settings.batch.updates)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate
        norms = [
            self._step(step, batch, coefficient, is_first=index == 0, meter=meter)
            for index, batch in enumerate(batches)
        ]
        self._version = step
        metrics = trial_metrics(trials, settings.trial.episodes, step - 1) + sample_metrics(samples) + meter.metrics()
        seconds = time.perf_counter() - begin
        tokens = sum(len(item.source.ids) for batch in batches for item in batch)
        metrics += [
            Metric("loss/entropy_coefficient", coefficient),
            Metric("loss/grad_norm", sum(norms) / len(norms)),
            Metric("loss/learning_rate", rate),
            Metric("trainer/packed_tokens", float(tokens)),
            Metric("trainer/seconds", seconds),
            Metric("trainer/tokens_per_second", tokens / seconds),
        ]
        return UpdateResult(tuple(metrics))

    def parity(self, trials: Sequence[Trial], folder_of: Callable[[int], Path]) -> tuple[Metric, ...]:
        """How far engine and trainer disagree on `trainer.parity_responses` responses (`learner.parity`)."""
        responses = self._settings.trainer.parity_responses
        if not responses:
            return ()
        return engine_parity(self._model, trials, folder_of, responses, self._settings.optimizer.pack_tokens)

    def save_weights(self, folder: Path) -> tuple[WeightFile, ...]:
        """Write the policy as a complete model folder, whole or not at all.

        Returns:
            its weight files.
        """
        return self._model.save(folder)

    def save_checkpoint(self, folder: Path) -> Path:
        """Write a durable checkpoint of the version held as `folder` (`checkpoint.folder` names it).

        Returns:
            the folder.
        """
        names: dict[torch.Tensor, str] = {value: name for name, value in self._model.parameters().items()}
        moments = {
            f"{names[parameter]}/{key}": value
            for parameter, state in self._optimizer.state.items()
            for key, value in state.items()
        }
        state = checkpoint.TrainingState(
            self._version, checkpoint.learning_hash(self._settings), checkpoint.random_states()
        )
        return checkpoint.save(folder, self._model.parameters(), moments, state)

    def load_checkpoint(self, folder: Path) -> None:
        """Go on from a checkpoint: parameters, optimizer, random states and version become what they were.

        Raises:
            Missing: no such folder.
            BadInput: damaged, of another model, or written under other settings.
        """
        tensors, moments, state = checkpoint.load(folder)
        expected = checkpoint.learning_hash(self._settings)
        if state.settings_hash != expected:
            raise BadInput(
                f"checkpoint {folder} was written under settings {state.settings_hash}, these are {expected}: "
                "env, trial, credit, advantage, loss and optimizer must stay as they were, or a new run start from its "
                "weights"
            )
        parameters = self._model.parameters()
        shapes = {name: tuple(value.shape) for name, value in parameters.items()}
        if {name: tuple(value.shape) for name, value in tensors.items()} != shapes:
            raise BadInput(f"checkpoint {folder} is of another model than {self._model.path}")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name])
        for key, value in moments.items():
            name, _, kind = key.rpartition("/")
            self._optimizer.state[parameters[name]][kind] = value.to(self._model.device)
        checkpoint.set_random_states(state.random)
        self._version = state.policy_version

    def _load(self, item: Pack) -> _LoadedPack:
        device = self._model.device
        return _LoadedPack(
            source=item,
            data=self._model.prepare(item),
            behaviour=torch.from_numpy(item.tokens.behaviour).to(device),
            advantages=torch.from_numpy(item.tokens.advantages).to(device),
            ages=torch.from_numpy(item.tokens.ages).to(device),
        )

    @torch.no_grad()
    def _compute_proximal(self, packs: Sequence[_LoadedPack]) -> None:
        for item in packs:
            item.proximal = self._model.score(item.data).logprobs

    def _step(
        self, step: int, packs: Sequence[_LoadedPack], coefficient: float, *, is_first: bool, meter: TokenMeter
    ) -> float:
        """One optimizer step over a minibatch; the norm of its gradient before clipping."""
        tokens = sum(len(item.advantages) for item in packs)
        total = torch.zeros((), device=self._model.device)
        self._optimizer.zero_grad(set_to_none=True)
        for item in packs:
            scores = self._model.score(item.data)
            if is_first:
                item.proximal = scores.logprobs.detach()
            proximal = item.behaviour if item.proximal is None else item.proximal
            logprobs = TokenLogprobs(scores.logprobs, proximal, item.behaviour)
            loss = policy_loss(logprobs, item.advantages, self._settings.loss)
            objective = (loss.losses.sum() - coefficient * scores.entropies.sum()) / tokens
            torch.autograd.backward(objective)
            total += objective.detach()
            meter.add(loss, scores.entropies)
            if item.proximal is not None:
                meter.compare(item.proximal, item.behaviour, item.ages)
        limit = self._settings.optimizer.max_grad_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, limit))
        if not (math.isfinite(norm) and math.isfinite(float(total))):
            largest = max(float(item.advantages.abs().max()) for item in packs)
            raise RunFailed(
                f"update {step} is not finite: loss {float(total)}, gradient norm {norm}, largest advantage "
                f"{largest:.4g}, {tokens} tokens; lower optimizer.learning_rate or loss.importance_cap and resume"
            )
        self._optimizer.step()
        return norm


def learning_rate(settings: OptimizerSettings, step: int, updates: int) -> float:
    """The learning rate of update `step` (1, 2, ... `updates`): a linear rise, then constant or a linear fall.

    Adam's steps have about the size of the learning rate whatever the gradient. At first its averages know nothing, and
    once a task is solved only noise is left to follow: both can cost a small model what it has learned.
    """
    rise = min(1.0, step / max(1, settings.warmup_updates))
    left = max(updates - step + 1, 1) / max(updates - settings.warmup_updates, 1)
    fall = min(1.0, left) if settings.schedule == "linear" else 1.0
    return settings.learning_rate * rise * fall


def _make_optimizer(parameters: Sequence[torch.nn.Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )
