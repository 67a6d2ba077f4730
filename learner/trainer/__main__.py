"""`python -m lamer.learner.trainer`: the trainer process, started by `lamer learner`.

With `trainer.gpus` above 1 it is one of several ranks (`--rank`, `--ranks`, `--meet`): 0 talks to the gateway, the
others follow it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lamer.common.errors import OutOfMemory, failure_of
from lamer.common.keys import load_client_keys
from lamer.common.messages import Role
from lamer.common.settings import TrainerSettings
from lamer.learner.trainer.following import follow
from lamer.learner.trainer.model.policy import choose_device
from lamer.learner.trainer.ranks.group import Placement, meet
from lamer.learner.trainer.trainer import INTERRUPTED, Interrupted, TrainerOptions, run_trainer
from lamer.learner.trainer.watchdog import Hung, leave

log = logging.getLogger("lamer.trainer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `python -m lamer.learner.trainer`."""
    parser = argparse.ArgumentParser(prog="python -m lamer.learner.trainer", description="the trainer process of a run")
    parser.add_argument("--connect", required=True, help="address of the gateway, tcp://host:port")
    parser.add_argument("--keys", required=True, type=Path, help="folder of CURVE keys")
    parser.add_argument("--run-dir", required=True, type=Path, help="folder of the run")
    parser.add_argument("--rank", type=int, default=0, help="which of the ranks this is")
    parser.add_argument("--ranks", type=int, default=1, help="how many train one model")
    parser.add_argument("--meet", default="", help="where they meet, host:port")
    parser.add_argument("--device", default="auto", help="of a rank other than 0: trainer.device")
    parser.add_argument("--collective-seconds", type=float, default=1800.0, help="trainer.collective_seconds")
    parsed = parser.parse_args(arguments)
    placement = Placement(parsed.rank, parsed.ranks, parsed.meet, parsed.collective_seconds)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        if placement.rank > 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 says when it is over
            follow(meet(placement, choose_device(TrainerSettings(device=parsed.device))))
            return 0
        keys = load_client_keys(parsed.keys, Role.TRAINER)
        return asyncio.run(_train(TrainerOptions(parsed.connect, keys, parsed.run_dir, placement)))
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
