"""Each test names one thing of Optuna that is not promised and that this package relies on."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import sqlalchemy

from tune_lnl.tuning.study.optuna_compat import SCHEMA_MISMATCH, end_connections, given_params


def test_the_sentence_about_tables_of_another_version(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = optuna.storages.RDBStorage(url)
    end_connections(storage)
    with sqlalchemy.create_engine(url).begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v1.3.0.a'"))
    with pytest.raises(RuntimeError, match=SCHEMA_MISMATCH):
        optuna.storages.RDBStorage(url)


def test_the_engine_of_a_database(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    storage.get_all_studies()
    end_connections(storage)
    assert storage.engine.pool.checkedin() == 0  # type: ignore[attr-defined]


def test_where_settings_of_an_enqueued_trial_are_kept() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"x": 0.5})
    (waiting,) = study.trials
    assert given_params(waiting) == {"x": 0.5}
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.suggest_int("n", 1, 1)
    assert given_params(study.trials[0]) == {"x": 0.5, "n": 1}
