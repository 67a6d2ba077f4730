"""Settings that suit a model of another size, told before a run. The defaults suit billions of parameters.

    unsuited           what to say about a configuration that trains, a line for each setting
    count_parameters   of the configured model, without loading it

Nothing is changed in silence: what is configured is what is trained with.
"""

from __future__ import annotations

from pathlib import Path

from lamer.common.errors import BadInput
from lamer.common.settings import ModelSettings, PocketSettings, Settings
from lamer.common.tensors import parse_header, read_header

SMALL_PARAMETERS = 50_000_000
"""Below, a model is small: it learns with a learning rate that a large one does not survive."""

LEAST_FOR_SMALL = 3e-5
MOST_FOR_LARGE = 1e-4


def unsuited(settings: Settings) -> tuple[str, ...]:
    """One line for each setting that does not suit the size of the model that is to be trained; nothing is changed."""
    parameters = count_parameters(settings.model) if settings.batch.updates else None
    if parameters is None:
        return ()
    rate = settings.optimizer.learning_rate
    head = f"optimizer.learning_rate is {rate:g}"
    if parameters < SMALL_PARAMETERS and rate < LEAST_FOR_SMALL:
        return (
            f"{head}, which suits billions of parameters; a model of {_size(parameters)} learns next to "
            "nothing with it: about 1e-3 suits one (`base: pocket.yaml` has it, and what goes with it)",
        )
    if parameters >= SMALL_PARAMETERS and rate > MOST_FOR_LARGE:
        return (
            f"{head}, which suits a pocket model; one of {_size(parameters)} forgets with it what it can do: "
            "about 1e-6 suits one, the default",
        )
    return ()


def count_parameters(model: ModelSettings) -> int | None:
    """The parameters of the configured model: as its safetensors files say, or by the sizes of `pocket`.

    None where the folder's weights are in another format, or can't be read; what uses them says so.
    """
    if not model.path:
        return _pocket_parameters(model.pocket)
    files = sorted(Path(model.path).glob("*.safetensors"))
    try:
        return sum(_stored_elements(file) for file in files) or None
    except (BadInput, OSError):
        return None


def _stored_elements(file: Path) -> int:
    header = read_header(file)
    tensors = parse_header(header, file.stat().st_size - len(header))
    return sum(tensor.size // tensor.element_bytes for tensor in tensors)


def _pocket_parameters(sizes: PocketSettings) -> int:
    """What `learner.pocket.model` makes: tied embeddings, layers of Qwen3 with its norms of queries and keys."""
    attention = sizes.hidden * sizes.head_dim * 2 * (sizes.heads + sizes.kv_heads) + 2 * sizes.head_dim
    layer = attention + 3 * sizes.hidden * sizes.intermediate + 2 * sizes.hidden
    return sizes.vocabulary * sizes.hidden + sizes.layers * layer + sizes.hidden


def _size(parameters: int) -> str:
    """0.2M parameters, 4.0B parameters."""
    billions = parameters >= 10**9
    return f"{parameters / (1e9 if billions else 1e6):.1f}{'B' if billions else 'M'} parameters"
