"""Which attention backend computes a model."""

from __future__ import annotations

from lamer.learner.trainer.model.attention.base import AttentionBackend, AttentionNeeds
from lamer.learner.trainer.model.attention.flex import FLEX, FlexAttention
from lamer.learner.trainer.model.attention.masked import MASKED, MaskedAttention


def choose_attention(needs: AttentionNeeds, pack_tokens: int, name: str = "") -> AttentionBackend:
    """FlexAttention on CUDA, masked blocks elsewhere.

    Args:
        needs: of the model.
        pack_tokens: most tokens of a pack, 0 if it isn't known.
        name: of the backend, where the device does not decide.
    """
    chosen = name or (FLEX if needs.device.type == "cuda" else MASKED)
    return FlexAttention(needs, pack_tokens) if chosen == FLEX else MaskedAttention(needs)
