"""The token that a Ray asks for: that of a cluster, searched for in Ray's own order, and that of a local search.

Whoever has the token of a Ray can run code on it, as the user who started it. Ray itself writes the token of a local
start to ``~/.ray/auth_token`` with the permissions of any file: every user of the machine can read it.
"""

from __future__ import annotations

import os
import secrets
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tune_lnl.tuning.engine.environment import environment_restored

TOKEN, TOKEN_PATH, MODE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"
DEFAULT_PATH = "~/.ray/auth_token"
LOOPBACK = "127.0.0.1"


def token_place(environment: Mapping[str, str] = os.environ) -> str:
    """Return where the token is, or would be looked for, in words."""
    if environment.get(TOKEN):
        return f"the variable {TOKEN}"
    return environment.get(TOKEN_PATH) or DEFAULT_PATH


def read_token(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the token, or ``None`` if there is none."""
    if environment.get(TOKEN):
        return environment[TOKEN].strip()
    try:
        return Path(token_place(environment)).expanduser().read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def token_command(environment: Mapping[str, str] = os.environ) -> str:
    """Return the shell command that prints the token."""
    if environment.get(TOKEN):
        return f'echo "${TOKEN}"'
    place = environment.get(TOKEN_PATH)
    return f"cat {DEFAULT_PATH if not place else shlex.quote(place)}"


def ray_dashboard_line(url: str | None, environment: Mapping[str, str] = os.environ, job: str | None = None) -> str:
    """Return a line with the address of Ray's dashboard and how to sign in, or that it was not started.

    Args:
        job: id of this process's job: the address then leads to it, and to its trials.
        url: host and port, as ``ray.init`` gives it; empty if the dashboard did not start.
        environment: as it is after ``ray.init``, which may turn the token on.
    """
    if not url:
        return "  Ray dashboard: not started; pip install 'ray[default]' brings what it needs (or see search.log)"
    page = "" if job is None else f"/#/jobs/{job}"
    if environment.get("RAY_AUTH_MODE", "").lower() != "token":
        return f"  Ray dashboard: http://{url}{page}"
    return (
        f"  Ray dashboard: http://{url}{page}\n"
        f"    sign in with the token in {token_place(environment)}; this prints it:\n"
        f"    {token_command(environment)}"
    )


@contextmanager
def private_token(folder: Path, tell: Callable[[str], None], reread: Callable[[], None]) -> Iterator[None]:
    """Make a Ray that starts meanwhile ask for a token that no other user of the machine can read.

    A token that the user has named in a variable is used; otherwise the Ray gets one of its own, which lies in
    ``folder`` and ends with it. Token files that others can read are made private, and the user is told.

    Args:
        folder: private to this user.
        tell: prints a warning.
        reread: makes Ray read its variables again.
    """
    for path in {token_place(), DEFAULT_PATH}:
        make_private(Path(path).expanduser(), tell)
    try:
        with environment_restored(TOKEN_PATH, MODE):
            if os.environ.get(MODE, "").lower() == "disabled":
                tell(
                    f"warning: {MODE}=disabled: every user of this machine can run code as you while this search runs; "
                    "unset it"
                )
            else:
                os.environ[MODE] = "token"
                if not os.environ.get(TOKEN) and not os.environ.get(TOKEN_PATH):
                    own = folder / "token"
                    own.touch(mode=0o600, exist_ok=False)
                    own.write_text(secrets.token_hex(32), encoding="ascii")
                    os.environ[TOKEN_PATH] = str(own)
            reread()
            yield
    finally:
        reread()


def make_private(path: Path, tell: Callable[[str], None]) -> None:
    """Take a token file's permissions away from other users; tell where there were any, or they cannot be changed."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if not path.is_file() or not mode & 0o077:
            return
        path.chmod(0o600)
    except FileNotFoundError:
        return
    except OSError as error:
        tell(f"warning: whether other users can read the Ray token {path} cannot be seen or changed: {error.strerror}")
        return
    tell(
        f"warning: other users could read the Ray token {path} (mode {mode:03o}); it is 600 now. Where it opens a "
        "cluster, make a new one: ray get-auth-token --generate"
    )
