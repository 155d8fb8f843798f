"""A label table without training, for the tests of what is made of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tune_lnl.datasets.base import NoisyData, TrainingForm
from tune_lnl.reporting.label_table import LabelTable, judge
from tune_lnl.training.labels import LabelEvidence

NASTY = ["=1+1", "<b>bold</b>", "@sum", "-2"]


def table_of(count: int = 40, names: list[str] | None = None, **changes: Any) -> LabelTable:
    """Samples under four labels in turn, drawn in a grey of their class; every fifth looks like the next one."""
    given = np.arange(count) % 4
    looks = np.where(np.arange(count) % 5 == 0, (given + 1) % 4, given)
    probabilities = np.full((count, 4), 0.02, np.float32)
    probabilities[np.arange(count), looks] = 0.94
    data = NoisyData(
        train_images=np.repeat(np.uint8(60 * looks), 4 * 4 * 3).reshape(count, 4, 4, 3),
        rows=np.arange(count),
        given_labels=given,
        true_labels=looks,
        open_set=None,
        test_images=np.empty((0, 4, 4, 3), np.uint8),
        test_rows=np.empty(0, np.int64),
        test_labels=np.empty(0, np.int64),
        num_classes=4,
        class_names=tuple(NASTY),
        matrix=None,
        fingerprints={},
        requested_noise=None,
        form=TrainingForm((4, 4, 3), "none", "none", "cnn_digits"),
        train_names=names,
        root=None if names is None else Path("images"),
    )
    evidence = LabelEvidence({"": probabilities}, probabilities, None, np.zeros(count, np.int64))
    return judge(replace(data, **changes), evidence)
