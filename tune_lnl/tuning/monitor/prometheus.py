"""The figures of a search for Prometheus, through ``ray.util.metrics``: Ray serves them with its own (``ray_...``)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from ray.util.metrics import Gauge

from tune_lnl.tuning.engine.listener import Listener
from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.monitor.state import RunningTrial, SearchState, View
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.study.trials import ENDED
from tune_lnl.wording import STATES

INTERVAL = 1.0
"""Shortest time between updates, seconds; Ray passes them on every few seconds."""

OF_THE_RUN: Mapping[str, str] = {
    "tune_lnl_progress_ratio": "share of the search that is done, 0 to 1",
    "tune_lnl_trials_planned": "trials that the search is to run",
    "tune_lnl_best_value": "objective of the best complete trial",
    "tune_lnl_best_standard_error": "standard error of the best trial's objective",
    "tune_lnl_gpu_share": "GPUs that running trials occupy, of those the machine has, 0 to 1",
    "tune_lnl_cpu_share": "CPUs that running trials occupy, of those the machine has, 0 to 1",
}
"""Gauges of the whole search, by ``run``."""

OF_A_STATE: Mapping[str, str] = {"tune_lnl_trials": "trials by state: running, complete, stopped early, failed"}
"""By ``run`` and ``state``."""

OF_A_SLOT: Mapping[str, str] = {
    "tune_lnl_trial_number": "number of the trial that runs in this slot",
    "tune_lnl_trial_epoch": "epochs that it has completed",
    "tune_lnl_trial_value": "its objective so far",
    "tune_lnl_images_per_second": "training images per second of its last epoch",
    "tune_lnl_selection_precision": "percent of the samples selected in its last epoch whose label is right",
    "tune_lnl_selection_recall": "percent of the samples with a right label that were selected",
    "tune_lnl_selection_f1": "harmonic mean of the two, percent",
}
"""By ``run`` and ``slot``; there are as many slots as trials run at once. There is no label for the trial: Prometheus
keeps a series for each value, and a search may have thousands of trials."""

MEASURES = ("images_per_second", "selection_precision", "selection_recall", "selection_f1")


class MetricsExport(Listener):
    """Sets the gauges from views of the search. Make one while Ray runs."""

    def __init__(self, plan: Plan, state: SearchState, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = {"run": plan.run}
        self._plan = plan
        self._state = state
        self._clock = clock
        self._next = -math.inf
        self._slots: list[int | None] = [None] * plan.resources.concurrent
        self._gauges = {
            **{name: Gauge(name, text, ("run",)) for name, text in OF_THE_RUN.items()},
            **{name: Gauge(name, text, ("run", "state")) for name, text in OF_A_STATE.items()},
            **{name: Gauge(name, text, ("run", "slot")) for name, text in OF_A_SLOT.items()},
        }

    def on_epoch(self, report: WorkerReport) -> None:
        self.refresh()

    def on_end(self, number: int) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Set the gauges, at most once per :data:`INTERVAL`."""
        if self._clock() >= self._next:
            self.update(self._state.view())
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
        self._assign(list(by_number))
        for slot, number in enumerate(self._slots):
            self._update_slot(str(slot), None if number is None else by_number[number])

    def _assign(self, numbers: list[int]) -> None:
        """Give each running trial a free slot, which it keeps until it ends."""
        running, assigned = set(numbers), set(self._slots)
        self._slots = [number if number in running else None for number in self._slots]
        free = [slot for slot, number in enumerate(self._slots) if number is None]
        for slot, number in zip(free, (number for number in numbers if number not in assigned), strict=False):
            self._slots[slot] = number

    def _update_slot(self, slot: str, trial: RunningTrial | None) -> None:
        """Set a free slot, and figures that its trial has not reported yet, to NaN.

        A gauge would keep its last value; Ray's endpoint leaves NaN out.
        """
        measures = {} if trial is None else trial.measures
        self._set("tune_lnl_trial_number", math.nan if trial is None else trial.number, slot=slot)
        self._set("tune_lnl_trial_epoch", math.nan if trial is None else trial.epochs, slot=slot)
        value = None if trial is None else trial.value
        self._set("tune_lnl_trial_value", math.nan if value is None else value, slot=slot)
        for name in MEASURES:
            self._set(f"tune_lnl_{name}", measures.get(name, math.nan), slot=slot)

    def _set(self, name: str, value: float | None, **tags: str) -> None:
        """Set a gauge, even to the same value: Ray's endpoint drops a figure that is not repeated."""
        if value is not None:
            self._gauges[name].set(float(value), {**self._run, **tags})
