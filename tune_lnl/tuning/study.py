"""The Optuna study: the only record of what was tried, how each trial went epoch by epoch, and how it ended.

Nothing about the search is kept anywhere else. Ray runs what :meth:`SearchStudy.ask` gives and its reports go through
:meth:`SearchStudy.report`; every view is built from the study.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file
from optuna.trial import FrozenTrial, TrialState

from tune_lnl.errors import CorruptDataError
from tune_lnl.tuning.parameters import Choice, Int, LogUniform, Parameter, Uniform
from tune_lnl.tuning.pruners import pruner_of
from tune_lnl.tuning.samplers import FAILURE as FAILURE
from tune_lnl.tuning.samplers import experimental_allowed, make_sampler
from tune_lnl.tuning.space import SearchSpace

STUDY_FILE = "study.log"
STUDY_NAME = "search"

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

# Names of the attributes a trial carries in the study.
STANDARD_ERROR = "standard_error"
MESSAGE = "failure_message"
ATTEMPTS = "attempts"
STARTED = "started"
FINISHED = "finished"
TAKEN_FROM = "taken_from"
"""``{"run", "number"}`` of a trial that another run has made; it does not count against this run's total."""

# Names of the attributes of the study itself.
SAMPLER_START = "sampler_start"
"""``{"seed", "trials"}`` of the sampler, written anew by every driver before it does anything else: the journal then
tells from which point on which sampler made the suggestions, which :mod:`tune_lnl.tuning.replaying` follows."""
FIRST_TRIALS = "first_trials"
"""How many trials are put into the study before any is suggested: start points, and what another run has made."""


@dataclass(frozen=True)
class Suggestion:
    """A trial to run."""

    number: int
    params: dict[str, Any]
    attempt: int


def distribution(parameter: Parameter) -> BaseDistribution:
    """The Optuna form of a range."""
    match parameter:
        case Uniform():
            return FloatDistribution(parameter.low, parameter.high, step=parameter.step)
        case LogUniform():
            return FloatDistribution(parameter.low, parameter.high, log=True)
        case Int():
            return IntDistribution(parameter.low, parameter.extremes()[-1], log=parameter.log, step=parameter.step)
        case Choice():
            return CategoricalDistribution(parameter.choices)


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The Optuna form of what a space searches."""
    return {name: distribution(parameter) for name, parameter in space.parameters.items()}


class SearchStudy:
    """Asking and telling, over a journal file in the run's folder."""

    def __init__(self, study: optuna.Study, space: SearchSpace, journal: WholeLinesBackend) -> None:
        self._study = study
        self._journal = journal
        self._epochs = space.epochs
        self._distributions = distributions(space)
        self._live: dict[int, optuna.Trial] = {}
        # Counted once and kept up to date: to go through all trials at every trial's end would cost more and more.
        trials = self.trials
        self._best = best_trial(trials, self.mode)
        self._ended = Counter(
            trial.state for trial in trials if trial.state.is_finished() and TAKEN_FROM not in trial.user_attrs
        )

    @classmethod
    def create(cls, path: Path, space: SearchSpace, seed: int, first: FirstTrials | None = None) -> SearchStudy:
        """A new study.

        Args:
            first: gives the trials that stand before any suggestion, waiting or finished; called once. Default: the
                space's start points.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        trials = (first or (lambda: start_points(space.start)))()
        # Another stream than the run had whose trials are taken over: the same draws again would repeat them.
        seed += sum(TAKEN_FROM in trial.user_attrs for trial in trials)
        journal = WholeLinesBackend(str(path))
        study = new_study(optuna.storages.JournalStorage(journal), space)
        start_sampler(study, space, {"seed": seed, "trials": space.budget.trials})
        with experimental_allowed():
            # Only a label in optuna-dashboard.
            study.set_metric_names([str(space.base["objective"]["metric"])])
        _put_first(study, lambda: trials)
        return cls(study, space, journal)

    @classmethod
    def reopen(cls, path: Path, space: SearchSpace, seed: int, first: FirstTrials | None = None) -> SearchStudy:
        """Continue a study whose driver is gone: what was running waits again, under its number and settings.

        The caller holds the run's lock, so nobody else writes. ``first`` is as in :meth:`create`, and is called only
        where a driver died before all of them were in the study.
        """
        repair_journal(path)
        if path.stat().st_size == 0:
            return cls.create(path, space, seed, first)
        journal = WholeLinesBackend(str(path))
        study = optuna.load_study(
            study_name=STUDY_NAME,
            storage=optuna.storages.JournalStorage(journal),
            pruner=pruner_of(space),
        )
        # Another stream than the starts before had: the same draws again would repeat their suggestions.
        seed += len(study.get_trials(deepcopy=False))
        start_sampler(study, space, {"seed": seed, "trials": space.budget.trials})
        _put_first(study, first or (lambda: start_points(space.start)))
        reopened = cls(study, space, journal)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            reopened._set_waiting(trial._trial_id)
        return reopened

    @property
    def mode(self) -> str:
        return "max" if self._study.direction == optuna.study.StudyDirection.MAXIMIZE else "min"

    @property
    def trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    @property
    def best(self) -> FrozenTrial | None:
        """What :func:`best_trial` says."""
        return self._best

    def trial(self, number: int) -> FrozenTrial:
        storage, study_id = self._study._storage, self._study._study_id
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def count(self, *states: TrialState) -> int:
        """Trials of this run in these states; those taken over from another run are left out."""
        if all(state in ENDED for state in states):
            return sum(self._ended[state] for state in states)
        return sum(trial.state in states and TAKEN_FROM not in trial.user_attrs for trial in self.trials)

    def ask(self) -> Suggestion:
        """The next trial: a waiting one first, else a new suggestion."""
        with self._journal.together():
            trial = self._study.ask(self._distributions)
            self._live[trial.number] = trial
            attempt = int(trial.user_attrs.get(ATTEMPTS, 0)) + 1
            trial.set_user_attr(ATTEMPTS, attempt)
            if attempt == 1:
                trial.set_user_attr(STARTED, time.time())
        return Suggestion(trial.number, dict(trial.params), attempt)

    def restart(self, number: int) -> Suggestion:
        """The same running trial once more, as a further attempt."""
        trial = self._live[number]
        attempt = int(trial.user_attrs[ATTEMPTS]) + 1
        trial.set_user_attr(ATTEMPTS, attempt)
        return Suggestion(number, dict(trial.params), attempt)

    def note(self, number: int, name: str) -> None:
        """Remember something about a running trial, for good."""
        self._live[number].set_user_attr(name, True)

    def noted(self, number: int, name: str) -> bool:
        return bool(self._live[number].user_attrs.get(name, False))

    def epochs(self, number: int) -> int:
        """Epochs that a running trial has reported."""
        return len(self._study._storage.get_trial(self._live[number]._trial_id).intermediate_values)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Record the objective so far after ``epoch`` (0-based); a report sent twice is recorded once."""
        trial = self._live[number]
        known = self._study._storage.get_trial(trial._trial_id).intermediate_values
        if epoch not in known:
            trial.report(value, epoch)

    def should_prune(self, number: int) -> bool:
        return self._live[number].should_prune()

    def complete(self, number: int, value: float, standard_error: float | None) -> None:
        """End a trial that ran to its full length with a finite value."""
        assert math.isfinite(value)
        self._end(number, TrialState.COMPLETE, value, standard_error)

    def prune(self, number: int, standard_error: float | None) -> None:
        """End a trial that the stopping rule stopped; its value is the last one reported."""
        self._end(number, TrialState.PRUNED, None, standard_error)

    def fail(self, number: int, failure: str, message: str) -> None:
        """End a trial that failed, with the class of the failure and its first useful line."""
        with self._journal.together():
            self._live[number].set_user_attr(FAILURE, failure)
            self._live[number].set_user_attr(MESSAGE, message)
            self._end(number, TrialState.FAIL, None, None)

    def wait(self, number: int) -> None:
        """Put a running trial back: :meth:`ask` will give it again, same number, same settings."""
        self._set_waiting(self._live.pop(number)._trial_id)

    def _end(self, number: int, state: TrialState, value: float | None, standard_error: float | None) -> None:
        trial = self._live[number]
        with self._journal.together():
            if standard_error is not None and math.isfinite(standard_error):
                trial.set_user_attr(STANDARD_ERROR, standard_error)
            trial.set_user_attr(FINISHED, time.time())
            self._study.tell(trial, values=value, state=state)
        # Last: a trial whose end finds no room on the disk is still to be put back.
        del self._live[number]
        ended = self.trial(number)
        self._ended[ended.state] += 1
        self._best = best_trial([trial for trial in (self._best, ended) if trial is not None], self.mode)

    def _set_waiting(self, trial_id: int) -> None:
        self._study._storage.set_trial_state_values(trial_id, TrialState.WAITING)


FirstTrials = Callable[[], Sequence[FrozenTrial]]


def new_study(storage: optuna.storages.BaseStorage, space: SearchSpace) -> optuna.Study:
    """An empty study of this space; its sampler is still to be started."""
    return optuna.create_study(
        study_name=STUDY_NAME,
        storage=storage,
        direction="maximize" if space.base["objective"].get("mode", "max") == "max" else "minimize",
        pruner=pruner_of(space),
    )


def start_sampler(study: optuna.Study, space: SearchSpace, start: Mapping[str, int]) -> None:
    """Let the space's sampler begin at ``start`` (``seed``, ``trials``), and write that down."""
    study.set_user_attr(SAMPLER_START, dict(start))
    study.sampler = make_sampler(space.budget.sampler, start["seed"], start["trials"], distributions(space))


def start_points(points: Iterable[Mapping[str, Any]]) -> list[FrozenTrial]:
    """Waiting trials whose settings are given."""
    return [
        optuna.trial.create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": dict(point)})
        for point in points
    ]


def _put_first(study: optuna.Study, first: FirstTrials) -> None:
    """Put the first trials into a study; a driver that died while doing so left some of them, in order."""
    present = len(study.get_trials(deepcopy=False))
    wanted = study.user_attrs.get(FIRST_TRIALS)
    if wanted is not None and present >= wanted:
        return
    trials = first()
    study.set_user_attr(FIRST_TRIALS, len(trials))
    for trial in trials[present:]:
        study.add_trial(trial)


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


# ---- which trial is best: the one rule


def ranked(trials: Sequence[FrozenTrial], mode: str) -> list[FrozenTrial]:
    """COMPLETE trials, best first (ties: lower number), then PRUNED, FAIL and unfinished ones by number.

    Only full-length trials with a finite value are COMPLETE, so only they can be best.
    """
    sign = -1 if mode == "max" else 1
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1, TrialState.FAIL: 2}

    def key(trial: FrozenTrial) -> tuple[int, float, int]:
        complete = trial.state == TrialState.COMPLETE
        assert not complete or trial.value is not None
        return order.get(trial.state, 3), sign * float(trial.value or 0.0) if complete else 0.0, trial.number

    return sorted(trials, key=key)


def best_trial(trials: Sequence[FrozenTrial], mode: str) -> FrozenTrial | None:
    """The best trial, or ``None`` while none is COMPLETE."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return next(iter(ranked(complete, mode)), None)


def last_value(trial: FrozenTrial) -> float | None:
    """The final value of a COMPLETE trial, the last reported one of any other."""
    if trial.value is not None:
        return float(trial.value)
    values: Mapping[int, float] = trial.intermediate_values
    return values[max(values)] if values else None
