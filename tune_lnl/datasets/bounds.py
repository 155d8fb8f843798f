"""The range of accuracies on the held-out, noisy labels: those of a perfect network and of guessing.

A perfect network predicts the true class k of a closed-class image, which is labelled k with probability T[k, k]; the
given label of an open-set image is independent of the image, so that no network does better than guessing there:

    ceiling = sum over closed classes k of share[k] T[k, k] + (share of open-set images) / K

The noise matrix T gives it where the labels were drawn from one, else the true labels, else an estimate of the share of
wrong labels (:mod:`tune_lnl.datasets.estimate`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from tune_lnl.datasets.base import NoisyData

Z = 1.96
COARSE = 0.1
"""Half a 95% interval above which held-out samples are too few to rank configs."""
FEW_PER_CLASS = 2
Origin = Literal["noise matrix", "true labels", "estimate", "clean labels"]


@dataclass(frozen=True)
class ScoreBounds:
    """The range of a held-out accuracy, in percent.

    Attributes:
        ceiling: expected accuracy of a perfect network against the given labels; None if unknown.
        low, high: 95% interval of an estimated ceiling; None otherwise.
        chance: expected accuracy of guessing: 100 / K, or the share of the commonest label where labels are unbalanced.
        held_out: number of held-out samples.
        classes: K, closed classes.
        origin: where the ceiling is from; None where there is none.
    """

    ceiling: float | None
    low: float | None
    high: float | None
    chance: float
    held_out: int
    classes: int
    origin: Origin | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for ``run.yaml``."""
        return asdict(self)

    @classmethod
    def stored(cls, values: Mapping[str, Any] | None) -> ScoreBounds | None:
        """Return the bounds that :meth:`to_dict` stored; None for runs of earlier versions, which stored none."""
        return None if values is None else cls(**values)

    def sentence(self) -> str:
        """Write ceiling and chance as one line."""
        guessing = f"guessing scores about {self.chance:.4g}"
        if self.ceiling is None:
            return (
                f"the share of right held-out labels is not known, so neither is a perfect network's score; {guessing}"
            )
        if self.origin == "clean labels":
            return f"held-out images are judged by their true labels: a perfect network scores 100, {guessing}"
        interval = "" if self.low is None or self.high is None else f" ({self.low:.0f} to {self.high:.0f})"
        estimated = "by an estimate, " if self.origin == "estimate" else ""
        if self.ceiling > 99.9 and self.origin != "estimate":
            return f"held-out labels are as given in the data: a perfect network scores about 100, {guessing}"
        perfect = f"{estimated}a perfect network scores about {self.ceiling:.0f}{interval}"
        return f"held-out labels are noisy: {perfect}, {guessing}"

    def short(self) -> str:
        """Write ceiling and chance in a few words, to stand beside a value.

        >>> ScoreBounds(44.6, 26.0, 66.0, 10.0, 65, 10, "estimate").short()
        'chance about 10, ceiling about 45'
        """
        ceiling = "not known" if self.ceiling is None else f"about {self.ceiling:.0f}"
        return f"chance about {self.chance:.3g}, ceiling {ceiling}"

    @property
    def resolution(self) -> float:
        """Half the 95% interval of an accuracy on the held-out samples, in points."""
        share = min(0.9, max(0.1, 0.5 if self.ceiling is None else self.ceiling / 100))
        return 100 * Z * math.sqrt(share * (1 - share) / max(self.held_out, 1))

    def too_few(self) -> str | None:
        """Return a sentence where the held-out samples cannot tell configs apart, else None."""
        if self.resolution <= 100 * COARSE and self.held_out >= FEW_PER_CLASS * self.classes:
            return None
        return (
            f"{self.held_out:,} held-out images of {self.classes} classes are too few to tell configs apart: a value "
            f"is uncertain by about {self.resolution:.0f} points; use more images (a larger dataset.subset) or a "
            "larger validation.fraction"
        )

    def is_guessing(self, value: float, standard_error: float | None) -> bool:
        """Return whether an accuracy in percent is not clearly (95%) better than guessing."""
        error = standard_error
        if error is None or not math.isfinite(error):
            share = self.chance / 100
            error = 100 * math.sqrt(share * (1 - share) / max(self.held_out, 1))
        return value - Z * error <= self.chance


def score_bounds(data: NoisyData, held_out: int, clean: bool = False) -> ScoreBounds:
    """Return the bounds of an accuracy on held-out samples of `data`.

    Args:
        data: the training set, which the held-out samples are a random part of.
        held_out: their number.
        clean: whether they are judged by their true labels.
    """
    import numpy as np  # commands that only read a run do without it

    counts = np.bincount(data.given_labels, minlength=data.num_classes)
    ceiling, low, high, origin = (1.0, None, None, "clean labels") if clean else _ceiling(data)
    return ScoreBounds(
        ceiling=None if ceiling is None else 100 * ceiling,
        low=None if low is None else 100 * low,
        high=None if high is None else 100 * high,
        chance=100 * _chance(counts),
        held_out=held_out,
        classes=data.num_classes,
        origin=origin,
    )


def _chance(counts: np.ndarray) -> float:
    """Return the share of the commonest label if it is clearly more than one of K even shares, else 1 / K."""
    even, total = 1.0 / len(counts), max(int(counts.sum()), 1)
    commonest = float(counts.max()) / total
    # 4 standard deviations: the largest of a hundred even shares is above 3 by chance too often.
    return commonest if commonest > even + 4 * math.sqrt(even * (1 - even) / total) else even


def _ceiling(data: NoisyData) -> tuple[float | None, float | None, float | None, Origin | None]:
    import numpy as np

    from tune_lnl.datasets.estimate import estimate_noise

    true, classes = data.true_labels, data.num_classes
    if true is not None:
        closed = true < classes
        opened = float((~closed).mean()) / classes
        if data.matrix is not None:
            return float(np.diag(data.matrix)[true[closed]].sum()) / len(true) + opened, None, None, "noise matrix"
        return float((data.given_labels == true).mean()) + opened, None, None, "true labels"
    found = estimate_noise(data.train_images, data.rows, data.given_labels)
    if found is None:
        return None, None, None, None
    return 1 - found.rate, 1 - found.high, 1 - found.low, "estimate"
