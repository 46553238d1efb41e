"""A clock that stands still until a test moves it."""

import heapq
import itertools
from collections.abc import Callable


class FakeTimer:
    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeClock:
    """The scheduler's `Clock`: callbacks run when the test advances the time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._soon: list[Callable[[], object]] = []
        self._later: list[tuple[float, int, Callable[[], object], FakeTimer]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[[], object], /) -> None:
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object], /) -> FakeTimer:
        timer = FakeTimer()
        heapq.heappush(self._later, (self.now_s + delay, next(self._order), callback, timer))
        return timer

    def run_soon(self) -> None:
        while self._soon:
            callbacks, self._soon = self._soon, []
            for callback in callbacks:
                callback()

    def advance(self, seconds: float) -> None:
        """Advance the time and run the callbacks that are due."""
        self.run_soon()
        end_s = self.now_s + seconds
        while self._later and self._later[0][0] <= end_s:
            self.now_s, _, callback, timer = heapq.heappop(self._later)
            if not timer.is_cancelled:
                callback()
            self.run_soon()
        self.now_s = end_s
