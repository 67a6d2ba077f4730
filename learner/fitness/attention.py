"""What an attention function of ours does with arguments that it does not know: it refuses them.

transformers hands a layer's attention whatever the architecture has: windows, capped scores, sinks, masks of heads,
biases of positions. What is swallowed is missing in the result.
"""

from __future__ import annotations

from collections.abc import Mapping

from lamer.common.errors import BadInput

_OF_THE_CALL = frozenset(
    {"position_ids", "cache_position", "use_cache", "output_attentions", "output_router_logits", "logits_to_keep"}
)
"""Arguments of the whole model's call that layers pass on, and that change nothing here: positions are applied to
queries and keys before, and there is no cache of transformers'.
"""


def refuse_arguments(
    attention_mask: object, dropout: float, is_causal: bool | None, others: Mapping[str, object]
) -> None:
    """Refuse what plain causal attention with a window is not.

    Raises:
        BadInput: a layer attends in another way; the message names the argument.
    """
    unknown = {name: value for name, value in others.items() if value is not None and name not in _OF_THE_CALL}
    if attention_mask is not None:
        unknown["attention_mask"] = attention_mask
    if dropout:
        unknown["dropout"] = dropout
    if is_causal is False:
        unknown["is_causal"] = is_causal
    if unknown:
        raise BadInput(f"its layers attend with {', '.join(sorted(unknown))}, which is not computed here")
