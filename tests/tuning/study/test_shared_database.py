"""Searches with their studies in one database: side by side, one of them killed and resumed, no secret anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from study_servers import SECRET, Postgres, end_server, new_server
from toy_runs import Driver, check_whole, spread, toy_method, write_toy

from tune_lnl.search import main as search
from tune_lnl.tuning.study.password import PASSWORD

EPOCHS = 6
TRIALS = 4

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    """A database server of the test's own, which may be stopped."""
    monkeypatch.setenv(PASSWORD, SECRET)
    toy_method()
    server = new_server()
    yield server
    end_server(server)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def begin(name: str, url: str, trials: int, **fixed: float) -> Driver:
        folder = tmp_path / name
        folder.mkdir()
        space = write_toy(folder, spread(trials), epochs=EPOCHS, fixed=dict(fixed), name=name)
        drivers.append(Driver(folder, space, "--storage", url, "--concurrent", "2"))
        return drivers[-1]

    yield begin
    for each in drivers:
        each.close()


def files_with(secret: str, *folders: Path) -> list[Path]:
    """Every file below that holds it, whatever its kind."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes():
                found.append(path)
    return found


def processes_that_show(secret: str, driver: Driver) -> list[str]:
    """Of a search: those with it among their arguments; and in their environment, where they are not the search."""
    shown = [process.command for process in driver.family() if secret in process.command]
    for process in driver.family():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue
        if secret.encode() in environment and process.pid != driver.process.pid:
            shown.append(f"environment of {process.command}")
    return shown


def test_two_searches_one_killed(
    server: Postgres, driver: Callable[..., Driver], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.new_database()
    first, second = driver("first", url, TRIALS, pause=0.6), driver("second", url, TRIALS, pause=0.6)
    first.start()
    second.start()
    first.wait(lambda: first.epochs_written() >= 4, "epochs of the first")
    second.wait(lambda: second.epochs_written() >= 4, "epochs of the second")
    temporary = [Path(folder) for each in (first, second) for folder in each.ray_folders()]
    assert len(temporary) == 2
    for each in (first, second):
        assert processes_that_show(SECRET, each) == []
    assert files_with(SECRET, tmp_path, *temporary) == []
    assert first.running
    first.kill_family()

    # The same study from another results folder: never by accident.
    stranger = tmp_path / "stranger"
    flags = ["--storage", url, "--results-dir", str(stranger), "--no-dashboard"]
    assert search([str(second.space), *flags]) == 2
    assert "holds a study 'second' already" in capsys.readouterr().err
    assert not stranger.exists()

    first.start("--storage", url)
    assert first.finish() == 0, first.text
    assert " finished" in first.text
    assert second.finish() == 0, second.text
    for each in (first, second):
        check_whole(each, trials=TRIALS, epochs=EPOCHS)
        assert not (each.files.root / "study.log").exists()
    attempts = [int(trial.user_attrs["attempts"]) for trial in first.run().trials]
    assert max(attempts) == 2
    assert files_with(SECRET, tmp_path) == []


def test_a_server_that_restarts_ends_the_search_which_resumes(server: Postgres, driver: Callable[..., Driver]) -> None:
    one = driver("one", server.new_database(), 4, pause=0.1)
    one.start()
    one.train_on(3)
    server.stop()
    assert one.finish() == 1, one.text
    assert "can no longer be written" in one.text
    assert "--resume" in one.text
    assert "Traceback" not in one.text
    server.start()
    assert one.start().finish() == 0, one.text
    check_whole(one, trials=4, epochs=EPOCHS)
    assert files_with(SECRET, one.folder) == []
