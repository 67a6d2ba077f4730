"""`python -m lamer.deploy.inference.embedded`: serves one model folder until SIGTERM or SIGINT.

Prints `ready http://host:port` once it answers. Exit codes: 0 stopped, 2 a folder or flag that can't be used, 3 the
address is taken.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from pathlib import Path

from lamer.common.errors import LamerError


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """The flags, with SGLang's names where it has them."""
    parser = argparse.ArgumentParser(prog="python -m lamer.deploy.inference.embedded", description=__doc__)
    parser.add_argument("--model-path", required=True, help="transformers model folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30000, help="0: a free one")
    generation, admin = os.environ.get("SGLANG_API_KEY", ""), os.environ.get("SGLANG_ADMIN_KEY", "")
    parser.add_argument("--api-key", default=generation, help="for generation; $SGLANG_API_KEY")
    parser.add_argument("--admin-api-key", default=admin, help="for weights, pause, abort, flush; $SGLANG_ADMIN_KEY")
    parser.add_argument("--weight-version", default="default")
    parser.add_argument("--max-running-requests", type=int, default=128)
    parser.add_argument("--max-total-tokens", type=int, default=65536)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options = parser.parse_args(arguments)
    for name in ("max_running_requests", "max_total_tokens", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    return options


def run(options: argparse.Namespace) -> None:
    """Binds, loads, serves. Raises LamerError."""
    from lamer.deploy.inference.embedded.server import bind

    listener = bind(options.host, options.port)  # first: a taken address is known before a model is loaded
    import torch

    from lamer.deploy.inference.embedded.auth import Keys
    from lamer.deploy.inference.embedded.engine import Engine, EngineOptions
    from lamer.deploy.inference.embedded.server import serve

    torch.set_num_threads(options.threads)
    engine = Engine(
        EngineOptions(
            model_path=Path(options.model_path),
            dtype=options.dtype,
            max_running=options.max_running_requests,
            max_total_tokens=options.max_total_tokens,
            weight_version=options.weight_version,
        )
    )

    def announce(url: str) -> None:
        print(f"ready {url}", flush=True)

    gc.collect()
    gc.freeze()  # what is loaded by now stays: collections while serving need not go through it
    asyncio.run(serve(engine, Keys(options.api_key, options.admin_api_key), listener, announce))


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    options = parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    try:
        run(options)
    except LamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # everything is closed by then; torch's own exit hooks would take seconds
