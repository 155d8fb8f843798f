"""A clock that stands still while this process is stopped: a closed lid, ``SIGSTOP``, a paused container or job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TICK_SECONDS = 1.0
ASLEEP_SECONDS = 10.0
"""A tick that is later than this was held up by more than a busy machine: the process did not run."""


class AwakeClock:
    """Seconds for which this process could run.

    Args:
        clock: seconds that go on while the process is stopped.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._asleep = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            now = self._clock()
            if now - self._last > ASLEEP_SECONDS:
                self._asleep += now - self._last
            self._last = now
            return now - self._asleep

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Read the clock every second from a thread: only then is a late reading a sign of sleep."""
        over = threading.Event()

        def tick() -> None:
            while not over.wait(TICK_SECONDS):
                self()

        thread = threading.Thread(target=tick, name="clock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


awake = AwakeClock()
"""The clock of this process; it counts as described while a search runs, which keeps it ticking."""
