from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_runs import view

from tune_lnl.reporting.accuracy import accuracy_figure, last_epochs_test, published_of
from tune_lnl.reporting.trainings import Recorded


def test_test_figures(tmp_path: Path) -> None:
    seen = view(tmp_path)
    assert seen.best is not None
    assert last_epochs_test(seen, seen.best) == (84.0, 0.0)
    assert last_epochs_test(seen, seen.trials[2]) is None
    plain = Recorded("plain cross-entropy", tmp_path / "plain", (70.0, 72.0), (50.0, 51.0))
    takeaway = accuracy_figure(seen, [plain]).takeaway
    assert takeaway == (
        "Best: trial 1 reaches a test_accuracy of 84.00%, plain cross-entropy 71.00 (58.29 to 83.71). "
        "Nothing is published for this dataset and noise: the published setting is that of another one."
    )


def test_a_published_setting_that_does_better_on_the_test_set_is_named(tmp_path: Path) -> None:
    seen = view(tmp_path)
    path, last = seen.run.files.epochs(0), seen.reports(seen.trials[0])[-1]
    path.write_text(path.read_text() + json.dumps({**last, "test_accuracy": 90.0, "attempt": 2}) + "\n")
    assert "; the published setting reaches more, 90.00%. Nothing" in accuracy_figure(seen, []).takeaway


def test_published_figures_are_for_the_whole_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = view(tmp_path)
    base = {**seen.flat_base, "dataset.name": "cifar80no", "dataset.subset": 1.0}
    monkeypatch.setitem(seen.__dict__, "flat_base", base)
    assert len(published_of(seen)) == 16
    told = accuracy_figure(seen, []).takeaway
    assert "(trained on 70% of the training set; published figures are for all of it)" in told
    assert told.endswith(
        "84.00%, 19.60 points above the 64.40% published for ACT; plain cross-entropy was published with 22.25%."
    )
    monkeypatch.setitem(seen.__dict__, "flat_base", {**base, "dataset.subset": 0.5})
    assert published_of(seen) == []
