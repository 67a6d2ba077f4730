"""How packs are dealt to ranks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lamer.learner.trainer.ranks.dealing import deal

costs = st.lists(st.floats(0.0, 1000.0), min_size=1, max_size=40)


@given(costs=costs, ranks=st.integers(1, 9))
def test_each_pack_counts_once_and_all_ranks_compute_as_many(costs: list[float], ranks: int) -> None:
    packs = list(range(len(costs)))
    dealt = deal(packs, costs, ranks)
    assert len({len(shares) for shares in dealt}) == 1
    assert sorted(share.pack for shares in dealt for share in shares if share.counts) == packs
    assert len(dealt) == ranks
    for shares in dealt:
        own = [share.pack for share in shares if share.counts]
        assert own == sorted(own), "packs keep their order within a rank"


@given(costs=costs, ranks=st.integers(1, 9))
def test_no_rank_has_more_than_the_even_share_and_one_pack(costs: list[float], ranks: int) -> None:
    dealt = deal(list(range(len(costs))), costs, ranks)
    loads = [sum(costs[share.pack] for share in shares if share.counts) for shares in dealt]
    even = sum(costs) / ranks
    if len(costs) % ranks == 0 and len(set(costs)) == 1:
        assert max(loads) <= even * (1 + 1e-9)
    assert max(loads) <= 2 * even + max(costs) + 1e-6


def test_expensive_packs_go_to_different_ranks() -> None:
    dealt = deal(["a", "b", "c", "d"], [9.0, 1.0, 1.0, 9.0], 2)
    assert [{share.pack for share in shares} for shares in dealt] == [{"a", "b"}, {"c", "d"}]


def test_what_keeps_the_others_company_is_the_cheapest_pack() -> None:
    dealt = deal(["a", "b", "c"], [3.0, 1.0, 2.0], 2)
    idle = [share.pack for shares in dealt for share in shares if not share.counts]
    assert idle == ["b"]
