"""optuna-dashboard over a study that it cannot change; a program of its own, so that it takes no time from Ray's loop.

``python dashboard.py STUDY SOCKET`` shows a journal file, or the studies of a database by its URL. It serves on an
inherited socket and ends when its standard input does, which is when the search ends, whichever way. The first line of
its standard input is an object in JSON: ``password`` of the database, ``name`` and ``note`` of a journal's one study.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import optuna
from optuna.storages.journal import JournalFileBackend

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
SAFE_METHODS = ("GET", "HEAD")
OURS = ("sampler_start", "first_trials")
"""Attributes of the study that mean something to the search alone."""
NICENESS = 10
"""Lower priority than training."""


class ReadOnlyBackend(JournalFileBackend):
    """A journal that refuses to be written; reading takes no lock."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise PermissionError("this study is read-only here: the search alone writes it")


class NamedStudy(optuna.storages.JournalStorage):
    """A journal with one study, shown under another name and with a note; nothing of that is written."""

    def __init__(self, backend: JournalFileBackend, name: str, note: str) -> None:
        super().__init__(backend)
        self._name, self._note = name, note_attributes(note)

    def get_all_studies(self) -> list[Any]:  # of a type that no public module of Optuna has
        studies = super().get_all_studies()
        for study in studies:
            study.study_name = self._name
            study.system_attrs = {**study.system_attrs, **self._note}
            study.user_attrs = {name: value for name, value in study.user_attrs.items() if name not in OURS}
        return studies

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._name

    def get_study_id_from_name(self, study_name: str) -> int:
        (study,) = super().get_all_studies()
        return super().get_study_id_from_name(study.study_name)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return {**super().get_study_system_attrs(study_id), **self._note}


def note_attributes(note: str) -> dict[str, Any]:
    """Return the attributes of a study in which optuna-dashboard keeps this note."""
    from optuna_dashboard import save_note

    storage = optuna.storages.InMemoryStorage()
    study_id = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "note")
    save_note(optuna.load_study(study_name="note", storage=storage), note)
    return storage.get_study_system_attrs(study_id)


def read_only(app: Wsgi, first: str | None = None) -> Wsgi:
    """Refuse every request that asks for a change, before it reaches the study.

    Args:
        first: path to which the root leads.
    """

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in SAFE_METHODS:
            if first is not None and environ["PATH_INFO"] in ("", "/"):
                start_response("302 Found", [("Location", first)])
                return [b""]
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"reason": "read-only: the search alone writes this study"}']

    return guarded


def read_only_database(url: str, password: str | None) -> optuna.storages.BaseStorage:
    """Return the studies of a database, on connections that the server keeps from changing anything."""
    from sqlalchemy import make_url
    from sqlalchemy.pool import NullPool

    options = f"{make_url(url).query.get('options', '')} -c default_transaction_read_only=on"
    arguments = {"options": options} | ({} if password is None else {"password": password})
    return optuna.storages.RDBStorage(
        url.replace("{", "{{").replace("}", "}}"),
        {"connect_args": arguments, "poolclass": NullPool},
        skip_table_creation=True,
    )


def study_app(study: str, known: Mapping[str, str | None] | None = None) -> Wsgi:
    """Return the dashboard of a study.

    Args:
        study: path of a journal, or URL of a database.
        known: ``password``, ``name`` and ``note``.
    """
    from optuna_dashboard import wsgi

    known = known or {}
    if "://" in study:
        app: Wsgi = wsgi(read_only_database(study, known.get("password")))
        return read_only(app)
    name, note = known.get("name"), known.get("note") or ""
    backend = ReadOnlyBackend(study)
    storage = optuna.storages.JournalStorage(backend) if name is None else NamedStudy(backend, name, note)
    app = wsgi(storage)
    return read_only(app, "/dashboard/studies/0")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing about requests."""


def serve(study: str, listening: socket.socket, known: Mapping[str, str | None] | None = None) -> None:
    host, port = listening.getsockname()[:2]
    server = _Server((host, port), _Silent, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.server_address = (host, port)
    server.server_name, server.server_port = host, port
    server.setup_environ()
    server.set_app(study_app(study, known))
    server.serve_forever()


def _end_with_standard_input() -> None:
    while sys.stdin.buffer.read(1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    os.nice(NICENESS)
    told: dict[str, str | None] | None = json.loads(sys.stdin.buffer.readline() or b"null")
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])), told)
