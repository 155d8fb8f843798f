"""The package never builds objects from files it was given, never serves the network, and sends no usage statistics.

The first rule is checked in the source of every module, so that new loaders are checked as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tune_lnl
from tune_lnl.config.yaml import load_yaml
from tune_lnl.errors import InputError
from tune_lnl.tuning.engine.auth import LOOPBACK
from tune_lnl.tuning.engine.runner import RAY_ENVIRONMENT

PACKAGE = Path(tune_lnl.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
CHECKED_BEFORE = {("datasets/images/cifar_forms.py", "pickle.loads")}
"""CIFAR's official archives are pickles. Their checksum is verified on the bytes that are then unpickled."""
BUILDERS = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle")
LOADING = ("load", "loads", "Unpickler", "open")


def dotted(node: ast.expr) -> str:
    """Return the dotted name of a called function, as ``np.load``; only the last name of any other expression."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    """Return the constant given for ``name``, or ``None`` if there is none."""
    for each in call.keywords:
        if each.arg == name and isinstance(each.value, ast.Constant):
            return each.value.value
    return None


def unsafe(source: str) -> Iterator[str]:
    """Yield the calls that could build arbitrary objects from a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in BUILDERS:
            yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name in LOADING)
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        root, _, last = name.rpartition(".")
        if (
            (root.rpartition(".")[2] in BUILDERS and last in LOADING)
            or (name == "torch.load" and keyword(node, "weights_only") is not True)
            or (name in ("np.load", "numpy.load") and keyword(node, "allow_pickle") is not False)
            or (name == "yaml.load" and "Loader" not in {each.arg for each in node.keywords})
            or last in ("read_pickle", "unsafe_load", "unsafe_load_all", "full_load")
            or (isinstance(node.func, ast.Name) and name in ("eval", "exec"))
        ):
            yield name


def test_nothing_builds_objects_out_of_files() -> None:
    assert len(SOURCES) > 80
    found = {(path.relative_to(PACKAGE).as_posix(), name) for path in SOURCES for name in unsafe(path.read_text())}
    assert found == CHECKED_BEFORE


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pickle.load(file)",
        "pickle.Unpickler(file).load()",
        "ray.cloudpickle.loads(content)",
        "from pickle import loads",
        "pd.read_pickle(path)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "joblib.load(path)",
        "eval(text)",
    ],
)
def test_an_unsafe_call_is_found(line: str) -> None:
    assert list(unsafe(line))


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "pickle.UnpicklingError()",
        "yaml.load(text, Loader=_Loader)",
        "json.load(file)",
        "path.open()",
        "network().eval()",
    ],
)
def test_safe_calls_pass(line: str) -> None:
    assert list(unsafe(line)) == []


def test_yaml_is_read_by_a_loader_that_knows_plain_values_alone() -> None:
    for text in ("!!python/object/apply:os.getcwd []", "!!python/name:os.getcwd"):
        with pytest.raises(InputError, match="could not determine a constructor"):
            load_yaml(text, "a space")


def test_ray_sends_no_statistics_and_serves_this_machine_alone() -> None:
    assert RAY_ENVIRONMENT["RAY_USAGE_STATS_ENABLED"] == "0"
    assert LOOPBACK == "127.0.0.1"
