"""optuna-dashboard over a study file that it cannot change; a program of its own, so that it takes no time from Ray's
loop.

``python study_dashboard.py STUDY SOCKET``: serves on an inherited socket and ends when its standard input does, which
is when the search ends, whichever way.
"""

from __future__ import annotations

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
"""Training goes first."""


class ReadOnlyBackend(JournalFileBackend):
    """A journal for looking at; reading takes no lock."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise PermissionError("this study is shown, not changed: the search alone writes it")


def read_only(app: Wsgi) -> Wsgi:
    """Refuse every request that asks for a change, before it reaches the study."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in SAFE_METHODS:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"reason": "read-only: the search alone writes this study"}']

    return guarded


def study_app(study: str) -> Wsgi:
    from optuna_dashboard import wsgi

    app: Wsgi = wsgi(optuna.storages.JournalStorage(ReadOnlyBackend(study)))
    return read_only(app)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Requests are nobody's news."""


def serve(study: str, listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    server = _Server((host, port), _Silent, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.server_address = (host, port)
    server.server_name, server.server_port = host, port
    server.setup_environ()
    server.set_app(study_app(study))
    server.serve_forever()


def _end_with_standard_input() -> None:
    while sys.stdin.buffer.read(1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    os.nice(NICENESS)
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
