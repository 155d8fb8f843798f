"""``epochs.jsonl``: the metrics of a trial, one line of JSON per epoch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tune_lnl.errors import InputError

LARGEST_EPOCH = 10**9


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """Return per-epoch reports in order; of an epoch that several attempts ran, the latest attempt's.

    A line that is no report (torn by a killed worker, or edited) is left out.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; make it readable, or delete it") from None
    reports: dict[int, dict[str, Any]] = {}
    for line in text.split("\n"):
        report = _epoch_report(line)
        if report is None:
            continue
        known = reports.get(int(report["epoch"]))
        if known is None or report.get("attempt", 1) >= known.get("attempt", 1):
            reports[int(report["epoch"])] = report
    return [reports[epoch] for epoch in sorted(reports)]


def _epoch_report(line: str) -> dict[str, Any] | None:
    """Return the report in a line of ``epochs.jsonl``: numbers by name; ``None`` where it is none."""
    try:
        report = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(report, dict) or not all(_is_number(report.get(key, 1)) for key in ("epoch", "attempt")):
        return None
    epoch = report.get("epoch", -1)
    if epoch != int(epoch) or not 0 <= epoch < LARGEST_EPOCH:
        return None
    return {name: value for name, value in report.items() if value is None or _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
