"""SGLang's `weight_version`, a free text, and our policy version, a counter: the one place that maps them."""

from __future__ import annotations


class UnknownVersion(ValueError):
    """A server names its weights otherwise than our hosts do."""


def to_weight_version(policy_version: int) -> str:
    """The label under which a host loads policy version `policy_version`."""
    return str(policy_version)


def to_policy_version(weight_version: str) -> int:
    """The policy version that a server's label stands for.

    Raises:
        UnknownVersion: the label is no decimal number, as on a server that our host agent did not start ("default").
    """
    if not (weight_version.isascii() and weight_version.isdigit()):
        raise UnknownVersion(
            f"weight_version {weight_version!r} is no policy version: its host must label weights 0, 1, ..."
        )
    return int(weight_version)
