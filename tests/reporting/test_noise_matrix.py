from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_runs import COMPLETE, Page, view

from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.registry import get_dataset, parse_options
from tune_lnl.reporting import noise_matrix
from tune_lnl.reporting.drawing import SMALL
from tune_lnl.reporting.noise_matrix import NoiseSeen, measure_noise, noise_figures, noise_of


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
    assert [figure.draw for figure in figures] == [None]
    assert "the data of digits8no is not here" in figures[0].takeaway


@pytest.mark.parametrize(("classes", "tag"), [(10, "rect"), (60, "image")])
def test_few_classes_show_numbers_and_many_become_a_picture(classes: int, tag: str) -> None:
    matrix = np.eye(classes) * 0.6 + np.roll(np.eye(classes), 1, axis=1) * 0.4
    names = tuple(f"<{index}>" for index in range(classes))
    seen = NoiseSeen(matrix, matrix, names, 0.4, 0.4, None)
    page = Page(noise_matrix._drawer(seen, matrix)(SMALL).html("told"))
    assert len(page.all(tag)) == (classes**2 if tag == "rect" else 1)
    assert all(str(attributes["href"]).startswith("data:image/png;base64,") for attributes in page.all("image"))


def test_unknown_truth() -> None:
    data = load_noisy(parse_options({"name": "digits8no"}), None)
    object.__setattr__(data, "true_labels", None)
    assert measure_noise(data) == "The true labels are not known, so the noise cannot be measured."
