"""Portfolios: what ships fits, what does not fit is refused, and a search suggests them after its start points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from optuna.study import StudyDirection
from recorded import search
from tiny_search import tiny_plan, tiny_space

from tune_lnl.config.registry import settings_type
from tune_lnl.errors import InputError
from tune_lnl.tuning.plan import portfolio
from tune_lnl.tuning.plan.portfolio import find_portfolio, read_portfolio
from tune_lnl.tuning.space.named import shipped_folder, space_files
from tune_lnl.tuning.space.space import load_space
from tune_lnl.tuning.study.related import PRIOR, Advice
from tune_lnl.tuning.study.samplers import TriedPoints
from tune_lnl.tuning.study.study import SearchStudy, distributions

EVIDENCE = {
    "space": "tiny", "condition": None, "run": "tiny", "trial": 3, "trials": 6, "metric": "val_accuracy", "value": 60.0,
    "standard_error": 2.0, "published": 58.0, "date": "2026-11-30",
}  # fmt: skip
SETTINGS = {"lr": 0.05, "lr_asymmetry": 2.0, "warmup_epochs": 4}


def write(path: Path, method: str = "act", epochs: int = 12, **settings: Any) -> Path:
    config = {"settings": {**SETTINGS, **settings}, "epochs": epochs, "evidence": EVIDENCE}
    path.write_text(yaml.safe_dump({"method": method, "configs": [config]}).replace("'2026-11-30'", "2026-11-30"))
    return path


@pytest.mark.parametrize("path", sorted((shipped_folder() / "portfolios").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_portfolio(path: Path) -> None:
    method, configs = read_portfolio(path)
    assert method == path.stem
    known = {*settings_type(method).model_fields, *settings_type(method).knobs}
    assert all(config.settings.keys() <= known for config in configs)
    assert all(
        config.evidence.published is None or config.evidence.value > config.evidence.published for config in configs
    )
    spaces = [load_space(name) for name, file in space_files().items() if f"method: {method}\n" in file.read_text()]
    fitting = [find_portfolio("auto", space) for space in spaces]
    assert not spaces or any(found is not None and found.configs for found in fitting), "it fits a shipped space"


def test_epochs_scale_and_it_comes_after_the_start_points(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, portfolio=str(write(tmp_path / "mine.yaml")), trials="4")
    assert "1 configs of the portfolio mine are suggested after the start points as long as" in plan.remarks()[0]
    run = search(plan)
    assert [trial.params for trial in run.trials[:2]] == [dict(point) for point in plan.space.start]
    assert run.trials[2].params == {**SETTINGS, "warmup_epochs": 2}, "4 of 12 epochs there are 2 of 6 here"
    assert run.settings["portfolio"] == "mine"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"lr": 3.0}, "config 1 .* does not fit the space tiny"),
        ({"tau": 0.1}, "config 1 .* does not fit the space tiny"),
        ({"method": "standard"}, "it is of method standard, this search of act"),
        ({"epochs": "many"}, "config 1"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    space = tiny_space(tmp_path)
    with pytest.raises(InputError, match=rule):
        find_portfolio(str(write(tmp_path / "mine.yaml", **change)), space)
    (tmp_path / "empty.yaml").write_text("method: act\n")
    for bad in ("nowhere.yaml", str(tmp_path / "empty.yaml")):
        with pytest.raises(InputError, match=r"no file|a list of one config"):
            find_portfolio(bad, space)


def test_none_and_a_method_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_portfolio("none", tiny_space(tmp_path)) is None
    (tmp_path / "portfolios").mkdir()
    monkeypatch.setattr(portfolio, "shipped_folder", lambda: tmp_path)
    assert find_portfolio("auto", tiny_space(tmp_path)) is None


def test_shipped_configs_that_do_not_fit_are_left_out_in_words(tmp_path: Path) -> None:
    some = find_portfolio("auto", tiny_space(tmp_path))
    assert some is not None
    assert (some.configs, some.left_out) == (0, 3), "they give settings that are not searched here"
    assert "is not used" in some.sentence()
    assert "3 of its configs do not fit this space" in some.sentence()
    assert not some.related.points


def test_the_rest_of_a_misleading_portfolio_is_left_out(tmp_path: Path) -> None:
    """Its first config stays below trial 0, the published setting, for which alone it predicts a lower place."""
    space = tiny_space(tmp_path)
    path = write(tmp_path / "mine.yaml")
    found = find_portfolio(str(path), space)
    assert found is not None
    assert found.related.points == [{**SETTINGS, "warmup_epochs": 2}, dict(space.start[0])]
    study = SearchStudy.create(tmp_path / "study.log", space, 0, related=lambda: [found.related])
    advice = Advice(
        [found.related], TriedPoints(distributions(space)).position, np.zeros(3, dtype=bool), StudyDirection.MAXIMIZE
    )
    for value in (60.0, 60.0, 40.0):  # the two start points, and the config
        suggestion = study.ask()
        study.report(suggestion.number, 0, value)
        study.complete(suggestion.number, value, None)
    assert suggestion.params == found.related.points[0]
    assert advice.trust(study.trials[:2])[0] == pytest.approx(PRIOR, abs=0.1)
    assert advice.trust(study.trials)[0] < 0.5
