"""The page on which a person judges held-out images: a server on this machine alone, behind a random token.

The page gets the images, the names of the classes and the answers so far, and nothing of the trials or labels.
"""

from __future__ import annotations

import io
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.errors import InputError
from tune_lnl.reporting.rendering import safe

PAGE = Path(__file__).with_name("judging.html")
LONGEST_REQUEST = 10_000
"""Bytes."""


def png(image: NDArray[np.uint8]) -> bytes:
    """Return an image uint8 (h, w, 1 or 3) as a PNG file."""
    from PIL import Image

    memory = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(memory, "PNG")
    return memory.getvalue()


class Page:
    """The page and its state.

    Args:
        run: name of the run.
        classes: their names, as answers.
        ids: of the images, in the order of showing.
        answers: by id; :meth:`save` of the caller adds to it.
        picture: gives the PNG of an image.
        save: keeps an answer; raises InputError for what is none.
        finish: gives the outcome, a sentence a line.
    """

    def __init__(
        self,
        run: str,
        classes: Sequence[str],
        ids: Sequence[int],
        answers: dict[int, str],
        picture: Callable[[int], bytes],
        save: Callable[[int, str], None],
        finish: Callable[[], list[str]],
    ) -> None:
        self.run = run
        self.classes = classes
        self.ids = ids
        self.answers = answers
        self.picture = picture
        self.save = save
        self.finish = finish
        self.token = secrets.token_urlsafe(24)
        self.lock = threading.Lock()
        self.over = threading.Event()

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve the page on a free port of the loopback interface; give its URL."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="judging page", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/{self.token}/"
        finally:
            server.shutdown()
            server.server_close()

    def wait(self) -> None:
        """Wait until the person ends the page."""
        while not self.over.wait(0.5):
            pass

    def state(self) -> dict[str, Any]:
        """Return what the page's script shows."""
        images = [{"id": id_, "answer": self.answers.get(id_, "")} for id_ in self.ids]
        return {"run": self.run, "classes": list(self.classes), "images": images}


def _handler(page: Page) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self._own_path()
            if path == "":
                nonce = secrets.token_urlsafe(16)
                text = PAGE.read_text(encoding="utf-8").replace("{{nonce}}", nonce).replace("{{run}}", safe(page.run))
                self._reply(text.encode(), "text/html; charset=utf-8", nonce)
            elif path == "state":
                with page.lock:
                    self._json(page.state())
            elif path is not None and path.startswith("image/") and path.removeprefix("image/").isdecimal():
                id_ = int(path.removeprefix("image/"))
                if id_ in page.ids:
                    self._reply(page.picture(id_), "image/png")
                else:
                    self._refuse(HTTPStatus.NOT_FOUND)
            else:
                self._refuse(HTTPStatus.NOT_FOUND)

        def do_POST(self) -> None:
            path = self._own_path()
            if path not in ("answer", "finish"):
                self._refuse(HTTPStatus.NOT_FOUND)
                return
            length = self.headers.get("Content-Length", "")
            if self.headers.get_content_type() != "application/json" or not length.isdecimal():
                self._refuse(HTTPStatus.BAD_REQUEST)
                return
            if int(length) > LONGEST_REQUEST:
                self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                return
            try:
                given = json.loads(self.rfile.read(int(length)))
                with page.lock:
                    if path == "finish":
                        self._json({"lines": page.finish()})
                        page.over.set()
                        return
                    if given["id"] not in page.ids:
                        raise InputError("no such image")
                    page.save(given["id"], given["answer"])
                    self._json({"saved": True})
            except (ValueError, KeyError, TypeError) as error:  # InputError is a ValueError
                self._json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
            except OSError as error:
                self._json({"error": f"not saved: {error.strerror}"}, HTTPStatus.INTERNAL_SERVER_ERROR)

        def _own_path(self) -> str | None:
            """Return the part of the path after the token; ``None`` without it, or for another host name."""
            host = self.headers.get("Host", "").rpartition(":")[0]
            parts = self.path.split("/", 2)
            known = len(parts) == 3 and secrets.compare_digest(parts[1].encode(), page.token.encode())
            # Another name for this address is a page of someone else that was pointed here (DNS rebinding).
            return parts[2] if known and host in ("127.0.0.1", "localhost") else None

        def _json(self, content: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
            self._reply(json.dumps(content).encode(), "application/json", status=status)

        def _refuse(self, status: HTTPStatus) -> None:
            self._reply(status.phrase.encode(), "text/plain; charset=utf-8", status=status)

        def _reply(self, body: bytes, kind: str, nonce: str = "", status: HTTPStatus = HTTPStatus.OK) -> None:
            own = f" script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}';" if nonce else ""
            self.send_response(status)
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
                (
                    "Content-Security-Policy",
                    f"default-src 'none';{own} img-src 'self'; connect-src 'self'; base-uri 'none'; "
                    "form-action 'none'; frame-ancestors 'none'",
                ),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing per request."""

    return Handler
