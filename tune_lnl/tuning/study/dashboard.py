"""optuna-dashboard over a study that it cannot change; a program of its own, so that it takes no time from Ray's loop.

``python dashboard.py STUDY SOCKET`` shows a journal file, or the studies of a database by its URL. It serves on an
inherited socket and ends when its standard input does, which is when the search ends, whichever way. The first line of
its standard input is the database's password in JSON, or null.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import optuna
from optuna.storages.journal import JournalFileBackend

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
SAFE_METHODS = ("GET", "HEAD")
NICENESS = 10
"""Lower priority than training."""


class ReadOnlyBackend(JournalFileBackend):
    """A journal that refuses to be written; reading takes no lock."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise PermissionError("this study is read-only here: the search alone writes it")


def read_only(app: Wsgi) -> Wsgi:
    """Refuse every request that asks for a change, before it reaches the study."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in SAFE_METHODS:
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


def study_app(study: str, password: str | None = None) -> Wsgi:
    from optuna_dashboard import wsgi

    if "://" in study:
        storage = read_only_database(study, password)
    else:
        storage = optuna.storages.JournalStorage(ReadOnlyBackend(study))
    app: Wsgi = wsgi(storage)
    return read_only(app)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing about requests."""


def serve(study: str, listening: socket.socket, password: str | None = None) -> None:
    host, port = listening.getsockname()[:2]
    server = _Server((host, port), _Silent, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.server_address = (host, port)
    server.server_name, server.server_port = host, port
    server.setup_environ()
    server.set_app(study_app(study, password))
    server.serve_forever()


def _end_with_standard_input() -> None:
    while sys.stdin.buffer.read(1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    os.nice(NICENESS)
    secret: str | None = json.loads(sys.stdin.buffer.readline() or b"null")
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])), secret)
