"""The best config, and how it compares: with the published default, plain cross-entropy and published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tune_lnl.errors import InputError
from tune_lnl.methods.consensus import consensus
from tune_lnl.metrics.classification import mean_and_std
from tune_lnl.metrics.paired import paired_difference
from tune_lnl.reporting.figure import Figure, Table
from tune_lnl.reporting.intervals import Estimate, difference
from tune_lnl.reporting.plots import BEST, colour, picture, plain, rounded
from tune_lnl.reporting.published import PLAIN, Noise, PublishedResult, published_results
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.reporting.texts import setting, shortened
from tune_lnl.reporting.trainings import PLAIN_TRAINED, Recorded
from tune_lnl.tuning.runs.confirmation import Confirmation
from tune_lnl.tuning.runs.judged import read_candidates
from tune_lnl.wording import STATES, counted

ROW = 46
"""Pixels of a row."""
DEVIATION = "deviation"
"""Over the last epochs of one training."""
CONSENSUS_OF = 8
"""Complete trials from which the consensus is named."""
CONSENSUS_NUMBERS = 4_000_000
"""Trials times images times classes up to which it is computed: some seconds."""
DERIVED = ("lr1", "self_epochs", "refine_epochs")


@dataclass(frozen=True)
class RowValue:
    """A value with its interval, in a row of its own."""

    label: str
    estimate: Estimate
    note: str
    ours: bool = False
    spread: str = "95% interval"
    """The meaning of the interval."""


# ---- on the held-out split


def validation_figure(view: RunView, trainings: Sequence[Recorded]) -> Figure:
    """Best trial, published start point and recorded trainings, by what the search maximises."""
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
        table=_bars_table(bars, view.metric_label, "Values with intervals") if bars else None,
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
            bars.append(RowValue(_with_seeds(one), Estimate.mean_of(one.objective), note))
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


def _ended(trial: Trial) -> str:
    words = {"PRUNED": "was stopped early", "FAIL": "failed"}
    return f"{words.get(trial.state, 'has got')} after {trial.row.epochs} epochs"


def _with_seeds(one: Recorded) -> str:
    return f"{one.label}, {counted(len(one.test), 'seed')}"


# ---- on the test set


def accuracy_figure(view: RunView, trainings: Sequence[Recorded]) -> Figure:
    """Return the figure of test accuracy and published figures; the search used none of these numbers."""
    own = _own_test_bars(view, trainings)
    bars = sorted([*own, *_published_bars(view)], key=lambda bar: -bar.estimate.value)
    label = f"{view.test_metric} (%)"
    return Figure(
        key="test",
        title="On the test set, with published numbers",
        takeaway=_test_takeaway(view, own),
        plot=rows_plot(bars, label) if own else None,
        table=_bars_table(bars, label, "On the test set") if own else None,
        notes=_test_notes(view, own),
    )


def _own_test_bars(view: RunView, trainings: Sequence[Recorded]) -> list[RowValue]:
    """Return the results of this run and of its trainings, the one to quote first."""
    bars = []
    confirmation = view.run.confirmation
    if confirmation is not None and confirmation.test is not None:
        mean, std = _confirmed_test(confirmation.test)
        label = f"confirmed: trial {confirmation.winner}, all data"
        note = "trained on all the training data, test scored once"
        bars.append(RowValue(label, Estimate(mean, mean - std, mean + std), note, ours=True, spread=DEVIATION))
    for trial, label in ((view.best, "best"), (view.start, "published setting")):
        if trial is None or not trial.complete or (trial is view.best and label != "best"):
            continue
        test = last_epochs_test(view, trial)
        if test is not None:
            mean, std = test
            note = f"mean ± deviation of the last {counted(view.average_last, 'epoch')}"
            estimate = Estimate(mean, mean - std, mean + std)
            name = f"{label}: trial {trial.number}"
            bars.append(RowValue(name, estimate, note, ours=trial is view.best, spread=DEVIATION))
    for one in trainings:
        note = f"{one.folder.name}, 95% of the mean"
        bars.append(RowValue(_with_seeds(one), Estimate.mean_of(one.test), note, ours=one.label.startswith("best")))
    return bars


def last_epochs_test(view: RunView, trial: Trial) -> tuple[float, float] | None:
    """Mean and deviation of the test accuracy over the last epochs, in percent."""
    values = [report.get(view.test_metric) for report in view.reports(trial)[-view.average_last :]]
    known = [float(value) for value in values if value is not None]
    return mean_and_std(known) if known else None


def _published_bars(view: RunView) -> list[RowValue]:
    bars = []
    for result in published_of(view):
        deviation = result.deviation
        low_high = (None, None) if deviation is None else (result.accuracy - deviation, result.accuracy + deviation)
        estimate = Estimate(result.accuracy, *low_high)
        bars.append(RowValue(f"{result.method}, published", estimate, result.source, spread="as published"))
    return bars


def published_of(view: RunView) -> list[PublishedResult]:
    """Published figures of this run's dataset and noise; none for a share of its data or of its classes."""
    dataset = view.dataset
    if dataset.get("subset", 1.0) != 1.0 or dataset.get("classes") is not None:
        return []
    return published_results(str(dataset["name"]), _noise(dataset.get("noise"), dataset.get("closed_ratio")))


def _noise(kind: Any, ratio: Any) -> Noise | None:
    return (kind, float(ratio)) if isinstance(kind, str) and isinstance(ratio, int | float) else None


def _test_takeaway(view: RunView, own: Sequence[RowValue]) -> str:
    if not own:
        return "Nothing was scored on the test set yet: it is scored in the last epochs of complete trials only."
    first = own[0]
    published = {result.method: result.accuracy for result in published_of(view)}
    name = f"{first.label[:1].upper()}{first.label[1:]}" + (_other_training_set(view, first) if published else "")
    sentence = f"{name} reaches a {view.test_metric} of {first.estimate.value:.2f}%"
    method = view.method.upper()
    plain = next((bar for bar in own if bar.label.startswith(PLAIN_TRAINED)), None)
    if plain is not None:
        sentence += f", plain cross-entropy {plain.estimate}"
    start = next((bar for bar in own if bar.label.startswith("published setting: ")), None)
    if start is not None and start.estimate.value > first.estimate.value:
        sentence += f"; the published setting reaches more, {start.estimate.value:.2f}%"
    if method in published:
        gap = first.estimate.value - published[method]
        sentence += f", {abs(gap):.2f} points {'above' if gap >= 0 else 'below'} the {published[method]:.2f}% published"
        sentence += f" for {method}"
    if PLAIN in published:
        return f"{sentence}; plain cross-entropy was published with {published[PLAIN]:.2f}%."
    if published:
        return f"{sentence}."
    return f"{sentence}. Nothing is published for this dataset and noise: the published setting is that of another one."


def _other_training_set(view: RunView, first: RowValue) -> str:
    """Name the training set where it is not the one of published figures, which is all the training data."""
    fraction = view.base.validation.fraction
    if not fraction or first.label.startswith("confirmed"):
        return ""
    return f" (trained on {100 * (1 - fraction):.0f}% of the training set; published figures are for all of it)"


def _test_notes(view: RunView, own: Sequence[RowValue]) -> list[str]:
    if not own:
        return []
    fraction = view.base.validation.fraction
    return [
        "The search never saw these figures. The line next to a single training is the deviation over its last epochs, "
        f"not what another seed would change. Trials train on {100 * (1 - fraction):.0f}% of the training set, "
        "published figures on all of it."
    ]


# ---- confirmation


def confirmation_figure(view: RunView) -> Figure | None:
    """The configs that were trained again on fresh replicates."""
    found = view.run.confirmation
    if found is None:
        return None
    bars = [
        RowValue(
            f"trial {one.number}",
            Estimate.mean_of(values),
            counted(len(values), "replicate"),
            ours=one.number == found.winner,
        )
        for one in found.candidates
        if (values := [value for value in one.values if value is not None]) and len(values) == len(one.values)
    ]
    sentence = found.conclusion()
    if found.test is not None:
        sentence += (
            "; on all the training data its {} is {:.2f} ± {:.2f} ".format(
                view.test_metric, *_confirmed_test(found.test)
            )
            + f"(last {found.test['epochs']} epochs, scored once)"
        )
    return Figure(
        key="confirmation",
        title="The few best, trained again" if found.is_race else f"Confirmation, {found.asked}",
        takeaway=f"{sentence[:1].upper()}{sentence[1:]}.",
        plot=rows_plot(bars, view.metric_label) if bars else None,
        table=_confirmation_table(found),
        notes=[
            "Each replicate is a fresh split and training seed, the same for all configs; the clearly worse dropped "
            "out. The order is that of the likely means, which join the replicates with what all trials say, so the "
            "mean of few replicates need not follow it."
            if found.is_race
            else f"Means over {len(found.replicates)} fresh splits, seeds and noise draws, with Student's 95% "
            "intervals; differences are paired, replicate by replicate, p-values Holm-adjusted."
        ],
    )


def _confirmed_test(test: Mapping[str, Any]) -> tuple[float, float]:
    """Mean and deviation of the test metric over the last epochs, in percent."""
    return float(test["mean"]), float(test["std"])


def _confirmation_table(found: Confirmation) -> Table:
    rows = []
    for one in found.candidates:
        behind = "–"
        tested = one.p_holm if one.better is None else one.better
        if one.interval is not None:
            behind = f"{one.difference:.2f} ({one.interval[0]:.2f} to {one.interval[1]:.2f})"
        values = ", ".join("diverged" if value is None else f"{value:.2f}" for value in one.values)
        rows.append(
            [str(one.rank), str(one.number), one.value_text, behind, "–" if tested is None else f"{tested:.3f}", values]
        )
    return Table(
        [
            "rank",
            "trial",
            "mean ± deviation",
            "behind the first (95%)",
            "P(better than the first)" if found.is_race else "p (Holm)",
            "each replicate",
        ],
        rows,
        "Replicates" if found.is_race else "Confirmation",
    )


# ---- drawn in rows


def rows_plot(bars: Sequence[RowValue], label: str, first: str = "this run's best") -> go.Figure:
    """A value per row with its name above it, so that long names have room."""
    places = {id(bar): float(len(bars) - 1 - place) for place, bar in enumerate(bars)}
    traces = []
    for spread in dict.fromkeys(bar.spread for bar in bars):
        for ours in (True, False):
            here = [bar for bar in bars if bar.spread == spread and bar.ours is ours]
            if here:
                traces.append(_row_marks(here, places, f"{first if ours else 'others'} ({spread})", spread))
    notes: list[dict[str, Any]] = []
    for bar in bars:
        at = {"xref": "paper", "y": places[id(bar)], "yshift": 15, "showarrow": False}
        name = plain(shortened(bar.label, 40))
        notes.append(at | {"x": 0, "xanchor": "left", "text": f"<b>{name}</b>" if bar.ours else name})
        notes.append(at | {"x": 1, "xanchor": "right", "text": f"{bar.estimate.value:.2f}"})
    return picture(
        traces,
        height=110 + ROW * len(bars),
        annotations=notes,
        showlegend=True,
        xaxis={"title": {"text": plain(label)}},
        yaxis={"visible": False, "range": [-0.5, len(bars) - 0.3], "fixedrange": True},
    )


def _row_marks(bars: Sequence[RowValue], places: Mapping[int, float], name: str, spread: str) -> Any:
    known = [bar.estimate for bar in bars]
    above = [0.0 if one.high is None else one.high - one.value for one in known]
    below = [0.0 if one.low is None else one.value - one.low for one in known]
    whole = spread == "95% interval"
    return go.Scatter(
        x=[rounded(one.value) for one in known],
        y=[places[id(bar)] for bar in bars],
        mode="markers",
        name=name,
        marker=BEST if bars[0].ours else {"size": 11, "color": colour("complete")},
        # A deviation has no ends: it is not an interval.
        error_x={"array": [rounded(one) for one in above], "arrayminus": [rounded(one) for one in below],
                 "color": colour("text" if whole else "soft"), "thickness": 2 if whole else 5,
                 "width": 5 if whole else 0},
        text=[f"{plain(bar.label)}: {bar.estimate}<br>{plain(bar.note)}" for bar in bars],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _bars_table(bars: Sequence[RowValue], label: str, caption: str) -> Table:
    rows = [[bar.label, str(bar.estimate), bar.note] for bar in bars]
    return Table(["what", f"{label}, with interval", "from"], rows, caption)


# ---- the config


def config_table(view: RunView) -> Table:
    """Searched settings: best, published, range; and what follows from them."""
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
