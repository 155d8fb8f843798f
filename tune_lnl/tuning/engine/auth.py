"""The token that a Ray cluster asks for, searched for in Ray's own order, and the line about Ray's dashboard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

TOKEN, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
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


def ray_dashboard_line(url: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return a line with the address of Ray's dashboard and how to sign in, or that it was not started.

    Args:
        url: host and port, as ``ray.init`` gives it; empty if the dashboard did not start.
        environment: as it is after ``ray.init``, which may turn the token on.
    """
    if not url:
        return "  Ray dashboard: not started; pip install 'ray[default]' brings what it needs (or see search.log)"
    if environment.get("RAY_AUTH_MODE", "").lower() != "token":
        return f"  Ray dashboard: http://{url}"
    return f"  Ray dashboard: http://{url} (sign in with the token in {token_place(environment)})"
