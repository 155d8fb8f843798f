"""The report of a run as a page that refreshes itself, served on loopback alone, behind a token."""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from http import HTTPStatus
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tune_lnl.reporting.page import run_page
from tune_lnl.reporting.run_data import view_run
from tune_lnl.tuning.monitor.from_disk import Moment, Watched
from tune_lnl.tuning.runs.run import load_run

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
REFRESH_SECONDS = 15
COOKIE = "tune-lnl"


class LivePage:
    """The report of a run, made again when its study has changed."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._lock = threading.Lock()
        self._made: tuple[int, str] | None = None

    def now(self) -> tuple[str, bool]:
        """Return (the page, whether the run is still running)."""
        with self._lock:  # one at a time: a page of 500 trials takes a second
            moment: Moment = self._watched.now()
            if self._made is None or self._made[0] != moment.version:
                run = load_run(self._watched.run.files.root)
                self._made = moment.version, run_page(view_run(run), datetime.now(), beside=False)
            return self._made[1], moment.state == "running"


@contextmanager
def served_page(watched: Watched, port: int = 0) -> Iterator[str]:
    """Serve the page while the context lasts; give its address.

    Only requests with the token are answered: any user of this machine reaches a port of it. The token comes with the
    address, and then as a cookie.

    Args:
        port: 0: a free one.
    """
    token = secrets.token_urlsafe(16)
    page = LivePage(watched)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            asked = urlsplit(self.path)
            if asked.path != "/":
                self._send(HTTPStatus.NOT_FOUND, "not found\n", "text/plain", body)
                return
            given = parse_qs(asked.query).get("token", [""])[0] or _cookie(self.headers.get("Cookie", ""))
            if not hmac.compare_digest(given.encode(), token.encode()):
                text = "the address that tune-lnl watch has printed ends with a token; open that\n"
                self._send(HTTPStatus.FORBIDDEN, text, "text/plain", body)
                return
            try:
                text, running = page.now()
            except Exception as error:  # a run that is being written, or was deleted: the next refresh asks again
                logger.exception("the page could not be made")
                self._send(
                    HTTPStatus.SERVICE_UNAVAILABLE, f"{type(error).__name__}: {error}\n", "text/plain", body, True
                )
                return
            self._send(HTTPStatus.OK, text, "text/html", body, running)

        def _send(self, status: HTTPStatus, text: str, kind: str, body: bool, refresh: bool = False) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Frame-Options", "DENY")
            self.send_header("Referrer-Policy", "no-referrer")
            if refresh:
                self.send_header("Refresh", str(REFRESH_SECONDS))
            if status == HTTPStatus.OK:
                self.send_header("Set-Cookie", f"{COOKIE}={token}; HttpOnly; SameSite=Strict")
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing about requests."""

    server = ThreadingHTTPServer((LOOPBACK, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="page", daemon=True).start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}/?token={token}"
    finally:
        server.shutdown()
        server.server_close()


def _cookie(header: str) -> str:
    found = SimpleCookie(header).get(COOKIE)
    return "" if found is None else found.value


def follow(watched: Watched, show: Callable[[Moment], None], every: float) -> Moment:
    """Show the present moment again and again until the run is no longer running; return the last one."""
    while True:
        moment = watched.now()
        show(moment)
        if moment.state != "running":
            return moment
        time.sleep(every)
