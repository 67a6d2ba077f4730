"""One policy update: trials -> samples -> packs -> gradient steps -> the next policy version.

`PolicyUpdater` owns the models, their optimizers and the version counter; it knows nothing of sockets or the journal.
An update is a function of its state and of the set of trials: on CPU in float32 the same trials give bit-equal
parameters.

A batch is trained in `optimizer.minibatches` optimizer steps. The proximal logprobs are those of the policy that the
update starts from. For the first minibatch they are the current ones, since nothing has changed yet; for the others
they are computed before the first step. With a single minibatch no token needs a second pass, whatever its age.

Until its first optimizer step an update has changed nothing, and can be given up (`PolicyUpdater.give_up`); after it,
only its end is a version again.

With PPO's critic the prompts are valued before anything else, by the critic that the update starts from. During
`critic.warmup_updates` the policy stays as it is while its version goes on counting.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lamer.common.config import learning_hash
from lamer.common.errors import BadInput, RunFailed
from lamer.common.messages import Metric
from lamer.common.records import Trial
from lamer.common.settings import Settings
from lamer.common.weights import WeightFile
from lamer.learner.credit.samples import Sample, make_samples, unscored_samples
from lamer.learner.memory.advice import TrainerPlan
from lamer.learner.trainer import checkpoint
from lamer.learner.trainer.critic import value_metrics
from lamer.learner.trainer.fitting import fitted
from lamer.learner.trainer.loss import entropy_coefficient, needs_proximal
from lamer.learner.trainer.metrics import TokenMeter, sample_metrics, trial_metrics
from lamer.learner.trainer.model.packing import pack
from lamer.learner.trainer.model.policy import PolicyModel, choose_device
from lamer.learner.trainer.model.snapshot import Snapshot
from lamer.learner.trainer.objective import (
    Minibatch,
    Objective,
    TrainingPack,
    compute_proximal,
    compute_reference,
    load_models,
    make_minibatch,
)
from lamer.learner.trainer.optimizer import ParameterOptimizer, learning_rate
from lamer.learner.trainer.parity import engine_parity
from lamer.learner.trainer.phases import Phases
from lamer.learner.trainer.ranks.chunks import own_chunk
from lamer.learner.trainer.ranks.dealing import Share
from lamer.learner.trainer.ranks.group import ALONE, Ranks

CRITIC = "critic."
"""Before the names of a critic's parameters in a checkpoint."""


class GivenUp(Exception):
    """An update ended before its first optimizer step, since nobody waits for it; the version is the one before."""


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What an update measured."""

    metrics: tuple[Metric, ...]


def split_minibatches(
    samples: Sequence[Sample], minibatches: int, seed: int, step: int, unit: str = "response"
) -> list[list[Sample]]:
    """Samples dealt to at most `minibatches` parts by a permutation that seed and step decide.

    unit: "response" deals single samples, to parts of equal size (within one); "trial" keeps those of a trial together,
    and gives every part an equal number of trials (within one).
    """
    if minibatches == 1:
        return [list(samples)]
    units = np.arange(len(samples)) if unit == "response" else np.array([sample.trial for sample in samples])
    names = np.unique(units)
    order = names[np.random.default_rng((seed, step)).permutation(len(names))]
    parts = np.array_split(order, minibatches)
    return [[samples[index] for index in np.flatnonzero(np.isin(units, part)).tolist()] for part in parts if len(part)]


class PolicyUpdater:
    """The policy being trained, its optimizer, and the version they have reached.

    plan: what its memory follows from, with `trainer.recompute` decided.
    """

    def __init__(self, settings: Settings, model_path: Path, ranks: Ranks = ALONE) -> None:
        """Load the model in folder `model_path` as policy version 0. ranks: that train it; all of them call all methods
        but `give_up` alike.

        Raises:
            Missing: no model there, or no torchao for `optimizer.kind` adamw_8bit.
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
        self._ranks = ranks
        device = choose_device(settings.trainer)
        plan = TrainerPlan.of(settings, is_cuda=device.type == "cuda")
        trainer = fitted(plan, settings.inference, model_path, device)
        self.plan = replace(plan, trainer=trainer)
        self._model = PolicyModel(model_path, trainer, settings.optimizer.pack_tokens, _weights_dtype(settings), ranks)
        self._models = load_models(
            self._model,
            trainer,
            settings.critic if settings.advantage.estimator == "ppo" else None,
            has_reference=settings.loss.kl_weight > 0,
        )
        compiles = settings.trainer.compile != "none" and self._model.device.type == "cuda"
        self._optimizers = [ParameterOptimizer("", self._model.parameters(), settings.optimizer, compiles=compiles)]
        if self._models.critic is not None:
            own = replace(settings.optimizer, learning_rate=settings.critic.learning_rate)
            critic = self._models.critic.parameters()
            self._optimizers.append(ParameterOptimizer(CRITIC, critic, own, compiles=compiles))
        self._settings_hash = learning_hash(settings)
        self._version = 0
        self._phases = Phases(self._model.device)
        self._is_given_up = threading.Event()

    @property
    def version(self) -> int:
        """The policy version held: the number of batches trained."""
        return self._version

    def give_up(self) -> None:
        """From any thread: let an update end at once if it has not changed anything yet, and begin no other."""
        self._is_given_up.set()

    def check_step(self, step: int) -> None:
        """Refuse another update than the next one.

        Raises:
            BadInput: as it says.
        """
        if step != self._version + 1:
            raise BadInput(
                f"policy version {self._version} can be trained on batch {self._version + 1}, got batch {step}"
            )

    def update(self, step: int, trials: Sequence[Trial]) -> UpdateResult:
        """Train on the batch of update `step` = version + 1; afterwards the version is `step`.

        Args:
            step: 1, 2, ...
            trials: every trial of the batch's groups, in any order.

        Raises:
            BadInput: another step than the next one, or a trial that can't be trained.
            RunFailed: a loss or gradient that is not finite; the step that would have used it is not taken.
            GivenUp: `give_up` was called before its first optimizer step.
        """
        self.check_step(step)
        begin = time.perf_counter()
        settings = self._settings
        phases = self._phases = Phases(self._model.device)
        samples = self._make_samples(trials)
        with phases.measure("packing"):
            batches = [self._minibatch(part) for part in self._split(samples, step)]
        with phases.measure("scoring"):
            self._score_before(batches)
        coefficient = entropy_coefficient(settings.loss, step, settings.batch.updates)
        meter = TokenMeter(settings.batch.max_staleness)
        objective = Objective(settings.loss, settings.critic, self._models, coefficient, meter)
        rate = learning_rate(settings.optimizer, step, settings.batch.updates)
        self._optimizers[0].set_learning_rate(rate)
        norms = [self._step(step, batch, objective, is_first=index == 0) for index, batch in enumerate(batches)]
        self._version = step
        metrics = (
            trial_metrics(trials, settings.trial.episodes, step - 1)
            + sample_metrics(samples)
            + meter.joined(self._ranks).metrics()
        )
        if self._models.critic is not None:
            metrics += value_metrics(samples)
        seconds = time.perf_counter() - begin
        tokens = sum(len(item.source.ids) for batch in batches for item in batch.packs)
        metrics += [
            Metric("loss/entropy_coefficient", coefficient),
            Metric("loss/grad_norm", sum(norms) / len(norms)),
            Metric("loss/learning_rate", rate),
            Metric("trainer/packed_tokens", float(tokens)),
            Metric("trainer/seconds", seconds),
            Metric("trainer/tokens_per_second", tokens / seconds),
        ]
        return UpdateResult((*metrics, *phases.metrics()))

    def gradient(self, trials: Sequence[Trial]) -> float:
        """The loss of trials as one minibatch; its gradient is left in the parameters, and no step is taken.

        Raises:
            BadInput: a trial that can't be trained.
        """
        settings, self._phases = self._settings, Phases(self._model.device)
        batch = self._minibatch(self._make_samples(trials))
        coefficient = entropy_coefficient(settings.loss, self._version + 1, settings.batch.updates)
        meter = TokenMeter(settings.batch.max_staleness)
        objective = Objective(settings.loss, settings.critic, self._models, coefficient, meter)
        self._score_before([batch])
        return float(self._accumulate(batch, objective, is_first=True))

    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The policy's, by their names in the weight file."""
        return self._model.parameters()

    def _minibatch(self, samples: Sequence[Sample]) -> Minibatch:
        return make_minibatch(self._model, pack(samples, self._settings.optimizer.pack_tokens))

    def _score_before(self, batches: Sequence[Minibatch]) -> None:
        """Proximal logprobs of all minibatches but the first, and those of the reference model, where they are used."""
        if needs_proximal(self._settings.loss):
            compute_proximal(self._model, self._wanted(share for batch in batches[1:] for share in batch.shares))
        if self._models.reference is not None:
            everything = (share for batch in batches for share in batch.shares)
            compute_reference(self._models.reference, self._wanted(everything))

    def _wanted(self, shares: Iterable[Share[TrainingPack]]) -> Iterator[Share[TrainingPack]]:
        """The shares, for as long as the update is not given up; where there are other ranks it can't be."""
        for share in shares:
            if self._is_given_up.is_set() and self._ranks.size == 1:
                raise GivenUp
            yield share

    def _split(self, samples: Sequence[Sample], step: int) -> list[list[Sample]]:
        optimizer = self._settings.optimizer
        return split_minibatches(
            samples, optimizer.minibatches, self._settings.run.seed, step, optimizer.minibatch_unit
        )

    def _make_samples(self, trials: Sequence[Trial]) -> tuple[Sample, ...]:
        settings, critic = self._settings, self._models.critic
        values = None
        if critic is not None:
            with self._phases.measure("scoring"):
                values = critic.score(unscored_samples(trials, self._version), settings.optimizer.pack_tokens)
        return make_samples(trials, self._version, settings.credit, settings.advantage, values)

    def parity(self, trials: Sequence[Trial], folder_of: Callable[[int], Path]) -> tuple[Metric, ...]:
        """How far engine and trainer disagree on `trainer.parity_responses` responses (`learner.trainer.parity`)."""
        responses = self._settings.trainer.parity_responses
        if not responses:
            return ()
        return engine_parity(self._model, trials, folder_of, responses, self._settings.optimizer.pack_tokens)

    def snapshot(self) -> Snapshot:
        """The policy of this moment, to be written as a model folder in the dtype of its forward pass; by rank 0, the
        others' is empty.
        """
        return self._model.snapshot()

    def save_weights(self, folder: Path) -> tuple[WeightFile, ...]:
        """Write that folder at once, whole or not at all.

        Returns:
            its weight files; nothing on ranks other than 0, which write nothing.
        """
        snapshot = self.snapshot()
        return snapshot.write(folder) if self._ranks.rank == 0 else ()

    def export(self, folder: Path) -> tuple[WeightFile, ...]:
        """Write the policy as a complete model folder with the dtypes of the one that the run started from.

        Returns:
            its weight files; nothing on ranks other than 0, which write nothing.
        """
        return self._model.export(folder)

    def save_checkpoint(self, folder: Path) -> Path:
        """Write a durable checkpoint of the version held as `folder` (`checkpoint.folder` names it).

        Returns:
            the folder.
        """
        parameters = {name: own_chunk(value) for name, value in self._parameters().items()}
        moments = {name: value for one in self._optimizers for name, value in one.moments().items()}
        state = checkpoint.TrainingState(
            self._version, self._settings_hash, checkpoint.random_states(self._model.device)
        )
        return checkpoint.save(folder, parameters, moments, state, self._ranks)

    def load_checkpoint(self, folder: Path) -> None:
        """Go on from a checkpoint: parameters, optimizer, random states and version become what they were.

        Raises:
            Missing: no such folder.
            BadInput: damaged, of another model, or written under other settings.
        """
        with checkpoint.opened(folder, self._ranks) as (stored, state):
            expected = self._settings_hash
            if state.settings_hash != expected:
                raise BadInput(
                    f"checkpoint {folder} was written under settings {state.settings_hash}, these are {expected}: "
                    "env, trial, credit, advantage, loss and optimizer must stay as they were, or a new run start from "
                    "its weights"
                )
            parameters = self._parameters()
            shapes = {name: tuple(value.shape) for name, value in parameters.items()}
            if {name: shape for name, shape in stored.shapes.items() if "/" not in name} != shapes:
                raise BadInput(f"checkpoint {folder} is of another model than {self._model.path}")
            for name, parameter in parameters.items():
                stored.copy_to(name, own_chunk(parameter))
            for one in self._optimizers:
                one.load_moments(stored)
        checkpoint.set_random_states(state.random_of(self._ranks), self._model.device)
        self._version = state.policy_version

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        """All that is trained, by name in a checkpoint."""
        return {name: value for one in self._optimizers for name, value in one.parameters().items()}

    def _step(self, step: int, batch: Minibatch, objective: Objective, *, is_first: bool) -> float:
        """One optimizer step over a minibatch; the norm of the policy's gradient before clipping."""
        total = self._accumulate(batch, objective, is_first=is_first)
        with self._phases.measure("optimizer"):
            return self._follow(step, batch, total)

    def _accumulate(self, batch: Minibatch, objective: Objective, *, is_first: bool) -> torch.Tensor:
        """The objective of a minibatch, pack by pack; its gradient is in the parameters then."""
        total = torch.zeros((), device=self._model.device)
        for one in self._optimizers:
            one.zero_grad()
        for share in self._wanted(batch.shares) if is_first else batch.shares:
            with self._phases.measure("forward"):
                part = objective.of_pack(share, batch, is_first=is_first)
            with self._phases.measure("backward"):
                torch.autograd.backward(part)
            total += part.detach()
            del part  # and with it what the next pack's memory may be
        return self._ranks.total(total)

    def _follow(self, step: int, batch: Minibatch, total: torch.Tensor) -> float:
        """The optimizer's step along a gradient that is finite; the norm of the policy's before clipping."""
        norms = [one.clip_gradient() for one in self._optimizers]
        if not all(map(math.isfinite, (*norms, float(total)))):
            largest = max(float(np.abs(item.source.tokens.advantages).max()) for item in batch.packs)
            raise RunFailed(
                f"update {step} is not finite: loss {float(total)}, gradient norm {max(norms)}, largest advantage "
                f"{largest:.4g}, {batch.tokens} tokens; lower optimizer.learning_rate or loss.importance_cap and resume"
            )
        is_warming_up = self._models.critic is not None and step <= self._settings.critic.warmup_updates
        for one in self._optimizers[1:] if is_warming_up else self._optimizers:
            one.step()
        for one in self._optimizers:
            one.zero_grad()
        return norms[0]


def _weights_dtype(settings: Settings) -> torch.dtype:
    """Of the parameters; float64 is for comparisons, where rounding would hide what is compared."""
    if settings.optimizer.kind == "adamw_8bit":
        return torch.bfloat16
    return torch.float64 if settings.trainer.dtype == "float64" else torch.float32
