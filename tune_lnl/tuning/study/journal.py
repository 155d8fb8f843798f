"""The study in a journal file of the run's folder: what needs no server, and is the default."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file
from optuna.trial import FrozenTrial

from tune_lnl.errors import CorruptDataError
from tune_lnl.tuning.study.place import Result

STUDY_FILE = "study.log"
STUDY_NAME = "search"
"""The only study in its file."""


class WholeLinesBackend(JournalFileBackend):
    """A journal that a full disk leaves as it was: half a record would make the next one unreadable, and itself.

    Every record is handed to the system at once, so that a driver that is killed loses none. To wait until the disk has
    it, which matters where the machine itself goes down, takes milliseconds; records that are written
    :meth:`together` are waited for once.
    """

    def __init__(self, file_path: str) -> None:
        super().__init__(file_path)
        self._groups = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written inside is on the disk when this ends; groups may hold groups."""
        self._groups += 1
        try:
            yield
        finally:
            self._groups -= 1
        if self._groups == 0:
            with Path(self._file_path).open("rb") as file:
                os.fsync(file.fileno())

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        path = Path(self._file_path)
        records = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        size = path.stat().st_size
        try:
            with get_lock_file(self._lock), path.open("ab") as file:
                self._write(file, records.encode())
        except OSError:
            os.truncate(path, size)
            raise

    def _write(self, file: BinaryIO, records: bytes) -> None:
        file.write(records)
        file.flush()
        if self._groups == 0:
            os.fsync(file.fileno())


class JournalFile:
    """The place of a study that is a file. That nobody else writes it is the business of the run's lock."""

    name = STUDY_NAME
    run_id = None
    losses = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._backend: WholeLinesBackend | None = None

    def exists(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    def open(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def storage(self) -> optuna.storages.BaseStorage:
        self._backend = WholeLinesBackend(str(self.path))
        return optuna.storages.JournalStorage(self._backend)

    def repair(self) -> None:
        if self.path.exists():
            repair_journal(self.path)

    def together(self) -> AbstractContextManager[None]:
        assert self._backend is not None, "a study is opened before it is written"
        return self._backend.together()

    def lasting(self, act: Callable[[], Result]) -> Result:
        return act()

    def read_trials(self) -> list[FrozenTrial]:
        return read_trials(self.path) if self.path.exists() else []

    def reader(self) -> Callable[[], list[FrozenTrial]]:
        study = optuna.load_study(study_name=STUDY_NAME, storage=_storage(self.path))
        return lambda: study.get_trials(deepcopy=False)

    def is_driven(self) -> bool:
        return False

    def to_dict(self) -> dict[str, Any] | None:
        return None


def _storage(path: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(WholeLinesBackend(str(path)))


DAMAGED = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    optuna.exceptions.OptunaError,
)
"""What Optuna raises over a damaged journal, depending on where the damage is."""


def read_trials(path: Path) -> list[FrozenTrial]:
    """All trials of a study file, by number; reading takes no lock and does not disturb a running search.

    Raises:
        CorruptDataError: it is damaged elsewhere than at its very end, which a crash may tear.
    """
    try:
        study = optuna.load_study(study_name=STUDY_NAME, storage=_storage(path))
        return study.get_trials(deepcopy=False)
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
    """The first line of a journal that is no record, if any; or that there are records, but not of a search."""
    lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        try:
            whole = {"op_code", "worker_id"} <= set(json.loads(line))
        except (ValueError, TypeError):
            whole = False
        if not whole:
            return f"line {number} of {len(lines)} is not a record"
    return f"its {len(lines)} records do not hold a search" if lines else None


def repair_journal(path: Path) -> None:
    """Make a journal writable again after its writer died.

    A torn last line reads fine, but the next append would glue onto it and the study would be unreadable for good; a
    lock that a dead process left blocks the first write for half a minute.
    """
    for lock in path.parent.glob(f"{path.name}.lock*"):
        lock.unlink()
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    last = content.rfind(b"\n", 0, max(0, whole - 1)) + 1
    if not _is_json(content[last:whole]):
        # Optuna passes over such a last line, too (blocks that a power failure left empty), until more is appended.
        whole = last
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
