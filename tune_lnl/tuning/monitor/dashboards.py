"""The web pages beside a search: Ray's dashboard, and Optuna's over the same study. Both on loopback alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tune_lnl.tuning.engine.auth import token_place
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.study.password import storage_password

if TYPE_CHECKING:
    from tune_lnl.tuning.study.database import StudyDatabase

LOOPBACK = "127.0.0.1"
STUDY_PORT = 8080
"""optuna-dashboard's own default; another free one where it is taken."""
END_SECONDS = 3.0


def ray_dashboard_line(url: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Where Ray's dashboard is and how to sign in; or that there is none.

    Args:
        url: host and port, as ``ray.init`` gives it; empty where the dashboard did not start.
        environment: as it is after ``ray.init``, which switches the asking for a token on.
    """
    if not url:
        return "  Ray dashboard: not started; pip install 'ray[default]' brings what it needs (or see search.log)"
    if environment.get("RAY_AUTH_MODE", "").lower() != "token":
        return f"  Ray dashboard: http://{url}"
    return f"  Ray dashboard: http://{url} (sign in with the token in {token_place(environment)})"


@contextmanager
def study_dashboard(
    files: RunFiles, tell: Callable[[str], None], database: StudyDatabase | None = None
) -> Iterator[None]:
    """optuna-dashboard over the run's study while the context lasts, where that package is installed.

    A process of its own that cannot write the study; it ends with this one, even where this one is killed.

    Args:
        database: that holds the study, if it is no file of the run; all studies there are then shown.
    """
    if find_spec("optuna_dashboard") is None:
        tell("  study dashboard: pip install 'tune_lnl[dashboard]' shows the study in the browser, too")
        yield
        return
    process = None
    with suppress(OSError), _listening(STUDY_PORT) as listening, files.driver_log.open("ab") as log:
        study = str(files.study) if database is None else database.url.render_as_string()
        process = _start(study, None if database is None else storage_password(), listening, log.fileno())
        tell(f"  study dashboard: http://{LOOPBACK}:{listening.getsockname()[1]} (Optuna's, to look at)")
    if process is None:
        tell("  study dashboard: could not be started")
    try:
        yield
    finally:
        if process is not None:
            _end(process)


def _listening(port: int) -> socket.socket:
    """A socket in wait, so that the address is known, and connections are kept, before anybody serves it."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((LOOPBACK, port))
    except OSError:
        found.bind((LOOPBACK, 0))
    found.listen()
    return found


def _start(study: str, password: str | None, listening: socket.socket, log: int) -> subprocess.Popen[bytes]:
    program = Path(__file__).parent.parent / "study" / "dashboard.py"
    process = subprocess.Popen(
        # As a file, without its folder on the path: it needs nothing of this package.
        [sys.executable, "-P", str(program), study, str(listening.fileno())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=log,
        pass_fds=(listening.fileno(),),
        start_new_session=True,  # Ctrl-C is for the search, which then ends this
    )
    # Not among the arguments or in the environment, where others could read it.
    assert process.stdin is not None
    process.stdin.write(f"{json.dumps(password)}\n".encode())
    process.stdin.flush()
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
