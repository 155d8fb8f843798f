"""Slices: the value over each searched setting, and the map of both learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from tune_lnl.reporting.figure import Figure, Table
from tune_lnl.reporting.history import MANY, hover_text, outside_note, visible_range, with_ceiling
from tune_lnl.reporting.plots import (
    BEST,
    SHADES,
    START,
    Axis,
    colour,
    levels,
    mark,
    picture,
    plain,
    rounded,
)
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.reporting.texts import setting
from tune_lnl.tuning.space.ranges import Choice, Int, LogUniform, Parameter
from tune_lnl.wording import STATES

DERIVED = ("lr1", "self_epochs", "refine_epochs")
"""Settings that are not searched themselves, but follow from what is and are worth a look."""

Getter = Callable[[Trial], Any]


def ranks(view: RunView) -> dict[int, float]:
    """Return trial number -> 0 (worst) to 1 (best), by rank among the complete trials."""
    steps = max(1, len(view.complete) - 1)
    return {trial.number: round(1 - place / steps, 3) for place, trial in enumerate(view.complete)}


def valued(view: RunView) -> list[Trial]:
    """Return trials that have settings and a value, the worst first: the best are drawn on top."""
    trials = [t for t in view.trials if t.value is not None and t.config and t.state in ("COMPLETE", "PRUNED")]
    return sorted(trials, key=lambda trial: (trial.complete, view.sign * (trial.value or 0.0)))


def axis_of(parameter: Parameter) -> Axis:
    """Return the axis of a searched range."""
    if isinstance(parameter, Choice):
        return Axis(choices=parameter.choices)
    low, high = float(parameter.extremes()[0]), float(parameter.extremes()[-1])
    return Axis(log=isinstance(parameter, LogUniform) or (isinstance(parameter, Int) and parameter.log),
                whole=isinstance(parameter, Int), low=low, high=high)  # fmt: skip


# ---- a slice per setting


def slice_figures(view: RunView) -> list[Figure]:
    """Draw the value over each searched setting, and over those that follow from them."""
    trials = valued(view)
    if not view.best_quarter():
        names = ", ".join(view.run.space.parameters)
        few = f"Fewer than four trials are complete: too few to say where {names} are good."
        return [Figure("slices", "Slices", few)]
    figures = [
        _slice(view, name, axis_of(parameter), lambda trial, name=name: trial.row.params[name])  # type: ignore[misc]
        for name, parameter in view.run.space.parameters.items()
    ]
    for name in DERIVED:
        values: list[Any] = [trial.config.get(name) for trial in trials]
        if name in view.run.space.parameters or len(set(values)) < 2 or not all(_is_number(value) for value in values):
            continue
        axis = Axis(log="lr" in name, whole="lr" not in name, low=min(values), high=max(values))
        figures.append(_slice(view, name, axis, lambda trial, name=name: trial.config[name]))  # type: ignore[misc]
    return figures


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _slice(view: RunView, name: str, axis: Axis, get: Getter) -> Figure:
    identifier = "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in name)
    trials = valued(view)
    rows = [
        [setting(get(trial)), f"{trial.value:.2f}", str(trial.number), STATES[trial.state]]
        for trial in reversed(trials)
    ]
    shown = with_ceiling(view, *visible_range(view, [trial.value for trial in trials if trial.value is not None]))
    traces = marks(view, trials, lambda trial: axis.place(get(trial)), lambda trial: trial.value)
    return Figure(
        key=f"slice-{identifier}",
        title=f"Slice: {name}",
        takeaway=_slice_takeaway(view, name, axis, get),
        plot=picture(
            traces,
            xaxis=axis.settings(name),
            yaxis={"title": {"text": plain(view.metric_label)}, "range": list(shown)},
            **levels(view.levels),
        ),
        notes=outside_note(shown, [trial.value for trial in trials if trial.value is not None]),
        table=Table([name, view.metric_label, "trial", "state"], rows, f"Value by {name}"),
    )


def _slice_takeaway(view: RunView, name: str, axis: Axis, get: Getter) -> str:
    quarter = view.best_quarter()
    values = [get(trial) for trial in quarter]
    if axis.choices:
        counts = {setting(choice): sum(setting(v) == setting(choice) for v in values) for choice in axis.choices}
        sentence = ", ".join(f"{choice} in {count}" for choice, count in counts.items() if count)
        return f"Of the best {len(quarter)} complete trials, {name} is {sentence}."
    parameter = view.run.space.parameters.get(name)
    searched = ""
    if parameter is not None:
        low, high = parameter.extremes()[0], parameter.extremes()[-1]
        searched = f", of {setting(low)} to {setting(high)} searched"
    span = setting(min(values)) if min(values) == max(values) else f"{setting(min(values))} to {setting(max(values))}"
    return f"The best {len(quarter)} complete trials have {name} {span}{searched}."


def marks(view: RunView, trials: Sequence[Trial], x: Getter, y: Getter) -> list[Any]:
    """Return a mark per trial: complete ones by their rank, stopped ones, the published setting, the best."""
    rank = ranks(view)
    size = 10.0 if len(trials) <= MANY else 7.0
    traces = []
    for state in ("PRUNED", "COMPLETE"):
        here = [trial for trial in trials if trial.state == state]
        if not here:
            continue
        style = mark(state, size)
        name = STATES[state]
        if state == "COMPLETE":
            # Larger as well as of stronger contrast with the page: the order is seen without the colour.
            style |= {
                "color": [rank[trial.number] for trial in here],
                "size": [rounded(size * (0.75 + 0.5 * rank[trial.number]), 3) for trial in here],
                "colorscale": SHADES,
                "cmin": 0,
                "cmax": 1,
                "line": {"width": 0.8, "color": colour("soft")},
            }
            name = "complete; the larger, the better"
        traces.append(_scatter(here, x, y, name, style, whole=len(trials) <= MANY))
    start, best = view.start, view.best
    if start is not None and start in trials:
        traces.append(_scatter([start], x, y, "the published setting", START))
    if best is not None:
        traces.append(_scatter([best], x, y, f"the best, trial {best.number}", BEST))
    return traces


def _scatter(
    trials: Sequence[Trial], x: Getter, y: Getter, name: str, style: Mapping[str, Any], whole: bool = True
) -> Any:
    return go.Scatter(
        x=[rounded(x(trial)) for trial in trials],
        y=[rounded(y(trial)) for trial in trials],
        mode="markers",
        name=name,
        marker=dict(style),
        text=[hover_text(trial, whole) for trial in trials],
        hovertemplate="%{text}<extra></extra>",
    )


# ---- both learning rates


def lr_map(view: RunView) -> Figure | None:
    """Draw lr1 over lr, where the method has both and they vary."""
    trials = [trial for trial in valued(view) if _is_number(trial.config.get("lr1")) and trial.config.get("lr")]
    pairs = {(trial.config["lr"], trial.config["lr1"]) for trial in trials}
    if len(pairs) < 2:
        return None
    rows = [
        [
            *(setting(value) for value in (t.config["lr"], t.config["lr1"], t.config["lr1"] / t.config["lr"])),
            f"{t.value:.2f}",
            str(t.number),
            STATES[t.state],
        ]
        for t in reversed(trials)
    ]
    rates = [rate for pair in pairs for rate in pair]
    equal = go.Scatter(
        x=[rounded(min(rates)), rounded(max(rates))],
        y=[rounded(min(rates)), rounded(max(rates))],
        mode="lines",
        name="lr1 = lr: both learn at the same rate",
        line={"color": colour("soft"), "width": 1.5, "dash": "dash"},
        hoverinfo="skip",
    )
    return Figure(
        key="lr-map",
        title="Map of the two learning rates",
        takeaway=_lr_takeaway(view),
        plot=picture(
            [equal, *marks(view, trials, lambda trial: trial.config["lr"], lambda trial: trial.config["lr1"])],
            height=460,
            xaxis=_rates("lr (reported network)", [trial.config["lr"] for trial in trials]),
            yaxis=_rates("lr1 (companion)", [trial.config["lr1"] for trial in trials]),
        ),
        table=Table(["lr", "lr1", "lr1 / lr", view.metric_label, "trial", "state"], rows, "Value by lr and lr1"),
        notes=["lr drives the reported network, lr1 its companion."],
    )


def _rates(title: str, values: Sequence[float]) -> dict[str, Any]:
    low, high = math.log10(min(values)), math.log10(max(values))
    room = 0.08 * (high - low) or 0.3
    return Axis(log=True, low=min(values), high=max(values)).settings(title) | {"range": [low - room, high + room]}


def _lr_takeaway(view: RunView) -> str:
    best = view.best
    if best is None:
        return "No trial is complete yet, so neither side of the diagonal can be called better."
    ratio = best.config["lr1"] / best.config["lr"]
    sentence = (
        f"The best trial has lr1 / lr = {setting(float(ratio))} "
        f"(lr {setting(best.config['lr'])}, lr1 {setting(best.config['lr1'])})"
    )
    quarter = view.best_quarter()
    if not quarter:
        return sentence + "."
    above = sum(trial.config["lr1"] > trial.config["lr"] for trial in quarter)
    return (
        f"{sentence}; of the best {len(quarter)} complete trials, {above} "
        f"{'lies' if above == 1 else 'lie'} above the diagonal, where the companion learns faster."
    )
