"""What a run measured of engine and trainer, read from its metrics, and said in lines."""

from __future__ import annotations

import statistics
from pathlib import Path

from tests.integration.processes import UpdateLine, updates


def figures(lines: list[UpdateLine], name: str) -> list[float]:
    """A metric in each update that has it: an update without tokens of age 0 has no gap."""
    return [line.metrics[name] for line in lines if name in line.metrics]


def describe(run: Path) -> str:
    """The gap between engine and trainer, and for each age of tokens their share, effective share and gap."""
    lines = updates(run)
    gap, worst = figures(lines, "engine/logprob_gap_mean"), figures(lines, "engine/logprob_gap_max")
    said = [f"{run.name}: gap on tokens of age 0: mean {statistics.fmean(gap):.1e}, largest {max(worst):.1e}"]
    parity = figures(lines, "engine/parity_max")
    if parity:
        said.append(f"  under the version that sampled: largest {max(parity):.1e}")
    age = 0
    while tokens := figures(lines, f"engine/tokens_age_{age}"):
        ess, shift = figures(lines, f"engine/ess_age_{age}"), figures(lines, f"engine/logprob_gap_age_{age}")
        share = f"  age {age}: {statistics.fmean(tokens):.0%} of tokens"
        if ess:
            share += f", effective share {statistics.fmean(ess):.4f} (least {min(ess):.4f})"
            share += f", gap {statistics.fmean(shift):.1e}"
        said.append(share)
        age += 1
    return "\n".join(said)
