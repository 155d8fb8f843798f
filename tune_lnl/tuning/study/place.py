"""Where a study is kept: a journal file in the run's folder, or a database that several machines reach."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import optuna
from optuna.trial import FrozenTrial

Result = TypeVar("Result")


class StudyLostError(Exception):
    """The study cannot be written any more; what it holds is whole. Says why, without any secret."""


class StudyPlace(Protocol):
    """What :class:`tune_lnl.tuning.study.study.SearchStudy` and all readers need to know of it."""

    @property
    def name(self) -> str:
        """Of the study, for Optuna."""

    @property
    def run_id(self) -> str | None:
        """What the study must carry to be this run's; ``None`` where nobody else can write here."""

    @property
    def losses(self) -> int:
        """How often the connection was lost: what was being written then may be there or not."""

    def exists(self) -> bool:
        """Whether there is anything of a study."""

    def open(self) -> None:
        """Get ready to write, as the only one who does; with nothing to do where that has happened.

        Raises:
            InputError: another process writes the study, or it cannot be written.
        """

    def close(self) -> None:
        """Let others write it."""

    def storage(self) -> optuna.storages.BaseStorage:
        """For writing; opens the place where it is not open."""

    def repair(self) -> None:
        """Make the study writable again after its writer died."""

    def together(self) -> AbstractContextManager[None]:
        """What is written inside is safe when this ends, rather than each record by itself."""

    def lasting(self, act: Callable[[], Result]) -> Result:
        """Do something that may be done twice, again where the connection was lost in between.

        Raises:
            StudyLostError: it stays away.
        """

    def read_trials(self) -> list[FrozenTrial]:
        """All trials by number, none where there is no study; reading disturbs no search.

        Raises:
            CorruptDataError: the study is damaged.
            InputError: it cannot be reached.
        """

    def reader(self) -> Callable[[], list[FrozenTrial]]:
        """Gives the trials as they are at every call, for less than :meth:`read_trials` costs."""

    def is_driven(self) -> bool:
        """Whether some process, on whatever machine, is known to write it now."""

    def to_dict(self) -> dict[str, Any] | None:
        """What run.yaml keeps of it; ``None``: it is the journal file beside it."""
