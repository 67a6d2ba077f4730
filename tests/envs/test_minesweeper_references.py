"""Scripted players of MineSweeper: what single numbers prove, what is remembered, and their pass@k."""

from __future__ import annotations

import random

import pytest

from lamer.common.records import EVALUATION_SEED, Task
from lamer.envs import registry
from lamer.envs.minesweeper.field import Cell
from lamer.envs.minesweeper.generator import Layout, draw_layout
from lamer.envs.minesweeper.references import PLAYERS, Player, deduce, minesweeper_references, solved_at

RANDOM, REMEMBERING, LOGIC, LOGIC_REMEMBERING = PLAYERS
ENDLESS = 10**6


def cells(*numbers: int) -> set[Cell]:
    """Cells by two digits: 23 is (2, 3)."""
    return {divmod(number, 10) for number in numbers}


def test_a_number_with_as_many_closed_neighbours_proves_them_mines() -> None:
    # 1 1 .      the 1 in the corner has one closed neighbour left
    # ? 1 .
    safe, mines = deduce(2, {(1, 1): 1, (1, 2): 1, (2, 2): 1}, frozenset())
    assert (safe, mines) == (set(), cells(21))


def test_a_number_whose_mines_are_known_proves_the_rest_safe() -> None:
    # ? 1 ?      (1, 1) was hit before
    # ? ? ?
    safe, mines = deduce(3, {(1, 2): 1}, frozenset({(1, 1)}))
    assert (safe, mines) == (cells(13, 21, 22, 23), cells(11))


def test_what_one_number_proves_another_one_uses() -> None:
    # 1 1 1 .
    # 1 ? 1 .    the corner proves (2, 2) a mine, so that (3, 1) is safe by (2, 1)
    # ? ? 1 .
    numbers = {(1, 1): 1, (1, 2): 1, (1, 3): 1, (2, 1): 1, (2, 3): 1}
    safe, mines = deduce(4, numbers, frozenset())
    assert mines == cells(22)
    assert safe >= cells(31, 32, 33)


def test_two_numbers_together_prove_nothing_to_single_cell_logic() -> None:
    # ? ? ?      1-2-1 along a wall: only both numbers together tell, which takes more than single numbers
    # 1 2 1
    safe, mines = deduce(3, {(2, 1): 1, (2, 2): 2, (2, 3): 1, (3, 1): 0, (3, 2): 0, (3, 3): 0}, frozenset())
    assert (safe, mines) == (set(), set())


def test_logic_solves_a_board_that_needs_no_guess_and_random_play_rarely_does() -> None:
    # The first cell opens all but the corner and the two mines that lock it in, which two other numbers prove.
    layout = Layout(size=4, mines=frozenset({(1, 2), (2, 1)}), first=(4, 4))
    tries = range(100)
    assert all(solved_at(LOGIC, layout, ENDLESS, 1, random.Random(seed)) == 0 for seed in tries)
    solved = sum(solved_at(RANDOM, layout, ENDLESS, 1, random.Random(seed)) == 0 for seed in tries)
    assert 15 < solved < 55, "one cell in three"


def test_a_player_that_remembers_never_hits_a_mine_twice() -> None:
    # Two mines: the third attempt at the latest knows both, and without a limit of turns it clears the board.
    layouts = [draw_layout(4, 2, seed) for seed in range(50)]
    for player in (REMEMBERING, LOGIC_REMEMBERING):
        assert all(solved_at(player, layout, ENDLESS, 3, random.Random(0)) is not None for layout in layouts)
    assert any(solved_at(RANDOM, layout, ENDLESS, 3, random.Random(0)) is None for layout in layouts)


def test_a_board_that_takes_more_turns_than_there_are_is_not_solved() -> None:
    layout = Layout(size=2, mines=frozenset({(1, 1)}), first=(1, 2))  # two single cells
    assert solved_at(LOGIC_REMEMBERING, layout, 1, 3, random.Random(0)) is None
    assert solved_at(LOGIC_REMEMBERING, layout, 2, 5, random.Random(0)) is not None


# Figures of issue 4, from another implementation, without a limit of turns. Within three standard errors of two means
# of so many boards each: 3 * sqrt(2 * .25 / 1000) = .067 at most.
ISSUE = {
    (4, 2): {RANDOM: (0.15, 0.25, 0.33), REMEMBERING: (0.15, 0.39, 1.0), LOGIC: (0.65, 0.84, 0.92)},
    (4, 3): {RANDOM: (0.05, 0.10, 0.13), REMEMBERING: (0.06, 0.13, 0.31), LOGIC: (0.41, 0.59, 0.71)},
    (6, 3): {RANDOM: (0.09, 0.16, 0.22), REMEMBERING: (0.10, 0.21, 0.41), LOGIC: (0.88, 0.97, 0.99)},
}
ISSUE[4, 2][LOGIC_REMEMBERING] = (0.67, 0.97, 1.0)
ISSUE[4, 3][LOGIC_REMEMBERING] = (0.41, 0.78, 0.98)
ISSUE[6, 3][LOGIC_REMEMBERING] = (0.90, 0.99, 1.0)


@pytest.mark.parametrize(("size", "mines"), list(ISSUE))
def test_without_a_limit_of_turns_the_figures_are_those_of_the_issue(size: int, mines: int) -> None:
    found = minesweeper_references(size, mines, ENDLESS, 3)
    for reference, (player, expected) in zip(found, ISSUE[size, mines].items(), strict=True):
        assert reference.name == player.name
        assert reference.pass_at == pytest.approx(expected, abs=0.067)


def test_the_papers_seven_turns_cost_logic_a_part_of_its_boards() -> None:
    endless, limited = (minesweeper_references(4, 3, turns, 3, boards=400) for turns in (ENDLESS, 7))
    assert limited[3].pass_at[2] < endless[3].pass_at[2] - 0.15


def test_references_are_the_same_on_every_call_and_never_fall_with_more_attempts() -> None:
    minesweeper_references.cache_clear()
    first = minesweeper_references(4, 2, 7, 5, boards=100)
    minesweeper_references.cache_clear()
    assert minesweeper_references(4, 2, 7, 5, boards=100) == first
    assert all(list(each.pass_at) == sorted(each.pass_at) and len(each.pass_at) == 5 for each in first)


def test_references_play_the_boards_of_the_evaluation() -> None:
    canonical = registry.canonical_config("minesweeper", {"board": 4, "mines": 2})
    found = registry.references("minesweeper", canonical, 3)
    assert [each.name for each in found] == [player.name for player in PLAYERS]
    layout = draw_layout(4, 2, EVALUATION_SEED)
    opened = registry.make_env(Task("minesweeper", canonical, EVALUATION_SEED)).reset().text
    assert opened.count("?") == len(layout.lay().hidden)


def test_a_player_opens_what_is_safe_before_it_guesses() -> None:
    layout = Layout(size=3, mines=frozenset({(1, 1)}), first=(1, 2))
    player = Player("knows", reasons=True, remembers=True)
    chosen = {player.choose(layout.lay(), frozenset({(1, 1)}), random.Random(seed)) for seed in range(50)}
    assert chosen == cells(13, 21, 22, 23), "neighbours of the 1 whose mine is known"
