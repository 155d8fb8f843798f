"""Search spaces by name: those of the working directory, then the shipped ones. Imports nothing heavy."""

from __future__ import annotations

from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from tune_lnl.config.yaml import read_mapping
from tune_lnl.errors import InputError, nearest
from tune_lnl.object_storage import masked


def space_files() -> dict[str, Path]:
    """Return the files of the named spaces; one in ``./search_spaces`` goes before a shipped one of that name."""
    found: dict[str, Path] = {}
    for folder in (Path("search_spaces"), shipped_folder()):
        if folder.is_dir():
            for path in sorted(folder.glob("*.yaml")):
                found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def shipped_folder() -> Path:
    """Return the folder of the shipped spaces."""
    inside = Path(str(files("tune_lnl"))) / "search_spaces"
    # In an editable install the folder lies next to the package instead of inside it.
    return inside if inside.is_dir() else inside.parent.parent / "search_spaces"


def find_space(name: str) -> Path:
    """Return the file of a named space, or the path itself.

    Raises:
        InputError: it is neither a known name nor a file.
    """
    known = space_files()
    if name in known:
        return known[name]
    path = Path(name)
    with suppress(OSError):  # too long a name for a file, or one in a folder that may not be read
        if path.is_file():
            return path
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        raise InputError(f"no search space file at {masked(str(name))!r}; named spaces: {', '.join(known)}")
    raise InputError(f"unknown search space {name!r}; {nearest(name, known)}; or give the path of a YAML file")


def list_spaces() -> list[str]:
    """Return one line per named space: name, description, its conditions (the default first) and presets."""
    spaces = space_files()
    width = max(map(len, spaces), default=0)
    lines = []
    for name, path in spaces.items():
        raw = read_mapping(path)
        parts = [str(raw.get("description", ""))]
        parts += [f"{key}: {', '.join(map(str, raw[key]))}" for key in ("conditions", "presets") if raw.get(key)]
        lines.append(f"{name:<{width}}  {' | '.join(parts)}")
    return lines
