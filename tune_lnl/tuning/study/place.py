"""Where a study is kept: a journal file in the run's folder, or a PostgreSQL database that several machines reach."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import optuna
from optuna.trial import FrozenTrial


class StudyLostError(Exception):
    """The study can no longer be written; what it holds is intact. The message gives the reason, without any secret."""


class StudyPlace(Protocol):
    """The storage of one study, as :class:`tune_lnl.tuning.study.study.SearchStudy` and every reader use it.

    With ``acquire``, ``release`` and ``is_held`` it is a lease (:mod:`tune_lnl.tuning.runs.lease`).
    """

    @property
    def name(self) -> str:
        """The name of the study in Optuna."""

    @property
    def run_id(self) -> str | None:
        """The id that the study must carry to belong to this run; ``None`` where no other run can write here."""

    def exists(self) -> bool:
        """Return whether anything of a study is stored."""

    def acquire(self) -> None:
        """Prepare for writing, as the only writer; do nothing where that has happened.

        Raises:
            InputError: another process writes the study, or it cannot be written.
        """

    def release(self) -> None:
        """Let other processes write the study."""

    def storage(self) -> optuna.storages.BaseStorage:
        """Return the storage for writing; open the place first where it is not open."""

    def access(self) -> AbstractContextManager[None]:
        """Return the context of one operation on the open study; its writes are durable when the context ends.

        Contexts may be nested; the outermost counts.

        Raises:
            StudyLostError: the study cannot be reached any more, or this process has lost the right to write it.
        """

    def read_trials(self) -> list[FrozenTrial]:
        """Return all trials by number, none where there is no study; reading does not disturb a search.

        Raises:
            CorruptDataError: the study is damaged.
            InputError: the study cannot be reached.
        """

    def reader(self) -> Callable[[], list[FrozenTrial]]:
        """Return a function that gives the present trials at every call, at a lower cost than :meth:`read_trials`."""

    def is_held(self) -> bool:
        """Return whether a process on any machine is known to be writing the study now."""
