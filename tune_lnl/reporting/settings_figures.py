"""The effect of the searched settings: slices, the map of both learning rates, parallel coordinates, importances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from tune_lnl.reporting.figure import Figure, Table
from tune_lnl.reporting.history import MANY, hover_text, outside_note, visible_range, with_ceiling
from tune_lnl.reporting.importances import ENOUGH, FEWEST, Importance, importances
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
from tune_lnl.reporting.texts import setting, shortened
from tune_lnl.tuning.space.ranges import Choice, Int, LogUniform, Parameter
from tune_lnl.wording import STATES, counted

DERIVED = ("lr1", "self_epochs", "refine_epochs")
"""Settings that are not searched themselves, but follow from what is and are worth a look."""
AXIS_WIDTH, CHARACTER = 90, 8.5
"""Pixels between two axes of parallel coordinates, and of a letter of their names, below which texts would overlap."""

Getter = Callable[[Trial], Any]


def settings_figures(view: RunView) -> list[Figure]:
    """Return the figures of the settings; one sentence where no trial tells anything about them."""
    if not valued(view):
        sentence = "No trial is complete or was stopped early yet, so the effect of the settings cannot be shown."
        return [Figure("settings-none", "Nothing to compare yet", sentence)]
    both_rates = lr_map(view)
    return [
        parallel_figure(view),
        importance_figure(view),
        *([] if both_rates is None else [both_rates]),
        *slice_figures(view),
    ]


def ranks(view: RunView) -> dict[int, float]:
    """Trial number -> 0 (worst) to 1 (best), by rank among the complete trials."""
    steps = max(1, len(view.complete) - 1)
    return {trial.number: round(1 - place / steps, 3) for place, trial in enumerate(view.complete)}


def valued(view: RunView) -> list[Trial]:
    """Trials that have settings and a value, the worst first: the best are drawn on top."""
    trials = [t for t in view.trials if t.value is not None and t.config and t.state in ("COMPLETE", "PRUNED")]
    return sorted(trials, key=lambda trial: (trial.complete, view.sign * (trial.value or 0.0)))


def axis_of(parameter: Parameter) -> Axis:
    """The axis of a searched range."""
    if isinstance(parameter, Choice):
        return Axis(choices=parameter.choices)
    low, high = float(parameter.extremes()[0]), float(parameter.extremes()[-1])
    return Axis(log=isinstance(parameter, LogUniform) or (isinstance(parameter, Int) and parameter.log),
                whole=isinstance(parameter, Int), low=low, high=high)  # fmt: skip


# ---- a slice per setting


def slice_figures(view: RunView) -> list[Figure]:
    """Value over each searched setting, and over those that follow from them."""
    trials = valued(view)
    if not trials:
        return []
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
    trials = valued(view)
    rows = [
        [setting(get(trial)), f"{trial.value:.2f}", str(trial.number), STATES[trial.state]]
        for trial in reversed(trials)
    ]
    shown = with_ceiling(view, *visible_range(view, [trial.value for trial in trials if trial.value is not None]))
    traces = marks(view, trials, lambda trial: axis.place(get(trial)), lambda trial: trial.value)
    return Figure(
        key=f"slice-{_identifier(name)}",
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


def _identifier(name: str) -> str:
    return "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in name)


def _slice_takeaway(view: RunView, name: str, axis: Axis, get: Getter) -> str:
    quarter = view.best_quarter()
    if not quarter:
        return f"Fewer than four trials are complete: too few to say where {name} is good."
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
    """A mark per trial: complete ones by their rank, stopped ones, the published setting, the best."""
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
    """lr against lr1, where the method has both and they vary."""
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


# ---- all settings at once


def parallel_figure(view: RunView) -> Figure:
    """A line per trial through all its settings; dragging along an axis chooses the trials that pass there."""
    trials = valued(view)
    names = [shortened(name, 22) for name in (*view.run.space.parameters, view.metric_label)]
    return Figure(
        key="parallel",
        title="Parallel coordinates",
        takeaway=_parallel_takeaway(view),
        plot=_parallel(view, trials) if trials else None,
        notes=[
            "Each line is a trial. Drag along one or several axes to choose the trials that pass there; click an axis "
            "to let go. Drag the name of an axis to move it."
        ]
        if trials
        else [],
        table=_parallel_table(view, trials) if trials else None,
        wide=True,
        least_width=int(sum(max(AXIS_WIDTH, CHARACTER * len(name) + 12) for name in names)) + 130,
    )


def _parallel_takeaway(view: RunView) -> str:
    best = view.best
    if best is None:
        return "No trial is complete yet."
    sentence = ", ".join(f"{name} {setting(value)}" for name, value in best.row.params.items())
    return f"The best trial has {sentence}."


def _parallel_table(view: RunView, trials: Sequence[Trial]) -> Table:
    names = list(view.run.space.parameters)
    rows = [
        [str(t.number), STATES[t.state], *(setting(t.row.params[name]) for name in names), f"{t.value:.2f}"]
        for t in reversed(trials)
    ]
    return Table(["trial", "state", *names, view.metric_label], rows, "Settings and values")


def _parallel(view: RunView, trials: Sequence[Trial]) -> go.Figure:
    rank = ranks(view)
    dimensions = [
        _dimension(name, axis_of(parameter), [trial.row.params[name] for trial in trials])
        for name, parameter in view.run.space.parameters.items()
    ]
    dimensions.append({"label": plain(view.metric_label), "values": [rounded(trial.value) for trial in trials]})
    stopped, middle = colour("pruned"), 0.25
    ticks = {0.0: "the worst complete", 1.0: "the best"}
    if not all(trial.complete for trial in trials):
        ticks = {-0.17: STATES["PRUNED"], **ticks}
    line = {
        "color": [rank[trial.number] if trial.complete else -1 / 3 for trial in trials],
        "cmin": -1 / 3,
        "cmax": 1,
        # The lowest quarter of the scale is for trials without a rank.
        "colorscale": [[0, stopped], [middle - 0.001, stopped],
                       *([middle + (1 - middle) * place, shade] for place, shade in SHADES)],
        "showscale": True,
        "colorbar": {"tickvals": list(ticks), "ticktext": list(ticks.values()), "thickness": 14, "outlinewidth": 0},
    }  # fmt: skip
    return picture(
        [go.Parcoords(dimensions=dimensions, line=line, labelfont={"size": 14}, tickfont={"size": 13},
                      rangefont={"size": 1, "color": colour("page")}, unselected={"line": {"color": colour("rule"),
                      "opacity": 0.35}})],
        height=460,
        margin={"l": 60, "r": 20, "t": 60, "b": 24},
    )  # fmt: skip


def _dimension(name: str, axis: Axis, values: Sequence[Any]) -> dict[str, Any]:
    places = [axis.place(value) for value in values]
    made: dict[str, Any] = {"label": plain(shortened(name, 22)), "values": places}
    if axis.choices:
        texts = [plain(shortened(setting(choice), 14)) for choice in axis.choices]
        return made | {"tickvals": list(range(len(texts))), "ticktext": texts, "range": [-0.2, len(texts) - 0.8]}
    assert axis.low is not None
    assert axis.high is not None
    if not axis.log:
        ticks = {"tickvals": list(range(int(axis.low), int(axis.high) + 1))} if axis.whole and axis.step else {}
        return made | {"range": [axis.low, axis.high]} | ticks
    powers = log_ticks(axis.low, axis.high)
    return made | {
        "values": [rounded(math.log10(place)) for place in places],
        "range": [math.log10(axis.low), math.log10(axis.high)],
        "tickvals": [math.log10(tick) for tick in powers],
        "ticktext": [f"{tick:g}" for tick in powers],
    }


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values between the ends: 1, 2 and 5 times powers of ten, or powers alone where these are many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [
            f * 10.0**e for e in exponents for f in factors if low * (1 - 1e-9) <= f * 10.0**e <= high * (1 + 1e-9)
        ]
        if len(ticks) <= 9:
            break
    return ticks or [low, high]


# ---- which setting matters


def importance_figure(view: RunView) -> Figure:
    """Importances with their spread, on the values most trials have in common."""
    epoch, trials = _comparable(view)
    values = [dict(trial.curve)[epoch] for trial in trials] if epoch is not None else []
    found = importances([trial.row.params for trial in trials], values, view.run.space.parameters)
    rows = [[one.name, f"{one.median:.2f}", f"{one.low:.2f} to {one.high:.2f}"] for one in found]
    table = Table(["setting", "importance (median)", "10% to 90% of re-draws"], rows, "Importances")
    return Figure(
        key="importances",
        title="Importances",
        takeaway=_importance_takeaway(found, len(trials)),
        plot=_importances(found) if found else None,
        notes=_importance_notes(view, epoch, len(trials)) if found and epoch is not None else [],
        table=table if found else None,
    )


def _comparable(view: RunView) -> tuple[int | None, list[Trial]]:
    """An epoch, and the trials that have a value there: the full length, or the first comparison where far more
    trials got to; survivors of the stopping rule alone look alike."""
    candidates = [view.epochs - 1, *view.rungs[:1]]
    whole = [trial for trial in view.trials if trial.config]
    reached = {epoch: [trial for trial in whole if epoch in dict(trial.curve)] for epoch in candidates}
    full = reached[candidates[0]]
    if len(full) >= ENOUGH or len(candidates) == 1 or len(reached[candidates[1]]) <= len(full):
        return (candidates[0] if full else None), full
    return candidates[1], reached[candidates[1]]


def _importance_takeaway(found: Sequence[Importance], count: int) -> str:
    if not found:
        there = f"there {'is' if count == 1 else 'are'} {counted(count, 'trial')} to compare"
        return f"Importances need at least {FEWEST} trials with different values; {there}."
    warning = (
        f"Warning: {count} trials are few (under {ENOUGH}); these importances are little more than noise. "
        if count < ENOUGH
        else ""
    )
    clear = [one for one in found if one.low > 0]
    if not clear:
        return warning + "No setting stands out: the spread of each reaches zero."
    first = clear[0]
    overlapping = [one.name for one in found if one is not first and one.high > first.low]
    sentence = f"{first.name} matters most ({first.median:.2f} of the variance)"
    if overlapping:
        sentence += f", though its spread overlaps with that of {', '.join(overlapping)}"
    return warning + sentence + "."


def _importance_notes(view: RunView, epoch: int, count: int) -> list[str]:
    at = "at full length" if epoch == view.epochs - 1 else f"after epoch {epoch + 1}, the first comparison"
    return [
        f"From the objective {at} of {count} trials. Importance: rise of the squared error of a random forest on "
        "trials it has not seen when this setting is shuffled, as a share of the variance. The dot is the median over "
        "40 re-drawn sets of trials, the line holds 80% of them. About 0: knowing the setting does not help."
    ]


def _importances(found: Sequence[Importance]) -> go.Figure:
    shown = list(reversed(found))
    trace = go.Scatter(
        x=[rounded(one.median) for one in shown],
        y=list(range(len(shown))),
        mode="markers",
        name="median and 80% of re-draws",
        marker={"size": 11, "color": colour("complete")},
        error_x={
            "array": [rounded(one.high - one.median) for one in shown],
            "arrayminus": [rounded(one.median - one.low) for one in shown],
            "color": colour("text"),
            "thickness": 1.8,
        },
        text=[f"{plain(one.name)}: {one.median:.2f}, {one.low:.2f} to {one.high:.2f}" for one in shown],
        hovertemplate="%{text}<extra></extra>",
    )
    return picture(
        [trace],
        height=130 + 44 * len(shown),
        showlegend=True,
        xaxis={"title": {"text": "share of the variance"}, "zeroline": True, "zerolinecolor": colour("soft")},
        yaxis={
            "tickvals": list(range(len(shown))),
            "ticktext": [plain(shortened(one.name, 24)) for one in shown],
            "range": [-0.6, len(shown) - 0.4],
        },
    )
