"""Prefixes that left the KV cache and are kept in host memory: which ones, within a budget of tokens.

Pure bookkeeping beside the cache's own tree: the runner holds the bytes, under the keys given out here.
"""

from __future__ import annotations

from collections import OrderedDict

from llmserve.llama.prefix_tree import PrefixTree


class PrefixShelf:
    """Saved prefixes by key, least recently used first. `budget` is in tokens; 0 keeps nothing."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._tree = PrefixTree()
        self._keys: OrderedDict[int, None] = OrderedDict()
        self._read_from_disk: set[int] = set()
        self._next_key = 0

    @property
    def used(self) -> int:
        """Tokens on the shelf; a part that two prefixes have in common counts twice, as their bytes do."""
        return self._tree.cells

    @property
    def sequences(self) -> list[tuple[list[int], int]]:
        """The tokens of everything on the shelf, each with its adapter, least recently used first."""
        return [(self._tree.tokens(key), self._tree.adapter(key)) for key in self._keys]

    def key_of(self, tokens: list[int], adapter: int) -> int | None:
        """The key of exactly these tokens, if they are here."""
        match = self._tree.match(tokens, len(tokens), adapter, whole=True)
        return self._tree.holder(match) if match.length == len(tokens) > 0 else None

    def length(self, key: int) -> int:
        """How many tokens are saved under `key`."""
        return self._tree.length(key)

    def first_from_disk(self, key: int) -> bool:
        """Whether `key` was read from the disk and nothing was restored from it yet; False from the next call on."""
        first = key in self._read_from_disk
        self._read_from_disk.discard(key)
        return first

    def matched(self, tokens: list[int], limit: int, adapter: int, *, whole: bool) -> int:
        """Length of the longest saved prefix of `tokens`, at most `limit`. `whole`: only of prefixes saved so."""
        return self._tree.match(tokens, limit, adapter, whole=whole).length

    def take(self, tokens: list[int], limit: int, adapter: int, *, whole: bool) -> tuple[int, int]:
        """The key and the length of the longest match, which counts as used now. Raises KeyError without a match."""
        match = self._tree.match(tokens, limit, adapter, whole=whole)
        if match.length == 0:
            raise KeyError("nothing on the shelf is a prefix of these tokens")
        key = self._tree.holder(match)
        self._keys.move_to_end(key)
        return key, match.length

    def put(
        self, tokens: list[int], adapter: int, keep: int | None = None, *, from_disk: bool = False
    ) -> tuple[int | None, list[int]]:
        """Make room for `tokens`; returns their new key (None: over the budget) and the keys to forget.

        Shorter prefixes of the same tokens make way first, since the new one holds all of them. `keep` never does.
        """
        kept = self._tree.length(keep) if keep is not None else 0
        if not 0 < len(tokens) <= self._budget - kept:
            return None, []
        gone = [key for key in self._keys if key != keep and self._is_prefix(key, tokens, adapter)]
        for key in gone:
            self._remove(key)
        while self.used + len(tokens) > self._budget:
            key = next(key for key in self._keys if key != keep)
            self._remove(key)
            gone.append(key)
        key = self._next_key
        self._next_key += 1
        self._tree.open(key, adapter)
        self._tree.extend(key, tokens)
        self._keys[key] = None
        if from_disk:
            self._read_from_disk.add(key)
        return key, gone

    def _is_prefix(self, key: int, tokens: list[int], adapter: int) -> bool:
        if self._tree.adapter(key) != adapter:
            return False
        length = self._tree.length(key)
        return length <= len(tokens) and self._tree.tokens(key) == tokens[:length]

    def _remove(self, key: int) -> None:
        del self._keys[key]
        self._read_from_disk.discard(key)
        self._tree.release(key)
