"""What `lamer journal` does with a run's journal, and says of it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from lamer.common import config
from lamer.common.errors import BadInput, Missing, RunFailed
from lamer.common.settings import Settings
from lamer.deploy.run.folder import CONFIG_FILE, RunFolder, locked
from lamer.learner.journal.bodies import segments_folder
from lamer.learner.journal.checking import STATES, check
from lamer.learner.journal.pruning import Prunable, last_trained, prunable, prune
from lamer.learner.journal.repairing import repair

_MOST_LINES = 20
_MARGIN_UPDATES = 20


def prune_run(run: Path, keep: int, *, is_dry: bool) -> None:
    """Delete the bodies of all trials but those of the last `keep` updates, or only say what would go.

    What a resumed run could train again is never deleted: trials after the oldest checkpoint stay.

    Raises:
        Missing: the run has no journal. BadInput: it has no checkpoint, or a learner is at work in it.
        RunFailed: the journal can't be written.
    """
    journal = run / "journal.db"
    trained, oldest = last_trained(journal), _oldest_checkpoint(run)
    found = prunable(journal, max(0, min(trained - keep, oldest)))
    kept = f"updates {found.last + 1} to {trained} keep theirs" if trained > found.last else "no later ones"
    if trained - keep > oldest:
        kept += f" (the oldest checkpoint is of update {oldest})"
    if found.trials == 0:
        print(f"{run}: nothing to delete up to update {found.last}; {kept}")
        return
    print(f"{run}: {'would delete' if is_dry else 'deleting'} {_what(found)}; {kept}")
    if is_dry:
        return
    before = _size(journal)
    with locked(RunFolder(run, config.load([run / CONFIG_FILE]), is_resumed=True)):
        prune(journal, found.last)
    print(f"{run}: journal and segments took {before:,} bytes and take {_size(journal):,}")


def verify_run(run: Path) -> None:
    """Look at every trial of a run, and say what its journal holds and what is wrong with it.

    Raises:
        Missing: the run has no journal. RunFailed: something is wrong.
    """
    found = check(run / "journal.db")
    states = " + ".join(f"{found.states.get(state, 0):,} {state}" for state in STATES)
    print(f"{run}: {sum(found.states.values()):,} trials = {states}")
    gone = f"{found.gone:,} deleted or set aside"
    print(f"bodies: {found.in_segments:,} in segments, {found.in_file:,} in journal.db, {gone}")
    if found.unchecked:
        print(
            f"{found.unchecked:,} bodies hold no checksum: an earlier lamer stored them, and they are taken as they are"
        )
    if found.last_update:
        print(f"updates {found.first_update} to {found.last_update}")
    for problem in found.problems[:_MOST_LINES]:
        print(f"  {problem}")
    if found.problems:
        number = _count(len(found.problems), "problem")
        raise RunFailed(f"{number} in the journal of {run}: `lamer journal repair {run}` sets aside what is damaged")
    print("whole")


def repair_run(run: Path) -> None:
    """Make a run's journal whole: set aside what is damaged, keep the rest, and say what was done.

    Raises:
        Missing: there is neither a journal nor a checkpoint. BadInput: a learner is at work. RunFailed: it can't be
        written.
    """
    settings = config.load([run / CONFIG_FILE])
    journal, step = run / "journal.db", _newest_checkpoint(run)
    if not journal.exists() and not step:
        raise Missing(f"{run} holds neither a journal nor a checkpoint: there is nothing to repair")
    with locked(RunFolder(run, settings, is_resumed=True)):
        done = repair(journal, _groups_played(run, settings, step))
    for problem in done.taken[:_MOST_LINES]:
        print(f"  {problem.trial_id} {problem.what}")
    if done.next_group is not None:
        print(f"{run}: no trial could be read: the journal is a new one, whose groups begin with {done.next_group}")
    elif done.salvaged:
        print(f"{run}: journal.db is made anew from what could be read; lost: {_count(len(done.lost), 'trial')}")
    print(f"{run}: {_count(len(done.taken), 'trial')} set aside, {done.kept:,} kept")
    print(f"what was damaged lies in {done.folder}" if done.folder else "nothing was damaged")


def checkpoint_without_journal(run: Path) -> str:
    """Why a run can't go on from its checkpoint, "" if it can: its journal is gone."""
    if (run / "journal.db").exists() or not _newest_checkpoint(run):
        return ""
    return (
        f"{run} holds a checkpoint, but its journal.db is gone: put it back from a copy; without one, `lamer journal "
        f"repair {run}` begins a new one, and `--resume` goes on with new trials"
    )


def _newest_checkpoint(run: Path) -> int:
    """The update of the newest checkpoint, whole or not; 0 for none."""
    return max((int(path.name.rpartition("-")[2]) for path in (run / "checkpoints").glob("step-*[0-9]")), default=0)


def _groups_played(run: Path, settings: Settings, step: int) -> int:
    """A number of groups that the run has not come to: those trained, dropped and under way by its own record."""
    dropped = 0.0
    metrics = run / "metrics.jsonl"
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else ():
        with contextlib.suppress(ValueError, AttributeError):  # a last line that was cut off
            dropped = max(dropped, float(json.loads(line).get("drops/groups", 0.0)))
    ahead = 2 * (settings.batch.max_staleness + 2) + _MARGIN_UPDATES
    return (step + ahead) * settings.batch.groups + int(dropped)


def _oldest_checkpoint(run: Path) -> int:
    """The update of the oldest checkpoint: what comes after it may be trained again."""
    from lamer.learner.trainer.checkpoint import checkpoints

    found = checkpoints(run)
    if not found:
        raise BadInput(f"{run} holds no checkpoint: its trials are all that it can go on from, so they are kept")
    return int(found[-1].name.rpartition("-")[2])


def _what(found: Prunable) -> str:
    parts = (
        f"{len(found.segments)} segments ({found.segment_bytes:,} bytes), {found.journal_bytes:,} bytes in journal.db"
    )
    return f"the bodies of {_count(found.trials, 'trial')} up to update {found.last}: {parts}"


def _size(journal: Path) -> int:
    """Bytes of a journal with what lies beside it."""
    files = [*journal.parent.glob(f"{journal.name}*"), *segments_folder(journal).glob("*")]
    return sum(file.stat().st_size for file in files if file.is_file())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
