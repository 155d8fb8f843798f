from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_runs import COMPLETE, view

from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.registry import get_dataset, parse_options
from tune_lnl.reporting import noise_matrix
from tune_lnl.reporting.noise_matrix import NoiseSeen, matrix_plot, measure_noise, noise_figures, noise_of


def test_measured_beside_requested(tmp_path: Path) -> None:
    seen = noise_of(view(tmp_path, [COMPLETE]))
    assert isinstance(seen, NoiseSeen)
    assert seen.requested is not None
    assert seen.measured.shape == seen.requested.shape == (10, 8)
    assert seen.requested[0, :2].tolist() == [0.6, 0.4]
    assert seen.measured.sum(axis=1) == pytest.approx(1.0)
    data = load_noisy(parse_options({"name": "digits8no", "subset": 0.3}), None)
    assert data.true_labels is not None
    three = data.given_labels[data.true_labels == 3]
    assert seen.measured[3] == pytest.approx(np.bincount(three, minlength=8) / len(three))
    assert seen.requested_ratio == 0.4
    assert seen.measured_ratio == data.measured_noise


def test_labels_of_another_noise_are_not_shown(tmp_path: Path) -> None:
    one = view(tmp_path, [COMPLETE])
    settings = {**one.run.settings, "fingerprints": {"labels": "0" * 64}}
    object.__setattr__(one.run, "settings", settings)
    assert noise_of(one) == noise_matrix.OTHER_LABELS
    object.__setattr__(one.run, "settings", {**settings, "fingerprints": {"source": "toy"}})
    assert noise_of(one) == "The run recorded no labels that could be compared."


def test_absent_data_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(options: object, place: object) -> None:
        raise AssertionError("loaded")

    one = view(tmp_path, [COMPLETE])
    monkeypatch.setattr(noise_matrix, "load_noisy", load)
    monkeypatch.setattr(type(get_dataset("digits8no")), "is_present", lambda self, place, cache: False)
    figures = noise_figures(one)
    assert [figure.plot for figure in figures] == [None]
    assert "the data of digits8no is not here" in figures[0].takeaway


@pytest.mark.parametrize("classes", [10, 60, 200])
def test_few_classes_show_numbers_and_all_cells_answer(classes: int) -> None:
    matrix = np.eye(classes) * 0.6 + np.roll(np.eye(classes), 1, axis=1) * 0.4
    names = tuple(f"<{index}>" for index in range(classes))
    plot = matrix_plot(NoiseSeen(matrix, matrix, names, 0.4, 0.4, None), matrix)
    (cells,) = plot.data
    assert np.array(cells.z, float) == pytest.approx(np.sqrt(100 * matrix), abs=0.01)
    assert (cells.text is not None) == (classes == 10)
    if classes == 10:
        assert [cells.text[0][column] for column in (0, 1, 2)] == ["60", "40", ""]
    if classes < 200:
        assert cells.customdata[0][1] == "true &lt;0&gt;, given &lt;1&gt;: 40%"
    assert len(plot.layout.xaxis.ticktext) <= 20


def test_halves_of_a_percent_are_shown() -> None:
    seen = NoiseSeen(None, np.array([[0.125, 0.875], [np.nan, np.nan]]), ("a", "b"), None, None, None)
    (cells,) = matrix_plot(seen, seen.measured).data
    assert list(cells.text[0]) == ["12.5", "87.5"]
    assert cells.customdata[1][0] == "true b, given a: unknown"


def test_unknown_truth() -> None:
    data = load_noisy(parse_options({"name": "digits8no"}), None)
    object.__setattr__(data, "true_labels", None)
    assert measure_noise(data) == "The true labels are not known, so the noise cannot be measured."
