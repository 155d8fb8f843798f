"""A second pair of eyes beside Ray's loop: is Ray still alive, and is there still room on the disk?"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from tune_lnl.object_storage import StorageError
from tune_lnl.tuning.engine.messages import StopReason
from tune_lnl.tuning.runs.folder import RunFolder

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between looks at Ray's processes."""
DISK_EVERY = 5
"""Looks at Ray's processes for one at the size of the run."""
STORAGE_EVERY = 60
"""The same in object storage, where it costs a listing."""


class Stoppable(Protocol):
    """Work in progress that a signal or a watchman can end: a search's session, or a confirmation."""

    stop_reason: StopReason | None

    def stop(self, reason: StopReason) -> None:
        """Start nothing more; what runs is to end at its next batch."""

    def put_back_running(self) -> None:
        """Whatever still counts as running waits again."""


class Watchman(threading.Thread):
    """Looks around until it is told to rest.

    Args:
        ray_alive: whether the local Ray's own processes are all running.
        on_ray_lost: called once, from this thread, when they are not. The main thread may then be waiting inside Ray
            for ever, so this must end the process.
    """

    def __init__(
        self,
        session: Stoppable,
        files: RunFolder,
        disk_budget: int,
        ray_alive: Callable[[], bool],
        on_ray_lost: Callable[[], None],
    ) -> None:
        super().__init__(name="watchman", daemon=True)
        self._session = session
        self._files = files
        self._disk_budget = disk_budget
        self._ray_alive = ray_alive
        self._on_ray_lost = on_ray_lost
        self._rest = threading.Event()

    def run(self) -> None:
        looks = 0
        every = DISK_EVERY if self._files.url is None else STORAGE_EVERY
        while not self._rest.wait(INTERVAL):
            if not self._ray_alive():
                self._on_ray_lost()
                return
            if looks % every == 0 and self._bytes_used() > self._disk_budget:
                self._session.stop("disk budget")
            looks += 1

    def _bytes_used(self) -> int:
        try:
            return self._files.bytes_used()
        except StorageError as error:
            logger.warning("%s", error)  # whoever needs the storage stops the search
            return 0

    def rest(self) -> None:
        """Stop looking, before Ray is shut down on purpose."""
        self._rest.set()
        self.join(timeout=5 * INTERVAL)


def local_ray_alive() -> bool:
    """Whether the head processes that ``ray.init`` started here are running.

    Ray has no public way to ask; a killed raylet otherwise leaves the driver waiting.
    """
    from ray._private import worker

    node = worker._global_node
    if node is None:
        return True
    vital = ("gcs_server", "raylet")
    processes = [info.process for name in vital for info in node.all_processes.get(name, [])]
    return all(process.poll() is None for process in processes)
