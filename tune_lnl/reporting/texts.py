"""Values as text: as a person writes them, short enough for a table or an axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def number(value: float, digits: int = 3) -> str:
    """Write a number as short as ``digits`` significant digits allow: ``0.002``, ``1e-05``, ``12``."""
    return f"{value:.{digits}g}"


def setting(value: Any) -> str:
    """Write a setting's value as a person would."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return number(value, 4)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {setting(inner)}" for key, inner in value.items())
    return ", ".join(map(setting, value)) if isinstance(value, list | tuple) else str(value)


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
