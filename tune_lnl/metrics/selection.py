"""Agreement of the selected samples with the clean ones (true label == given label). Fractions in [0, 1].

precision = |selected and clean| / |selected|, recall = |selected and clean| / |clean|, F1 is their harmonic mean.
A ratio over nothing is None, never 0 or NaN: with nothing selected there is no precision, with nothing clean no
recall, and without either there is no F1.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SelectionQuality:
    """Precision, recall and F1 of a selection; None where not defined."""

    precision: float | None
    recall: float | None
    f1: float | None


def selection_quality(selected: int, clean: int, selected_and_clean: int) -> SelectionQuality:
    """Return precision, recall and F1 from numbers of samples.

    Raises:
        ValueError: no two sets have such sizes.
    """
    if not 0 <= selected_and_clean <= min(selected, clean):
        raise ValueError(
            "selected_and_clean must lie from 0 to the smaller of selected and clean, got "
            f"{selected_and_clean} of {selected} and {clean}"
        )
    precision = selected_and_clean / selected if selected else None
    recall = selected_and_clean / clean if clean else None
    # 2PR / (P + R) in counts: defined, and 0, where both are 0.
    f1 = 2 * selected_and_clean / (selected + clean) if selected and clean else None
    return SelectionQuality(precision, recall, f1)


def selection_percentages(selected: int, clean: int, selected_and_clean: int) -> dict[str, float]:
    """Return ``selection_precision``, ``selection_recall`` and ``selection_f1`` in percent, without undefined ones.

    Raises:
        ValueError: see :func:`selection_quality`.
    """
    quality = selection_quality(selected, clean, selected_and_clean)
    named = {"precision": quality.precision, "recall": quality.recall, "f1": quality.f1}
    return {f"selection_{name}": 100.0 * value for name, value in named.items() if value is not None}
