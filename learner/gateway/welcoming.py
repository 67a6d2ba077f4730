"""The gateway's answer to a Hello that it accepts."""

from __future__ import annotations

import os
import time

from lamer.common.messages import PROTOCOL_VERSION, Hello, Welcome
from lamer.common.settings import GatewaySettings
from lamer.learner.gateway.plan import GatewayPlan


def make_welcome(
    plan: GatewayPlan, settings: GatewaySettings, config: str, config_hash: str, policy_version: int, hello: Hello
) -> Welcome:
    """config: the run's, as JSON. policy_version: that the trainer holds."""
    return Welcome(
        protocol=PROTOCOL_VERSION,
        epoch=os.getpid() << 32 | int(time.time()),
        run=plan.run,
        config=config,
        config_hash=config_hash,
        policy_version=policy_version,
        model_path=plan.model_path,
        credit_trials=hello.capacity,
        credit_bytes=settings.credit_bytes,
        heartbeat_seconds=settings.heartbeat_seconds,
        dead_after_seconds=settings.dead_after_seconds,
        fingerprint=plan.fingerprint,
    )
