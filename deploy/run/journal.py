"""What `lamer journal` does with a run's journal, and says of it."""

from __future__ import annotations

from pathlib import Path

from lamer.common import config
from lamer.common.errors import BadInput
from lamer.deploy.run.folder import CONFIG_FILE, RunFolder, locked
from lamer.learner.journal.bodies import segments_folder
from lamer.learner.journal.pruning import Prunable, last_trained, prunable, prune


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
    return f"the bodies of {found.trials:,} trials up to update {found.last}: {parts}"


def _size(journal: Path) -> int:
    """Bytes of a journal with what lies beside it."""
    files = [*journal.parent.glob(f"{journal.name}*"), *segments_folder(journal).glob("*")]
    return sum(file.stat().st_size for file in files if file.is_file())
