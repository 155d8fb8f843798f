"""Where Prometheus finds the metrics of every search that runs here: one folder that does not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tune_lnl.datasets.paths import cache_dir

RAY_FILE = "prom_metrics_service_discovery.json"
"""Ray's dashboard keeps it fresh, in its own temporary folder; its form is that of Prometheus' ``file_sd_configs``."""


def targets_folder() -> Path:
    """In the cache, beside the packed datasets: a Ray started for one search has a new folder every time, and
    Prometheus takes patterns for files only."""
    return cache_dir() / "prometheus"


@contextmanager
def discoverable(ray_folder: Path) -> Iterator[None]:
    """Link Ray's file of targets into :func:`targets_folder` while the context lasts; a cache that cannot be written is
    no reason to stop a search."""
    link = targets_folder() / f"{ray_folder.parent.name}.json"
    with suppress(OSError):
        targets_folder().mkdir(parents=True, exist_ok=True)
        _clear_dead(targets_folder())
        link.symlink_to(ray_folder / RAY_FILE)
    try:
        yield
    finally:
        with suppress(OSError):
            link.unlink(missing_ok=True)


def _clear_dead(folder: Path) -> None:
    """What a killed search has left. By its folder: Ray writes the file itself only some seconds after its start."""
    for link in folder.glob("*.json"):
        if link.is_symlink() and not link.readlink().parent.parent.exists():
            link.unlink(missing_ok=True)
