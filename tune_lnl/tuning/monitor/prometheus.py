"""A search's figures for Prometheus, through ``ray.util.metrics``: Ray serves them with its own, prefixed ``ray_``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from ray.util.metrics import Gauge

from tune_lnl.tuning.monitor.state import RunningTrial, View
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.study.trials import ENDED
from tune_lnl.wording import STATES

INTERVAL = 1.0
"""Seconds between updates at most; Ray itself passes them on every few seconds."""

OF_THE_RUN: Mapping[str, str] = {
    "tune_lnl_progress_ratio": "share of the search that is done, 0 to 1",
    "tune_lnl_trials_planned": "trials that the search is to make",
    "tune_lnl_best_value": "objective of the best complete trial",
    "tune_lnl_best_standard_error": "standard error of the best trial's objective",
    "tune_lnl_gpu_share": "GPUs that running trials occupy, of those the machine has, 0 to 1",
    "tune_lnl_cpu_share": "CPUs that running trials occupy, of those the machine has, 0 to 1",
}
"""Gauges of the whole search, by ``run``."""

OF_A_STATE: Mapping[str, str] = {"tune_lnl_trials": "trials by state: running, complete, stopped early, failed"}
"""By ``run`` and ``state``."""

OF_A_PLACE: Mapping[str, str] = {
    "tune_lnl_trial_number": "number of the trial that runs in this place",
    "tune_lnl_trial_epoch": "epochs that it has finished",
    "tune_lnl_trial_value": "its objective so far",
    "tune_lnl_images_per_second": "training images per second of its last epoch",
    "tune_lnl_selection_precision": "percent of the samples selected in its last epoch whose label is right",
    "tune_lnl_selection_recall": "percent of the samples with a right label that were selected",
    "tune_lnl_selection_f1": "harmonic mean of the two, percent",
}
"""By ``run`` and ``place``: one of as many places as trials run at once. Not by trial, of which there may be thousands:
Prometheus keeps a series for each."""

MEASURES = ("images_per_second", "selection_precision", "selection_recall", "selection_f1")


class MetricsExport:
    """Sets the gauges from views of the search."""

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = {"run": plan.run}
        self._plan = plan
        self._clock = clock
        self._next = -math.inf
        self._places: list[int | None] = [None] * plan.resources.concurrent
        self._gauges = {
            **{name: Gauge(name, text, ("run",)) for name, text in OF_THE_RUN.items()},
            **{name: Gauge(name, text, ("run", "state")) for name, text in OF_A_STATE.items()},
            **{name: Gauge(name, text, ("run", "place")) for name, text in OF_A_PLACE.items()},
        }

    def refresh(self, look: Callable[[], View]) -> None:
        """Take a look and pass it on, unless that was done just now."""
        if self._clock() >= self._next:
            self.update(look())
            self._next = self._clock() + INTERVAL

    def update(self, view: View) -> None:
        machine, share, running = self._plan.machine, self._plan.resources, len(view.running)
        self._set("tune_lnl_progress_ratio", view.progress)
        self._set("tune_lnl_trials_planned", view.trials)
        self._set("tune_lnl_cpu_share", running * share.cpus_per_trial / machine.cpus)
        self._set("tune_lnl_gpu_share", running * share.gpus_per_trial / machine.gpus if machine.gpus else 0.0)
        if view.best is not None:
            self._set("tune_lnl_best_value", view.best.value)
            self._set("tune_lnl_best_standard_error", view.best.standard_error)
        self._set("tune_lnl_trials", running, state="running")
        for state in ENDED:
            self._set("tune_lnl_trials", view.counts.get(state, 0), state=STATES[state.name])
        by_number = {trial.number: trial for trial in view.running}
        self._seat(list(by_number))
        for place, number in enumerate(self._places):
            self._update_place(str(place), None if number is None else by_number[number])

    def _seat(self, numbers: list[int]) -> None:
        """A trial keeps its place while it runs."""
        running, seated = set(numbers), set(self._places)
        self._places = [number if number in running else None for number in self._places]
        free = [place for place, number in enumerate(self._places) if number is None]
        for place, number in zip(free, (number for number in numbers if number not in seated), strict=False):
            self._places[place] = number

    def _update_place(self, place: str, trial: RunningTrial | None) -> None:
        """An empty place, and what its trial has not told yet, is not a number.

        A gauge would keep its last one; Ray's endpoint leaves out what is not a number.
        """
        measures = {} if trial is None else trial.measures
        self._set("tune_lnl_trial_number", math.nan if trial is None else trial.number, place=place)
        self._set("tune_lnl_trial_epoch", math.nan if trial is None else trial.epochs, place=place)
        value = None if trial is None else trial.value
        self._set("tune_lnl_trial_value", math.nan if value is None else value, place=place)
        for name in MEASURES:
            self._set(f"tune_lnl_{name}", measures.get(name, math.nan), place=place)

    def _set(self, name: str, value: float | None, **tags: str) -> None:
        """Set again though it may not have changed: Ray's endpoint forgets a figure that nobody repeats."""
        if value is not None:
            self._gauges[name].set(float(value), {**self._run, **tags})
