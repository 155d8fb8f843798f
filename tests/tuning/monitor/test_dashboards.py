"""optuna-dashboard over a study that it cannot change."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from study_servers import SECRET, database
from tiny_search import record_run, tiny_space

from tune_lnl.tuning.monitor import dashboards
from tune_lnl.tuning.monitor.dashboards import about_run, study_dashboard
from tune_lnl.tuning.runs.run import Run, load_run
from tune_lnl.tuning.study.dashboard import NamedStudy, ReadOnlyBackend, read_only_database
from tune_lnl.tuning.study.study import SearchStudy

PATIENCE = 60.0


def test_the_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboards, "find_spec", lambda name: None)
    lines: list[str] = []
    run = record_run(tmp_path)
    with study_dashboard(run.files, lines.append):
        pass
    (line,) = lines
    assert "pip install 'tune_lnl[dashboard]'" in line
    assert not run.files.driver_log.exists()


def test_the_journal_cannot_be_written(tmp_path: Path) -> None:
    run = record_run(tmp_path)
    before = run.files.study.read_bytes()
    backend = ReadOnlyBackend(str(run.files.study))
    with pytest.raises(PermissionError, match="read-only here"):
        backend.append_logs([{"op_code": 0}])
    assert run.files.study.read_bytes() == before
    assert list(backend.read_logs(0)) == list(JournalFileBackend(str(run.files.study)).read_logs(0))


def ask(port: int, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def port_of(line: str) -> int:
    return int(line.split("127.0.0.1:")[1].split()[0])


def gone(port: int) -> bool:
    try:
        http.client.HTTPConnection("127.0.0.1", port, timeout=5.0).connect()
    except OSError:
        return True
    return False


def wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def commands_below(parent: int) -> list[bytes]:
    """Of the processes that this one has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]


class TestServing:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("optuna_dashboard", reason="an extra: pip install 'tune_lnl[dashboard]'")

    @pytest.fixture
    def run(self, tmp_path: Path) -> Run:
        return record_run(tmp_path)

    def test_it_shows_the_study_changes_nothing_and_ends(self, run: Run) -> None:
        before = run.files.study.read_bytes()
        lines: list[str] = []
        with study_dashboard(run.files, lines.append):
            port = port_of(lines[0])
            status, body = ask(port, "GET", "/api/studies/0")
            assert status == 200
            shown = json.loads(body)
            assert [trial["state"] for trial in shown["trials"]] == [
                *("Complete", "Complete", "Pruned", "Fail", "Running", "Waiting")
            ][: len(run.trials)]
            assert ask(port, "GET", "/dashboard")[0] == 200
            for method, path in (
                ("POST", "/api/studies"),
                ("DELETE", "/api/studies/0"),
                ("PUT", "/api/studies/0/note"),
                ("POST", "/api/trials/4/tell"),
            ):
                status, body = ask(port, method, path, "{}")
                assert status == 403
                assert b"read-only" in body
            # The journal grows meanwhile: what is new is shown, and nobody waits for a lock.
            assert not list(run.files.root.glob("study.log.lock*"))
        assert run.files.study.read_bytes() == before
        assert gone(port)

    @pytest.mark.slow
    def test_studies_in_a_database(self, run: Run, database_url: str, tmp_path: Path) -> None:
        place = database(database_url)
        SearchStudy.create(place, tiny_space(tmp_path), 0).ask()
        lines: list[str] = []
        before = [trial.state for trial in place.read_trials()]
        with study_dashboard(run.files, lines.append, place):
            port = port_of(lines[0])
            status, body = ask(port, "GET", "/api/studies")
            assert (status, [study["study_name"] for study in json.loads(body)["study_summaries"]]) == (200, ["run"])
            assert ask(port, "POST", "/api/studies", "{}")[0] == 403
            assert all(SECRET.encode() not in command for command in commands_below(os.getpid()))
        place.release()
        assert [trial.state for trial in place.read_trials()] == before
        assert SECRET not in run.files.driver_log.read_text()
        # Whoever gets past the page is refused by the server.
        storage = read_only_database(place.url.render_as_string(), SECRET)
        with pytest.raises(optuna.exceptions.StorageInternalError) as refused:
            optuna.create_study(study_name="another", storage=storage)
        assert "read only" in str(refused.value.__cause__).lower().replace("-", " ")

    def test_its_port_is_taken(self, run: Run) -> None:
        lines: list[str] = []
        with study_dashboard(run.files, lines.append), study_dashboard(run.files, lines.append):
            first, second = map(port_of, lines)
            assert first != second
            assert ask(second, "GET", "/api/studies")[0] == 200

    def test_it_ends_with_a_search_that_is_killed(self, run: Run) -> None:
        program = (
            "import sys, time; from pathlib import Path\n"
            "from tune_lnl.tuning.monitor.dashboards import study_dashboard\n"
            "from tune_lnl.tuning.runs.layout import RunFiles\n"
            "with study_dashboard(RunFiles(Path(sys.argv[1])), lambda line: print(line, flush=True)):\n"
            "    time.sleep(600)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(run.files.root)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        port = port_of(process.stdout.readline())
        assert ask(port, "GET", "/api/studies")[0] == 200
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        wait(lambda: gone(port))
        assert load_run(run.files.root).trials == run.trials


def test_the_study_has_the_name_of_its_run_and_a_note(tmp_path: Path) -> None:
    run = record_run(tmp_path)
    about = about_run(run)
    assert about["name"] == "tiny"
    for part in ("## tiny", "a test", run.settings["command"], "report.html", "read-only"):
        assert part in about["note"]
    before = run.files.study.read_bytes()
    storage = NamedStudy(ReadOnlyBackend(str(run.files.study)), about["name"], about["note"])
    (study,) = storage.get_all_studies()
    assert study.study_name == "tiny"
    note = "".join(value for key, value in study.system_attrs.items() if key.startswith("dashboard:note_str:"))
    assert note == about["note"]
    assert not {"sampler_start", "first_trials"} & study.user_attrs.keys()
    loaded = optuna.load_study(study_name="tiny", storage=storage)
    assert len(loaded.trials) == len(run.trials)
    assert run.files.study.read_bytes() == before
