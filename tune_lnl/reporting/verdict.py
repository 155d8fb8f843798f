"""The best config, and how it compares with the published setting on held-out samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tune_lnl.errors import InputError
from tune_lnl.methods.consensus import consensus
from tune_lnl.metrics.paired import paired_difference
from tune_lnl.reporting.figure import Figure, Table
from tune_lnl.reporting.history import ahead
from tune_lnl.reporting.intervals import Estimate, difference
from tune_lnl.reporting.rows import RowValue, bars_table, rows_plot
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.reporting.slices import DERIVED
from tune_lnl.reporting.texts import setting
from tune_lnl.reporting.trainings import Recorded
from tune_lnl.tuning.runs.judged import read_candidates

CONSENSUS_OF = 8
"""Complete trials from which the consensus is named."""
CONSENSUS_NUMBERS = 4_000_000
"""Trials times images times classes up to which it is computed: some seconds."""


def validation_figure(view: RunView, trainings: Sequence[Recorded]) -> Figure:
    """Draw the best trial, the published setting and recorded trainings, by the objective of the search."""
    bars = _validation_bars(view, trainings)
    notes = []
    if view.best is not None:
        notes.append(
            "Intervals: 95%, from the standard error on the held-out samples; for trainings on several seeds Student's "
            "interval of their mean."
        )
    bounds = view.bounds
    if bounds is not None:
        sentence = bounds.sentence()
        notes.append(f"{sentence[:1].upper()}{sentence[1:]}.")
    elif view.best is not None and view.flat_base.get("validation.labels") == "noisy":
        notes.append(
            "Judged on held-out samples against their given, partly wrong labels: even a perfect network scores about "
            "the share of right labels here, not 100."
        )
    if view.best is not None and len(view.complete) > 1 and view.run.confirmation is None:
        notes.append(
            f"The best of {len(view.complete)} is also the luckiest of them: expect a little less from it. "
            "--confirm 3x5 trains the top three again on fresh splits and seeds, and tells how much."
        )
    return Figure(
        key="validation",
        title="Best against the published setting",
        takeaway=_validation_takeaway(view) + _consensus_note(view),
        plot=rows_plot(bars, view.metric_label) if bars else None,
        table=bars_table(bars, view.metric_label, "Values with intervals") if bars else None,
        notes=notes,
    )


def _validation_bars(view: RunView, trainings: Sequence[Recorded]) -> list[RowValue]:
    best, start = view.best, view.start
    bars = []
    if best is not None and best.value is not None:
        estimate = Estimate.measured(best.value, best.row.standard_error)
        bars.append(RowValue(f"best: trial {best.number}", estimate, "one training", ours=True))
    if start is not None and start.value is not None and start is not best:
        estimate = Estimate.measured(start.value, start.row.standard_error)
        stopped = "" if start.complete else f", {start.row.epochs} epochs"
        note = "one training" if start.complete else f"stopped after {start.row.epochs} epochs"
        bars.append(RowValue(f"published setting: trial {start.number}{stopped}", estimate, note))
    for one in trainings:
        if one.objective:
            note = f"{one.folder.name}, 95% of the mean"
            bars.append(RowValue(one.name, Estimate.mean_of(one.objective), note))
    return bars


def _validation_takeaway(view: RunView) -> str:
    best, start = view.best, view.start
    if best is None or best.value is None:
        return "No trial has run to its full length with a finite value yet, so there is no best config."
    value = f"{view.run.metric} {Estimate.measured(best.value, best.row.standard_error)}"
    answer = view.answer
    if answer is not None and not answer.has_highest_objective:
        # How it compares is in the figure of what chose it; its one training in the search decided nothing.
        return f"Trial {best.number} is the answer, {answer.words}; its training in the search gave {value}."
    sentence = f"Trial {best.number} is the best: {value}"
    bounds = view.bounds
    if bounds is not None and bounds.is_guessing(best.value, best.row.standard_error):
        return f"{sentence}. No trial is better than guessing, which scores about {bounds.chance:.4g}."
    if start is None or start.value is None:
        return f"{sentence}. There is no published setting among the trials to compare it with."
    if start is best:
        higher = ahead(view)
        if len(view.complete) == 1 and not higher:
            return f"{sentence}. It is the published setting itself, and the only trial of full length."
        others = f"no other trial of full length was better{higher}" if higher else "nothing tried was better"
        return f"{sentence}. It is the published setting itself: {others}."
    if start.complete:
        gap = _gap(view, best, start)
        sure = gap.low is not None and gap.low > 0
        sentence += f", {gap} better than the published setting (trial {start.number}); "
        return sentence + (
            "more than the held-out sample explains." if sure else "within what the held-out sample explains."
        )
    epoch = start.curve[-1][0] if start.curve else None
    then = None if epoch is None else dict(best.curve).get(epoch)
    if then is None:
        return f"{sentence}. The published setting (trial {start.number}) {_ended(start)}."
    return (
        f"{sentence}. The published setting (trial {start.number}) {_ended(start)} at {start.value:.2f}; "
        f"the best had {then:.2f} there."
    )


def _consensus_note(view: RunView) -> str:
    """Return the trial that the consensus of all prefers, where it can be trusted; it decides nothing."""
    if len(view.complete) < CONSENSUS_OF or view.answer is None or view.answer.by == "judged":
        return ""
    try:
        candidates = read_candidates(view.run)
    except InputError:
        return ""  # no predictions were kept, or the method has none
    if candidates.probabilities.size > CONSENSUS_NUMBERS:
        return ""
    found = consensus(candidates.probabilities, candidates.given)
    if not found.trusted:
        return ""
    number, count = candidates.numbers[int(found.scores.argmax())], len(candidates.numbers)
    if number == view.answer.number:
        return f" The consensus of the {count} complete trials on the held-out images prefers it, too."
    return (
        f" The consensus of the {count} complete trials on the held-out images prefers trial {number}; thirty images "
        f"judged by hand can settle it: python -m tune_lnl.judge {view.name}."
    )


def _gap(view: RunView, best: Trial, start: Trial) -> Estimate:
    """Return how much better the best is than the published setting, by images that both were scored on if kept."""
    assert best.value is not None
    assert start.value is not None
    apart = difference(
        view.sign * best.value, best.row.standard_error, view.sign * start.value, start.row.standard_error
    )
    if view.run.metric != "val_accuracy" or getattr(view.base.validation, "labels", "") != "noisy":
        return apart  # the kept predictions come with the given labels
    try:
        first, other = (view.run.heldout_predictions(trial.number) for trial in (best, start))
    except KeyError:
        return apart
    if not np.array_equal(first.index, other.index):
        return apart
    paired = paired_difference(*(one.probabilities[0].argmax(axis=1) == one.given for one in (first, other)))
    # The interval around the difference of the objectives, which are means over epochs; the predictions are, too.
    value = apart.value
    return Estimate(value, value + 100 * (paired.low - paired.value), value + 100 * (paired.high - paired.value))


def _ended(trial: Trial) -> str:
    words = {"PRUNED": "was stopped early", "FAIL": "failed"}
    return f"{words.get(trial.state, 'has got')} after {trial.row.epochs} epochs"


# ---- the config


def config_table(view: RunView) -> Table:
    """Return the searched settings (best, published, range), and those that follow from them."""
    best, start = view.best, view.start
    names = [*view.run.space.parameters]
    derived = [name for name in DERIVED if name not in names]
    rows = []
    for name in [*names, *derived]:
        values = [_of(trial, name) for trial in (best, start)]
        if values == ["–", "–"] and name in derived:
            continue
        parameter = view.run.space.parameters.get(name)
        searched = "follows from the others"
        if parameter is not None:
            ends = parameter.extremes()
            between = ", " if parameter.type == "choice" else " to "
            searched = f"{between.join(setting(end) for end in ends)} ({parameter.type})"
        rows.append([name, *values, searched])
    return Table(["setting", "best", "published setting", "searched"], rows, "Searched settings of the best config")


def _of(trial: Trial | None, name: str) -> str:
    if trial is None:
        return "–"
    source = trial.row.params if name in trial.row.params else trial.config
    return setting(source[name]) if name in source else "–"
