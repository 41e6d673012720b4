"""How long a model takes, learned from polls that only ever say "not yet" or "done by now".

Nothing in the service's answers tells when a task ended, so every observation is an interval: not done at one
poll, done at the next. The estimate is Turnbull's for such data (self-consistency, a few steps from a smooth
start), over bins that grow with the time, with the catalog's published range as the first guess.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable
from itertools import accumulate, pairwise

_RATIO = 1.06
_SHORTEST = 0.005
_LONGEST = 6 * 3600.0
_BINS = math.ceil(math.log(_LONGEST / _SHORTEST, _RATIO))
#: bin i covers (EDGES[i], EDGES[i + 1]] seconds
EDGES = [0.0, *(_SHORTEST * _RATIO**i for i in range(_BINS + 1))]
_WIDTHS = [high - low for low, high in pairwise(EDGES)]
_COUNT = len(_WIDTHS)

#: how many observations the published range is worth, and after how many it is worth half that
_PRIOR_WEIGHT = 6.0
_PRIOR_HALF = 8.0
#: how far outside the published range a latency is thought possible at all, and what share of tasks is there
_PRIOR_REACH = 40.0
_PRIOR_BELOW = 0.006
_PRIOR_ABOVE = 0.04
#: factors by which the published range may be wrong, as shifts in bins; how likely each is falls off with the
#: factor (by e to this much for e times more), and a task says so much at least for any (it may have failed,
#: or be a straggler)
_SHIFT = 4
_FARTHEST = 64
_SHIFTS = range(-_FARTHEST, _FARTHEST + 1, _SHIFT)
_DOUBTFUL = 3.0
_UNLIKELY = 0.02
#: a task on record was found done by this many times its latency, where that is within the published range
_LATE = 3.0
#: each observation counts this much of the one after it: a service changes
_MEMORY = 0.99
_KEPT = 300
#: the last of the tasks, left out when the number of polls is averaged
_STRAGGLERS = 0.04
#: what one observation may do to the faith in the published range
_DISMAY = 0.3
_STEPS = 4


class LatencyModel:
    """The distribution of one model's latency, in seconds from acceptance.

    :param low: the shortest published latency.
    :param high: the longest.
    """

    def __init__(self, low: float, high: float) -> None:
        self._prior = _prior(low, high)
        self._seen: deque[list[float]] = deque(maxlen=_KEPT)  # [low, high, weight]
        self._waiting: dict[int, int] = {}  # bin -> tasks seen running at that age and not since
        self._stale = True
        self._high = high
        self._inside = _published(low, high)
        self._inside_cdf = [0.0, *accumulate(self._inside)]
        beyond = _FARTHEST + 1
        self._padded_cdf = [*[0.0] * beyond, *self._inside_cdf, *[self._inside_cdf[-1]] * beyond]
        self._evidence = [0.0] * len(_SHIFTS)
        self.count = 0
        self._trust = 1.0
        self.version = 0
        self._cdf: list[float] = []
        self._polls: list[float] = []
        self._waited: list[float] = []
        self._refresh()

    # -- what was seen

    def ended(self, low: float, high: float) -> None:
        """A task was running at age ``low`` and done by age ``high``."""
        self.count += 1
        self._seen.append([low, max(high, low), 1.0])
        self._compare(_bin(low) if low > 0 else 0, _bin(high))
        self._changed()

    def recorded(self, durations: Iterable[float]) -> None:
        """Tasks on record were found done at these ages, some of them late: they tell of a faster service.

        Not of a slower one: where only a batch's end counted, tasks are found when all has been submitted.
        """
        for duration in durations:
            if 0 < duration < self._high:  # clocks are set back
                self._compare(_bin(duration / _LATE), _bin(duration))
        self._changed()

    def _compare(self, first: int, last: int) -> None:
        """With the published range: how far to trust it, and by which factor it may be wrong."""
        # Where it had this less likely than a guess over all magnitudes, trust it less.
        likely = sum(self._prior[first : last + 1]) / ((last + 1 - first) / _COUNT)
        self._trust = min(self._trust * max(likely, _DISMAY), 1.0)
        self._evidence = [
            _MEMORY * seen + math.log(max(before - early, _UNLIKELY))
            for seen, before, early in zip(
                self._evidence, self._below_shifted(last + 1), self._below_shifted(first), strict=True
            )
        ]

    def running(self, age: float, before: float | None) -> None:
        """A task is still running at ``age``; ``before`` is the age of its last such sighting."""
        self.left(before)
        index = _bin(age)
        self._waiting[index] = self._waiting.get(index, 0) + 1
        self._changed()

    def left(self, age: float | None) -> None:
        """A task last seen running at ``age`` is no longer followed."""
        if age is None:
            return
        index = _bin(age)
        if self._waiting.get(index, 0) > 1:
            self._waiting[index] -= 1
        else:
            self._waiting.pop(index, None)
        self._changed()

    def doubt(self) -> None:
        """Halve the weight of all that was seen: the service's speed has changed."""
        for entry in self._seen:
            entry[2] *= 0.5
        self._changed()

    # -- what follows from it

    def fresh(self) -> bool:
        """Whether the figures below are up to date; :meth:`refresh` makes them so."""
        return not self._stale

    def refresh(self) -> None:
        """Take in what was seen since the last time (about half a millisecond)."""
        if self._stale:
            self._refresh()

    def done_by(self, age: float, running_at: float = 0.0) -> float:
        """The probability that a task is done by ``age``, given that it ran at ``running_at``."""
        alive = 1.0 - self._at(self._cdf, running_at)
        if alive <= 1e-12:
            return 1.0
        return max(0.0, 1.0 - (1.0 - self._at(self._cdf, age)) / alive)

    def quantile(self, share: float, running_at: float = 0.0) -> float:
        """The age by which ``share`` of the tasks that ran at ``running_at`` are done."""
        before = self._at(self._cdf, running_at)
        if before >= 1.0 - 1e-9:
            return running_at * 1.25 + _SHORTEST
        return max(self._inverse(self._cdf, before + share * (1.0 - before)), running_at)

    def sure_age(self, share: float, miss: float, running_at: float = 0.0) -> float:
        """The age from which asking is hardly ever in vain, where waiting longer costs more than it saves.

        At most the ``share`` quantile; earlier where a few stragglers would put that far off. There the age
        is taken that makes (time waited since the end) + (chance of asking in vain) × ``miss`` least.

        :param miss: what asking in vain costs, in median latencies.
        """
        latest = self.quantile(share, running_at)
        before = self._at(self._cdf, running_at)
        cost = miss * self.quantile(0.5)
        first = _bin(running_at) + 1
        last = min(_bin(latest) + 1, _COUNT)
        best, best_age = math.inf, latest
        for index in range(first, last + 1):
            value = self._waited[index] - before * EDGES[index] - cost * self._cdf[index]
            if value < best:
                best, best_age = value, EDGES[index]
        return min(best_age, latest) if best_age > running_at else latest

    def next_look(self, looks: float, running_at: float = 0.0) -> float:
        """The age of the next poll when a task is to get about ``looks`` polls in all.

        For a price per poll the best density of polls goes with the square root of the hazard: often where
        tasks end, seldom where they do not.
        """
        reached = self._at(self._polls, running_at)
        target = reached + 1.0 / looks
        if target >= self._polls[-1]:
            return running_at * 1.25 + _SHORTEST
        return self._inverse(self._polls, target)

    def _changed(self) -> None:
        self._stale = True

    def _refresh(self) -> None:
        self._stale = False
        self.version += 1
        weight = 1.0
        observed: list[tuple[int, int, float]] = []
        for low, high, own in reversed(self._seen):
            observed.append((_bin(low) if low > 0 else 0, _bin(high), weight * own))
            weight *= _MEMORY
        # Waiting tasks are as recent as can be, but must not drown what has ended.
        observed.extend((index, _COUNT - 1, float(number)) for index, number in self._waiting.items())
        faith = self._trust * _PRIOR_WEIGHT / (1.0 + self.count / _PRIOR_HALF)
        mass = self._prior
        if not observed and self._trust < 1.0:  # only what is on record speaks against it
            doubt = 0.95 * (1.0 - self._trust)
            mass = [doubt * p + (1.0 - doubt) * q for p, q in zip(self._rescaled(), mass, strict=True)]
        if observed:
            # A start that rules nothing out, so that a published range that is wrong does no lasting harm.
            mass = [0.8 * p + 0.1 * q + 0.1 / _COUNT for p, q in zip(self._rescaled(), mass, strict=True)]
            for _ in range(_STEPS):
                mass = self._step(mass, observed, faith)
        self._cdf = [0.0, *accumulate(mass)]
        self._polls = self._poll_density(mass)
        middles = ((low + high) / 2 for low, high in pairwise(self._cdf))
        #: expected time between a task's end and each edge
        self._waited = [0.0, *accumulate(m * width for m, width in zip(middles, _WIDTHS, strict=True))]

    def _below(self, index: int) -> float:
        return self._inside_cdf[min(max(index, 0), _COUNT)]

    def _below_shifted(self, index: int) -> list[float]:
        """:meth:`_below` of ``index - shift`` for each of the shifts; in one go, since every task asks."""
        return self._padded_cdf[index + 2 * _FARTHEST + 1 : index : -_SHIFT]

    def _rescaled(self) -> list[float]:
        """The published range times the factors by which, from what was seen, it is wrong.

        An interval such as (0, 25 s] alone would be filled evenly over all magnitudes, most of it far below
        any latency that there is.
        """
        evidence = []
        for shift, seen in zip(_SHIFTS, self._evidence, strict=True):
            likely = seen - _DOUBTFUL * abs(shift) * math.log(_RATIO)
            for index, number in self._waiting.items():
                likely += number * math.log(max(1.0 - self._below(index - shift), _UNLIKELY))
            evidence.append(likely)
        top = max(evidence)
        weights = [math.exp(likely - top) for likely in evidence]
        total = sum(weights)
        mass = [0.0] * _COUNT
        for shift, weight in zip(_SHIFTS, weights, strict=True):
            share = weight / total
            if share < 0.02:
                continue
            for index in range(max(shift, 0), min(_COUNT, _COUNT + shift)):
                mass[index] += share * self._inside[index - shift]
        return mass

    def _step(self, mass: list[float], observed: list[tuple[int, int, float]], faith: float) -> list[float]:
        """One step of self-consistency: spread each observation over its interval as ``mass`` lies there."""
        below = [0.0, *accumulate(mass)]
        slope = [0.0] * (_COUNT + 1)
        total = faith
        for first, last, weight in observed:
            inside = below[last + 1] - below[first]
            if inside > 1e-15:
                slope[first] += weight / inside
                slope[last + 1] -= weight / inside
                total += weight
        return [
            (m * max(c, 0.0) + faith * p) / total
            for m, c, p in zip(mass, accumulate(slope), self._prior, strict=False)
        ]

    def _poll_density(self, mass: list[float]) -> list[float]:
        """Cumulative poll density, scaled so that a task is polled once on average (stragglers apart)."""
        alive, rates, mean = 1.0, [0.0], 0.0
        for share, width in zip(mass, _WIDTHS, strict=True):
            middle = max(alive - share / 2, 1e-9)
            rate = math.sqrt(share * width / middle)
            rates.append(rate)
            if alive > _STRAGGLERS:
                mean += rate * middle
            alive = max(alive - share, 0.0)
        return list(accumulate(rate / mean for rate in rates))

    @staticmethod
    def _at(cumulative: list[float], age: float) -> float:
        if age <= 0:
            return 0.0
        index = bisect_left(EDGES, age) - 1
        if index >= _COUNT:
            return cumulative[-1]
        low, high = cumulative[index], cumulative[index + 1]
        return low + (high - low) * (age - EDGES[index]) / _WIDTHS[index]

    @staticmethod
    def _inverse(cumulative: list[float], value: float) -> float:
        index = bisect_right(cumulative, value) - 1
        if index >= _COUNT:
            return EDGES[-1]
        low, high = cumulative[index], cumulative[index + 1]
        share = (value - low) / (high - low) if high > low else 0.0
        return EDGES[index] + share * _WIDTHS[index]


def _bin(age: float) -> int:
    return min(max(bisect_left(EDGES, age) - 1, 0), _COUNT - 1)


def _usable(low: float, high: float) -> tuple[float, float]:
    low = max(low, 10 * _SHORTEST)
    return low, max(high, low * 1.2)


def _published(low: float, high: float) -> list[float]:
    """Even over the published range."""
    low, high = _usable(low, high)
    return [_overlap(a, b, low, high) / (high - low) for a, b in pairwise(EDGES)]


def _prior(low: float, high: float) -> list[float]:
    """Most of the mass even over the published range, a little log-even for a good way on either side."""
    inside = 1.0 - _PRIOR_BELOW - _PRIOR_ABOVE
    masses = []
    published = _published(low, high)
    low, high = _usable(low, high)
    for even, (a, b) in zip(published, pairwise(EDGES), strict=True):
        mass = inside * even
        mass += _PRIOR_BELOW * _log_overlap(a, b, low / _PRIOR_REACH, low)
        mass += _PRIOR_ABOVE * _log_overlap(a, b, high, high * _PRIOR_REACH)
        masses.append(mass)
    total = sum(masses)
    return [mass / total for mass in masses]


def _overlap(a: float, b: float, low: float, high: float) -> float:
    return max(0.0, min(b, high) - max(a, low))


def _log_overlap(a: float, b: float, low: float, high: float) -> float:
    a, b = max(a, low), min(b, high)
    return math.log(b / a) / math.log(high / low) if b > a else 0.0
