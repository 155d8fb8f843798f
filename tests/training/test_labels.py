"""Evidence about given labels: its predictions and shares, and interrupted calls."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import EPOCHS, tiny

from tune_lnl.config.trial import Fold, TrialConfig
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.split import split_folds
from tune_lnl.errors import InputError
from tune_lnl.training.classification import ClassifierTraining
from tune_lnl.training.failures import DivergedError
from tune_lnl.training.labels import LabelEvidence, gather_evidence, label_config
from tune_lnl.training.loop import Report, Surroundings
from tune_lnl.training.registry import start_training

FOLDS = 2
Epochs = list[tuple[int, int, int]]


def config_of(method: str = "act", **fixed: Any) -> TrialConfig:
    return label_config(tiny(method, **fixed))


def gather(config: TrialConfig, folder: Path, seen: Epochs | None = None) -> LabelEvidence:
    def on_epoch(number: int, trainings: int, report: Report) -> None:
        if seen is not None:
            seen.append((number, trainings, int(report["epoch"])))

    return gather_evidence(config, FOLDS, Surroundings(), folder, on_epoch)[1]


def test_every_sample_is_predicted_by_a_training_that_has_not_seen_it(tmp_path: Path) -> None:
    config = config_of()
    evidence = gather(config, tmp_path)
    labels = load_noisy(config.dataset, None).given_labels
    assert np.array_equal(evidence.fold, split_folds(labels, FOLDS, config.validation.seed))
    assert evidence.held_out.keys() == {"", "_ntm"}
    for number in range(FOLDS):
        training = start_training(dataclasses.replace(config, fold=Fold(number, FOLDS)), Surroundings())
        assert isinstance(training, ClassifierTraining)
        predicted = []
        while not training.finished:
            training.run_epoch()
            predicted.append(training.probabilities(np.flatnonzero(evidence.fold == number)))
        # The objective averages the last two epochs.
        for suffix, values in evidence.held_out.items():
            expected = (predicted[-1][suffix] + predicted[-2][suffix]) / 2
            assert values[evidence.fold == number] == pytest.approx(expected, abs=1e-6)


def test_shares_are_means_over_the_trainings_a_sample_was_in(tmp_path: Path) -> None:
    evidence = gather(config_of(), tmp_path)
    files = [np.load(path) for path in sorted(tmp_path.glob("*.npz"))]
    assert len(files) == FOLDS + 1
    assert evidence.selected_share is not None
    for sample in (0, 17, len(evidence.fold) - 1):
        own = [file["selected"][file["trained_on"] == sample] for file in files if sample in file["trained_on"]]
        assert len(own) == FOLDS
        assert evidence.selected_share[sample] == pytest.approx(np.mean(own))


def test_a_method_with_one_network_and_no_selection(tmp_path: Path) -> None:
    evidence = gather(config_of("standard"), tmp_path)
    assert evidence.held_out.keys() == {""}
    assert evidence.selected_share is None
    assert evidence.belief.sum(axis=1) == pytest.approx(np.ones(len(evidence.fold)), abs=1e-5)


def test_finished_trainings_are_not_run_again(tmp_path: Path) -> None:
    seen: Epochs = []
    first = gather(config_of(), tmp_path, seen)
    assert seen == [(n, FOLDS + 1, epoch) for n in range(FOLDS + 1) for epoch in range(EPOCHS)]
    torn = tmp_path / f"fold-2-of-{FOLDS}.npz"
    torn.write_bytes(torn.read_bytes()[:-200])
    seen.clear()
    second = gather(config_of(), tmp_path, seen)
    assert {number for number, _, _ in seen} == {1}
    for suffix, values in first.held_out.items():
        assert np.array_equal(values, second.held_out[suffix])
    assert np.array_equal(first.belief, second.belief)


def test_an_interrupted_training_continues_with_what_it_has_gathered(tmp_path: Path) -> None:
    """The interruption lies between the two epochs over which predictions are averaged."""
    whole = gather(config_of(), tmp_path / "whole")

    def stop(number: int, trainings: int, report: Report) -> None:
        if (number, report["epoch"]) == (1, EPOCHS - 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather_evidence(config_of(), FOLDS, Surroundings(), tmp_path / "cut", stop)
    seen: Epochs = []
    cut = gather(config_of(), tmp_path / "cut", seen)
    assert seen[0] == (1, FOLDS + 1, EPOCHS - 1)
    assert all(
        np.array_equal(cut.held_out[suffix], values, equal_nan=True) for suffix, values in whole.held_out.items()
    )
    assert np.array_equal(cut.belief, whole.belief)
    assert not list((tmp_path / "cut").glob("*.pt"))


def test_another_config_starts_anew(tmp_path: Path) -> None:
    gather(config_of("standard"), tmp_path)
    seen: Epochs = []
    gather(config_of("standard", seed=1), tmp_path, seen)
    assert len(seen) == (FOLDS + 1) * EPOCHS


def test_a_lost_network_is_told(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="not finite at epoch 1"):
        gather(config_of("standard", lr=1e30), tmp_path)
    assert not list(tmp_path.iterdir())


def test_persons_are_refused() -> None:
    with pytest.raises(InputError, match="methods of image classification, and core is for re-identification"):
        config_of("core")


def test_nothing_is_held_out_beside_the_folds() -> None:
    assert config_of().validation.fraction == 0
