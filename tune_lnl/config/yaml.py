"""Reading YAML the way users write it, and dotted overrides (``--set KEY=VALUE``).

Two departures from plain ``yaml.safe_load``: ``1e-3`` is a number (YAML 1.2; PyYAML reads it as text), and a key
written twice is an error (PyYAML keeps the last one silently).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tune_lnl.errors import InputError

_FLOAT = re.compile(r"^[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"keys are names, got {key!r}", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError):
            # What PyYAML lets through for a date of month 99, for 0x without digits, for !!bool of anything.
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r} is not a valid {kind}; quote it if it is text", node.start_mark
            ) from None


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


# Text such as the commit 12e4567 is quoted, or it would read back as a number.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def dump_yaml(value: Mapping[str, Any]) -> str:
    """YAML text in the given key order, without anchors; reads back equal through :func:`load_yaml`."""
    return yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def load_yaml(text: str, source: str) -> Any:
    """Parse YAML; ``source`` names the file or flag in the error.

    Raises:
        InputError: broken YAML or a key given twice, with line and column.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{source}{place}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not valid YAML: {error}") from None
    except RecursionError:
        raise InputError(f"{source}: not valid YAML: nested too deeply") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The top-level mapping of a YAML file.

    Raises:
        InputError: the file cannot be read, is not UTF-8 YAML, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    value = load_yaml(text, str(path))
    if not isinstance(value, dict):
        found = "nothing" if value is None else type(value).__name__
        raise InputError(f"{path}: a config is a mapping of sections (method:, dataset:, ...), found {found}")
    return value


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """``["tau=0.1", "dataset.subset=0.02"]`` -> ``{"tau": 0.1, "dataset.subset": 0.02}``; values are YAML.

    Raises:
        InputError: no ``=``, an empty key, or a value that is not YAML.
    """
    overrides: dict[str, Any] = {}
    for item in items:
        key, separator, value = item.partition("=")
        key = key.strip()
        if not separator or not key:
            raise InputError(f"--set takes KEY=VALUE, got {item!r}; for example --set dataset.subset=0.05")
        overrides[key] = load_yaml(value, f"--set {key}")
    return overrides
