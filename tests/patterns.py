"""Whether a regular expression can take time that grows with the square of its input, or worse.

A backtracking engine does so where a text can be read in more and more ways the longer it is, and the match may still
fail behind it. In the words of automata (Weber and Seidl, 1991): there are states p and q and a text v that leads from
p to p, from p to q, and from q to q. A search begins anew at each character: a loop ahead of the expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

CHARS = [*map(chr, range(128)), "\xa0", "é", "ß", "—", "日"]
COPIES = 2  # of what is repeated a limited number of times


class Automaton:
    """What an expression reads: states, and from each by which characters to which others."""

    def __init__(self, pattern: str | bytes, flags: int, searches: bool) -> None:
        tree = parser.parse(pattern, flags)
        self.flags = tree.state.flags
        self.empty: list[set[int]] = []
        self.steps: list[list[tuple[frozenset[str], int]]] = []
        self.doubtful: set[tuple[int, int]] = set()
        self.first, self.line = self._state(), self._state()
        first, line = self.first, self.line
        self.end = self._sequence(tree, first)
        begins = bool(len(tree)) and tree[0] == (sre.AT, sre.AT_BEGINNING_STRING)
        if searches and not begins:
            self.steps[first] += [(frozenset(CHARS), first), (frozenset("\n"), line)]

    def _state(self) -> int:
        self.empty.append(set())
        self.steps.append([])
        return len(self.empty) - 1

    def _join(self, start: int, end: int) -> None:
        self.empty[start].add(end)

    def _sequence(self, tree: Any, start: int) -> int:
        for operator, value in tree:
            start = self._node(operator, value, start)
        return start

    def _node(self, operator: Any, value: Any, start: int) -> int:
        end = self._state()
        if operator in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN):
            self.steps[start].append((self._chars(operator, value), end))
        elif operator is sre.BRANCH:
            for branch in value[1]:
                self._join(self._sequence(branch, start), end)
        elif operator is sre.SUBPATTERN:
            self._join(self._sequence(value[3], start), end)
        elif operator in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            least, most, inner = value
            for _ in range(min(least, COPIES)):
                start = self._sequence(inner, start)
            if most is sre.MAXREPEAT:
                loop = self._state()
                self._join(start, loop)
                self._join(self._sequence(inner, loop), loop)
                self._join(loop, end)
            else:
                for _ in range(min(most - least, COPIES)):
                    self._join(start, end)
                    start = self._sequence(inner, start)
                self._join(start, end)
        elif (operator, value) == (sre.AT, sre.AT_BEGINNING) and self.flags & re.MULTILINE:
            assert start in self.closure(self.first), "only at the beginning"
            self._join(self.line, end)  # behind a line end alone
        elif operator in (sre.AT, sre.ASSERT, sre.ASSERT_NOT):
            self._join(start, end)  # as if it held, wherever that makes it harder
            self.doubtful.add((start, end))
        elif operator is sre.GROUPREF:
            self.steps[start].append((frozenset(CHARS), end))
            self._join(start, end)
        else:
            raise NotImplementedError(str(operator))
        return end

    def _chars(self, operator: Any, value: Any) -> frozenset[str]:
        if operator is sre.ANY:
            return frozenset(c for c in CHARS if self.flags & re.DOTALL or c != "\n")
        if operator in (sre.LITERAL, sre.NOT_LITERAL):
            found = {c for c in CHARS if c == chr(value) or (self.flags & re.I and c.lower() == chr(value).lower())}
            return frozenset(CHARS) - found if operator is sre.NOT_LITERAL else frozenset(found)
        found = set()
        for kind, inner in value:
            if kind is sre.LITERAL:
                found.add(chr(inner))
            elif kind is sre.RANGE:
                found |= {c for c in CHARS if inner[0] <= ord(c) <= inner[1]}
            elif kind is sre.CATEGORY:
                wanted = {"SPACE": r"\s", "DIGIT": r"\d", "WORD": r"\w"}[str(inner).rpartition("_")[2]]
                is_not = "_NOT_" in str(inner)
                found |= {c for c in CHARS if (re.match(wanted, c) is None) is is_not}
        if self.flags & re.I:
            found |= {c for c in CHARS if c.lower() in found or c.upper() in found}
        is_negated = value[0][0] is sre.NEGATE
        return frozenset(CHARS) - found if is_negated else frozenset(found & set(CHARS))

    def closure(self, state: int, surely: bool = False) -> set[int]:
        """Where one is without reading anything, and ``surely``: without a condition."""
        found, todo = {state}, [state]
        while todo:
            at = todo.pop()
            for other in self.empty[at] - found:
                if not (surely and (at, other) in self.doubtful):
                    found.add(other)
                    todo.append(other)
        return found


def ambiguity(pattern: str | bytes, flags: int = 0, how: str = "search") -> tuple[str, str] | None:
    """Two places of an expression that read the same text again and again; None where there are no such."""
    automaton = Automaton(pattern, flags, how not in ("match", "fullmatch"))
    steps: dict[int, dict[str, set[int]]] = {}
    reading = [state for state in range(len(automaton.steps)) if automaton.steps[state]]
    sets = {chars for state in reading for chars, _ in automaton.steps[state]}
    alphabet = {tuple(char in one for one in sets): char for char in CHARS}.values()
    for state in reading:
        steps[state] = {}
        for chars, end in automaton.steps[state]:
            after = {other for other in automaton.closure(end) if automaton.steps[other]}
            for char in alphabet:
                if char in chars:
                    steps[state].setdefault(char, set()).update(after)
    reach = {state: _reachable(steps, state) for state in steps}
    loops = [state for state in steps if state in reach[state]]
    for p, q in product(loops, loops):
        may_fail = how == "fullmatch" or automaton.end not in automaton.closure(q, surely=True)
        if p != q and q in reach[p] and may_fail and _meet(steps, reach, p, q):
            return str(automaton.steps[p][0][0])[:60], str(automaton.steps[q][0][0])[:60]
    return None


def _reachable(steps: dict[int, dict[str, set[int]]], state: int) -> set[int]:
    found: set[int] = set()
    todo = [state]
    while todo:
        for others in steps[todo.pop()].values():
            todo += others - found
            found |= others
    return found


def _meet(steps: dict[int, dict[str, set[int]]], reach: dict[int, set[int]], p: int, q: int) -> bool:
    """Whether one text leads from p to p, from p to q and from q to q."""
    start, goal = (p, p, q), (p, q, q)
    found, todo = {start}, [start]
    while todo:
        for after in _together(steps, todo.pop()):
            if after == goal:
                return True
            a, b, c = after
            if (
                after not in found
                and (a == p or p in reach[a])
                and (b == q or q in reach[b])
                and (c == q or q in reach[c])
            ):
                found.add(after)
                todo.append(after)
    return False


def _together(steps: dict[int, dict[str, set[int]]], states: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for char in steps[states[0]]:
        yield from product(*(steps[state].get(char, ()) for state in states))


__all__ = ["ambiguity"]
