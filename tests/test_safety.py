"""What the package never does: build objects out of files it was given, serve the network, tell others of itself.

The first is looked up in the code itself: a loader that is added one day is judged without anybody thinking of it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tune_lnl
from tune_lnl.config.yaml import load_yaml
from tune_lnl.errors import InputError
from tune_lnl.tuning.engine.runner import RAY_ENVIRONMENT
from tune_lnl.tuning.monitor.dashboards import LOOPBACK

PACKAGE = Path(tune_lnl.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
CHECKED_BEFORE = {("datasets/images/cifar_forms.py", "pickle.loads")}
"""CIFAR's official archives are pickles; the bytes that are unpickled are those whose checksum was just found right."""
BUILDERS = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle")
LOADING = ("load", "loads", "Unpickler", "open")


def dotted(node: ast.expr) -> str:
    """``np.load`` of the function of a call; what is no such chain is only its last name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    """The constant given for ``name``; ``None`` where it is not given or no constant."""
    for each in call.keywords:
        if each.arg == name and isinstance(each.value, ast.Constant):
            return each.value.value
    return None


def unsafe(source: str) -> Iterator[str]:
    """Whatever in the code could build arbitrary objects out of a file."""
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
def test_a_loader_that_could_would_be_seen(line: str) -> None:
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
def test_others_are_none_of_its_business(line: str) -> None:
    assert list(unsafe(line)) == []


def test_yaml_is_read_by_a_loader_that_knows_plain_values_alone() -> None:
    for text in ("!!python/object/apply:os.getcwd []", "!!python/name:os.getcwd"):
        with pytest.raises(InputError, match="could not determine a constructor"):
            load_yaml(text, "a space")


def test_ray_tells_nobody_of_a_search_and_serves_it_to_this_machine_alone() -> None:
    assert RAY_ENVIRONMENT["RAY_USAGE_STATS_ENABLED"] == "0"
    assert LOOPBACK == "127.0.0.1"
