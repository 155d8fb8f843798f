"""Draw the configs that were trained again on fresh replicates."""

from __future__ import annotations

from tune_lnl.reporting.figure import Figure, Table
from tune_lnl.reporting.intervals import Estimate
from tune_lnl.reporting.rows import RowValue, rows_plot
from tune_lnl.reporting.run_data import RunView
from tune_lnl.tuning.runs.confirmation import Confirmation
from tune_lnl.wording import counted


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
        mean, deviation, epochs = (found.test[name] for name in ("mean", "std", "epochs"))
        sentence += f"; on all the training data its {view.test_metric} is {mean:.2f} ± {deviation:.2f} "
        sentence += f"(last {epochs} epochs, scored once)"
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
