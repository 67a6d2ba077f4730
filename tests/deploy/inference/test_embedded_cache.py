"""The engine's cache and sampling on their own."""

from __future__ import annotations

import numpy as np
import torch

from lamer.deploy.inference.embedded.cache import CacheShape, KVCache
from lamer.deploy.inference.embedded.prefix import BLOCK, PrefixIndex, hash_blocks
from lamer.deploy.inference.embedded.sampling import sample, uniform_noise
from lamer.deploy.inference.embedded.table import RunningTable


def tokens(*, first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.int32)


def make_cache(max_tokens: int = 512, max_running: int = 4) -> KVCache:
    return KVCache(CacheShape(layers=1, kv_heads=1, head_dim=2, dtype=torch.float32), max_tokens, max_running, 64)


def run_through(cache: KVCache, ids: np.ndarray) -> int:
    """Admits `ids`, marks its row with the ids as keys, and lets it finish; returns how much was reused."""
    row, reused = cache.take_row(ids, hash_blocks(ids, ""), len(ids) - 1)
    held = cache.data[0, 0, row, 0, :reused, 0]
    assert held.tolist() == ids[:reused].tolist()
    cache.data[0, 0, row, 0, : len(ids), 0] = torch.from_numpy(ids.astype(np.float32))
    cache.leave_row(row, ids, hash_blocks(ids, ""))
    cache.check_integrity()
    return reused


def test_a_prefix_is_found_beyond_its_last_whole_block() -> None:
    index = PrefixIndex()
    known = tokens(first=0, count=BLOCK + 9)
    index.offer(3, known, hash_blocks(known, ""))
    asked = np.concatenate([known[: BLOCK + 5], [999]]).astype(np.int32)
    assert index.find(asked, hash_blocks(asked, "")) == (3, BLOCK + 5)
    assert index.find(asked, hash_blocks(asked, "another salt")) == (-1, 0)
    index.withdraw(3)
    assert index.find(asked, hash_blocks(asked, "")) == (-1, 0)


def test_random_traffic_reuses_only_what_rows_hold() -> None:
    cache, rng = make_cache(), np.random.default_rng(0)
    reused = 0
    for _ in range(300):
        base = tokens(first=100 * int(rng.integers(0, 5)), count=int(rng.integers(BLOCK, 40)))
        reused += run_through(cache, np.concatenate([base, rng.integers(0, 9, 4)]).astype(np.int32))
        if rng.random() < 0.02:
            cache.forget()
    assert reused > 300 * BLOCK // 2


def test_nothing_is_found_after_forgetting() -> None:
    cache, ids = make_cache(), tokens(first=0, count=40)
    run_through(cache, ids)
    assert run_through(cache, ids) == 39
    cache.forget()
    assert run_through(cache, ids) == 0


def test_a_new_shape_keeps_what_runs_and_the_token_limit() -> None:
    cache, ids = make_cache(), tokens(first=0, count=40)
    row, _ = cache.take_row(ids, hash_blocks(ids, ""), 39)
    cache.data[0, 0, row, 0, :40, 0] = torch.from_numpy(ids.astype(np.float32))
    cache.reshape(200)
    assert (cache.capacity, cache.rows) == (224, 2)
    assert cache.data[0, 0, row, 0, :40, 0].tolist() == ids.tolist()
    cache.leave_row(row, None, ())
    cache.check_integrity()


def test_noise_is_uniform_and_a_function_of_seed_and_position_only() -> None:
    seeds, places = np.arange(5000, dtype=np.uint64), np.full(5000, 3, np.int64)
    noise = uniform_noise(seeds, places)
    assert abs(noise.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.05
    assert uniform_noise(seeds[7:9], places[:2]).tolist() == noise[7:9].tolist()
    assert uniform_noise(seeds, places + 1).tolist() != noise.tolist()


def test_greedy_and_drawn_rows_share_a_step() -> None:
    table = RunningTable(3, 8)
    table.is_greedy[0], table.top_k[1], table.temperature[2] = True, 1, 2.0
    table.seed[:] = [1, 2, 3]
    logits = torch.tensor([[0.0, 3.0, 1.0]] * 3)
    sampled = sample(logits.clone(), table, np.arange(3))
    assert sampled.ids[:2].tolist() == [1, 1]
    assert sampled.logprobs[0] == torch.log_softmax(logits[0], -1)[1]
    assert np.isclose(sampled.logprobs[2], torch.log_softmax(logits[2] / 2, -1)[sampled.ids[2]])
