"""Which task to ask after next, and when: a pure plan, told the time, that can be simulated without a clock.

Two rules, by what a request costs at the moment:

* **submissions are waiting** ("pressed"): every poll takes the place of a submission, so a task is asked
  after once it is almost surely done;
* **nothing waits**: requests would go unused, so tasks are asked after a handful of times, most often at
  the ages where they tend to end.

Latencies are learned for each (kind, model); the first guess is the catalog's.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

from aio_provider.jobs.latency import LatencyModel

#: pressed: the first poll is due when this share of tasks is done, later ones when this share of the rest is
_SURE = 0.97
_SURE_AGAIN = 0.85
#: what asking in vain costs while submissions wait, in median latencies
_MISS = 4.0
#: not pressed: polls a task, all told
_LOOKS = 11.0
#: with requests for fewer polls a task than this, each is saved for when it is almost surely done
_FEW_LOOKS = 1.6
_SHARE = 2.0
#: while little is known of a model, and for a few tasks ever after, the first poll is earlier, so as to learn
_SCOUTS = 6
_SCOUT_SHARE = 1 / 40
#: once so many tasks of an unknown model are followed, one of them is asked after at ages that double, from
#: far below the published range: it finds out early should the figures be far too high
_CROWD = 8
_FAR_BELOW = 40.0
#: a rush is remembered for this many typical latencies
_RUSH_MEMORY = 1.5
#: this many polls in a row that should have found a task done, and did not, tell of a changed service
_DOUBT_AFTER = 3
#: seconds between two refreshes of one model's figures; and once so many tasks have told of it that a few
#: more change little
_REFRESH_EVERY = 0.05
_REFRESH_KNOWN = 0.5
_KNOWN = 200
_REBUILD_UP_TO = 2000
#: void entries taken off a heap in one go: a hundred thousand of them take a tenth of a second
_TIDY_AT_ONCE = 1000
#: a task that has run for so many median latencies is asked after ever less: it may never end
_STRAGGLER = 2.5


@dataclass(slots=True, eq=False)
class _Watch:
    """A task that was asked after, or is to be asked at a time of its own."""

    id: str
    group: _Group
    submitted_at: float
    seen_running: float | None = None  # age at the last poll that found it running
    not_before: float = -math.inf
    scout: float | None = None  # a scout's first poll, as a quantile
    look_at: float | None = None  # the pathfinder's next poll, as an age
    expected: float = 0.0  # probability that the poll under way finds it done
    number: int = 0  # of its heap entries that stand; older ones are void


@dataclass(slots=True, eq=False)
class _Group:
    """The tasks of one model."""

    index: int
    latency: LatencyModel
    low: float  # the shortest published latency
    fresh: list[_Due] = field(default_factory=list)  # by submission
    spare: list[_Due] = field(default_factory=list)  # by when a spare request is worth it
    sure: list[_Due] = field(default_factory=list)  # by when it is almost surely done
    size: int = 0
    scouted: int = 0
    path_found: bool = False
    primed: bool = False
    sure_at: float = 0.0
    sure_version: int = -1
    misses_in_a_row: int = 0
    rush: float = 0.0
    rush_at: float = -math.inf
    refreshed_at: float = -math.inf
    built: int = -1

    def sure_age(self) -> float:
        """When a task that was not asked after yet is almost surely done."""
        if self.sure_version != self.latency.version:
            self.sure_version = self.latency.version
            self.sure_at = self.latency.sure_age(_SURE, _MISS)
        return self.sure_at

    def refresh_at(self) -> float:
        """When its figures may be brought up to date again: that takes a millisecond."""
        return self.refreshed_at + (_REFRESH_EVERY if self.latency.count < _KNOWN else _REFRESH_KNOWN)

    def looks(self) -> float:
        return 1.0 + (_LOOKS - 1.0) * (1.0 - self.rush) ** 2


class PollPlan:
    """When to ask after which task.

    All times are seconds on one clock of the caller's choice; it is passed in, never read.

    :param prior: the published range of a (kind, model), in seconds; the catalog's by default.
    :param seed: of the few random choices.
    """

    def __init__(
        self,
        prior: Callable[[str, str | None], tuple[float, float]] | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        self._prior = prior or catalog_prior()
        self._random = random.Random(seed)
        self._groups: dict[tuple[str, str | None], _Group] = {}
        self._in_order: list[_Group] = []
        self._watches: dict[str, _Watch] = {}
        # Those not asked after yet: their group's index, when submitted, their heap entry's number. Of great
        # many tasks nearly all: plain values, so that the garbage collector has nothing to look at.
        self._fresh: dict[str, tuple[int, float, int]] = {}
        #: seconds between two requests in the long run, which is what the followed tasks share; 0: no limit
        self.spacing = 0.0
        self._seq = count()

    def __len__(self) -> int:
        return len(self._watches) + len(self._fresh)

    # -- tasks come and go

    def add(self, task_id: str, *, kind: str, model: str | None, submitted_at: float, now: float) -> None:
        """Follow a task."""
        self.discard(task_id)
        group = self._group(kind, model)
        group.size += 1
        if not group.path_found and group.size >= _CROWD and not group.latency.count:
            group.path_found = True
            self._push(_Watch(task_id, group, submitted_at, look_at=group.low / _FAR_BELOW))
        elif group.scouted < _SCOUTS or self._random.random() < _SCOUT_SHARE:
            group.scouted += 1
            self._push(_Watch(task_id, group, submitted_at, scout=self._random.uniform(0.3, 0.9)))
        else:
            number = next(self._seq)
            self._fresh[task_id] = (group.index, submitted_at, number)
            heapq.heappush(group.fresh, (submitted_at, number, task_id))

    def discard(self, task_id: str) -> None:
        """Follow a task no longer."""
        watch = self._pop(task_id)
        if watch is not None:
            watch.group.latency.left(watch.seen_running)

    def discard_all(self) -> None:
        """Follow nobody any longer; what was learned stays."""
        for group in self._in_order:
            group.size = 0
            for heap in (group.fresh, group.spare, group.sure):
                heap.clear()
        for watch in self._watches.values():
            watch.group.latency.left(watch.seen_running)
        self._watches.clear()
        self._fresh.clear()

    def submitted_at(self, task_id: str) -> float | None:
        """When a task was submitted; ``None`` for one that is not followed."""
        if task_id in self._fresh:
            return self._fresh[task_id][1]
        watch = self._watches.get(task_id)
        return None if watch is None else watch.submitted_at

    # -- polls

    def tidy(self) -> bool:
        """Take some of the entries of those who have left out of the way; whether that is all there were.

        The calls below do it too, but all at once, however many have left.
        """
        return all(
            _clear_top(heap, stands, _TIDY_AT_ONCE)
            for group in self._in_order
            for heap, stands in (
                (group.spare, self._stands),
                (group.sure, self._stands),
                (group.fresh, self._stands_fresh),
            )
        )

    def next_due(self, now: float, pressed: bool) -> float | None:
        """When the next poll is worth its request; ``None`` when no task is left to ask after."""
        due = math.inf
        for group in self._groups.values():
            if group.size:
                self._tend(group, now, pressed)
                due = min(due, self._group_due(group, pressed)[0])
                if not group.latency.fresh():  # think again once it may be refreshed
                    due = min(due, group.refresh_at())
        return None if due == math.inf else due

    def pick(self, now: float, pressed: bool) -> str | None:
        """The task that a request sent now should ask after: of those due, the likeliest to be done.

        It is taken to be asked until :meth:`running`, :meth:`ended` or :meth:`lost` is called.
        """
        best: str | None = None
        best_chance = -1.0
        for group in self._groups.values():
            if not group.size:
                continue
            self._tend(group, now, pressed)
            due, task_id = self._group_due(group, pressed, now)
            if task_id is None or due > now:
                continue
            watch = self._watches.get(task_id)
            if watch is None:
                chance = group.latency.done_by(now - self._fresh[task_id][1])
            else:
                chance = group.latency.done_by(now - watch.submitted_at, watch.seen_running or 0.0)
            if chance > best_chance:
                best, best_chance = task_id, chance
        if best is not None:
            asked = self._known(best)
            assert asked is not None
            asked.number = next(self._seq)  # no entry of a heap stands for it while it is asked
            asked.expected = best_chance
        return best

    def sure(self, now: float) -> bool:
        """Whether some task is almost surely done."""
        return any(group.size and self._group_due(group, True)[0] <= now for group in self._groups.values())

    def running(self, task_id: str, sent_at: float) -> None:
        """The poll sent at ``sent_at`` found the task running."""
        watch = self._known(task_id)
        if watch is None:
            return
        group = watch.group
        age = max(sent_at - watch.submitted_at, 0.0)
        group.latency.running(age, watch.seen_running)
        watch.seen_running = age
        watch.scout = None
        if watch.look_at is not None:
            further = age * 2 + 0.01
            watch.look_at = further if not group.latency.count and further < group.low else None
        if watch.expected > 0.9:
            group.misses_in_a_row += 1
            if group.misses_in_a_row >= _DOUBT_AFTER:
                group.latency.doubt()
        self._push(watch)

    def ended(self, task_id: str, answered_at: float) -> None:
        """The poll answered at ``answered_at`` found the task done."""
        watch = self._pop(task_id)
        if watch is None:
            return
        group = watch.group
        group.latency.left(watch.seen_running)
        group.latency.ended(watch.seen_running or 0.0, answered_at - watch.submitted_at)
        if watch.expected > 0.9:
            group.misses_in_a_row = 0

    def lost(self, task_id: str, again_at: float) -> None:
        """The poll had no usable answer; ask again, but not before ``again_at``."""
        watch = self._known(task_id)
        if watch is not None:
            watch.not_before = again_at
            self._push(watch)

    # -- what was learned

    def knows(self, kind: str, model: str | None) -> bool:
        """Whether anything but the published range is known of a model."""
        group = self._groups.get((kind, model))
        return group is not None and (group.primed or group.latency.count > 0)

    def prime(self, kind: str, model: str | None, durations: Iterable[float]) -> None:
        """Begin with what is on record: seconds from acceptance until earlier tasks were found done."""
        group = self._group(kind, model)
        group.primed = True
        group.latency.recorded(durations)
        group.latency.refresh()

    def slowest(self, kind: str, model: str | None) -> float:
        """The latency that few tasks exceed, in seconds."""
        return self._group(kind, model).latency.quantile(0.95)

    # -- inside

    def _group(self, kind: str, model: str | None) -> _Group:
        group = self._groups.get((kind, model))
        if group is None:
            low, high = self._prior(kind, model)
            group = _Group(len(self._in_order), LatencyModel(low, high), low)
            self._groups[kind, model] = group
            self._in_order.append(group)
        return group

    def _known(self, task_id: str) -> _Watch | None:
        """A followed task with all there is to remember of it."""
        if task_id in self._fresh:
            index, submitted_at, _ = self._fresh.pop(task_id)
            self._watches[task_id] = _Watch(task_id, self._in_order[index], submitted_at)
        return self._watches.get(task_id)

    def _pop(self, task_id: str) -> _Watch | None:
        watch = self._known(task_id)
        if watch is not None:
            del self._watches[task_id]
            group = watch.group
            group.size -= 1
            if not group.size:
                for heap in (group.fresh, group.spare, group.sure):
                    heap.clear()
        return watch

    def _tend(self, group: _Group, now: float, pressed: bool) -> None:
        """Bring a group's figures up to date."""
        latency = group.latency
        if now >= group.refresh_at() and not latency.fresh():
            latency.refresh()
            group.refreshed_at = now
        if group.rush_at > -math.inf:
            fade = math.exp(-max(now - group.rush_at, 0.0) / (_RUSH_MEMORY * latency.quantile(0.5)))
            group.rush = 1.0 - (1.0 - group.rush) * fade if pressed else group.rush * fade
        group.rush_at = now
        if group.built != latency.version and len(group.spare) <= _REBUILD_UP_TO:
            self._rebuild(group)

    def _rebuild(self, group: _Group) -> None:
        group.built = group.latency.version
        watches = [self._watches[entry[2]] for entry in group.spare if self._stands(entry)]
        group.spare.clear()
        group.sure.clear()
        for watch in watches:
            self._push(watch)

    def _push(self, watch: _Watch) -> None:
        group = watch.group
        watch.number = number = next(self._seq)
        self._watches[watch.id] = watch
        heapq.heappush(group.spare, (self._due(watch, False), number, watch.id))
        heapq.heappush(group.sure, (self._due(watch, True), number, watch.id))

    def _stands(self, entry: _Due) -> bool:
        watch = self._watches.get(entry[2])
        return watch is not None and watch.number == entry[1]

    def _stands_fresh(self, entry: _Due) -> bool:
        return self._fresh.get(entry[2], _NOBODY)[2] == entry[1]

    def _due(self, watch: _Watch, pressed: bool) -> float:
        latency = watch.group.latency
        if watch.look_at is not None:
            age = watch.look_at
        elif watch.scout is not None and pressed:
            age = latency.quantile(watch.scout)
        elif pressed:
            known = watch.seen_running
            age = watch.group.sure_age() if known is None else latency.sure_age(_SURE_AGAIN, _MISS, known)
        else:
            age = self._spare_age(watch.group, watch.seen_running or 0.0)
        if watch.seen_running is not None:
            # Whatever the figures say, never hammer on one task; a straggler may well never end.
            straggler = watch.seen_running > _STRAGGLER * latency.quantile(0.5)
            age = max(age, watch.seen_running * (1.2 if straggler else 1.01) + 0.02)
        return max(watch.submitted_at + age, watch.not_before)

    def _spare_age(self, group: _Group, known: float) -> float:
        """When a poll that costs nobody a turn is worth it, as an age."""
        looks = group.looks()
        if self.spacing:
            # As many as there are requests for while a task runs: the others want theirs too. Not all have
            # the same age, so there are some more than that.
            looks = min(looks, _SHARE * group.latency.quantile(0.5) / (self.spacing * len(self)))
        if looks < _FEW_LOOKS:
            return group.sure_age() if not known else group.latency.sure_age(_SURE_AGAIN, _MISS, known)
        return group.latency.next_look(looks, known)

    def _group_due(self, group: _Group, pressed: bool, now: float = math.inf) -> tuple[float, str | None]:
        """The group's first due task. Stale keys are mended as they come to the top."""
        heap = group.sure if pressed else group.spare
        fresh = group.fresh
        _clear_top(heap, self._stands)
        while heap:
            due, number, task_id = heap[0]
            today = self._due(self._watches[task_id], pressed)
            if today > due + 1e-9 and due <= now:
                heapq.heapreplace(heap, (today, number, task_id))
                _clear_top(heap, self._stands)
                continue
            break
        _clear_top(fresh, self._stands_fresh)
        due = math.inf
        if fresh:
            due = fresh[0][0] + (group.sure_age() if pressed else self._spare_age(group, 0.0))
        if heap and heap[0][0] <= due:
            return heap[0][0], heap[0][2]
        return due, fresh[0][2] if fresh else None


def _clear_top(heap: list[_Due], stands: Callable[[_Due], bool], most: float = math.inf) -> bool:
    """Take away the void entries at a heap's top, so many at most; whether none is left there."""
    taken = 0
    while heap and not stands(heap[0]):
        if taken >= most:
            return False
        heapq.heappop(heap)
        taken += 1
    return True


def catalog_prior(scale: float = 1.0) -> Callable[[str, str | None], tuple[float, float]]:
    """The catalog's ranges as a plan's prior.

    :param scale: factor on them: below 1 for a service that is known to be faster, such as a sandbox.
    """

    def prior(kind: str, model: str | None) -> tuple[float, float]:
        from aio_provider.api.catalog import load_catalog

        latency = load_catalog().latency(kind, model)
        return latency.min * scale, latency.max * scale

    return prior


#: when, a number that tells whether it still stands, the task's id
_Due = tuple[float, int, str]
_NOBODY = (-1, 0.0, -1)
