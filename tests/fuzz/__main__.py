"""`python -m tests.fuzz`: the whole attack, seed by seed; one line each. `make fuzz` runs it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from tests.fuzz.frames import fuzz

WARM_UP = 50_000
"""Frames before the seeds: what a process takes once (pools, caches, modules) is no growth."""


def main() -> int:
    """0 if everything held."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000, help="to the gateway, of all seeds together")
    parser.add_argument("--seeds", type=int, default=5, help="1, 2, ... so many")
    parser.add_argument("--rate", type=float, default=0.0, help="frames a second; 0: as fast as they are taken")
    parser.add_argument("--bodies", type=int, default=100_000, help="to the embedded engine; 0: none")
    options = parser.parse_args()
    logging.getLogger("lamer").setLevel(logging.ERROR)
    has_held = True
    for seed in range(options.seeds + 1) if options.seeds else ():
        frames = options.frames // options.seeds if seed else WARM_UP
        with tempfile.TemporaryDirectory() as folder:
            result = asyncio.run(fuzz(Path(folder), seed, frames, options.rate))
        print(f"seed {seed}: {result}" if seed else f"warm-up: {result}", flush=True)
        has_held &= result.is_alive and not result.objections and min(result.served) > 0
        has_held &= not seed or result.rss[1] < 1.1 * result.rss[0]
    if options.bodies:
        has_held &= _bodies(options.bodies)
    print("everything held" if has_held else "NOT everything held")
    return 0 if has_held else 1


def _bodies(count: int) -> bool:
    import torch

    from lamer.deploy.inference.embedded.engine import Engine, EngineOptions
    from tests.contract.served import write_models
    from tests.fuzz.bodies import fuzz_bodies

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = write_models(Path(folder))["base"]
        result = asyncio.run(fuzz_bodies(Engine(EngineOptions(model, max_running=8, max_total_tokens=8192)), 1, count))
    print(f"bodies: {result}", flush=True)
    return result.honest_errors == 0 and set(result.answers) <= {200, 400}


if __name__ == "__main__":
    sys.exit(main())
