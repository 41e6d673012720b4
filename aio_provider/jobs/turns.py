"""Who goes next: users in turn, each user's own requests by priority."""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from enum import IntEnum
from itertools import count
from typing import Any


class Priority(IntEnum):
    """Which of one user's waiting requests goes first; the lowest does."""

    #: a submission, where only the end of the whole batch counts
    SUBMIT_FIRST = 0
    #: a poll that will almost surely find its task done
    SURE_POLL = 1
    SUBMIT = 2
    #: a poll that may find its task done: goes only when nothing else waits
    SPARE_POLL = 3


class TurnQueue:
    """Those who wait: users in turn, each user's own by priority, spare polls after everything else."""

    def __init__(self) -> None:
        self._seq = count()
        self._levels: tuple[_Users, _Users] = (OrderedDict(), OrderedDict())
        self._size = 0
        self.submissions = 0

    def __len__(self) -> int:
        return self._size

    def push(self, priority: Priority, user: object, turn: asyncio.Future[Any]) -> None:
        """Wait."""
        users = self._levels[priority == Priority.SPARE_POLL]
        heapq.heappush(users.setdefault(user, []), (priority, next(self._seq), turn))
        self._count(priority, +1)

    def pop(self) -> asyncio.Future[Any] | None:
        """The next who still waits."""
        for users in self._levels:
            while users:
                user, heap = users.popitem(last=False)
                found = self._first(heap)
                if heap:
                    users[user] = heap  # at the end: the others' turn first
                if found is not None:
                    return found
        return None

    def discard(self, turn: asyncio.Future[Any]) -> None:
        """Wait no more."""
        for users in self._levels:
            for user, heap in users.items():
                kept = [entry for entry in heap if entry[2] is not turn]
                if len(kept) < len(heap):
                    self._count(next(entry[0] for entry in heap if entry[2] is turn), -1)
                    heapq.heapify(kept)
                    if kept:
                        users[user] = kept
                    else:
                        del users[user]
                    return

    def _first(self, heap: list[tuple[Priority, int, asyncio.Future[Any]]]) -> asyncio.Future[Any] | None:
        while heap:
            priority, _, turn = heapq.heappop(heap)
            self._count(priority, -1)
            if not turn.done():
                return turn
        return None

    def _count(self, priority: Priority, by: int) -> None:
        self._size += by
        if priority in (Priority.SUBMIT, Priority.SUBMIT_FIRST):
            self.submissions += by


_Users = OrderedDict[object, list[tuple[Priority, int, "asyncio.Future[Any]"]]]
