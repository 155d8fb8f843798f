"""Following a finished or running search once more, and comparing: did sampler and pruner say what is recorded?

With several trials at once their reports arrive in an order that no seed decides. The study's journal keeps that order:
one entry per question, report and end, and one wherever a driver started a sampler. Here the same sampler and pruner
are led through these entries; nothing is trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import json_to_distribution
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState

from tune_lnl.errors import CorruptDataError, InputError
from tune_lnl.tuning.runs.results import Run
from tune_lnl.tuning.space.space import SearchSpace
from tune_lnl.tuning.study.study import ATTEMPTS, SAMPLER_START, TAKEN_FROM, distributions, new_study, start_sampler

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Replay:
    """What a replay has compared."""

    trials: int
    suggestions: int
    """Trials whose settings were drawn or given once more."""
    decisions: int
    """Reports after which the stopping rule was asked once more."""
    difference: str | None
    """The first place where record and replay part; the counts end there."""

    def __str__(self) -> str:
        if self.difference is not None:
            return f"after {self.suggestions} suggestions and {self.decisions} decisions: {self.difference}"
        return f"replayed {self.trials} trials: every suggestion and decision is the same"


class _DifferentError(Exception):
    """Carries the sentence that names the first difference."""


def replay(run: Run) -> Replay:
    """Lead the run's sampler and pruner through the recorded order.

    Every suggestion is compared with the recorded settings, and every decision of the pruner with what became of the
    trial. Not compared is what a killed driver left half done: settings of which it wrote only some, and a decision
    whose trial went back to waiting.

    Raises:
        InputError: there is no study to replay, or it was written by a version that did not record its samplers, or to
            a database.
        CorruptDataError: its journal cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    entries = _entries(run)
    follower = _Follower(run, entries)
    difference = None
    try:
        follower.follow()
    except _DifferentError as found:
        difference = str(found)
    return Replay(len(run.trials), follower.suggestions, follower.decisions, difference)


def _entries(run: Run) -> list[Entry]:
    path = run.files.study
    if run.settings.get("storage") is not None:
        raise InputError(
            f"the study of run {run.name} is in a database, which keeps what was said but not in which order; only a "
            "study in a journal file can be replayed"
        )
    if not path.is_file():
        raise InputError(f"run {run.name} has no study yet ({path}); start it first")
    try:
        entries: list[Entry] = list(JournalFileBackend(str(path)).read_logs(0))
    except ValueError as error:
        raise CorruptDataError(f"{path}: not a readable journal ({error}); nothing can be replayed from it") from None
    if not any(_sampler_start(entry) for entry in entries):
        raise InputError(f"{path} does not record where its samplers started; only newer runs can be replayed")
    return entries


def _sampler_start(entry: Entry) -> Mapping[str, int] | None:
    found: Mapping[str, int] | None = entry.get("user_attr", {}).get(SAMPLER_START)
    return found if entry["op_code"] == JournalOperation.SET_STUDY_USER_ATTR else None


class _JournalInMemory(BaseJournalBackend):
    """Optuna's own study in memory never gives a trial again that had run before; a journal does."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return map(json.loads, self._lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        # As text, so that numbers pass through the same form as in the recorded study.
        self._lines += [json.dumps(log) for log in logs]


class _Follower:
    """A second study in memory, led through the entries of the first."""

    def __init__(self, run: Run, entries: list[Entry]) -> None:
        self._recorded = run.trials
        self._seed = int(run.settings["seed"])
        self._space: SearchSpace = run.space
        self._distributions = distributions(run.space)
        self._entries = entries
        self._storage = optuna.storages.JournalStorage(_JournalInMemory())
        self._study = new_study(self._storage, run.space)
        self._live: dict[int, optuna.Trial] = {}
        self._first_start = True
        self.suggestions = 0
        self.decisions = 0

    def follow(self) -> None:
        for place, entry in enumerate(self._entries):
            self._take(place, entry)

    def _take(self, place: int, entry: Entry) -> None:
        # In a journal with one study a trial's id is its number.
        match JournalOperation(entry["op_code"]):
            case JournalOperation.SET_STUDY_USER_ATTR:
                self._sampler_started(_sampler_start(entry))
            case JournalOperation.SET_STUDY_SYSTEM_ATTR:
                for key, value in entry["system_attr"].items():
                    self._storage.set_study_system_attr(self._study._study_id, key, value)
            case JournalOperation.CREATE_TRIAL if entry.get("state") is not None:
                self._study.add_trial(self._given(entry))
            case JournalOperation.CREATE_TRIAL:
                self._asked(len(self._trials()), place, new=True)
            case JournalOperation.SET_TRIAL_PARAM:
                self._settle(entry)
            case JournalOperation.SET_TRIAL_STATE_VALUES:
                self._state_changed(place, entry)
            case JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE:
                self._reported(place, entry)
            case JournalOperation.SET_TRIAL_USER_ATTR:
                for key, value in entry["user_attr"].items():
                    self._storage.set_trial_user_attr(entry["trial_id"], key, value)
            case JournalOperation.SET_TRIAL_SYSTEM_ATTR:
                for key, value in entry["system_attr"].items():
                    self._storage.set_trial_system_attr(entry["trial_id"], key, value)

    def _sampler_started(self, start: Mapping[str, int] | None) -> None:
        if start is None:
            return
        taken = sum(TAKEN_FROM in trial.user_attrs for trial in self._recorded)
        present = taken if self._first_start else len(self._trials())
        expected = self._seed + present
        if start["seed"] != expected:
            raise _DifferentError(f"a sampler was started with seed {start['seed']}, the run's settings say {expected}")
        self._first_start = False
        self._live.clear()
        start_sampler(self._study, self._space, start)

    def _given(self, entry: Entry) -> FrozenTrial:
        """A trial that was put into the study: a start point, or one that another run has made."""
        if TrialState(entry["state"]) == TrialState.WAITING:
            return optuna.trial.create_trial(
                state=TrialState.WAITING, user_attrs=entry["user_attrs"], system_attrs=entry["system_attrs"]
            )
        return self._recorded[len(self._trials())]

    # ---- suggestions

    def _asked(self, number: int, place: int, new: bool) -> None:
        if not self._answered(number, place):
            # Its driver died while it wrote the answer: what it wrote is taken as it stands.
            if new:
                self._storage.create_new_trial(self._study._study_id)
            else:
                self._storage.set_trial_state_values(number, TrialState.RUNNING)
            return
        trial = self._study.ask(self._distributions)
        if trial.number != number:
            raise _DifferentError(f"recorded trial {number} was started where replay starts trial {trial.number}")
        self._live[number] = trial
        for name, value in trial.params.items():
            recorded = self._recorded[number].params.get(name)
            if recorded != value:
                raise _DifferentError(f"trial {number}: recorded {name} = {recorded!r}, replay suggests {value!r}")
        self.suggestions += 1

    def _answered(self, number: int, place: int) -> bool:
        """Whether all settings of the trial are written before the journal's next driver begins."""
        known = {name for trial in self._trials()[number : number + 1] for name in trial.params}
        missing = {*self._distributions} - known
        for later in range(place + 1, len(self._entries)):
            entry = self._entries[later]
            if not missing or _sampler_start(entry):
                break
            if entry["op_code"] == JournalOperation.SET_TRIAL_PARAM and entry["trial_id"] == number:
                missing.discard(entry["param_name"])
        return not missing

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _settle(self, entry: Entry) -> None:
        number, name = entry["trial_id"], entry["param_name"]
        range_ = json_to_distribution(entry["distribution"])
        known = self._storage.get_trial(number).params
        if name not in known:
            self._storage.set_trial_param(number, name, entry["param_value_internal"], range_)
            return
        recorded = range_.to_external_repr(entry["param_value_internal"])
        if recorded != known[name]:
            raise _DifferentError(f"trial {number}: recorded {name} = {recorded!r}, replay suggests {known[name]!r}")

    # ---- reports and ends

    def _reported(self, place: int, entry: Entry) -> None:
        number, step = entry["trial_id"], entry["step"]
        trial = self._running(number)
        trial.report(entry["intermediate_value"], step)
        if step + 1 >= self._space.epochs:
            return
        stopped = self._was_stopped(number, place)
        stop = trial.should_prune()
        if stopped is None:
            return
        if stop != stopped:
            words = {True: "stopped", False: "went on"}
            raise _DifferentError(
                f"trial {number} after epoch {step + 1}: recorded {words[stopped]}, replay {words[stop]}"
            )
        self.decisions += 1

    def _state_changed(self, place: int, entry: Entry) -> None:
        number, state = entry["trial_id"], TrialState(entry["state"])
        if state == TrialState.RUNNING:
            self._asked(number, place, new=False)
        elif state == TrialState.WAITING:
            self._live.pop(number, None)
            self._storage.set_trial_state_values(number, TrialState.WAITING)
        else:
            self._running(number)
            del self._live[number]
            self._ended(number, state, entry["values"])

    def _running(self, number: int) -> optuna.Trial:
        if number not in self._live:
            raise _DifferentError(f"trial {number} is recorded as running where replay has not started it")
        return self._live[number]

    def _ended(self, number: int, state: TrialState, values: list[float] | None) -> None:
        reported = self._storage.get_trial(number)
        last = None if reported.last_step is None else reported.intermediate_values[reported.last_step]
        undisturbed = reported.user_attrs.get(ATTEMPTS, 1) == 1
        if state == TrialState.PRUNED or (state == TrialState.COMPLETE and undisturbed):
            recorded = values[0] if values else None
            if recorded != last:
                raise _DifferentError(f"trial {number} ended with {recorded!r}, its last report was {last!r}")
        self._study.tell(number, values=values if state == TrialState.COMPLETE else None, state=state)

    def _was_stopped(self, number: int, place: int) -> bool | None:
        """Whether the trial was stopped after a report, from what follows it; ``None``: nobody knows."""
        for later in range(place + 1, len(self._entries)):
            entry = self._entries[later]
            if _sampler_start(entry):
                return None
            if entry.get("trial_id") != number:
                continue
            if entry["op_code"] == JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE:
                return False
            if entry["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES:
                # The pruner is asked in the same breath as the report is taken: any other end came later.
                return bool(entry["state"] == TrialState.PRUNED)
        return None
