"""Which gauges are set to what; and that the dashboard for Grafana asks for gauges that there are."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clock import Clock
from optuna.trial import TrialState
from tiny_search import tiny_plan

from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.monitor import prometheus as metrics_export
from tune_lnl.tuning.monitor.prometheus import INTERVAL, OF_A_SLOT, OF_A_STATE, OF_THE_RUN, MetricsExport
from tune_lnl.tuning.monitor.state import RunningTrial, SearchState, View
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.resources.divide import Machine
from tune_lnl.tuning.runs.rows import TrialRow

DEPLOY = Path(__file__).parents[3] / "deploy"
BEST = TrialRow(0, "COMPLETE", 71.25, 1.1, 6, {}, None, None, 1, 12.0)
MEASURES = {"images_per_second": 900.0, "selection_precision": 81.0, "selection_recall": 40.0, "selection_f1": 53.5}
VIEW = View(
    [RunningTrial(3, 4, 61.0, 9.0, {}, MEASURES), RunningTrial(4)],
    BEST,
    {TrialState.COMPLETE: 2, TrialState.PRUNED: 1, TrialState.FAIL: 0},
    6,
    0.55,
    60.0,
)
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class State(SearchState):
    """Always shows VIEW."""

    def __init__(self) -> None:
        self.views = 0

    def view(self) -> View:
        self.views += 1
        return VIEW


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> Values:
    """(name, tags) -> value, instead of Ray's gauges."""
    found: Values = {}

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert description
            self.name, self.tag_keys = name, tag_keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == set(self.tag_keys)
            found[self.name, tuple(tag for tag in sorted(tags.items()) if tag[0] != "run")] = value

    monkeypatch.setattr(metrics_export, "Gauge", Gauge)
    return found


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return tiny_plan(tmp_path)


def at(values: Values, name: str, **tags: str) -> float:
    return values[f"tune_lnl_{name}", tuple(sorted(tags.items()))]


def test_of_the_run(values: Values, plan: Plan) -> None:
    plan = replace(plan, machine=Machine(4, 2), resources=replace(plan.resources, gpus_per_trial=0.5))
    MetricsExport(plan, State()).update(VIEW)
    assert at(values, "progress_ratio") == 0.55
    assert (at(values, "best_value"), at(values, "best_standard_error")) == (71.25, 1.1)
    assert (at(values, "cpu_share"), at(values, "gpu_share")) == (0.5, 0.5)
    assert at(values, "trials_planned") == 6
    states = {state: at(values, "trials", state=state) for state in ("running", "complete", "stopped early", "failed")}
    assert states == {"running": 2, "complete": 2, "stopped early": 1, "failed": 0}


def test_nothing_is_best_yet(values: Values, plan: Plan) -> None:
    MetricsExport(plan, State()).update(replace(VIEW, best=None))
    assert not any("best" in name for name, _ in values)


def test_a_trial_keeps_its_slot_and_leaves_it_empty(values: Values, plan: Plan) -> None:
    export = MetricsExport(plan, State())
    export.update(VIEW)
    assert [at(values, "trial_number", slot=slot) for slot in "01"] == [3, 4]
    assert (at(values, "trial_value", slot="0"), at(values, "trial_epoch", slot="0")) == (61.0, 4)
    for name, value in MEASURES.items():
        assert at(values, name, slot="0") == value
        assert math.isnan(at(values, name, slot="1"))
    export.update(replace(VIEW, running=VIEW.running[1:]))
    assert math.isnan(at(values, "trial_number", slot="0"))
    assert math.isnan(at(values, "images_per_second", slot="0"))
    export.update(replace(VIEW, running=[VIEW.running[1], RunningTrial(5)]))
    assert [at(values, "trial_number", slot=slot) for slot in "01"] == [5, 4]


def test_not_more_often_than_it_is_passed_on(values: Values, plan: Plan) -> None:
    clock, state = Clock(), State()
    export = MetricsExport(plan, state, clock)
    for number in range(50):
        clock.now += INTERVAL / 10
        if number % 2:
            export.on_epoch(WorkerReport(0, 1))
        else:
            export.on_end(0)
    assert state.views == 5


def exported() -> set[str]:
    return {f"ray_{name}" for name in (*OF_THE_RUN, *OF_A_STATE, *OF_A_SLOT)}


class TestGrafana:
    @pytest.fixture
    def board(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((DEPLOY / "grafana_dashboard.json").read_text())
        return loaded

    def test_it_asks_for_gauges_that_are_exported(self, board: dict[str, Any]) -> None:
        asked = set(re.findall(r"\bray_\w+", json.dumps(board)))
        assert asked == exported()

    def test_its_labels_are_those_of_the_gauges(self, board: dict[str, Any]) -> None:
        for panel in board["panels"]:
            for target in panel["targets"]:
                names = {name.removeprefix("ray_") for name in re.findall(r"\bray_\w+", target["expr"])}
                labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                known = {"run"}
                known |= {"slot"} if names <= set(OF_A_SLOT) and "sum by" not in target["expr"] else set()
                known |= {"state"} if names <= set(OF_A_STATE) else set()
                assert labels == known, target

    def test_every_panel_asks_the_chosen_prometheus_about_the_chosen_runs(self, board: dict[str, Any]) -> None:
        variables = {variable["name"]: variable for variable in board["templating"]["list"]}
        assert variables["datasource"]["query"] == "prometheus"
        assert variables["run"]["includeAll"]
        assert variables["run"]["definition"] == variables["run"]["query"]["query"]
        chosen = {"type": "prometheus", "uid": "${datasource}"}
        assert variables["run"]["datasource"] == chosen
        for panel in board["panels"]:
            assert panel["type"] in {"gauge", "stat", "timeseries"}
            assert panel["title"]
            assert panel["description"]
            assert panel["datasource"] == chosen
            assert panel["targets"]
            references = [target["refId"] for target in panel["targets"]]
            assert len(references) == len(set(references))
            for target in panel["targets"]:
                assert target["datasource"] == chosen
                named = re.findall(r"\bray_\w+(\{[^}]*\})?", target["expr"])
                assert set(named) == {'{run=~"$run"}'}, target["expr"]

    def test_panels_do_not_overlap(self, board: dict[str, Any]) -> None:
        cells = [
            (x, y)
            for area in (panel["gridPos"] for panel in board["panels"])
            for x in range(area["x"], area["x"] + area["w"])
            for y in range(area["y"], area["y"] + area["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])

    def test_the_page_names_every_gauge(self) -> None:
        assert set(re.findall(r"`(ray_tune_lnl_\w+[a-z0-9])`", (DEPLOY / "README.md").read_text())) == exported()
