"""Tokens and log-probabilities of a whole step at once.

Log-probabilities are of the distribution at the sampling temperature, before top-k and top-p cut it (for greedy
sequences: at temperature 1). A token is drawn by inverting the cumulative distribution at one uniform number, which is
a counter-based hash (splitmix64, Steele, Lea and Flood 2014) of the sequence's seed and the token's position in the
response: neither the batch nor its order has a part in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lamer.deploy.inference.embedded.sequence import IdArray, LogprobArray, TopLogprobs
from lamer.deploy.inference.embedded.table import RowArray, RunningTable

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)


@dataclass(frozen=True)
class Sampled:
    """One token for each sampled row. ids int32 [S]; logprobs float32 [S]; full float32 [S, V] at the temperature."""

    ids: IdArray
    logprobs: LogprobArray
    full: torch.Tensor

    def top(self, index: int, count: int) -> TopLogprobs:
        """The `count` most likely (logprob, id) at place `index` of the step."""
        values, ids = self.full[index].topk(min(count, self.full.shape[1]))
        return tuple(zip(values.tolist(), ids.tolist(), strict=True))


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> _S30)) * _MIX1
    state = (state ^ (state >> _S27)) * _MIX2
    return state ^ (state >> _S31)


def uniform_noise(seeds: npt.NDArray[np.uint64], positions: RowArray) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each seed uint64 [S] and position int64 [S], a pure function of the two."""
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(seeds + _GOLDEN) + _GOLDEN * (positions.astype(np.uint64) + np.uint64(1)))
    return (mixed >> _S11).astype(np.float64) * 2.0**-53


def _draw(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Index [S] at which the cumulative sum of `probabilities` [S, V] first exceeds `uniform` [S] of its total."""
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_(max=probabilities.shape[1] - 1)


def _draw_truncated(
    probabilities: torch.Tensor, uniform: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """As `_draw`, among the `top_k` [S] likeliest (0: all) and the least set that holds mass `top_p` [S]."""
    ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    rank = torch.arange(ordered.shape[1])
    cut = (before > top_p[:, None]) | ((top_k[:, None] > 0) & (rank >= top_k[:, None]))
    cut[:, 0] = False
    drawn = _draw(ordered.masked_fill(cut, 0.0), uniform)
    return ids.gather(1, drawn[:, None]).squeeze(1)


def _forbid_stops(logits: torch.Tensor, table: RunningTable, rows: RowArray, positions: RowArray) -> None:
    """Makes stop ids impossible, in place, where a sequence is shorter than its least length."""
    for index in np.flatnonzero(positions < table.min_new[rows]).tolist():
        stop_ids = table.stop_ids[rows[index]]
        logits[index, torch.from_numpy(stop_ids[stop_ids >= 0].astype(np.int64))] = -torch.inf


def sample(logits: torch.Tensor, table: RunningTable, rows: RowArray) -> Sampled:
    """Draws the next token of each of `rows` int64 [S] from `logits` [S, V], which may be overwritten."""
    positions = table.length[rows] - table.prompt_length[rows]
    logits = logits.float()
    if bool((positions < table.min_new[rows]).any()):
        _forbid_stops(logits, table, rows, positions)
    logits /= torch.from_numpy(table.temperature[rows])[:, None]
    full = torch.log_softmax(logits, -1)
    is_greedy = table.is_greedy[rows]
    if is_greedy.all():
        ids = full.argmax(-1)
    else:
        probabilities = full.exp()
        uniform = torch.from_numpy(uniform_noise(table.seed[rows], positions))
        ids = _draw(probabilities, uniform)
        is_cut = ~is_greedy & ((table.top_p[rows] < 1.0) | (table.top_k[rows] > 0))
        if is_cut.any():
            some = torch.from_numpy(np.flatnonzero(is_cut))
            cut_rows = rows[is_cut]
            top_k, top_p = torch.from_numpy(table.top_k[cut_rows]), torch.from_numpy(table.top_p[cut_rows])
            ids[some] = _draw_truncated(probabilities[some], uniform[some], top_k, top_p)
        if is_greedy.any():
            ids = torch.where(torch.from_numpy(is_greedy), full.argmax(-1), ids)
    logprobs = full.gather(1, ids[:, None]).squeeze(1)
    return Sampled(ids.numpy().astype(np.int32), logprobs.numpy(), full)
