"""Settings of pocket models for the doors."""

from __future__ import annotations

from dataclasses import replace

from lamer.common.settings import (
    EnvSettings,
    ModelSettings,
    PocketSettings,
    Settings,
    TrialSettings,
    WarmstartSettings,
)

DOORS = 5
SETTINGS = Settings(
    model=ModelSettings(
        pocket=PocketSettings(context=256), warmstart=WarmstartSettings(steps=250, batch=32, learning_rate=6e-3)
    ),
    env=EnvSettings("doors", {"doors": DOORS}),
    trial=TrialSettings(max_prompt_tokens=128, max_response_tokens=8, max_reflection_tokens=8),
)
SMALL = PocketSettings(hidden=16, layers=1, heads=2, kv_heads=1, head_dim=8, intermediate=16, context=256)
QUICK = replace(SETTINGS, model=ModelSettings(pocket=SMALL, warmstart=WarmstartSettings(steps=3, trials=20, batch=8)))
