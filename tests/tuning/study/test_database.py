from __future__ import annotations

import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from study_servers import SECRET, Postgres, database, end_server, free_port, new_server, wait_for
from tiny_search import EPOCHS, TINY, tiny_plan, tiny_space, write_space

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.errors import InputError
from tune_lnl.export import main as export
from tune_lnl.files import replace_text
from tune_lnl.logs import main as logs
from tune_lnl.search import main as search
from tune_lnl.tuning.study import database as module
from tune_lnl.tuning.study.database import StudyDatabase, parse_storage, shown_url
from tune_lnl.tuning.study.password import PASSWORD, password_hidden, storage_password
from tune_lnl.tuning.study.place import StudyLostError
from tune_lnl.tuning.study.study import SearchStudy
from tune_lnl.tuning.study.trials import TrialState


class TestAddresses:
    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ("postgresql://ann@db.lab:5433/team", "postgresql://ann@db.lab:5433/team"),
            ("postgres://ann@db.lab/team", "postgresql://ann@db.lab/team"),
            ("postgresql+psycopg://db.lab/team", "postgresql://db.lab/team"),
            ("postgresql://ann@/team?host=/run/db", "postgresql://ann@/team?host=%2Frun%2Fdb"),
        ],
    )
    def test_what_is_understood(self, given: str, shown: str) -> None:
        url = parse_storage(given)
        assert url.drivername == "postgresql+psycopg"
        assert shown_url(url) == shown
        assert parse_storage(shown_url(url)) == url

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("study.db", "is no URL"),
            ("sqlite:///team.db", "Leave --storage out"),
            ("oracle://ann@db/team", "got oracle://..."),
            ("mysql://ann@db/team", "got mysql://...: MySQL and MariaDB are no longer supported. Use a PostgreSQL"),
            ("mariadb://ann@db/team", "got mariadb://...: MySQL and MariaDB are no longer supported"),
            ("mysql+pymysql://ann@db/team", "MySQL and MariaDB are no longer supported"),
            ("postgresql://ann@db", "name of the database is missing"),
            ("postgresql://ann@db:port/team", "port a number"),
        ],
    )
    def test_what_is_refused(self, given: str, said: str) -> None:
        with pytest.raises(InputError, match=re.escape(said)):
            parse_storage(given)

    @pytest.mark.parametrize(
        "given",
        [
            "postgresql://ann:{}@db/team",
            "mysql://ann:{}@db/team",
            "postgresql://ann@db/team?password={}",
            "postgresql://ann@db/team?sslpassword={}",
            "sqlite://ann:{}@db/team",
            "other://ann:{}@db/team",
            "ann:{}@db/team",
            "postgresql://ann:{}@db:port/team",
        ],
    )
    def test_a_secret_is_refused_and_not_repeated(self, given: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Whatever else is wrong with the address."""
        assert search(["act_digits8no", "--storage", given.format("hunter2hunter2"), "--dry-run"]) == 2
        said = capsys.readouterr()
        assert "hunter2" not in said.out + said.err
        assert "--storage" in said.err

    def test_a_missing_driver_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"needs the package psycopg: pip install 'tune_lnl\[storage\]'"):
            StudyDatabase(parse_storage("postgresql://ann@db/team"), "run", "r1")


class TestPassword:
    def test_hidden_from_what_is_started_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PASSWORD, "hunter2")
        with password_hidden():
            assert PASSWORD not in os.environ
            assert storage_password() == "hunter2"
            with password_hidden():
                assert storage_password() == "hunter2"
        assert os.environ[PASSWORD] == "hunter2"

    def test_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(PASSWORD, raising=False)
        with password_hidden():
            assert storage_password() is None
        assert PASSWORD not in os.environ


def test_no_server_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "hunter2hunter2")
    results = tmp_path / "results"
    address = f"postgresql://ann@127.0.0.1:{free_port()}/team"
    assert search([str(write_space(tmp_path)), "--storage", address, "--results-dir", str(results)]) == 2
    said = capsys.readouterr().err
    assert f"the study in {address} cannot be opened" in said
    assert "is the server running" in said
    assert "hunter2" not in said
    assert not results.exists()


@pytest.fixture
def place(database_url: str) -> Iterator[StudyDatabase]:
    place = database(database_url)
    yield place
    place.release()


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as refused:
        act()
    assert SECRET not in str(refused.value)
    return str(refused.value)


@pytest.mark.slow
class TestRefusals:
    def test_a_wrong_password_or_none(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        place = database(database_url)
        monkeypatch.setenv(PASSWORD, "wrong-one")
        for act in (place.exists, place.acquire, place.read_trials):
            said = refusal(act)
            assert f"the password in {PASSWORD} right?" in said
            assert "wrong-one" not in said
        monkeypatch.delenv(PASSWORD)
        assert f"It is given in the variable {PASSWORD}" in refusal(place.acquire)

    def test_rights_are_missing(self, postgres: Postgres, database_url: str, tmp_path: Path) -> None:
        """PostgreSQL lets only the owner of a database make tables there."""
        name = f"guest{uuid.uuid4().hex[:8]}"
        postgres.execute(f"CREATE USER {name} PASSWORD '{SECRET}'")
        guest = database(database_url.replace("tuner@", f"{name}@"))
        said = refusal(guest.acquire)
        assert "permission denied" in said
        assert "give its user the right to create and to write tables" in said
        # With tables that it may only read, it reads, and does not write.
        owner = database(database_url)
        SearchStudy.create(owner, tiny_space(tmp_path), 0)
        owner.release()
        postgres.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}", database_url.rpartition("/")[2])
        assert len(guest.read_trials()) == 2
        assert "give its user the right" in refusal(guest.acquire)

    def test_a_study_of_that_name(self, place: StudyDatabase, database_url: str, tmp_path: Path) -> None:
        place.check(begun=False, has_trials=False)
        place.check(begun=True, has_trials=False)  # killed before its study existed
        assert "holds no study 'run', though the run has trials" in refusal(lambda: place.check(True, True))
        SearchStudy.create(place, tiny_space(tmp_path), 0)
        place.check(begun=True, has_trials=True)
        assert "holds a study 'run' already" in refusal(lambda: place.check(False, False))
        stranger = database(database_url, run_id="r2")
        assert "begun by a run in another results folder" in refusal(lambda: stranger.check(True, False))
        place.release()
        said = refusal(lambda: SearchStudy.reopen(stranger, tiny_space(tmp_path), 0))
        stranger.release()
        assert "begun by a run in another results folder" in said

    def test_tables_of_another_optuna(self, place: StudyDatabase, database_url: str) -> None:
        place.acquire()
        place.release()
        with sqlalchemy.create_engine(parse_storage(database_url).set(password=SECRET)).begin() as connection:
            connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v1.3.0.a'"))
        assert "made by another version of Optuna" in refusal(place.acquire)


@pytest.mark.slow
class TestOneWriter:
    def test_another_is_refused_until_the_first_is_gone(self, place: StudyDatabase, database_url: str) -> None:
        other = database(database_url)
        assert not other.is_held()
        place.acquire()
        assert other.is_held()
        assert "is being run by another process" in refusal(other.acquire)
        neighbour = database(database_url, name="other")
        neighbour.acquire()
        neighbour.release()
        place.release()
        wait_for(lambda: not other.is_held(), "the lock to go")
        other.acquire()
        other.release()

    def test_two_that_make_the_tables_at_once(self, database_url: str) -> None:
        places = [database(database_url, name) for name in ("a", "b", "c")]
        failures: list[BaseException] = []

        def begin(place: StudyDatabase) -> None:
            try:
                place.acquire()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=begin, args=(place,)) for place in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for place in places:
            place.release()
        assert not failures


@pytest.mark.slow
def test_a_search_as_plain_optuna_sees_it(place: StudyDatabase, database_url: str, tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    study = SearchStudy.create(place, space, 0)
    asked = [study.ask() for _ in range(5)]
    assert [suggestion.params for suggestion in asked[:2]] == TINY["start"]
    for number in range(4):
        for epoch in range(EPOCHS if number == 0 else 3):
            study.report(number, epoch, float(epoch))
            study.report(number, epoch, -1.0)  # sent twice
    study.complete(0, 5.0, 1.25)
    study.prune(1, 2.5)
    study.fail(2, "diverged", "not finite at epoch 3")
    study.note(3, "seen")
    study.wait(3)
    place.release()

    storage = optuna.storages.RDBStorage(place.url.set(password=SECRET).render_as_string(False))
    plain = optuna.load_study(study_name="run", storage=storage)
    assert plain.direction == optuna.study.StudyDirection.MAXIMIZE
    assert [trial.state.name for trial in plain.trials] == ["COMPLETE", "PRUNED", "FAIL", "WAITING", "RUNNING"]
    assert [trial.value for trial in plain.trials] == [5.0, 2.0, None, None, None]
    assert plain.trials[0].intermediate_values == {epoch: float(epoch) for epoch in range(EPOCHS)}

    again = SearchStudy.reopen(database(database_url), space, 0)
    assert [again.count(state) for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)] == [1, 1, 1]
    for before in asked[3:]:
        now = again.ask()
        assert (now.number, now.params, now.attempt) == (before.number, before.params, 2)
    assert again.noted(3, "seen")
    assert again.ask().number == 5
    again.place.release()


@pytest.mark.slow
class TestLosingTheLock:
    """A search that cannot be sure to be the only writer ends; another one continues the study."""

    def test_with_the_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PASSWORD, SECRET)
        server = new_server()
        try:
            url = server.new_database()
            study = SearchStudy.create(database(url), tiny_space(tmp_path), 0)
            number = study.ask().number
            server.stop()
            with pytest.raises(StudyLostError, match="can no longer be written") as lost:
                study.report(number, 0, 1.0)
            assert SECRET not in str(lost.value)
            server.start()
            with pytest.raises(StudyLostError):
                study.wait(number)  # also when the server is back: another process may have written meanwhile
            study.place.release()
            again = SearchStudy.reopen(database(url), tiny_space(tmp_path), 0)
            assert (again.ask().number, again.epochs(number)) == (number, 0)
            again.place.release()
        finally:
            end_server(server)

    def test_while_another_takes_over(self, postgres: Postgres, database_url: str, tmp_path: Path) -> None:
        study = SearchStudy.create(database(database_url), tiny_space(tmp_path), 0)
        number = study.ask().number
        # As where the network to this machine is gone and the server has noticed.
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'",
            database_url.rpartition("/")[2],
        )
        taken = SearchStudy.reopen(database(database_url), tiny_space(tmp_path), 0)
        assert taken.ask().number == number
        with pytest.raises(StudyLostError):
            study.report(number, 0, 99.0)
        taken.report(number, 0, 1.0)
        assert database(database_url).read_trials()[number].intermediate_values == {0: 1.0}
        for each in (study, taken):
            each.place.release()


@pytest.mark.slow
def test_a_plan_over_a_database(database_url: str, tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, storage=database_url)
    assert isinstance(plan.place, StudyDatabase)
    stored = plan.settings()["storage"]
    assert (stored["url"], stored["study"]) == (database_url, plan.run)
    assert SECRET not in str(plan.settings())
    assert plan.space.epochs == EPOCHS


@pytest.mark.slow
def test_what_reads_a_run(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny_plan(tmp_path, storage=database_url)
    plan.files.root.mkdir(parents=True)
    replace_text(plan.files.settings, dump_yaml(plan.settings()))
    study = SearchStudy.create(plan.place, plan.space, plan.seed)
    number = study.ask().number
    for epoch in range(EPOCHS):
        study.report(number, epoch, float(epoch))
    study.complete(number, 5.0, 0.5)
    results = ["--results-dir", str(tmp_path / "results")]
    assert search(["--runs", *results]) == 0
    assert "running" in capsys.readouterr().out
    study.place.release()
    assert search(["--runs", *results]) == 0
    assert "interrupted" in capsys.readouterr().out
    assert export([plan.run, "--format", "json", *results]) == 0
    assert [trial["value"] for trial in json.loads(capsys.readouterr().out)["trials"]] == [5.0]
    assert logs([plan.run, "0", *results]) == 0
    monkeypatch.delenv(PASSWORD)
    assert export([plan.run, *results]) == 2
    assert f"It is given in the variable {PASSWORD}" in capsys.readouterr().err
    assert not [path for path in plan.files.root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
