"""The replicates of a run as a session's ledger: gives the trainings out in order and keeps their results.

Replicates are not trials: they have no number in the study. Each finished one is a JSON file under ``confirm/``; one
that was cut short continues from its checkpoint there.
"""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_lnl.config.trial import TrialConfig
from tune_lnl.training.failures import DIVERGED
from tune_lnl.training.loop import objective_so_far
from tune_lnl.tuning.confirm.table import write_replicates_table
from tune_lnl.tuning.engine.listener import Listener
from tune_lnl.tuning.engine.messages import Job, WorkerReport
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.study.study import Suggestion

Result = Mapping[str, Any]
"""A finished training: ``config`` (flat), ``fingerprints``, ``reports``; or ``failure`` and ``message``."""


@dataclass(frozen=True)
class Replicate:
    """One training of a confirmation."""

    name: str
    """``007-r2``: trial 7, second replicate of the race; ``007-2``: of a confirmation; ``007-all``: on all the data."""
    config: TrialConfig
    scores_test: bool

    def result(self, files: RunFolder) -> Path:
        return files.confirm / f"{self.name}.json"

    def checkpoints(self, files: RunFolder) -> dict[Path, int]:
        """Return the checkpoints that workers have left, with the attempt that each is of (0: by version 0.1.0)."""
        paths = [path for path in files.listed("confirm") if path.match(f"{self.name}.*") and path.suffix == ".pt"]
        return {path: int(path.name.split(".")[1]) if path.name.count(".") == 2 else 0 for path in paths}

    def describe(self, result: Result) -> str:
        """Return a line about the finished training."""
        trial, _, which = self.name.partition("-")
        where = "on all the data" if self.scores_test else f"replicate {which.removeprefix('r')}"
        if "failure" in result:
            outcome = str(result["message"])
        elif self.scores_test:
            outcome = "trained"
        else:
            objective = self.config.objective
            outcome = f"{objective_so_far(objective.metric, objective.average_last, result['reports']):.2f}"
        return f"trial {int(trial):>3} {where}: {outcome}"


def read_result(files: RunFolder, replicate: Replicate) -> Result | None:
    """Return the result of a finished training; a file of another config with the same name does not count."""
    try:
        found: dict[str, Any] = json.loads(replicate.result(files).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    config = replicate.config
    known = [config.flat(), config.flat_as_before()]
    return found if found.get("config") in [json.loads(json.dumps(each)) for each in known] else None


class Replicates(Listener):
    """Trainings that are still to be done, as :class:`tune_lnl.tuning.engine.session.Ledger`.

    Args:
        plan: of the run.
        replicates: those that have a result already are not trained again.
        follow_up: called with the results by name whenever all are done; gives the next ones, none at the end.
        on_error: called when a training failed for a reason that says nothing about its settings; see ``error``.
        tell: prints a line per finished training.
        working_folder: where workers are to run; ``None``: they start in the driver's.

    Attributes:
        results: of finished trainings, by name.
        error: sentence about the failed training.
    """

    def __init__(
        self,
        plan: Plan,
        replicates: Sequence[Replicate],
        follow_up: Callable[[Mapping[str, Result]], Sequence[Replicate]],
        *,
        on_error: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = lambda line: None,
        working_folder: str | None = None,
    ) -> None:
        self._plan = plan
        self._follow_up: Callable[[Mapping[str, Result]], Sequence[Replicate]] | None = follow_up
        self._on_error = on_error
        self._tell = tell
        self._working_folder = working_folder
        self.results: dict[str, Result] = {}
        self.error: str | None = None
        self._to_do: list[Replicate] = []
        self._all = 0
        self._waiting: deque[int] = deque()
        self._attempts: Counter[int] = Counter()
        self._epochs: dict[int, set[int]] = {}
        self._notes: set[tuple[int, str]] = set()
        self._received: dict[int, str] = {}
        self._add(replicates)
        self._follow()

    def total(self) -> int:
        """Return the number of trainings that were or are still to be done; it grows by the follow-ups."""
        return len(self._to_do)

    def job(self, suggestion: Suggestion) -> Job:
        """Return the job of a training."""
        replicate, plan = self._to_do[suggestion.number], self._plan
        return Job(
            suggestion.number,
            suggestion.attempt,
            str(plan.files.root),
            replicate.config.sections(),
            store=plan.files.url,
            data_dir=None if plan.data_dir is None else str(plan.data_dir),
            device=plan.resources.device,
            # The one that scores the test set is the last, and has the machine to itself.
            memory_fraction=None if replicate.scores_test else plan.resources.memory_fraction,
            cwd=self._working_folder,
            replicate=replicate.name,
            scores_test=replicate.scores_test,
        )

    def _add(self, replicates: Sequence[Replicate]) -> None:
        self._all += len(replicates)
        for replicate in replicates:
            result = read_result(self._plan.files, replicate)
            if result is not None:
                self.results[replicate.name] = result
                continue
            number = len(self._to_do)
            self._attempts[number] = max(replicate.checkpoints(self._plan.files).values(), default=0)
            self._waiting.append(number)
            self._to_do.append(replicate)

    def _follow(self) -> None:
        while len(self.results) == self._all and self._follow_up is not None:
            more = self._follow_up(self.results)
            if not more:
                self._follow_up = None
            self._add(more)

    def _keep(self, number: int, result: dict[str, Any]) -> None:
        """Write the result before the checkpoint goes: a crash in between repeats nothing."""
        replicate, files = self._to_do[number], self._plan.files
        result = {"config": replicate.config.flat(), **result}
        files.write(replicate.result(files), json.dumps(result) + "\n")
        files.delete(*replicate.checkpoints(files))
        self.results[replicate.name] = result
        write_replicates_table(files)
        self._tell(f"[{len(self.results):>3}/{self._all}] {replicate.describe(result)}")

    # ---- the session's ledger

    def ask(self) -> Suggestion:
        return self.restart(self._waiting.popleft())

    def restart(self, number: int) -> Suggestion:
        self._attempts[number] += 1
        self._epochs.setdefault(number, set())
        return Suggestion(number, {}, self._attempts[number])

    def note(self, number: int, name: str) -> None:
        self._notes.add((number, name))

    def noted(self, number: int, name: str) -> bool:
        return (number, name) in self._notes

    def epochs(self, number: int) -> int:
        return len(self._epochs[number])

    def report(self, number: int, epoch: int, value: float) -> None:
        self._epochs[number].add(epoch)

    def on_epoch(self, report: WorkerReport) -> None:
        if report.result:
            self._received[report.number] = report.result

    def should_prune(self, number: int) -> bool:
        return False

    def complete(self, number: int, value: float, standard_error: float | None) -> None:
        assert math.isfinite(value)
        self._keep(number, json.loads(self._received.pop(number)))

    def prune(self, number: int, standard_error: float | None) -> None:
        raise AssertionError("no replicate is stopped early")

    def fail(self, number: int, failure: str, message: str) -> None:
        if failure == DIVERGED:
            self._keep(number, {"failure": failure, "message": message, "reports": []})
        else:
            self.error = f"training {self._to_do[number].name} again: {failure}: {message}"

    def wait(self, number: int) -> None:
        self._waiting.appendleft(number)

    def on_end(self, number: int) -> None:
        if self.error is not None:
            self._on_error()
        else:
            self._follow()
