"""The token that a Ray cluster asks for: where it is, in the order in which Ray itself looks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

TOKEN, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
DEFAULT_PATH = "~/.ray/auth_token"


def token_place(environment: Mapping[str, str] = os.environ) -> str:
    """Where the token is, or would be looked for; in words."""
    if environment.get(TOKEN):
        return f"the variable {TOKEN}"
    return environment.get(TOKEN_PATH) or DEFAULT_PATH


def read_token(environment: Mapping[str, str] = os.environ) -> str | None:
    """The token; ``None`` where there is none."""
    if environment.get(TOKEN):
        return environment[TOKEN].strip()
    try:
        return Path(token_place(environment)).expanduser().read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
