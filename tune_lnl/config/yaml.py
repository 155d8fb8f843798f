"""Reading and writing YAML. Every file and every ``--set`` value is read here.

Two differences from ``yaml.safe_load``:

- Numbers follow YAML 1.2. PyYAML reads ``1e-3`` as text, ``010`` as 8 and ``1:30`` as 90; here they are 0.001, 10 and
  text.
- A key that is given twice is an error. PyYAML keeps the last value silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tune_lnl.errors import InputError

INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
# YAML 1.2.2, section 10.3.2. The first form that matches counts.
NUMBERS = {
    INT: re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    FLOAT: re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}
LARGEST = 2_000_000
"""Bytes of a YAML file; those of the largest search are a hundredth of it, and PyYAML reads 0.1 MB a second."""
FIRST_CHARACTERS = list("-+.0123456789")


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
            # PyYAML raises these for a date of month 99 or for !!bool with another word.
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r} is not a valid {kind}; quote it if it is text", node.start_mark
            ) from None


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    base = {"0o": 8, "0x": 16}.get(node.value[:2], 10)
    return int(node.value, base)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag not in NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor(INT, _whole_number)
for _tag, _form in NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, _form, FIRST_CHARACTERS)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


# Text such as the commit 12e4567 is quoted, or it would read back as a number.
for _tag, _form in NUMBERS.items():
    _Dumper.add_implicit_resolver(_tag, _form, FIRST_CHARACTERS)


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Return YAML text in the given key order, without anchors. :func:`load_yaml` reads back an equal value."""
    return yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def load_yaml(text: str, source: str) -> Any:
    """Parse YAML. ``source`` names the file or flag in an error.

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
    except ValueError as error:  # a whole number of thousands of digits
        raise InputError(f"{source}: not valid YAML: {error}") from None
    except RecursionError:
        raise InputError(f"{source}: not valid YAML: nested too deeply") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the top-level mapping of a YAML file.

    Raises:
        InputError: the file cannot be read, is not UTF-8 YAML, or is no mapping.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content[:LARGEST].decode("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    if len(content) > LARGEST:
        raise InputError(f"{path}: a config has at most {LARGEST:,} bytes, this file is larger; name another file")
    value = load_yaml(text, str(path))
    if not isinstance(value, dict):
        found = "nothing" if value is None else type(value).__name__
        raise InputError(f"{path}: a config is a mapping of sections (method:, dataset:, ...), found {found}")
    return value
