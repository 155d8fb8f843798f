"""A run as the report looks at it: trials with their curves and times, the best one, and where the search began."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tune_lnl.config.trial import TrialConfig
from tune_lnl.datasets.bounds import ScoreBounds
from tune_lnl.tuning.runs.answer import Answer
from tune_lnl.tuning.runs.location import ResultsDir
from tune_lnl.tuning.runs.rows import TrialRow
from tune_lnl.tuning.runs.run import Run, load_run, run_folders
from tune_lnl.tuning.study.trials import FINISHED, STARTED
from tune_lnl.wording import ENDED, STATES


@dataclass(frozen=True)
class Trial:
    """A trial with what the figures need of it."""

    row: TrialRow
    curve: Sequence[tuple[int, float]]
    """(epoch, objective so far), epochs from 0."""
    config: Mapping[str, Any]
    """Flat and complete; empty while its settings are not all known."""
    warmup: int | None
    """Epochs of warm-up; ``None`` while its settings are not all known."""
    began: float | None
    """Seconds since 1970."""
    ended: float | None
    trained_seconds: float
    """Spent inside epochs."""

    @property
    def number(self) -> int:
        return self.row.number

    @property
    def state(self) -> str:
        return self.row.state

    @property
    def complete(self) -> bool:
        return self.row.state == "COMPLETE"

    @property
    def value(self) -> float | None:
        """Final, or last reported; ``None`` where there is no finite one."""
        value = self.row.value
        return value if value is not None and math.isfinite(value) else None

    @property
    def own(self) -> bool:
        """Made by this run, not taken over from another."""
        return self.row.taken_from is None

    @property
    def end_or_latest(self) -> float | None:
        """When it ended; of one that has not, when its latest epoch must have been done."""
        if self.ended is not None or self.began is None:
            return self.ended
        return self.began + self.trained_seconds

    def label(self) -> str:
        """Return the text of its tooltip."""
        value = "no value" if self.value is None else f"{self.value:.2f}"
        return f"trial {self.number}, {STATES[self.state]}: {value} after {self.row.epochs} epochs"


@dataclass(frozen=True)
class RunView:
    """A run, read once."""

    run: Run
    trials: Sequence[Trial]
    """By number."""

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def sign(self) -> float:
        """Values times this: the more the better."""
        return 1.0 if self.run.mode == "max" else -1.0

    @property
    def metric_label(self) -> str:
        return f"{self.run.metric} (%)" if self.in_percent else self.run.metric

    @property
    def in_percent(self) -> bool:
        return "loss" not in self.run.metric

    @property
    def bounds(self) -> ScoreBounds | None:
        """Ceiling and chance of the objective; None for a run of an earlier version or another objective."""
        return ScoreBounds.stored(self.run.settings.get("score_bounds"))

    @property
    def levels(self) -> list[tuple[float, str]]:
        """(value, label) of the horizontal lines that figures of the objective show: ceiling and chance."""
        bounds = self.bounds
        if bounds is None:
            return []
        ceiling = [] if bounds.ceiling is None else [(bounds.ceiling, "ceiling: a perfect network")]
        return [*ceiling, (bounds.chance, "chance: guessing")]

    @property
    def epochs(self) -> int:
        return self.run.space.epochs

    @property
    def asked(self) -> int:
        return self.run.space.budget.trials

    @property
    def finished(self) -> bool:
        return self.count(*ENDED) >= self.asked

    @property
    def rungs(self) -> list[int]:
        """Epochs (0-based) after which trials are compared."""
        return list(self.run.settings.get("rungs") or []) if self.run.space.budget.pruner != "none" else []

    @property
    def average_last(self) -> int:
        return self.base.objective.average_last

    @cached_property
    def complete(self) -> list[Trial]:
        """Best first."""
        by_number = {trial.number: trial for trial in self.trials}
        return [by_number[row.number] for row in self.run.rows() if row.state == "COMPLETE"]

    @cached_property
    def answer(self) -> Answer | None:
        """The trial that every view shows as the best, and the evidence that chose it."""
        return self.run.answer

    @property
    def best(self) -> Trial | None:
        """The trial of the answer."""
        answer = self.answer
        return None if answer is None else next(trial for trial in self.complete if trial.number == answer.number)

    @cached_property
    def start(self) -> Trial | None:
        """The trial at the published setting."""
        row = self.run.published
        return None if row is None else next(trial for trial in self.trials if trial.number == row.number)

    def count(self, *states: str) -> int:
        """Count the trials of this run in these states, without those taken over from another."""
        return sum(trial.own and trial.state in states for trial in self.trials)

    @property
    def epochs_trained(self) -> int:
        return sum(trial.row.epochs for trial in self.trials if trial.own)

    def reports(self, trial: Trial) -> list[dict[str, Any]]:
        return self.run.epoch_reports(trial.number)

    def better(self, one: float, other: float) -> bool:
        return self.sign * one > self.sign * other

    def best_quarter(self) -> list[Trial]:
        """Return the best quarter of the complete trials, three at least; none where fewer than four are complete."""
        return self.complete[: max(3, len(self.complete) // 4)] if len(self.complete) >= 4 else []

    @property
    def dataset(self) -> Mapping[str, Any]:
        """Settings of the dataset, complete."""
        return {
            key.removeprefix("dataset."): value for key, value in self.flat_base.items() if key.startswith("dataset.")
        }

    @cached_property
    def base(self) -> TrialConfig:
        """The config at some point of the space: for what is the same in all its trials."""
        return self.run.space.any_config()

    @cached_property
    def flat_base(self) -> Mapping[str, Any]:
        return self.base.flat()

    @property
    def method(self) -> str:
        return self.base.method

    @property
    def test_metric(self) -> str:
        """Return the figure that represents a run on the test set."""
        return self.base.settings.test_metrics[0]


def view_run(run: Run) -> RunView:
    """Read what the report needs of a run; it may still be running."""
    trials = []
    for frozen in sorted(run.trials, key=lambda trial: trial.number):
        row = TrialRow.of(frozen)
        whole = len(row.params) == len(run.space.parameters)
        config = run.config(row) if whole else None
        trials.append(
            Trial(
                row=row,
                curve=[
                    (epoch, float(value))
                    for epoch, value in sorted(frozen.intermediate_values.items())
                    if math.isfinite(value)
                ],
                config={} if config is None else config.flat(),
                warmup=None if config is None else config.settings.warmup_length(),
                began=frozen.user_attrs.get(STARTED),
                ended=frozen.user_attrs.get(FINISHED),
                trained_seconds=sum(report.get("seconds") or 0.0 for report in run.epoch_reports(row.number)),
            )
        )
    return RunView(run, trials)


def load_runs(run: ResultsDir, results_dir: ResultsDir) -> list[Run]:
    """Read the run of a name or path; where it is a folder with one run per condition, all of them.

    Raises:
        InputError: there is no such run.
    """
    return [load_run(folder) for folder in run_folders(run, results_dir)]
