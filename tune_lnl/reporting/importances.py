"""Which searched setting matters: permutation importance of a forest, with the spread over re-drawn trials.

Trials are drawn again with replacement; a random forest learns the value from their settings, and is judged on the
trials that were left out. A setting's importance is the rise of the squared error there when its column is shuffled,
as a share of the values' variance. Why not Optuna's fANOVA or PED-ANOVA: both judge a model on the trials it was made
from, where a dozen trials make every setting look important.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from tune_lnl.reporting.figure import Figure, Table
from tune_lnl.reporting.plots import colour, picture, plain, rounded
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.reporting.texts import shortened
from tune_lnl.tuning.space.ranges import Choice, Int, LogUniform, Parameter
from tune_lnl.wording import counted

ENOUGH = 30
"""Trials below which importances are little more than noise."""
FEWEST = 6
"""Below it, left-out trials are too few to judge a forest at all."""
REDRAWS = 40
TREES = 30
SHUFFLES = 4


@dataclass(frozen=True)
class Importance:
    """Shares of the values' variance: median over the re-draws, and from the 10% to the 90% quantile of them.

    About 0 or below: knowing the setting does not help to tell how a trial does.
    """

    name: str
    median: float
    low: float
    high: float


def importances(
    params: Sequence[Mapping[str, Any]], values: Sequence[float], parameters: Mapping[str, Parameter], seed: int = 0
) -> list[Importance]:
    """Return the importances of the searched settings, largest first; none for fewer than six trials or equal values.

    Args:
        params: settings of each trial, (N,).
        values: its value, (N,), finite.
        parameters: the searched ranges.
        seed: of re-draws, forests and shuffles.
    """
    y = np.asarray(values, dtype=np.float64)
    if len(y) < FEWEST or float(np.ptp(y)) == 0.0:
        return []
    from sklearn.ensemble import RandomForestRegressor  # slow to import

    names = list(parameters)
    x = np.array([[_column(parameters[name], one[name]) for name in names] for one in params])
    rng = np.random.default_rng(seed)
    shares: list[NDArray[np.float64]] = []
    for redraw in range(REDRAWS):
        drawn = rng.integers(len(y), size=len(y))
        left_out = np.setdiff1d(np.arange(len(y)), drawn)
        if len(left_out) < 2:
            continue
        forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=redraw, n_jobs=1)
        forest.fit(x[drawn], y[drawn])
        shares.append(_rises(forest, x[left_out], y[left_out], rng) / float(np.var(y)))
    table = np.array(shares)
    low, median, high = np.quantile(table, (0.1, 0.5, 0.9), axis=0)
    found = [Importance(name, float(median[i]), float(low[i]), float(high[i])) for i, name in enumerate(names)]
    return sorted(found, key=lambda one: -one.median)


def _rises(
    forest: Any, x: NDArray[np.float64], y: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the rise of the mean squared error on (x, y) by shuffling each column, (P,)."""
    columns = x.shape[1]
    # All shuffled copies at once: a forest's predict costs milliseconds however few rows it gets.
    copies = np.tile(x, (columns * SHUFFLES, 1, 1))
    for copy in range(len(copies)):
        copies[copy, :, copy // SHUFFLES] = rng.permutation(x[:, copy // SHUFFLES])
    predicted = forest.predict(np.concatenate([x, copies.reshape(-1, columns)]))
    error = float(np.mean((predicted[: len(y)] - y) ** 2))
    shuffled = predicted[len(y) :].reshape(columns, SHUFFLES, len(y))
    rises: NDArray[np.float64] = np.mean((shuffled - y) ** 2, axis=(1, 2)) - error
    return rises


def _column(parameter: Parameter, value: Any) -> float:
    if isinstance(parameter, Choice):
        places = [i for i, choice in enumerate(parameter.choices) if choice == value and type(choice) is type(value)]
        return float(places[0])
    if isinstance(parameter, LogUniform) or (isinstance(parameter, Int) and parameter.log):
        return math.log(value)
    return float(value)


# ---- the figure


def importance_figure(view: RunView) -> Figure:
    """Draw the importances with their spread, on the epoch that most trials reached."""
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
    """Return the epoch at which values are compared, and the trials that have a value there.

    It is the last one, or the first rung where few trials ran to the end: survivors of the pruner alone look alike.
    """
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
