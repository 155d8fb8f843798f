"""Whole searches with their files in object storage and their study in PostgreSQL: Ray, processes and kills."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server
from toy_runs import Driver, RemoteDriver, check_complete, spread, write_toy

from tune_lnl import export
from tune_lnl.tuning.runs.run import load_run

TRIALS, EPOCHS = 6, 12

pytestmark = [pytest.mark.slow, pytest.mark.kill, pytest.mark.timeout(1500)]


@pytest.fixture
def driver_on(tmp_path: Path) -> Iterator[Callable[..., RemoteDriver]]:
    drivers: list[RemoteDriver] = []

    def make(machine: str, *arguments: Any) -> RemoteDriver:
        drivers.append(RemoteDriver(tmp_path / machine, *arguments))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.close()


def best_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert export.main([*arguments, "--format", "json"]) == 0
    (best,) = json.loads(capsys.readouterr().out)["trials"]
    return {key: best[key] for key in ("number", "state", "value", "epochs", "params", "config")}


def test_killed_and_resumed_on_another_machine(
    tmp_path: Path,
    s3: S3Server,
    database_url: str,
    driver_on: Callable[..., RemoteDriver],
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = s3.url(f"{tmp_path.name}/results")
    space = write_toy(tmp_path, spread(TRIALS), epochs=EPOCHS, fixed={"pause": 0.1})
    first = driver_on("first", space, url, "--storage", database_url)
    first.start()
    first.wait(lambda: first.ended() >= 1 and first.stored_epochs() >= EPOCHS + 3, "a trial to end, and more epochs")
    assert first.running, first.text
    first.kill_family()
    before = first.stored_epochs()
    shutil.rmtree(first.cache)

    second = driver_on("second", space, url, "--storage", database_url)
    second.start("--resume")
    assert second.finish() == 0, second.text
    # The end of the first trial may not have reached the study: its model is uploaded before it is reported.
    assert re.search(r"kept [012], continued [12]", second.text), second.text
    run = load_run("toy", url)
    check_complete(run, TRIALS, EPOCHS)
    attempts = [report["attempt"] for number in range(TRIALS) for report in run.epoch_reports(number)]
    assert len(attempts) == TRIALS * EPOCHS
    assert attempts.count(1) >= before, "epochs that the storage had were trained again"
    assert max(attempts) == 2, "no trial was continued"
    stored = second.objects.list()
    assert sum(key.startswith("checkpoints/") for key in stored) == 3
    assert [run.heldout(number).shape for number in range(TRIALS)] == [(3, 2)] * TRIALS
    assert {"trials.parquet", "epochs.parquet", "best.yaml", "report.html", "search.log"} <= set(stored)
    assert "study.log" not in stored
    assert list((second.cache / "work").iterdir()) == []
    import pyarrow.parquet as pq

    assert pq.read_table(io.BytesIO(second.objects.get("epochs.parquet") or b"")).num_rows == TRIALS * EPOCHS

    local = Driver(tmp_path, space).start()
    try:
        assert local.finish() == 0, local.text
    finally:
        local.close()
    remote_best = best_of(["toy", "--results-dir", url], capsys)
    assert remote_best == best_of([str(local.files.root)], capsys)
    assert remote_best["number"] == TRIALS // 2


def test_a_storage_that_stays_away_ends_the_search_in_order(
    tmp_path: Path, s3: S3Server, database_url: str, driver_on: Callable[..., RemoteDriver]
) -> None:
    url = s3.url(f"{tmp_path.name}/results")
    space = write_toy(tmp_path, spread(TRIALS), epochs=EPOCHS, fixed={"pause": 0.1})
    driver = driver_on("first", space, url, "--storage", database_url)
    driver.start()
    driver.wait(lambda: driver.stored_epochs() >= 3, "three epochs")
    s3.away = True
    assert driver.finish() == 1, driver.text
    assert "cannot be" in driver.text
    assert "--resume" in driver.text
    assert "Traceback" not in driver.text
    assert driver.left() == []
    s3.away = False
    driver.start("--resume")
    assert driver.finish() == 0, driver.text
    check_complete(load_run("toy", url), TRIALS, EPOCHS)
