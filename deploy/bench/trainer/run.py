"""The trainer benchmark: whole updates on new trials and on the same again, then the other ways to their gradient.

A round has trials of its own. Contenders take turns in one process, in another order each round; the first round warms
up. Figures are medians over the other rounds, ratios are medians of the ratios within a round.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median

import torch

from lamer.common.errors import BadInput
from lamer.common.records import Trial
from lamer.common.settings import Settings
from lamer.deploy.bench.trainer.measuring import PeakMemory, clock_of, device_name, peak_operations
from lamer.deploy.bench.trainer.models import model_folder, vocabulary_of
from lamer.deploy.bench.trainer.plain import PlainModel, Rows, bare_rows, packed, padded, same
from lamer.deploy.bench.trainer.report import OtherFigures, OurFigures, Ratios, TrainerReport, WorkFigures
from lamer.deploy.bench.trainer.trials import TrialShape, as_fresh, made_up_trials, recorded_trials
from lamer.learner.credit.samples import Sample, make_samples
from lamer.learner.trainer.loss import entropy_coefficient
from lamer.learner.trainer.model.packing import pack
from lamer.learner.trainer.model.policy import choose_device, choose_dtype
from lamer.learner.trainer.update import PolicyUpdater

OTHERS = ("padded", "packed_transformers", "bare_layers")
_SHARED_MEMORY = "/dev/shm"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TrainerBenchOptions:
    """model: a folder or the name of an architecture. run: a run whose journal holds the trials, None for made-up ones
    of `shape`. rounds: measured, after one that warms up. others: of `OTHERS`, measured beside ours. settings: of the
    trainer, the optimizer, the loss and credit.
    """

    model: str
    run: Path | None
    shape: TrialShape
    settings: Settings
    rounds: int = 3
    others: tuple[str, ...] = OTHERS
    seed: int = 0
    output: Path | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.others) - set(OTHERS)):
            raise BadInput(f"{unknown[0]!r} is none of {', '.join(OTHERS)}")
        if self.others and (self.settings.advantage.estimator == "ppo" or self.settings.loss.kl_weight > 0):
            raise BadInput("with a critic or a KL reference there is nothing to compare with: use --alone")


@dataclass(slots=True)
class _Rounds:
    """What the rounds measured, a value each; the first one's apart."""

    first: float = 0.0
    new: list[float] = field(default_factory=list)
    repeated: list[float] = field(default_factory=list)
    gradient: list[float] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)
    flat: list[float] = field(default_factory=list)
    work: list[WorkFigures] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    differences: dict[str, tuple[float, float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def run_trainer_bench(options: TrainerBenchOptions, say: Say) -> TrainerReport:
    """Measure; the report is written to `options.output` as well. say: is told what goes on, in lines.

    Raises:
        LamerError: the model, the settings or the trials can't be used.
    """
    settings = options.settings
    torch.set_num_threads(settings.trainer.threads)
    device = choose_device(settings.trainer)
    with tempfile.TemporaryDirectory(prefix="lamer-trainer-bench-", dir=_memory_folder()) as name:
        is_bfloat16 = choose_dtype(settings.trainer, device) is torch.bfloat16
        folder = model_folder(options.model, Path(name), is_bfloat16=is_bfloat16, seed=options.seed)
        batches = _batches(options, vocabulary_of(folder))
        bench = _Bench(options, folder, batches, device, say)
        report = bench.run()
    if options.output is not None:
        report.write(options.output)
    return report


def _memory_folder() -> str | None:
    """Where a model is made and published: in memory if there is such a folder, as on any Linux."""
    return _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None


def _batches(options: TrainerBenchOptions, vocabulary: int) -> tuple[tuple[Trial, ...], ...]:
    """The trials of each round."""
    rounds = options.rounds + 1
    if options.run is None:
        return tuple(made_up_trials(options.shape, vocabulary, options.seed + number) for number in range(rounds))
    found = tuple(map(as_fresh, recorded_trials(options.run, rounds)))
    if len(found) < rounds:
        raise BadInput(f"{options.run} has {len(found)} batches: at most --rounds {len(found) - 1} can be measured")
    return found


class _Bench:
    """One benchmark's models and figures."""

    def __init__(
        self,
        options: TrainerBenchOptions,
        folder: Path,
        batches: Sequence[tuple[Trial, ...]],
        device: torch.device,
        say: Say,
    ) -> None:
        self._options = options
        self._folder = folder
        self._batches = batches
        self._device = device
        self._say = say
        self._settings = _fitted(options.settings, batches)
        self._clock = clock_of(device, options.settings.trainer.threads)
        self._rounds = _Rounds()

    def run(self) -> TrainerReport:
        """All rounds."""
        memory = PeakMemory.begin(self._device)
        updater = PolicyUpdater(self._settings, self._folder)
        self._settings = replace(self._settings, trainer=updater.plan.trainer)  # with what auto came to
        parameters = updater.parameters()
        dtype = choose_dtype(self._settings.trainer, self._device)
        if all(parameter.dtype is torch.bfloat16 for parameter in parameters.values()):
            dtype = torch.bfloat16
        peak = 0
        plain: PlainModel | None = None
        for number, trials in enumerate(self._batches):
            self._updates(updater, trials, is_measured=number > 0)
            if number == 0:
                peak = memory.read()
                if self._options.others:
                    autocast = None if dtype is torch.float32 else dtype
                    is_recomputed = self._settings.trainer.recompute == "layers"
                    plain = PlainModel(self._folder, parameters, autocast, is_recomputed=is_recomputed)
            self._gradients(updater, plain, trials, number)
            self._say(f"round {number} of {len(self._batches) - 1}")
        publishing, _ = self._clock.time(lambda: updater.save_weights(self._folder.parent / "published"))
        return self._report(parameters, dtype, peak, memory.kind, publishing)

    def _updates(self, updater: PolicyUpdater, trials: tuple[Trial, ...], *, is_measured: bool) -> None:
        """Two updates on the same trials."""
        new, result = self._clock.time(lambda: updater.update(updater.version + 1, trials))
        again, _ = self._clock.time(lambda: updater.update(updater.version + 1, trials))
        rounds = self._rounds
        if not is_measured:
            rounds.first = new
            return
        metrics = {metric.name: metric.value for metric in result.metrics}
        rounds.new.append(new)
        rounds.repeated.append(again)
        rounds.flat.append(metrics["trainer/packed_tokens"])
        ending = "_seconds"
        rounds.phases.append(
            {name[len("trainer/") : -len(ending)]: metrics[name] for name in metrics if name.endswith(ending)}
        )

    def _gradients(
        self, updater: PolicyUpdater, plain: PlainModel | None, trials: tuple[Trial, ...], number: int
    ) -> None:
        """Ours and the others on the trials of a round, in an order of its own."""
        settings = self._settings
        samples = make_samples(trials, updater.version, settings.credit, settings.advantage, None)
        work = self._work(samples, len(trials))
        losses: dict[str, float] = {}
        kept: dict[str, torch.Tensor] = {}
        order = ["ours", *self._options.others]
        turn = number % len(order)
        if number == 0:
            turn = 0
        seconds: dict[str, float] = {}
        for name in order[turn:] + order[:turn]:
            if name == "ours":
                seconds[name], losses[name] = self._clock.time(lambda: updater.gradient(trials))
                if number == 0:
                    kept = _taken(updater.parameters())
            elif plain is not None and name not in self._rounds.failed:
                self._other(name, plain, samples, work, updater, seconds, losses)
                if number == 0 and name in losses:
                    found = abs(losses[name] - losses["ours"]) / max(abs(losses["ours"]), 1e-30)
                    self._rounds.differences[name] = (found, same(kept, plain.gradients()))
                plain.forget()
        if number == 0:
            return
        self._rounds.work.append(work)
        self._rounds.gradient.append(seconds.pop("ours"))
        for name, value in seconds.items():
            self._rounds.seconds.setdefault(name, []).append(value)

    def _other(
        self,
        name: str,
        plain: PlainModel,
        samples: Sequence[Sample],
        work: WorkFigures,
        updater: PolicyUpdater,
        seconds: dict[str, float],
        losses: dict[str, float],
    ) -> None:
        """One pass of another way; where it runs out of memory it is left out from here on."""
        limit = self._settings.optimizer.pack_tokens
        loss = self._settings.loss
        entropy = entropy_coefficient(loss, updater.version + 1, self._settings.batch.updates)
        plain.forget()
        try:
            if name == "bare_layers":
                length = min(limit, round(work.effective_tokens / work.responses))
                flat, heads, vocabulary = round(work.flat_tokens), round(work.head_rows), plain.vocabulary
                rows = tuple(bare_rows(flat, heads, length, vocabulary, limit, self._device))
                seconds[name], _ = self._clock.time(lambda: plain.bare(rows))
                self._rounds.tokens[name] = sum(ids.numel() for ids, _ in rows)
                return
            lay = padded if name == "padded" else packed
            laid: list[tuple[Rows, ...]] = []

            def work_it() -> float:
                laid.append(lay(samples, limit, self._device))
                return plain.gradient(laid[-1], loss, entropy)

            seconds[name], losses[name] = self._clock.time(work_it)
            self._rounds.tokens[name] = sum(each.ids.numel() for each in laid[-1])
        except torch.OutOfMemoryError:
            self._rounds.failed[name] = "out of memory"
            seconds.pop(name, None)

    def _work(self, samples: Sequence[Sample], trials: int) -> WorkFigures:
        packs = pack(samples, self._settings.optimizer.pack_tokens)
        prompts = [len(sample.prompt_ids) for sample in samples]
        answers = [len(sample.ids) for sample in samples]
        return WorkFigures(
            source="made-up trials" if self._options.run is None else f"the journal of {self._options.run.name}",
            sharing=self._options.shape.sharing if self._options.run is None else "as played",
            trials=trials,
            responses=len(samples),
            flat_tokens=sum(len(each.ids) for each in packs),
            effective_tokens=sum(prompts) + sum(answers) - len(samples),
            response_tokens=sum(answers),
            head_rows=sum(len(each.rows) for each in packs),
            prompt_mean=fmean(prompts),
            response_mean=fmean(answers),
        )

    def _report(
        self, parameters: Mapping[str, torch.Tensor], dtype: torch.dtype, peak: int, kind: str, publishing: float
    ) -> TrainerReport:
        rounds, options, settings = self._rounds, self._options, self._settings
        work = _mean(rounds.work)
        seconds = median(rounds.new)
        count = sum(parameter.numel() for parameter in parameters.values())
        stored = {str(parameter.dtype).removeprefix("torch.") for parameter in parameters.values()}
        phases = {name: median(each[name] for each in rounds.phases) for name in rounds.phases[0]}
        return TrainerReport(
            model=options.model if not Path(options.model).is_dir() else Path(options.model).name,
            parameters=count,
            device=device_name(self._device),
            precision=f"{'/'.join(sorted(stored))} weights, computed in {str(dtype).removeprefix('torch.')}",
            versions={name: version(name) for name in ("lamer", "torch", "transformers")},
            settings={
                "optimizer.kind": settings.optimizer.kind,
                "optimizer.pack_tokens": str(settings.optimizer.pack_tokens),
                "trainer.recompute": settings.trainer.recompute,
                "trainer.compile": settings.trainer.compile,
            },
            lengths={"prompt_mean": work.prompt_mean, "response_mean": work.response_mean},
            sharing=work.sharing,
            rounds=options.rounds,
            threads=settings.trainer.threads,
            clock=self._clock.kind,
            work=work,
            ours=OurFigures(
                flat_tokens_per_second=median(map(_divide, rounds.flat, rounds.new)),
                effective_tokens_per_second=median(
                    each.effective_tokens / new for each, new in zip(rounds.work, rounds.new, strict=True)
                ),
                mfu=self._mfu(work, count, parameters, seconds),
                peak_bytes=peak,
                peak_kind=kind,
                seconds=seconds,
                repeated_seconds=median(rounds.repeated),
                first_seconds=rounds.first,
                gradient_seconds=median(rounds.gradient),
                phases={**phases, "publishing": publishing},
            ),
            others={name: self._figures(name) for name in options.others},
            ratios=Ratios(
                over_padded=self._ratio("padded"),
                over_packed_transformers=self._ratio("packed_transformers"),
                of_bare_layers=self._ratio("bare_layers"),
                new_over_repeated_shapes=median(map(_divide, rounds.repeated, rounds.new)),
            ),
        )

    def _mfu(
        self, work: WorkFigures, count: int, parameters: Mapping[str, torch.Tensor], seconds: float
    ) -> float | None:
        """6 operations a parameter and token (Kaplan et al., 2020); the head's for the rows that go through it."""
        peak = peak_operations(self._device)
        if peak is None or choose_dtype(self._settings.trainer, self._device) is not torch.bfloat16:
            return None
        vocabulary = vocabulary_of(self._folder)
        tables = [each.numel() for each in parameters.values() if each.ndim == 2 and each.shape[0] == vocabulary]
        operations = 6 * (count - sum(tables)) * work.flat_tokens + 6 * tables[0] * work.head_rows
        return operations / seconds / peak

    def _ratio(self, name: str) -> float | None:
        theirs = self._rounds.seconds.get(name)
        if theirs is None or name in self._rounds.failed:
            return None
        return median(map(_divide, theirs, self._rounds.gradient))

    def _figures(self, name: str) -> OtherFigures:
        if reason := self._rounds.failed.get(name):
            return OtherFigures(0.0, 0.0, None, None, reason)
        loss, gradient = self._rounds.differences.get(name, (None, None))
        return OtherFigures(median(self._rounds.seconds[name]), self._rounds.tokens[name], loss, gradient)


def _fitted(settings: Settings, batches: Sequence[Sequence[Trial]]) -> Settings:
    """The settings with limits that the trials keep to, and as many updates as are made."""
    answers = [each for batch in batches for trial in batch for each in trial.completions()]
    longest_answer = max(len(each.ids) for each in answers)
    longest = max(len(each.prompt_ids) + len(each.ids) for each in answers)
    if longest > settings.optimizer.pack_tokens:
        raise BadInput(
            f"optimizer.pack_tokens {settings.optimizer.pack_tokens} is under the longest prompt and response, "
            f"{longest} tokens"
        )
    trial = replace(
        settings.trial,
        max_prompt_tokens=longest - longest_answer,
        max_response_tokens=longest_answer,
        max_reflection_tokens=longest_answer,
    )
    return replace(settings, trial=trial, batch=replace(settings.batch, updates=2 * len(batches)))


def _taken(parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in parameters.items() if value.grad is not None}


def _mean(work: Sequence[WorkFigures]) -> WorkFigures:
    return WorkFigures(
        source=work[0].source,
        sharing=work[0].sharing,
        trials=fmean(each.trials for each in work),
        responses=fmean(each.responses for each in work),
        flat_tokens=fmean(each.flat_tokens for each in work),
        effective_tokens=fmean(each.effective_tokens for each in work),
        response_tokens=fmean(each.response_tokens for each in work),
        head_rows=fmean(each.head_rows for each in work),
        prompt_mean=fmean(each.prompt_mean for each in work),
        response_mean=fmean(each.response_mean for each in work),
    )


def _divide(one: float, other: float) -> float:
    return one / other
