from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from study_servers import KINDS, SECRET, StudyServer, end_server, new_server

from tune_lnl.tuning.storage_password import PASSWORD


@pytest.fixture(scope="session")
def study_server() -> Iterator[Callable[[str], StudyServer]]:
    """A server of each kind that is asked for, for all tests that only use it; skips where it is not installed."""
    servers: dict[str, StudyServer] = {}

    def server(kind: str) -> StudyServer:
        if kind not in servers:
            servers[kind] = new_server(kind)
        return servers[kind]

    yield server
    for each in servers.values():
        end_server(each)


@pytest.fixture(params=sorted(KINDS))
def database_url(
    request: pytest.FixtureRequest, study_server: Callable[[str], StudyServer], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The URL of an empty database, its password in the environment."""
    monkeypatch.setenv(PASSWORD, SECRET)
    return study_server(request.param).new_database()


@pytest.fixture
def postgresql_url(study_server: Callable[[str], StudyServer], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(PASSWORD, SECRET)
    return study_server("postgresql").new_database()
