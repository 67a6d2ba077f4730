"""Which key opens which route: SGLang's rules for --api-key and --admin-api-key.

open     health and readiness: always
normal   generation and information: the api key, when one is set
admin    weights, pause, continue, abort, flush: the admin key when one is set, else the api key when one is set
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

OPEN_ROUTES = frozenset({"/health", "/health_generate", "/ready", "/metrics"})
ADMIN_ROUTES = frozenset(
    {
        "/pause_generation",
        "/continue_generation",
        "/abort_request",
        "/flush_cache",
        "/update_weights_from_disk",
        "/update_weight_version",
    }
)


@dataclass(frozen=True)
class Keys:
    """The server's keys; "" for one that is not set."""

    api: str = ""
    admin: str = ""

    def allows(self, path: str, authorization: str) -> bool:
        """Whether a request for `path` with this Authorization header may pass."""
        if path in OPEN_ROUTES:
            return True
        needed = (self.admin or self.api) if path in ADMIN_ROUTES else self.api
        if not needed:
            return True
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), needed.encode())
