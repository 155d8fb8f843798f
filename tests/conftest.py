from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from study_servers import Postgres

if TYPE_CHECKING:
    from s3_server import S3Server


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Put packed datasets into a temporary folder, never into the user's cache.

    Test processes that run at once share one cache: a lock lets one of them pack a dataset while the others wait.
    """
    before = os.environ.get("TUNE_LNL_CACHE")
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = tmp_path_factory.getbasetemp().parent / "cache"
        folder.mkdir(exist_ok=True)
    else:
        folder = tmp_path_factory.mktemp("cache")
    os.environ["TUNE_LNL_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["TUNE_LNL_CACHE"]
    else:
        os.environ["TUNE_LNL_CACHE"] = before


@pytest.fixture(autouse=True)
def _emulated_bf16_will_do(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept bf16 on processors that emulate it: it is slower there, which is fine for these tests."""
    if request.path.parent.name in ("training", "config"):
        from tune_lnl.training import loop as training

        monkeypatch.setattr(training, "has_bf16", lambda device: True)


@pytest.fixture
def checkpoint_after_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of this process write a checkpoint after every epoch and wait for it, however young the last one is."""
    from tune_lnl.training.checkpoint import CheckpointWriter

    keep = CheckpointWriter.keep
    monkeypatch.setattr(CheckpointWriter, "keep", lambda self, content, now=False: keep(self, content, True))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for all tests that do not stop it; skips where it is not installed."""
    from study_servers import end_server, new_server

    server = new_server()
    yield server
    end_server(server)


@pytest.fixture
def database_url(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of an empty database; its password is in the environment."""
    from study_servers import SECRET

    from tune_lnl.tuning.study.password import PASSWORD

    monkeypatch.setenv(PASSWORD, SECRET)
    return postgres.new_database()


ENDED: dict[str, int] = {}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    ENDED["status"] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Skip the interpreter's teardown if Ray ran in this process.

    Ray's native threads outlive its last session. After several sessions in one process they crashed while the
    interpreter freed the objects they read: all tests had passed, and the exit code was 139. A search has one session.
    """
    ray = sys.modules.get("ray")
    if ray is None or "status" not in ENDED:
        return
    ray.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ENDED["status"])


@pytest.fixture(scope="session")
def _s3_of_this_process() -> Iterator[S3Server]:
    from s3_server import S3Server

    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(_s3_of_this_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """Return a running S3 server; its credentials are in the environment."""
    from s3_server import CREDENTIALS

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    yield _s3_of_this_process
    _s3_of_this_process.away = False
