"""`python -m lamer.learner.trainer`: the trainer process, started by `lamer learner`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lamer.common.errors import OutOfMemory, failure_of
from lamer.common.keys import load_client_keys
from lamer.common.messages import Role
from lamer.learner.trainer.trainer import INTERRUPTED, Interrupted, TrainerOptions, run_trainer
from lamer.learner.trainer.watchdog import Hung, leave

log = logging.getLogger("lamer.trainer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `python -m lamer.learner.trainer`."""
    parser = argparse.ArgumentParser(prog="python -m lamer.learner.trainer", description="the trainer process of a run")
    parser.add_argument("--connect", required=True, help="address of the gateway, tcp://host:port")
    parser.add_argument("--keys", required=True, type=Path, help="folder of CURVE keys")
    parser.add_argument("--run-dir", required=True, type=Path, help="folder of the run")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        keys = load_client_keys(parsed.keys, Role.TRAINER)
        return asyncio.run(_train(TrainerOptions(parsed.connect, keys, parsed.run_dir)))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        if failure is not error:
            log.error("the trainer ends", exc_info=error)
        print(f"lamer: {failure}", file=sys.stderr)
        return failure.trainer_code if isinstance(failure, OutOfMemory) else failure.exit_code


async def _train(options: TrainerOptions) -> int:
    try:
        return await run_trainer(options)
    except Hung as failure:  # here, since `asyncio.run` would wait for its thread
        leave(failure)
    except Interrupted:  # likewise
        sys.stdout.flush()
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
