"""What rank 0 has the other ranks do: it announces every step, and all of them take it together.

    LeadingUpdater   rank 0's `PolicyUpdater`: says what comes, then does its part
    follow           another rank: hears what comes, and does its part, until rank 0 ends

What is wrong with a batch or a model is found by every rank alike, since all of them see the same trials: each gives
the step up once the others do, and rank 0 says how it goes on. What goes wrong on one rank alone ends that rank, and
with it all others.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from lamer.common import config
from lamer.common.codec import decode_trial, encode_trial
from lamer.common.errors import LamerError, OutOfMemory
from lamer.common.messages import Metric
from lamer.common.records import Trial
from lamer.common.settings import Settings
from lamer.common.text import describe_error
from lamer.common.weights import WeightFile
from lamer.learner.fitness.allocation import is_out_of_memory
from lamer.learner.memory.advice import TrainerPlan
from lamer.learner.trainer.fitting import out_of_memory
from lamer.learner.trainer.model.policy import choose_device
from lamer.learner.trainer.model.snapshot import Snapshot
from lamer.learner.trainer.ranks.group import RankLost, Ranks
from lamer.learner.trainer.update import GivenUp, PolicyUpdater, UpdateResult

log = logging.getLogger("lamer.trainer")


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Load the model in a folder anew. settings: as JSON."""

    settings: str
    model_path: str


class Update(msgspec.Struct, frozen=True, tag=True):
    """Train on the batch of an update. trials: encoded."""

    step: int
    trials: tuple[bytes, ...]


class Parity(msgspec.Struct, frozen=True, tag=True):
    """Score responses of the batch again. folders: of weights, by the versions that sampled it."""

    folders: dict[int, str]


class TakeSnapshot(msgspec.Struct, frozen=True, tag=True):
    """Gather the weights on rank 0."""


class Export(msgspec.Struct, frozen=True, tag=True):
    """Gather them for the run's model folder."""

    folder: str


class Save(msgspec.Struct, frozen=True, tag=True):
    """Write a checkpoint."""

    folder: str


class Load(msgspec.Struct, frozen=True, tag=True):
    """Go on from one."""

    folder: str


class End(msgspec.Struct, frozen=True, tag=True):
    """Nothing comes after this."""


Order = Begin | Update | Parity | TakeSnapshot | Export | Save | Load | End
_DECODER: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)


def say(ranks: Ranks, order: Order) -> None:
    """As rank 0: have the other ranks do it."""
    ranks.heard(msgspec.msgpack.encode(order))


def dismiss(ranks: Ranks) -> None:
    """As rank 0: end all ranks."""
    if ranks.size > 1:
        say(ranks, End())
        ranks.close()


@contextlib.contextmanager
def _together(ranks: Ranks, order: Order) -> Iterator[None]:
    """As rank 0: have the other ranks do it, and take part in it inside.

    Raises:
        RankLost: something failed that not every rank finds by itself.
    """
    try:
        say(ranks, order)
        yield
    except RankLost:
        raise
    except LamerError:
        ranks.fail_together()
        raise
    except GivenUp:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        name = type(order).__name__
        raise RankLost(
            f"{name} failed on rank 0 of {ranks.size}, or another rank is gone: {describe_error(error)}"
        ) from error


class LeadingUpdater(PolicyUpdater):
    """Rank 0's updater. Every method that takes all ranks is announced to the others first, and raises `RankLost` where
    one of them fails by itself.
    """

    def __init__(self, settings: Settings, model_path: Path, ranks: Ranks) -> None:
        """See `PolicyUpdater`."""
        with _together(ranks, Begin(config.to_json(settings), str(model_path))):
            super().__init__(settings, model_path, ranks)

    def update(self, step: int, trials: Sequence[Trial]) -> UpdateResult:
        """See `PolicyUpdater`."""
        self.check_step(step)
        with _together(self._ranks, Update(step, tuple(encode_trial(trial) for trial in trials))):
            return super().update(step, trials)

    def parity(self, trials: Sequence[Trial], folder_of: Callable[[int], Path]) -> tuple[Metric, ...]:
        """See `PolicyUpdater`."""
        versions = {each.oldest_version for trial in trials for each in trial.completions()}
        with _together(self._ranks, Parity({version: str(folder_of(version)) for version in versions})):
            return super().parity(trials, folder_of)

    def snapshot(self) -> Snapshot:
        """See `PolicyUpdater`."""
        with _together(self._ranks, TakeSnapshot()):
            return super().snapshot()

    def export(self, folder: Path) -> tuple[WeightFile, ...]:
        """See `PolicyUpdater`."""
        with _together(self._ranks, Export(str(folder))):
            return super().export(folder)

    def save_checkpoint(self, folder: Path) -> Path:
        """See `PolicyUpdater`."""
        with _together(self._ranks, Save(str(folder))):
            return super().save_checkpoint(folder)

    def load_checkpoint(self, folder: Path) -> None:
        """See `PolicyUpdater`."""
        with _together(self._ranks, Load(str(folder))):
            super().load_checkpoint(folder)


class _Follower:
    """Another rank's updater, and the batch that it holds."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._updater: PolicyUpdater | None = None
        self._trials: tuple[Trial, ...] = ()
        self._begun = Begin("{}", "")

    def out_of_memory(self, error: Exception) -> OutOfMemory:
        """What a run ends with whose memory ran out here."""
        settings, folder = config.from_json(self._begun.settings), Path(self._begun.model_path)
        device = choose_device(settings.trainer)
        held = self._updater
        plan = TrainerPlan.of(settings, is_cuda=device.type == "cuda") if held is None else held.plan
        return out_of_memory(error, plan, folder, device)

    def do(self, order: Order) -> None:
        """Take part in a step.

        Raises:
            LamerError: what every rank finds.
        """
        if isinstance(order, Begin):
            self._updater, self._trials, self._begun = None, (), order
            gc.collect()  # sharded modules are in circles, and their memory is needed for the next one
            self._updater = PolicyUpdater(config.from_json(order.settings), Path(order.model_path), self._ranks)
            return
        updater = self._updater
        assert updater is not None
        match order:
            case Update():
                self._trials = tuple(decode_trial(body) for body in order.trials)
                updater.update(order.step, self._trials)
            case Parity():
                updater.parity(self._trials, lambda version: Path(order.folders[version]))
            case TakeSnapshot():
                updater.snapshot()
            case Export():
                updater.export(Path(order.folder))
            case Save():
                updater.save_checkpoint(Path(order.folder))
            case Load():
                updater.load_checkpoint(Path(order.folder))
            case _:
                raise AssertionError(f"nobody deals with {type(order).__name__}")


def follow(ranks: Ranks) -> None:
    """Be a rank other than 0, until rank 0 dismisses it.

    Raises:
        RuntimeError: it is gone without a word, or another rank is.
    """
    follower = _Follower(ranks)
    while not isinstance(order := _DECODER.decode(ranks.heard(None)), End):
        try:
            follower.do(order)
        except LamerError as error:
            log.warning("rank %d gives a step up: %s", ranks.rank, error)
            ranks.fail_together()
        except Exception as error:
            if is_out_of_memory(error):
                raise follower.out_of_memory(error) from error
            raise
    ranks.close()
