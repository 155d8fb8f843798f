"""A search that is watched: Ray's dashboard, Optuna's, TensorBoard's files, and a real Prometheus."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_runs import TOY, Driver, spread, write_toy

from tune_lnl.tuning.monitor.prometheus import OF_A_STATE, OF_THE_RUN

PATIENCE = 240.0


@pytest.fixture(autouse=True)
def _toy_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a run needs its method here, too."""
    monkeypatch.syspath_prepend(str(TOY))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def get(url: str, token: str | None = None) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=30.0) as answer:
        return json.load(answer)


def grafana_expressions() -> list[str]:
    """What the shipped dashboard asks, with every run chosen."""
    board = json.loads((Path(__file__).parents[3] / "deploy" / "grafana_dashboard.json").read_text())
    return [target["expr"].replace("$run", ".+") for panel in board["panels"] for target in panel["targets"]]


def wait(driver: Driver, condition: Callable[[], bool], what: str) -> None:
    driver.wait(condition, what, PATIENCE)
    assert driver.running, f"the search ended before {what}\n{driver.text}"


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Driver]:
    pytest.importorskip("tensorboard", reason="an extra: pip install 'tune_lnl[tensorboard]'")
    space = write_toy(tmp_path, spread(60), epochs=40, fixed={"pause": 0.05})
    environment = {
        "RAY_metrics_report_interval_ms": "1000",
        "TUNE_LNL_CACHE": str(tmp_path / "cache"),
        "RAY_AUTH_TOKEN": "a-token-of-the-test",
    }
    driver = Driver(tmp_path, space, "--dashboard", "--tensorboard", environment=environment)
    yield driver
    driver.close()


def address(driver: Driver, of: str) -> str:
    line = next(line for line in driver.text.splitlines() if of in line)
    return line.split("http://")[1].split()[0].split("/")[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_watched_search_shows(watched: Driver, tmp_path: Path) -> None:
    driver = watched.start()
    wait(driver, lambda: "complete" in driver.text, "a complete trial")
    self_told = driver.text
    assert "the variable RAY_AUTH_TOKEN" in self_told
    assert "a-token-of-the-test" not in self_told

    ray = address(driver, "Ray dashboard")
    assert ray.startswith("127.0.0.1:")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(f"http://{ray}/api/v0/tasks")

    def task_names() -> set[str]:
        answer = get(f"http://{ray}/api/v0/tasks?limit=10000", "a-token-of-the-test")
        return {task["name"] for task in answer["data"]["result"]["result"]}

    wait(driver, lambda: {"trial-000", "trial-001"} <= task_names(), "trials under their names")
    assert not any("locals" in name for name in task_names())

    if "study dashboard: http" in self_told:
        study = address(driver, "study dashboard")
        assert study.startswith("127.0.0.1:")
        states = {trial["state"] for trial in get(f"http://{study}/api/studies/0")["trials"]}
        assert "Complete" in states
    assert list((driver.files.root / "tensorboard" / "trial-000").iterdir())

    driver.kill_family()
    assert driver.left() == [], "the study's dashboard ends with the search"


@pytest.mark.slow
def test_a_search_goes_on_without_what_rays_dashboard_needs(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    missing.mkdir()
    for name in ("aiohttp_cors", "opencensus"):
        (missing / f"{name}.py").write_text(f"raise ModuleNotFoundError('no module', name={name!r})\n")
    space = write_toy(tmp_path, spread(2))
    path = {"PYTHONPATH": f"{missing}{os.pathsep}{TOY}"}
    driver = Driver(tmp_path, space, "--dashboard", environment=path).start()
    try:
        assert driver.finish() == 0, driver.text
        assert "Ray dashboard: not started; pip install 'ray[default]'" in driver.text
        assert [trial.state.name for trial in driver.run().trials] == ["COMPLETE", "COMPLETE"]
    finally:
        driver.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_prometheus_gets_the_figures(watched: Driver, tmp_path: Path) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("the program prometheus is not installed (Debian: apt-get install prometheus)")
    port = free_port()
    config = tmp_path / "prometheus.yml"
    driver = watched.start()
    wait(driver, lambda: bool(driver.ray_folders()), "Ray's folder")
    path = f"{driver.ray_folders()[0]}/ray/prom_metrics_service_discovery.json"
    job = {"job_name": "tune_lnl", "scrape_interval": "1s"}
    targets = {"files": [path], "refresh_interval": "1s"}
    config.write_text(yaml.safe_dump({"scrape_configs": [{**job, "file_sd_configs": [targets]}]}))
    with (tmp_path / "prometheus.log").open("w") as log:
        prometheus = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:

        def series() -> dict[str, list[dict[str, Any]]]:
            query = urllib.parse.quote('{__name__=~"ray_tune_lnl_.+"}')
            try:
                answer = get(f"http://127.0.0.1:{port}/api/v1/query?query={query}")
            except OSError:
                return {}
            found: dict[str, list[dict[str, Any]]] = {}
            for one in answer["data"]["result"]:
                found.setdefault(one["metric"]["__name__"], []).append(one)
            return found

        def complete() -> float:
            states = {one["metric"]["state"]: float(one["value"][1]) for one in series().get("ray_tune_lnl_trials", [])}
            return states.get("complete", 0.0)

        wait(driver, lambda: complete() >= 1 and "ray_tune_lnl_best_value" in series(), "figures in Prometheus")
        found = series()
        assert {f"ray_{name}" for name in (*OF_THE_RUN, *OF_A_STATE)} <= set(found)
        assert {one["metric"]["run"] for ones in found.values() for one in ones} == {driver.space.stem}
        slots: set[str] = set()

        def both_slots() -> bool:
            # Not at the same moment: a trial that begins has no value yet.
            slots.update(one["metric"]["slot"] for one in series().get("ray_tune_lnl_trial_value", []))
            return slots == {"0", "1"}

        wait(driver, both_slots, "both slots")
        (progress,) = found["ray_tune_lnl_progress_ratio"]
        assert 0 < float(progress["value"][1]) < 1
        (best,) = found["ray_tune_lnl_best_value"]
        values = [trial.value for trial in driver.run().trials if trial.state.name == "COMPLETE"]
        assert any(float(best["value"][1]) == pytest.approx(value) for value in values)

        def answered(expression: str) -> bool:
            answer = get(f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(expression)}")
            assert answer["status"] == "success", expression
            return bool(answer["data"]["result"])

        for expression in grafana_expressions():
            wait(driver, lambda asked=expression: answered(asked), f"an answer to {expression}")  # type: ignore[misc]
    finally:
        prometheus.terminate()
        prometheus.wait(timeout=60.0)
        driver.kill_family()
