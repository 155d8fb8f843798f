from __future__ import annotations

import pytest

from tune_lnl.config.registry import dataset_names
from tune_lnl.reporting.published import ACT, PLAIN, RERUN, TABLES, published_results


@pytest.mark.parametrize(
    ("dataset", "noise", "act", "plain", "rerun"),
    [
        ("cifar100nc", ("symmetric", 0.2), 65.51, 35.14, 60.47),
        ("cifar100nc", ("symmetric", 0.8), 40.74, 4.41, 15.617),
        ("cifar80no", ("asymmetric", 0.4), 64.40, 22.25, 63.259),
        ("cifar80no", ("symmetric", 0.8), 38.58, 4.20, None),
        ("web_bird", None, 81.43, 64.40, None),
        ("food101n", None, 86.81, 84.50, None),
    ],
)
def test_figures_of_the_papers(
    dataset: str, noise: tuple[str, float] | None, act: float, plain: float, rerun: float | None
) -> None:
    assert dataset in dataset_names()
    found = {result.method: result.accuracy for result in published_results(dataset, noise)}
    assert (found[ACT], found[PLAIN], found.get(RERUN)) == (act, plain, rerun)


def test_every_column_is_of_a_dataset_that_there_is() -> None:
    assert {dataset for columns, *_ in TABLES for dataset, _ in columns} <= set(dataset_names())


def test_best_first() -> None:
    values = [result.accuracy for result in published_results("cifar80no", ("symmetric", 0.2))]
    assert len(values) == 16
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(("dataset", "noise"), [("digits8no", ("asymmetric", 0.4)), ("cifar80no", ("symmetric", 0.3))])
def test_nothing_is_made_up(dataset: str, noise: tuple[str, float]) -> None:
    assert dataset in dataset_names()
    assert published_results(dataset, noise) == []
