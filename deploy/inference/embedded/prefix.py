"""Which row of the cache holds the keys and values of which token prefix.

A prefix is found by the chained hash of its blocks of `BLOCK` tokens, compared token by token with what the row holds,
and then extended beyond the last whole block as far as the tokens agree. Rows enter only with tokens computed by the
current weights, and `clear` drops all of them: nothing computed by older weights can be found.
"""

from __future__ import annotations

from lamer.deploy.inference.embedded.sequence import IdArray

BLOCK = 16


def hash_blocks(tokens: IdArray, salt: str) -> tuple[int, ...]:
    """Chained hashes of the whole blocks of `tokens` int32 [N]; equal prefixes under one salt have equal hashes."""
    raw = tokens.tobytes()
    chained = hash(salt)
    hashes: list[int] = []
    width = BLOCK * tokens.itemsize
    for start in range(0, len(raw) - width + 1, width):
        chained = hash((chained, raw[start : start + width]))
        hashes.append(chained)
    return tuple(hashes)


def common_length(left: IdArray, right: IdArray) -> int:
    """How many leading tokens of two int32 arrays are equal."""
    count = min(len(left), len(right))
    differs = left[:count] != right[:count]
    first = int(differs.argmax()) if count else 0
    return first if count and bool(differs[first]) else count


class PrefixIndex:
    """Block hash -> the row that most recently offered it, and each row's tokens."""

    def __init__(self) -> None:
        self._row_of: dict[int, int] = {}
        self._hashes: dict[int, tuple[int, ...]] = {}
        self._tokens: dict[int, IdArray] = {}

    def __contains__(self, row: int) -> bool:
        """Whether the row offers anything."""
        return row in self._tokens

    def tokens(self, row: int) -> IdArray:
        """The tokens that `row` offers, int32 [N]."""
        return self._tokens[row]

    def offer(self, row: int, tokens: IdArray, hashes: tuple[int, ...]) -> None:
        """`row` holds the keys and values of all of `tokens`, whose block hashes are `hashes`."""
        self.withdraw(row)
        self._tokens[row] = tokens
        self._hashes[row] = hashes
        for block in hashes:
            self._row_of[block] = row

    def withdraw(self, row: int) -> None:
        """`row` is about to be overwritten."""
        if row not in self._tokens:
            return
        del self._tokens[row]
        for block in self._hashes.pop(row):
            if self._row_of.get(block) == row:
                del self._row_of[block]

    def move(self, source: int, target: int) -> None:
        """What `source` held is in `target`."""
        tokens, hashes = self._tokens[source], self._hashes[source]
        self.withdraw(source)
        self.offer(target, tokens, hashes)

    def clear(self) -> None:
        """No row offers anything."""
        self._row_of.clear()
        self._hashes.clear()
        self._tokens.clear()

    def find(self, tokens: IdArray, hashes: tuple[int, ...]) -> tuple[int, int]:
        """(row, length) of a long known prefix of `tokens`, (-1, 0) when none is a block long."""
        for block in reversed(hashes):
            row = self._row_of.get(block, -1)
            if row >= 0:
                length = common_length(self._tokens[row], tokens)
                if length >= BLOCK:
                    return row, length
        return -1, 0
