"""`python -m lamer.deploy.fitness FOLDER`: refuses a model folder that can't be trained or served, with its reason.

The configuration is read, the tensors are compared with those of the model's class by the headers of their files, and
layers like the model's are tried in small. Weights are not loaded. Exit codes: 0 it fits, else that of the error.
`deploy.models.fitness` calls it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lamer.common.errors import BadInput, LamerError


def check(folder: Path, *, is_trained: bool, is_embedded: bool) -> None:
    """Refuse a folder that can't be used.

    Args:
        folder: the model folder.
        is_trained: by the trainer.
        is_embedded: served by the embedded engine.

    Raises:
        Missing: it lacks a file. BadInput: it holds no such model; the message says why.
    """
    from lamer.deploy.inference.embedded.model import check_layers as check_engine
    from lamer.learner.fitness.loading import empty_model, read_config
    from lamer.learner.fitness.stored import StoredForm
    from lamer.learner.fitness.tensors import check_tensors
    from lamer.learner.trainer.model.policy import check_layers as check_trainer

    config = read_config(folder)
    model = empty_model(folder, config)
    check_tensors(folder, model)
    try:
        if is_trained:
            StoredForm(folder, model)
            check_trainer(config)
        if is_embedded:
            check_engine(config)
    except BadInput as error:
        raise BadInput(f"the model in {folder} can't be used: {error}") from error


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m lamer.deploy.fitness", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trained", action="store_true", help="by the trainer")
    parser.add_argument("--embedded", action="store_true", help="served by the embedded engine")
    options = parser.parse_args()
    try:
        check(options.folder, is_trained=options.trained, is_embedded=options.embedded)
    except LamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
