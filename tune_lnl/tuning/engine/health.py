"""Checks in a thread of their own: whether Ray is alive, and whether the run stays within its disk budget."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from tune_lnl.object_storage import StorageError
from tune_lnl.tuning.engine.session import Session
from tune_lnl.tuning.runs.folder import RunFolder

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between checks of Ray."""
DISK_EVERY = 5
"""Checks of Ray per check of the run's size."""
STORAGE_EVERY = 60
"""The same in object storage, where it costs a listing."""


class Watchdog(threading.Thread):
    """A thread that checks Ray and the disk until :meth:`stop`.

    Args:
        session: stopped when the budget is exceeded.
        files: of the run.
        disk_budget: bytes.
        ray_alive: whether the processes of Ray that the search needs are running.
        on_ray_lost: called once, from this thread, when they are not. The main thread may then be waiting inside Ray
            forever, so this must end the process.
    """

    def __init__(
        self,
        session: Session,
        files: RunFolder,
        disk_budget: int,
        ray_alive: Callable[[], bool],
        on_ray_lost: Callable[[], None],
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._session = session
        self._files = files
        self._disk_budget = disk_budget
        self._ray_alive = ray_alive
        self._on_ray_lost = on_ray_lost
        self._over = threading.Event()

    def run(self) -> None:
        checks, every = 0, DISK_EVERY if self._files.url is None else STORAGE_EVERY
        while not self._over.wait(INTERVAL):
            if not self._ray_alive():
                if not self._over.is_set():
                    self._on_ray_lost()
                return
            if checks % every == 0 and self._bytes_used() > self._disk_budget:
                self._session.stop("disk budget")
            checks += 1

    def _bytes_used(self) -> int:
        try:
            return self._files.bytes_used()
        except StorageError as error:
            logger.warning("%s", error)  # a worker or the driver that needs the storage stops the search
            return 0

    def stop(self) -> None:
        """Stop checking, before Ray is shut down on purpose."""
        self._over.set()
        self.join(timeout=5 * INTERVAL)
