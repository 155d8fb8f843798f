"""Searches on a real Ray cluster of several nodes on this machine: nodes that die and join, drivers that die, paths
that are cut."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray_cluster import NoNetworksError, RayCluster, TwoNetworks
from s3_server import S3Server
from toy_runs import MARK, Driver, RemoteDriver, check_complete, check_whole, spread, write_toy

from tune_lnl.tuning.runs.confirmation import Confirmation
from tune_lnl.tuning.runs.run import load_run
from tune_lnl.tuning.study.password import PASSWORD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

LONG = 900.0
"""Seconds for one search; the machine may be busy with other things."""
STATE = """
import json, sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
from ray._private.state import actors
from ray.util import placement_group_table
alive = [a for a in actors().values() if a["State"] not in ("DEAD",)]
groups = [g for g in placement_group_table().values() if g["state"] not in ("REMOVED",)]
print(json.dumps({"actors": len(alive), "groups": len(groups), "cpus": ray.available_resources().get("CPU", 0.0)}))
ray.shutdown()
"""


def driver_of(folder: Path, name: str, trials: int, epochs: int, pause: float = 0.1, **more: Any) -> Driver:
    """Return a search that gets the address of its cluster when it starts."""
    folder.mkdir(exist_ok=True)
    space = write_toy(folder, spread(trials), epochs=epochs, fixed={"pause": pause}, name=name)
    return Driver(folder, space, **{"environment": {"RAY_AUTH_MODE": "disabled"}, **more})


@contextmanager
def cluster_for(driver: Driver, *cpus: int) -> Iterator[RayCluster]:
    # The password of a database is the driver's alone.
    environment = {name: value for name, value in driver.environment.items() if name not in (MARK, PASSWORD)}
    with closing(RayCluster(*cpus, environment=environment)) as cluster:
        try:
            yield cluster
        finally:
            driver.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Two nodes of one CPU, for tests that leave them as they were."""
    with cluster_for(driver_of(tmp_path_factory.mktemp("shared"), "toy", 1, 1), 1, 1) as cluster:
        yield cluster


def left_behind(driver: Driver, cluster: RayCluster | TwoNetworks) -> dict[str, Any]:
    """Return live actors, placement groups and free CPUs of the cluster, once all is quiet."""
    until = time.monotonic() + 120.0
    while True:
        command = [*driver.within, sys.executable, "-c", STATE, cluster.address]
        found = subprocess.run(command, capture_output=True, text=True, env=driver.environment, check=True)
        state: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
        if not state["actors"] + state["groups"] or time.monotonic() > until:
            return state
        time.sleep(1.0)


def test_a_node_dies_and_one_joins(tmp_path: Path) -> None:
    trials, epochs = 9, 20
    driver = driver_of(tmp_path / "a", "toy", trials, epochs, pause=0.3)
    with cluster_for(driver, 1, 1, 1) as cluster:
        driver.start("--address", cluster.address)
        driver.wait(lambda: driver.epochs_written() >= 6, "some epochs", LONG)
        assert driver.running, driver.text
        cluster.kill(2)
        driver.wait(lambda: "left the cluster" in driver.text, "the death to be noticed", LONG)
        cluster.add(1)
        assert driver.finish(LONG) == 0, driver.text
        check_whole(driver, trials, epochs)
        assert "left the cluster" in driver.text
        assert "joined the cluster" in driver.text
        rows = driver.run().rows()
        assert max(row.attempts for row in rows) > 1, "no trial has moved"
        assert left_behind(driver, cluster) == {"actors": 0, "groups": 0, "cpus": 3.0}


def test_a_death_that_is_noticed_late(tmp_path: Path) -> None:
    """Its trial is asked for again while the dead node still counts, and waits there until that is known."""
    trials, epochs = 4, 12
    driver = driver_of(tmp_path / "a", "toy", trials, epochs, pause=0.5)
    (driver.folder / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'tune_lnl.search' in sys.orig_argv:\n"
        "    import tune_lnl.tuning.engine.cluster as c\n"
        "    c.LOOK_SECONDS = 15.0\n"
    )
    driver.environment["PYTHONPATH"] += f"{os.pathsep}{driver.folder}"
    with cluster_for(driver, 1, 1) as cluster:
        driver.start("--address", cluster.address)
        driver.wait(lambda: driver.epochs_written() >= 4, "some epochs", LONG)
        assert driver.running, driver.text
        cluster.kill(1)
        assert driver.finish(LONG) == 0, driver.text
        check_whole(driver, trials, epochs)
        assert "left the cluster" in driver.text
        assert left_behind(driver, cluster) == {"actors": 0, "groups": 0, "cpus": 1.0}


def test_two_searches_share_a_cluster_and_a_killed_driver_is_resumed(tmp_path: Path, shared: RayCluster) -> None:
    first, second = (driver_of(tmp_path / name, name, 3, 6) for name in ("one", "two"))
    with closing(first), closing(second):
        first.start("--address", shared.address)
        second.start("--address", shared.address)
        first.wait(lambda: first.epochs_written() >= 2, "some epochs", LONG)
        assert first.running, first.text
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
        first.start("--address", shared.address)
        assert first.finish(LONG) == 0, first.text
        assert second.finish(LONG) == 0, second.text
        check_whole(first, 3, 6)
        check_whole(second, 3, 6)
        assert " finished" in first.text
        assert left_behind(first, shared) == {"actors": 0, "groups": 0, "cpus": 2.0}


def test_a_stopped_search_leaves_the_cluster_as_it_was(tmp_path: Path, shared: RayCluster) -> None:
    with closing(driver_of(tmp_path / "a", "toy", 3, 40)) as driver:
        driver.start("--address", shared.address)
        driver.wait(lambda: driver.epochs_written() >= 2, "some epochs", LONG)
        driver.signal(signal.SIGTERM)
        assert driver.finish(LONG) == 130, driver.text
        assert "--resume" in driver.text
        assert left_behind(driver, shared) == {"actors": 0, "groups": 0, "cpus": 2.0}


def test_described_then_searched_and_confirmed(tmp_path: Path, shared: RayCluster) -> None:
    with closing(driver_of(tmp_path / "a", "toy", 3, 4)) as driver:
        driver.start("--address", shared.address, "--dry-run")
        assert driver.finish(LONG) == 0, driver.text
        assert "2 at once" in driver.text
        assert not driver.files.root.parent.exists()
        driver.start("--address", shared.address, "--confirm", "2x2")
        assert driver.finish(LONG) == 0, driver.text
        confirmation = driver.run().confirmation
        assert isinstance(confirmation, Confirmation)
        assert len(confirmation.candidates) == 2
        assert driver.files.confirmed_model.exists()
        assert left_behind(driver, shared) == {"actors": 0, "groups": 0, "cpus": 2.0}


def test_a_cluster_that_goes_away_ends_the_search_with_the_resume_command(tmp_path: Path) -> None:
    driver = driver_of(tmp_path / "a", "toy", 2, 200)
    with cluster_for(driver, 1, 1) as cluster:
        driver.start("--address", cluster.address)
        driver.wait(lambda: driver.epochs_written() >= 2, "some epochs", LONG)
        cluster.kill(0)
        assert driver.finish(LONG) == 1, driver.text
        assert "is gone, or cannot be reached any more; nothing is lost" in driver.text
        assert "--resume" in driver.text


def test_nothing_of_a_run_on_the_nodes(tmp_path: Path, s3: S3Server, database_url: str) -> None:
    """Results in object storage, the study in a database: a node dies, then the driver, and another machine goes on."""
    trials, epochs = 4, 16
    url = s3.url(f"{tmp_path.name}/results")
    space = write_toy(tmp_path, spread(trials), epochs=epochs, fixed={"pause": 0.3})
    flags, environment = ("--storage", database_url), {"RAY_AUTH_MODE": "disabled"}
    first = RemoteDriver(tmp_path / "first", space, url, *flags, environment=environment)
    second = RemoteDriver(tmp_path / "second", space, url, *flags, environment=environment)
    with closing(second), cluster_for(first, 1, 1) as cluster:
        first.start("--address", cluster.address)
        first.wait(lambda: first.stored_epochs() >= 6, "some epochs", LONG)
        assert first.running, first.text
        cluster.kill(1)
        first.wait(lambda: "left the cluster" in first.text, "the death to be noticed", LONG)
        before = first.stored_epochs()
        first.wait(lambda: first.stored_epochs() >= before + 2, "epochs after it", LONG)
        assert first.running, first.text
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()

        second.start("--address", cluster.address, "--resume")
        assert second.finish(LONG) == 0, second.text
        run = load_run("toy", url)
        check_complete(run, trials, epochs)
        reports = [report for number in range(trials) for report in run.epoch_reports(number)]
        assert len(reports) == trials * epochs
        assert max(report["attempt"] for report in reports) > 1, "no trial was continued"
        assert left_behind(second, cluster) == {"actors": 0, "groups": 0, "cpus": 1.0}


def test_a_cluster_that_asks_for_a_token(tmp_path: Path) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    nowhere = {"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}
    driver = driver_of(tmp_path / "a", "toy", 2, 3, environment=token)
    with cluster_for(driver, 1) as cluster:
        for environment, said in (
            (nowhere, f"asks for a token, and there is none here; put the cluster's into {tmp_path / 'none'}"),
            (nowhere | {"RAY_AUTH_TOKEN": "b" * 64}, "does not accept this machine's token"),
        ):
            driver.environment |= environment
            driver.start("--address", cluster.address)
            assert driver.finish(LONG) == 2, driver.text
            assert said in driver.text
            assert "Traceback" not in driver.text
            assert "b" * 64 not in driver.text
            assert not driver.files.root.exists()
        (tmp_path / "none").write_text("a" * 64 + "\n")
        driver.environment |= nowhere
        driver.start("--address", cluster.address)
        assert driver.finish(LONG) == 0, driver.text
        check_whole(driver, 2, 3)
        driver.environment |= token
        assert left_behind(driver, cluster) == {"actors": 0, "groups": 0, "cpus": 1.0}


@contextmanager
def node_without(folder: Path, cluster: RayCluster, environment: dict[str, str]) -> Iterator[None]:
    """One more node, with a disk of its own where the others have ``folder``."""
    ray = Path(sys.executable).with_name("ray")
    hidden = f"mount -t tmpfs none '{folder}' && exec '{ray}' start --address {cluster.address} --num-cpus 1 --block"
    command = ["unshare", "--mount", "--kill-child", "--fork", "--pid", "--mount-proc", "sh", "-c", hidden]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + LONG
        while nodes_of(cluster, environment) < 2:
            assert process.poll() is None, "the node has ended"
            assert time.monotonic() < until
            time.sleep(1.0)
        yield
    finally:
        process.kill()
        process.wait()


def nodes_of(cluster: RayCluster, environment: dict[str, str]) -> int:
    program = (
        "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); "
        "print(sum(node['Alive'] for node in ray.nodes()))"
    )
    command = [sys.executable, "-c", program, cluster.address]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return int(found.stdout.splitlines()[-1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process a disk of its own")
def test_a_results_folder_that_one_node_does_not_see_is_refused(tmp_path: Path) -> None:
    driver = driver_of(tmp_path / "a", "toy", 2, 4)
    results = driver.files.root.parent
    results.mkdir()
    with cluster_for(driver, 1) as cluster, node_without(results, cluster, driver.environment):
        driver.start("--address", cluster.address)
        assert driver.finish(LONG) == 2, driver.text
        assert "1 of 2 nodes (" in driver.text
        assert f"does not see {driver.files.root}, which this machine writes to" in driver.text
        assert "Traceback" not in driver.text
        assert list(results.iterdir()) == []


@pytest.fixture
def networks() -> Iterator[TwoNetworks]:
    try:
        made = TwoNetworks()
    except NoNetworksError as error:
        pytest.skip(str(error))
    with closing(made):
        yield made


def training_in(driver: Driver, networks: TwoNetworks, number: int) -> tuple[int, list[dict[str, Any]]]:
    """The process in a node's network that trains, and what it has begun and ended, in order."""
    found: tuple[int, list[dict[str, Any]]] = (0, [])
    for pid in networks.pids(number):
        records = events_of(driver, pid)
        if records and (not found[1] or records[-1]["time"] > found[1][-1]["time"]):
            found = pid, records
    return found


def events_of(driver: Driver, pid: int) -> list[dict[str, Any]]:
    path = driver.events / f"{pid}.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def test_a_node_whose_network_path_is_cut_loses_its_trials_to_the_other(tmp_path: Path, networks: TwoNetworks) -> None:
    trials, epochs = 3, 30
    driver = driver_of(
        tmp_path / "a", "toy", trials, epochs, environment=networks.credentials, within=networks.within(0)
    )
    networks.start({name: value for name, value in driver.environment.items() if name != MARK})
    driver.start("--address", networks.address)
    try:

        def midst_of_a_trial(number: int) -> bool:
            """A node has begun a trial and kept epochs of it, and its end is far."""
            _, records = training_in(driver, networks, number)
            return bool(records) and 2 <= records[-1]["epoch"] <= epochs // 2

        driver.wait(lambda: midst_of_a_trial(0) and midst_of_a_trial(1), "trials on both nodes", LONG)
        assert driver.running, driver.text
        networks.cut()
        lost, records = training_in(driver, networks, 1)
        x = records[-1]["x"]

        assert driver.finish(LONG) == 0, driver.text
        check_whole(driver, trials, epochs)
        assert f"left the cluster: {networks.ADDRESSES[1]} " in driver.text
        assert networks.processes[1].poll() is None, "not only its path was cut: the node has ended"
        assert lost in networks.pids(1), "not only its path was cut: the worker has ended"

        assert {row.params["x"]: row.attempts for row in driver.run().rows()}[x] == 2
        others = [int(path.stem) for path in driver.events.glob("*.jsonl") if path.stem != str(lost)]
        again = [event for pid in others for event in events_of(driver, pid) if event["x"] == x]
        assert again[0]["epoch"] >= 1, "it has begun anew"
        assert again[-1] == again[-1] | {"event": "end", "epoch": epochs - 1}
        assert left_behind(driver, networks) == {"actors": 0, "groups": 0, "cpus": 1.0}
    finally:
        driver.close()


def test_a_search_that_is_cut_off_from_the_head_is_resumed_on_another_machine(
    tmp_path: Path, networks: TwoNetworks
) -> None:
    trials, epochs = 3, 40
    driver = driver_of(tmp_path / "a", "toy", trials, epochs, environment=networks.credentials)
    networks.start({name: value for name, value in driver.environment.items() if name != MARK}, own_table=True)
    driver.within = tuple(networks.within_second())
    driver.start("--address", networks.address)
    try:
        driver.wait(lambda: driver.epochs_written() >= 6, "some epochs", LONG)
        assert driver.running, driver.text
        networks.cut()
        assert driver.finish(LONG) == 1, driver.text
        assert "is gone, or cannot be reached any more; nothing is lost" in driver.text
        assert "--resume" in driver.text
        assert driver.epochs_written() < trials * epochs
        assert networks.processes[1].poll() is None, "not only its path was cut: the node has ended"

        driver.within = tuple(networks.within(0))
        driver.start("--address", networks.address)
        assert driver.finish(LONG) == 0, driver.text
        check_whole(driver, trials, epochs)
        assert left_behind(driver, networks) == {"actors": 0, "groups": 0, "cpus": 1.0}
    finally:
        driver.close()
