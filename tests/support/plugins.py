"""Installing small packages into a folder as pip would leave them, without pip or a network."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "plugin_example"


def install_example(site: Path) -> Path:
    """The example package, under ``site``, with the entry points of its pyproject.toml."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    shutil.copytree(EXAMPLE / "lnl_example", site / "lnl_example", ignore=shutil.ignore_patterns("__pycache__"))
    write_metadata(site, project["name"], project["version"], project["entry-points"])
    return site


def install(site: Path, package: str, module: str, code: str, points: Mapping[str, Mapping[str, str]]) -> Path:
    """A package of one module, under ``site``; ``points`` by their group."""
    site.mkdir(parents=True, exist_ok=True)
    (site / f"{module}.py").write_text(code)
    write_metadata(site, package, "1.0", points)
    return site


def write_metadata(site: Path, package: str, version: str, points: Mapping[str, Mapping[str, str]]) -> None:
    info = site / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
        for group, named in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
