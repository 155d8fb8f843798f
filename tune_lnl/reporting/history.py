"""The course of the search: values in order of the trials, and every learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from tune_lnl.reporting.figure import Cell, Figure, Link, Table
from tune_lnl.reporting.intervals import Z95
from tune_lnl.reporting.plots import (
    BEST,
    colour,
    levels,
    mark,
    picture,
    plain,
    rounded,
    state_name,
)
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.reporting.texts import setting
from tune_lnl.wording import STATES, counted

MANY = 60
"""Number of trials above which intervals and ends of warm-up are left out: they would hide the rest."""
OUTLYING = 3.0
"""Values further from the middle half than this multiple of its width lie outside the picture at first."""


def history_figure(view: RunView) -> Figure:
    """Draw the value over the trial number, with the best so far."""
    seen = [trial for trial in view.trials if trial.value is not None]
    return Figure(
        key="history",
        title="Search history",
        takeaway=_history_takeaway(view),
        plot=_history(view, seen) if seen else None,
        notes=outside_note(history_range(view), [trial.value for trial in seen if trial.value is not None]),
        table=_history_table(view, seen) if seen else None,
        wide=True,
    )


def _history_table(view: RunView, seen: Sequence[Trial]) -> Table:
    better = dict(best_so_far(view))
    best = "–"
    rows = []
    for trial in seen:
        best = f"{better[trial.number]:.2f}" if trial.number in better else best
        rows.append([str(trial.number), STATES[trial.state], f"{trial.value:.2f}", best])
    return Table(["trial", "state", view.metric_label, "best so far"], rows, "Search history")


def _history_takeaway(view: RunView) -> str:
    ended = view.count("COMPLETE", "PRUNED", "FAIL")
    done = f"{ended} of {counted(view.asked, 'trial')} {'has' if ended == 1 else 'have'} ended"
    best = view.best
    if best is None:
        return f"{done}; none has run to its full length with a finite value, so there is no best one."
    if view.answer is not None and not view.answer.has_highest_objective:
        top = view.complete[0]
        highest = f"the best value in the search is {top.value:.2f}, of trial {top.number}"
        return f"{done}. Trial {best.number} is the answer, {view.answer.words}; {highest}."
    sentence = f"{done}. Trial {best.number} is the best with {best.value:.2f}"
    if len(view.complete) == 1 and not ahead(view):
        return f"{sentence}, the only one of full length."
    improvements = len(best_so_far(view)) - 1
    return sentence + (
        f", after {counted(improvements, 'improvement')}."
        if improvements
        else f": no other trial of full length was better than the first{ahead(view)}."
    )


def ahead(view: RunView) -> str:
    """Name the trial without full length that stood higher than the best when it ended; empty where none did.

    Both values are objectives at the same epoch, so that lengths are equal.
    """
    best = view.best
    if best is None or best.value is None:
        return ""
    higher = [
        trial
        for trial in view.trials
        if not trial.complete and trial.curve and trial.value is not None and view.better(trial.value, best.value)
    ]
    if not higher:
        return ""
    trial = max(higher, key=lambda one: view.sign * (one.value or 0.0))
    epoch, value = trial.curve[-1]
    then = dict(best.curve).get(epoch)
    compared = "" if then is None else f" (trial {best.number} after as many: {then:.2f})"
    after = counted(trial.row.epochs, "epoch")
    return f"; trial {trial.number}, {STATES[trial.state]}, stood at {value:.2f} after {after}{compared}"


def best_so_far(view: RunView) -> list[tuple[int, float]]:
    """Return (trial number, value) of every complete trial that was better than those of lower number."""
    found: list[tuple[int, float]] = []
    for trial in view.trials:
        if trial.complete and trial.value is not None and (not found or view.better(trial.value, found[-1][1])):
            found.append((trial.number, trial.value))
    return found


def _history(view: RunView, seen: Sequence[Trial]) -> go.Figure:
    few = len(seen) <= MANY
    last = max(trial.number for trial in view.trials)
    traces = []
    steps = best_so_far(view)
    if steps:
        steps = [*steps, (last, steps[-1][1])]
        traces.append(
            go.Scatter(
                x=[number for number, _ in steps],
                y=[rounded(value) for _, value in steps],
                mode="lines",
                name="best so far, of complete trials",
                line={"color": colour("best"), "width": 2, "shape": "hv"},
                hoverinfo="skip",
            )
        )
    for state in STATES:
        traces += _of_state(view, [trial for trial in seen if trial.state == state], state, few)
    best = view.best
    if best is not None and best.value is not None:
        traces.append(
            go.Scatter(
                x=[best.number],
                y=[rounded(best.value)],
                mode="markers+text",
                name=f"the best, trial {best.number}",
                marker=BEST,
                text=[f"<b>trial {best.number}</b>"],
                textposition="top center",
                cliponaxis=False,
                customdata=[hover_text(best)],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    low_high = history_range(view)
    return picture(
        traces,
        xaxis={"title": {"text": "trial"}, "range": [-0.6, max(last, 1) + 0.6], "tickformat": "d"},
        yaxis={"title": {"text": plain(view.metric_label)}, "range": list(low_high)},
        **levels(view.levels),
    )


def _of_state(view: RunView, trials: Sequence[Trial], state: str, few: bool) -> list[Any]:
    if not trials:
        return []
    errors, name = None, state_name(state)
    if few and state == "COMPLETE" and any(trial.row.standard_error for trial in trials):
        half = [rounded(Z95 * (trial.row.standard_error or 0.0)) for trial in trials]
        errors = {"array": half, "color": colour("soft"), "thickness": 1, "width": 0}
        name += ", with 95% interval"
    return [
        go.Scatter(
            x=[trial.number for trial in trials],
            y=[rounded(trial.value) for trial in trials],
            mode="markers",
            name=name,
            marker=mark(state, 10 if few else 7),
            error_y=errors,
            text=[hover_text(trial) for trial in trials],
            hovertemplate="%{text}<extra></extra>",
        )
    ]


def hover_text(trial: Trial, whole: bool = True) -> str:
    """Return a trial's label and, if ``whole``, its searched settings, a line each."""
    if not whole:
        return plain(trial.label())
    settings = [f"{plain(name)} {plain(setting(value))}" for name, value in trial.row.params.items()]
    return "<br>".join([plain(trial.label()), *settings])


def history_range(view: RunView) -> tuple[float, float]:
    """Return the values that are shown at first, with the intervals where these are drawn."""
    values = [trial.value for trial in view.trials if trial.value is not None]
    low, high = visible_range(view, values)
    if len(values) <= MANY:
        ends = [
            trial.value + side * Z95 * trial.row.standard_error
            for trial in view.complete
            for side in (-1, 1)
            if trial.value is not None and trial.row.standard_error is not None
        ]
        low, high = min([low, *ends]), max([high, *ends])
    return with_ceiling(view, low, high)


def with_ceiling(view: RunView, low: float, high: float) -> tuple[float, float]:
    """Return the range, wide enough for the score of a perfect network where that is known."""
    ceiling = None if view.bounds is None else view.bounds.ceiling
    return (low, high) if ceiling is None or ceiling <= high else (low, ceiling + 0.08 * (ceiling - low))


def visible_range(view: RunView, values: Sequence[float]) -> tuple[float, float]:
    """Return the range of values that is shown at first, with a margin; only bad ones may lie outside."""
    ordered = sorted(values)
    if not ordered:
        return 0.0, 1.0
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    room = OUTLYING * (high - low)
    if room:
        kept = [value for value in values if (value >= low - room if view.sign > 0 else value <= high + room)]
        return around(kept)
    return around(values)


def around(values: Sequence[float], margin: float = 0.08) -> tuple[float, float]:
    """Return the range of ``values`` with a margin; some range where they are all alike."""
    low, high = min(values), max(values)
    room = (high - low) * margin or max(abs(high) * margin, 1e-9)
    return low - room, high + room


def outside_note(shown: tuple[float, float], values: Sequence[float]) -> list[str]:
    """Return how many values lie outside the range shown."""
    count = sum(not shown[0] <= value <= shown[1] for value in values)
    if not count:
        return []
    lie = "values lie" if count > 1 else "value lies"
    return [f"{count} far worse {lie} outside the picture; a double click in it shows all."]


def trials_table(view: RunView, linked: bool = True) -> Table:
    """Return every trial, complete ones best first, as in every view; its number leads to its log if ``linked``."""
    names = list(view.run.space.parameters)
    rows: list[list[Cell]] = []
    for row in view.run.rows():
        log = view.run.files.log(row.number)
        number = str(row.number)
        rows.append(
            [
                Link(number, log.relative_to(view.run.files.root).as_posix()) if linked and log.is_file() else number,
                STATES[row.state] + ("" if row.taken_from is None else f" (from {row.taken_from})"),
                "–" if row.value is None else f"{row.value:.2f}",
                "–" if row.standard_error is None else f"{row.standard_error:.2f}",
                str(row.epochs),
                "–" if row.seconds is None else f"{row.seconds:.1f}",
                *(setting(row.params[name]) if name in row.params else "–" for name in names),
            ]
        )
    header = ["trial", "state", view.metric_label, "standard error", "epochs", "seconds", *names]
    return Table(header, rows, "All trials")
