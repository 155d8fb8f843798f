"""The study in a journal file of the run's folder: the default, which needs no server."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial

from tune_lnl.errors import CorruptDataError, InputError

STUDY_FILE = "study.log"
STUDY_NAME = "search"
"""The only study in its file."""


class WholeLinesBackend(BaseJournalBackend):
    """A journal of whole records only: after a full disk it is what it was before.

    Half a record would make itself and the next one unreadable.

    Every record is handed to the operating system at once, so a killed driver loses none. Waiting until the disk has
    it, which matters where the machine itself goes down, takes milliseconds; records written in one :meth:`group` are
    waited for once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = JournalFileBackend(str(path))  # makes the file where there is none
        self._lock = JournalFileSymlinkLock(str(path))
        self._group = threading.local()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return self._reader.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        records = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        size = self._path.stat().st_size
        try:
            self._lock.acquire()
            try:
                with self._path.open("ab") as file:
                    self._write(file, records.encode())
            finally:
                self._lock.release()
        except OSError:
            os.truncate(self._path, size)
            raise

    def _write(self, file: BinaryIO, records: bytes) -> None:
        file.write(records)
        file.flush()
        if getattr(self._group, "is_open", False):
            self._group.written = True
        else:
            os.fsync(file.fileno())

    @contextmanager
    def group(self) -> Iterator[None]:
        """Make durable at the end whatever this thread writes inside; an inner group belongs to the outer one."""
        if getattr(self._group, "is_open", False):
            yield
            return
        self._group.is_open, self._group.written = True, False
        try:
            yield
        finally:
            self._group.is_open = False
            if self._group.written:
                with self._path.open("rb") as file:
                    os.fsync(file.fileno())


class JournalFile:
    """The place of a study in a file. The run's lock, which the caller holds, keeps other writers away."""

    name = STUDY_NAME
    run_id = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._backend: WholeLinesBackend | None = None

    def exists(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    def acquire(self) -> None:
        if self._backend is None:
            if self.path.exists():
                repair_journal(self.path)
            self._backend = WholeLinesBackend(self.path)

    def release(self) -> None:
        self._backend = None

    def storage(self) -> optuna.storages.BaseStorage:
        self.acquire()
        assert self._backend is not None
        return optuna.storages.JournalStorage(self._backend)

    def access(self) -> AbstractContextManager[None]:
        assert self._backend is not None, "a study is opened before it is written"
        return self._backend.group()

    def read_trials(self) -> list[FrozenTrial]:
        return read_trials(self.path) if self.path.exists() else []

    def reader(self) -> Callable[[], list[FrozenTrial]]:
        study = _load(self.path)
        return lambda: study.get_trials(deepcopy=False)

    def is_held(self) -> bool:
        return False


def _load(path: Path) -> optuna.Study:
    storage = optuna.storages.JournalStorage(WholeLinesBackend(path))
    return optuna.load_study(study_name=STUDY_NAME, storage=storage)


DAMAGED = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    optuna.exceptions.OptunaError,
)
"""The errors that Optuna raises over a damaged journal, depending on where the damage is."""


def read_trials(path: Path) -> list[FrozenTrial]:
    """Return all trials of a study file, by number; reading takes no lock and does not disturb a running search.

    Raises:
        CorruptDataError: the file is damaged elsewhere than at its very end, which a crash may tear.
    """
    try:
        return _load(path).get_trials(deepcopy=False)
    except OSError as error:
        raise InputError(
            f"{path}: the study cannot be read: {error.strerror}; make it readable, or put a copy of the file back"
        ) from None
    except DAMAGED as error:
        damage = _damage(path)
        if damage is None and isinstance(error, KeyError):
            # The file is there, its first record is not: the search is just starting, or died doing so.
            return []
        raise CorruptDataError(
            f"{path}: the study is damaged: {damage or 'its records contradict each other'}\n"
            "nothing was changed; put a copy of the file back, or begin a new run with another --name"
        ) from None


def _damage(path: Path) -> str | None:
    """Describe the first line that is not a record, or that the records hold no search; ``None`` for neither."""
    lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        try:
            whole = {"op_code", "worker_id"} <= set(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            whole = False
        if not whole:
            return f"line {number} of {len(lines)} is not a record"
    return f"its {len(lines)} records do not hold a search" if lines else None


def repair_journal(path: Path) -> None:
    """Make a journal writable again after its writer died; the caller must hold the run's lock.

    A torn last line reads fine, but the next append would be glued onto it and the study would be unreadable for good;
    the lock of a dead process blocks the first write for half a minute.
    """
    for lock in path.parent.glob(f"{path.name}.lock*"):
        lock.unlink()
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    last = content.rfind(b"\n", 0, max(0, whole - 1)) + 1
    try:
        json.loads(content[last:whole])
    except (ValueError, RecursionError):
        # Optuna skips such a last line, too (blocks that a power failure left empty), until more is appended.
        whole = last
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
