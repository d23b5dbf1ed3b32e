"""Which tokens are resident in the KV cache, who holds them, and how many cells that takes.

A unified KV cache lets several sequences own one cell, and copying a prefix to another sequence only adds owners. This
tree mirrors that exactly: a node is a run of cells, a slot's sequence is the path from the root to the node that the
slot holds, and sharing happens only by `fork`. Two sequences that computed equal tokens apart are two branches, since
they are two sets of cells; so are equal tokens of two adapters, each of which has a root of its own. It is pure
bookkeeping: nothing here knows llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Node:
    """A run of cells below `parent`. `holders` are the slots whose sequence ends with this run."""

    tokens: list[int]
    parent: Node | None
    children: dict[int, list[Node]] = field(default_factory=dict)
    holders: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Match:
    """The longest resident prefix of some tokens: `length` tokens, ending `offset` tokens into `node`."""

    length: int
    node: Node
    offset: int


def common_prefix(left: Sequence[int], right: Sequence[int], left_start: int = 0, limit: int | None = None) -> int:
    """How many tokens of `left` from `left_start` on equal those at the start of `right` (at most `limit`)."""
    length = min(len(left) - left_start, len(right))
    if limit is not None:
        length = min(length, limit)
    block = 128
    for start in range(0, length, block):
        end = min(start + block, length)
        # Slices compare in C; only the block that differs is walked in Python.
        if left[left_start + start : left_start + end] != right[start:end]:
            while left[left_start + start] == right[start]:
                start += 1
            return start
    return length


class PrefixTree:
    """The resident sequences of one KV cache, by slot."""

    def __init__(self) -> None:
        self._roots: dict[int, Node] = {}
        self._leaves: dict[int, Node] = {}
        self._adapters: dict[int, int] = {}
        self._lengths: dict[int, int] = {}
        self.cells = 0

    def length(self, slot: int) -> int:
        """Tokens resident for `slot`."""
        return self._lengths[slot]

    def adapter(self, slot: int) -> int:
        """The adapter that the sequence of `slot` is computed with."""
        return self._adapters[slot]

    def open(self, slot: int, adapter: int = 0) -> None:
        """Give `slot` an empty sequence. Raises ValueError if it has one already."""
        if slot in self._leaves:
            raise ValueError(f"slot {slot} is in use")
        self._leaves[slot] = root = self._root(adapter)
        root.holders.add(slot)
        self._lengths[slot] = 0
        self._adapters[slot] = adapter

    def match(self, tokens: list[int], limit: int, adapter: int = 0, *, whole: bool = False) -> Match:
        """The longest prefix of `tokens`, at most `limit` tokens, that is resident under `adapter`. Changes nothing.

        `whole`: only sequences that are a prefix of `tokens` from end to end, for memory that cannot be cut.
        """
        best = Match(0, self._root(adapter), 0)
        frontier = [best]
        while frontier:
            at = frontier.pop()
            ends = at.offset == len(at.node.tokens)
            if at.length > best.length and (not whole or (ends and at.node.holders)):
                best = at
            if at.length >= limit or not ends:
                continue
            for child in at.node.children.get(tokens[at.length], ()):
                shared = common_prefix(tokens, child.tokens, at.length, limit - at.length)
                frontier.append(Match(at.length + shared, child, shared))
        return best

    def holder(self, match: Match) -> int:
        """A slot that holds the matched tokens; one that holds nothing more, if there is one."""
        return next(self._slots_below(match.node))

    def holders(self, match: Match) -> frozenset[int]:
        """The slots whose sequence is exactly the matched tokens."""
        return frozenset(match.node.holders if match.offset == len(match.node.tokens) else ())

    def shared(self, slot: int) -> int:
        """How many tokens of `slot`, from the first on, another slot has too (in these cells or in its own)."""
        tokens, adapter = self.tokens(slot), self._adapters[slot]
        longest = 0
        for other in self._leaves:
            if other != slot and self._adapters[other] == adapter:
                longest = max(longest, common_prefix(tokens, self.tokens(other)))
        return longest

    def trim(self, slot: int, length: int) -> None:
        """Forget what `slot` holds behind its first `length` tokens, in place.

        Raises ValueError unless that is a part of its last run of cells, and nobody else's.
        """
        leaf = self._leaves[slot]
        gone = self._lengths[slot] - length
        if leaf.children or len(leaf.holders) != 1 or not 0 < gone < len(leaf.tokens):
            raise ValueError(f"slot {slot} does not own its last {gone} cells alone")
        del leaf.tokens[-gone:]
        self._lengths[slot] = length
        self.cells -= gone

    def fork(self, match: Match, slot: int) -> int:
        """Let `slot` share the matched cells (at least one); returns a slot that already holds them.

        The caller copies `match.length` tokens from the returned slot in the real cache.
        """
        source = self.holder(match)
        adapter = self._adapters[source]
        self.open(slot, adapter)
        node = match.node if match.offset == len(match.node.tokens) else self._split(match.node, match.offset)
        self._root(adapter).holders.discard(slot)
        node.holders.add(slot)
        self._leaves[slot] = node
        self._lengths[slot] = match.length
        return source

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """`slot` has computed `tokens` behind what it holds: new cells that are its own."""
        if not tokens:
            return
        leaf = self._leaves[slot]
        if leaf.parent is None or leaf.children or len(leaf.holders) > 1:
            leaf.holders.discard(slot)
            child = Node(list(tokens), leaf, holders={slot})
            leaf.children.setdefault(child.tokens[0], []).append(child)
            self._leaves[slot] = child
        else:
            leaf.tokens.extend(tokens)
        self._lengths[slot] += len(tokens)
        self.cells += len(tokens)

    def release(self, slot: int) -> int:
        """Forget `slot`; returns how many cells nobody holds any more."""
        node = self._leaves.pop(slot)
        del self._lengths[slot], self._adapters[slot]
        node.holders.discard(slot)
        freed = 0
        while node.parent is not None and not node.holders and not node.children:
            parent = node.parent
            self._detach(node)
            freed += len(node.tokens)
            node = parent
        self._join_only_child(node)
        self.cells -= freed
        return freed

    def cells_held_by(self, slots: Iterable[int]) -> int:
        """Cells that at least one of `slots` holds (each counted once)."""
        seen: set[int] = set()
        total = 0
        for slot in slots:
            node: Node | None = self._leaves[slot]
            while node is not None and id(node) not in seen:
                seen.add(id(node))
                total += len(node.tokens)
                node = node.parent
        return total

    def tokens(self, slot: int) -> list[int]:
        """The resident tokens of `slot`, in order."""
        runs: list[list[int]] = []
        node: Node | None = self._leaves[slot]
        while node is not None:
            runs.append(node.tokens)
            node = node.parent
        return [token for run in reversed(runs) for token in run]

    def _root(self, adapter: int) -> Node:
        root = self._roots.get(adapter)
        if root is None:
            root = self._roots[adapter] = Node([], None)
        return root

    def _slots_below(self, node: Node) -> Iterator[int]:
        stack = [node]
        while stack:
            node = stack.pop()
            yield from node.holders
            for siblings in node.children.values():
                stack.extend(siblings)

    def _split(self, node: Node, offset: int) -> Node:
        """Cut `node` before `offset`: the front becomes a new node above it, which is returned."""
        front = Node(node.tokens[:offset], node.parent)
        self._detach(node)
        node.tokens = node.tokens[offset:]
        node.parent = front
        front.children[node.tokens[0]] = [node]
        if front.parent is not None:
            front.parent.children.setdefault(front.tokens[0], []).append(front)
        return front

    def _join_only_child(self, node: Node) -> None:
        """Undo a split that nobody needs any more, so that paths stay short."""
        if node.parent is None or node.holders or len(node.children) != 1:
            return
        (siblings,) = node.children.values()
        if len(siblings) != 1:
            return
        child = siblings[0]
        parent = node.parent
        self._detach(node)
        child.tokens = node.tokens + child.tokens
        child.parent = parent
        parent.children.setdefault(child.tokens[0], []).append(child)

    @staticmethod
    def _detach(node: Node) -> None:
        if node.parent is None:
            return
        siblings = node.parent.children[node.tokens[0]]
        siblings.remove(node)
        if not siblings:
            del node.parent.children[node.tokens[0]]
