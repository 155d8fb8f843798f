"""A job server as Ray's, as far as submitting needs one: it keeps what it is sent, and plays back how the job goes."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class JobServer:
    """What the server was asked for and what it answers."""

    token: str | None = None
    version: str = "2.60.0"
    url: str = ""
    jobs: list[dict[str, Any]] = field(default_factory=list)
    packages: dict[str, bytes] = field(default_factory=dict)
    answers: Sequence[tuple[str, int | None, str]] = (("RUNNING", None, ""),)
    """(status, exit code, log) of the job, one per question; the last one stays."""
    authorizations: list[str | None] = field(default_factory=list)
    asked: int = 0

    def now(self) -> tuple[str, int | None, str]:
        return self.answers[min(self.asked, len(self.answers) - 1)]

    def files(self) -> dict[str, str]:
        """Of the one package that was sent."""
        (package,) = self.packages.values()
        with zipfile.ZipFile(io.BytesIO(package)) as archive:
            return {name: archive.read(name).decode() for name in archive.namelist() if not name.endswith("/")}

    def details(self, job: dict[str, Any]) -> dict[str, Any]:
        status, code, _ = job.get("answer") or self.now()
        kept = {name: job[name] for name in ("submission_id", "entrypoint", "metadata")}
        return {**kept, "type": "SUBMISSION", "status": status, "driver_exit_code": code, "message": job.get("message")}


class _Handler(BaseHTTPRequestHandler):
    state: JobServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the console."""

    def do_GET(self) -> None:
        if self.path == "/api/authentication_mode":
            return self.answer({"authentication_mode": "token" if self.state.token else "disabled"})
        if not self.allowed():
            return None
        if self.path == "/api/version":
            return self.answer({"version": "4", "ray_version": self.state.version, "ray_commit": ""})
        if self.path.startswith("/api/packages/"):
            found = self.path.rpartition("/")[2] in self.state.packages
            return self.answer({}, 200 if found else 404)
        if self.path == "/api/jobs/":
            return self.answer([self.state.details(job) for job in self.state.jobs])
        job = next(job for job in self.state.jobs if job["submission_id"] in self.path)
        if self.path.endswith("/logs"):
            log = self.state.now()[2]
            self.state.asked += 1
            return self.answer({"logs": log.replace("ENTRYPOINT", job["entrypoint"])})
        return self.answer(self.state.details(job))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.allowed():
            self.state.packages[self.path.rpartition("/")[2]] = body
            self.answer({})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.allowed():
            self.state.jobs.append(body)
            self.answer({"job_id": body["submission_id"], "submission_id": body["submission_id"]})

    def allowed(self) -> bool:
        given = self.headers.get("Authorization")
        self.state.authorizations.append(given)
        if self.state.token is None or given == f"Bearer {self.state.token}":
            return True
        self.answer({}, 403 if given else 401)
        return False

    def answer(self, body: Any, status: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def job_server(state: JobServer) -> Iterator[JobServer]:
    """Serve ``state`` on loopback; its ``url`` is then known."""
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
