"""What a weight update costs a saturated server, for each way of pausing it, in one run.

A server is kept saturated by fixed work over HTTP (`deploy.bench.saturation`), and is updated meanwhile between two
checkpoints of one model as an inference host updates it. Rounds with updates take turns with rounds of the same work
without any, and bare loads of the same files on the idle server come between them, so that what else the machine does
meets all of them alike.

    lost seconds per update = (seconds of the round - its tokens / rate without updates) / updates

where the rate is that of the rounds just before and just after.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lamer.actors.inference import InferenceClient, InferenceOptions
from lamer.actors.routing import Router
from lamer.common.errors import BadInput, LamerError, RunFailed
from lamer.common.messages import ServerInfo, WeightAnnouncement
from lamer.common.versions import to_weight_version
from lamer.deploy.bench.checkpoints import SIZES, Checkpoints, checkpoints_like, random_checkpoints
from lamer.deploy.bench.saturation import PROMPT_TOKENS, Clock, Progress, Round, make_work, saturate
from lamer.deploy.bench.weights_report import ModeFigures, ModelFigures, Spread, WeightsReport
from lamer.deploy.inference.applying import apply_folder
from lamer.deploy.inference.engines.launch import EngineProcess, Launcher
from lamer.deploy.inference.engines.options import EngineOptions
from lamer.deploy.run.supervisor import first_error

MODES = ("in_place", "retract", "abort", "wait")
REQUEST_SECONDS = 600.0
RETRIES = 5
BARE_LOADS = 2
"""Bare loads on the idle server after each round."""
RESPONSES_PER_ROUND = 8
"""Responses that a stream finishes in a round, about."""
_PROBE_TOKENS = 16
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class WeightsBenchOptions:
    """What is measured. sizes: names in `checkpoints.SIZES`; model: a model folder instead of them.

    updates: in each round. rounds: of each mode. streams: requests in flight. round_seconds: of a round without
    updates, about. python: the interpreter that has SGLang, "" to look for it.
    """

    engine: str = "embedded"
    sizes: tuple[str, ...] = ("pocket", "460m")
    model: Path | None = None
    modes: tuple[str, ...] = MODES
    updates: int = 3
    rounds: int = 3
    streams: int = 4
    round_seconds: float = 12.0
    seed: int = 0
    python: str = ""
    output: Path | None = None

    def __post_init__(self) -> None:
        if self.engine not in ("embedded", "sglang"):
            raise BadInput(f"--engine is embedded or sglang, got {self.engine!r}")
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes:
            raise BadInput(f"--modes are some of {', '.join(MODES)}, got {', '.join(unknown) or 'none'}")
        unknown = [size for size in self.sizes if size not in SIZES]
        if unknown or not (self.sizes or self.model):
            raise BadInput(f"--size is one of {', '.join(SIZES)}, got {', '.join(unknown) or 'none'}")
        if min(self.updates, self.rounds, self.streams) < 1 or self.round_seconds <= 0:
            raise BadInput(f"updates, rounds, streams and seconds of a round must be at least 1, got {self}")


async def run_weights_bench(options: WeightsBenchOptions, note: Note) -> WeightsReport:
    """Measure every model, each on a server of its own. note: is told what has been measured, a line at a time.

    Raises:
        Missing: the engine can't be started. RunFailed: it failed under load.
    """
    engine, models = options.engine, []
    for size in options.sizes if options.model is None else ("",):
        with tempfile.TemporaryDirectory(prefix="lamer-weights-bench-") as name:
            if options.model is not None:
                checkpoints = checkpoints_like(options.model, Path(name))
            else:
                checkpoints = random_checkpoints(size, Path(name), options.seed)
            async with _bench(options, checkpoints, note) as bench:
                engine = bench.engine_name
                models.append(await bench.measure())
    report = WeightsReport(engine, options.rounds, options.updates, options.seed, tuple(models))
    if options.output is not None:
        report.write(options.output)
    return report


@asynccontextmanager
async def _bench(options: WeightsBenchOptions, checkpoints: Checkpoints, note: Note) -> AsyncIterator[_Bench]:
    """A running server on the first checkpoint, and a client of it; both are gone afterwards."""
    launched = EngineOptions(
        engine=options.engine,
        host="127.0.0.1",
        port=0,
        max_running=options.streams,
        cache_tokens=(options.streams + 1) * checkpoints.context,
        python=options.python,
    )
    note(f"{checkpoints.name}: starting {options.engine}")
    engine = await Launcher(launched).open(checkpoints.folders[0], 0)
    try:
        async with InferenceClient(InferenceOptions(REQUEST_SECONDS, RETRIES), checkpoints.vocabulary) as client:
            yield _Bench(options, checkpoints, engine, client, note)
    finally:
        await engine.stop()


@dataclass(frozen=True, slots=True)
class Update:
    """An update to `version`: when it began and ended, and how long generation was held."""

    version: int
    began: float
    ended: float
    pause: float


@dataclass(slots=True)
class ModeRounds:
    """What was measured of one mode so far."""

    updates: list[Update] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    in_flight: int = 0
    split: int = 0

    def add(self, played: Round, updates: Sequence[Update], lost: float) -> None:
        """Count a round with updates. lost: seconds for each of them."""
        self.rounds.append(played)
        self.updates += updates
        self.lost.append(lost)
        for update in updates:
            split = [each.is_split_at(update.version) for each in played.answers]
            over = [each.sent < update.began and each.arrived > update.ended for each in played.answers]
            self.in_flight += sum(was_split or was_over for was_split, was_over in zip(split, over, strict=True))
            self.split += sum(split)


class _Bench:
    """One server and what was measured on it. Versions count every load from 1 on, the folders take turns."""

    def __init__(
        self,
        options: WeightsBenchOptions,
        checkpoints: Checkpoints,
        engine: EngineProcess,
        client: InferenceClient,
        note: Note,
    ) -> None:
        self._options = options
        self._checkpoints = checkpoints
        self._engine = engine
        self._client = client
        self._note = note
        self._router = Router()
        self._clock = Clock()
        self._bare: list[float] = []
        self._baselines: list[Round] = []
        self._tell_router()

    @property
    def engine_name(self) -> str:
        """The engine, with its release where it has one."""
        release = self._engine.release
        return self._options.engine if release is None else f"{self._options.engine} {release}"

    async def measure(self) -> ModelFigures:
        """All rounds of all modes."""
        options, checkpoints = self._options, self._checkpoints
        tokens, work = await self._plan_work()
        measured = {mode: ModeRounds() for mode in options.modes}
        await self._baseline(work)
        for number in range(options.rounds):
            for mode, rounds in measured.items():
                before = self._baselines[-1]
                played, updates = await self._updated_round(work, mode)
                await self._load_idle()
                after = await self._baseline(work)
                lost = lost_seconds(played, (before, after), len(updates))
                rounds.add(played, updates, lost)
                self._note(f"{checkpoints.name}: {mode}, round {number + 1}: {lost:.2f} s lost per update")
        bare, rate = Spread.of(self._bare), Spread.of([each.tokens / each.seconds for each in self._baselines])
        return ModelFigures(
            model=checkpoints.name,
            parameters=checkpoints.parameters,
            file_bytes=checkpoints.file_bytes,
            streams=options.streams,
            response_tokens=tokens,
            bare_load_seconds=bare,
            tokens_per_second=rate,
            baseline_seconds=Spread.of([each.seconds for each in self._baselines]),
            step_seconds=options.streams / rate.median,
            modes=tuple(mode_figures(mode, rounds, bare.median) for mode, rounds in measured.items()),
        )

    async def _plan_work(self) -> tuple[int, tuple[int, ...]]:
        """Mean length of a response, and the lengths of a round's: from the rate of a short one, which warms up."""
        options, checkpoints = self._options, self._checkpoints
        for _ in range(2):
            probe = await self._play([_PROBE_TOKENS] * options.streams)
        rate = probe.tokens / probe.seconds
        room = (checkpoints.context - PROMPT_TOKENS) * 2 // 3 - 1
        tokens = min(
            room, max(_PROBE_TOKENS, int(rate * options.round_seconds / options.streams / RESPONSES_PER_ROUND))
        )
        responses = max(options.streams * RESPONSES_PER_ROUND, round(rate * options.round_seconds / tokens))
        if options.updates >= responses:
            raise RunFailed(f"{options.updates} updates in a round of {responses} responses: take longer rounds")
        return tokens, make_work(options.streams, responses, tokens, options.seed)

    async def _play(self, work: Sequence[int], progress: Progress | None = None) -> Round:
        streams, vocabulary = self._options.streams, self._checkpoints.vocabulary
        progress = progress or Progress(work)
        return await saturate(self._client, self._router, self._clock, work, progress, streams, vocabulary)

    async def _baseline(self, work: Sequence[int]) -> Round:
        """A round without updates, and bare loads after it."""
        played = await self._play(work)
        self._baselines.append(played)
        await self._load_idle()
        return played

    async def _load_idle(self) -> None:
        """Load on the idle server, without a pause."""
        for _ in range(BARE_LOADS):
            self._clock.loading += 1
            version, began = self._clock.loading, time.monotonic()
            await self._engine.client.load_weights(str(self._folder(version)), to_weight_version(version), True)
            self._bare.append(time.monotonic() - began)
            self._resume_at_loaded()

    async def _updated_round(self, work: Sequence[int], mode: str) -> tuple[Round, list[Update]]:
        """A round with updates at equal distances, measured in work: however fast the machine is, all fall into it."""
        wanted, progress = self._options.updates, Progress(work)
        updates: list[Update] = []

        async def update_regularly() -> None:
            for number in range(1, wanted + 1):
                await progress.reached(number / (wanted + 1))
                updates.append(await self._update(mode))

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(update_regularly())
                played = await self._play(work, progress)
        except* LamerError as errors:
            raise first_error(errors) from None
        return played, updates

    async def _update(self, mode: str) -> Update:
        """Update as an inference host does."""
        self._clock.loading += 1
        version, folder = self._clock.loading, self._folder(self._clock.loading)
        began = time.monotonic()
        times = await apply_folder(self._engine, mode, WeightAnnouncement(version, str(folder), ()), folder)
        self._resume_at_loaded()
        return Update(version, began, began + times.update, times.pause)

    def _folder(self, version: int) -> Path:
        return self._checkpoints.folders[version % 2]

    def _resume_at_loaded(self) -> None:
        self._clock.resumed = self._clock.loading
        self._tell_router()

    def _tell_router(self) -> None:
        engine, options = self._engine, self._options
        self._router.replace((ServerInfo("server", engine.url, engine.api_key, self._clock.resumed, options.streams),))


def lost_seconds(played: Round, baselines: Sequence[Round], updates: int) -> float:
    """Seconds that each update cost: what the round took beyond its tokens at the rate of those without updates."""
    rate = sum(each.tokens for each in baselines) / sum(each.seconds for each in baselines)
    return (played.seconds - played.tokens / rate) / updates


def mode_figures(mode: str, rounds: ModeRounds, bare_load: float) -> ModeFigures:
    """A mode's measurements against the median bare load."""
    pause, lost = Spread.of([update.pause for update in rounds.updates]), Spread.of(rounds.lost)
    answers = [answer for played in rounds.rounds for answer in played.answers]
    return ModeFigures(
        mode=mode,
        updates=len(rounds.updates),
        pause_seconds=pause,
        lost_seconds=lost,
        over_bare_load=pause.median / bare_load,
        lost_over_bare_load=lost.median / bare_load,
        in_flight=rounds.in_flight,
        split=rounds.split,
        wrong_spans=sum(not answer.has_right_spans for answer in answers),
        responses=len(answers),
        whole=sum(answer.is_whole for answer in answers),
    )
