"""Accuracy on the test set, with published figures; the search used none of these numbers."""

from __future__ import annotations

from collections.abc import Sequence

from tune_lnl.metrics.classification import mean_and_std
from tune_lnl.reporting.figure import Figure
from tune_lnl.reporting.intervals import Estimate
from tune_lnl.reporting.published import PLAIN, PublishedResult, published_results
from tune_lnl.reporting.rows import RowValue, bars_table, rows_plot
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.reporting.trainings import PLAIN_TRAINED, Recorded
from tune_lnl.wording import counted

DEVIATION = "deviation"
"""Over the last epochs of one training."""


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
        table=bars_table(bars, label, "On the test set") if own else None,
        notes=_test_notes(view, own),
    )


def _own_test_bars(view: RunView, trainings: Sequence[Recorded]) -> list[RowValue]:
    """Return the results of this run and of its trainings, the one to quote first."""
    bars = []
    confirmation = view.run.confirmation
    if confirmation is not None and confirmation.test is not None:
        mean, std = float(confirmation.test["mean"]), float(confirmation.test["std"])
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
        bars.append(RowValue(one.name, Estimate.mean_of(one.test), note, ours=one.label.startswith("best")))
    return bars


def last_epochs_test(view: RunView, trial: Trial) -> tuple[float, float] | None:
    """Return mean and deviation of the test accuracy over the last epochs, in percent."""
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
    """Return the published figures of this run's dataset and noise; none for a share of its data or classes."""
    dataset = view.dataset
    if dataset.get("subset", 1.0) != 1.0 or dataset.get("classes") is not None:
        return []
    kind, ratio = dataset.get("noise"), dataset.get("closed_ratio")
    noise = (kind, float(ratio)) if isinstance(kind, str) and isinstance(ratio, int | float) else None
    return published_results(str(dataset["name"]), noise)


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
