"""Names from installed packages: listed without an import, refused in a sentence where they cannot be used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from plugins import EXAMPLE, install, install_example

from tune_lnl.config.registry import dataset_names, method_names, settings_type
from tune_lnl.data import main as data
from tune_lnl.datasets.registry import get_dataset, parse_options
from tune_lnl.errors import InputError
from tune_lnl.train import main as train
from tune_lnl.training.registry import training_type

ROOT = Path(__file__).parents[1]
METHODS, DATASETS = "tune_lnl.methods", "tune_lnl.datasets"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages, on the path; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    place = tmp_path / "site"
    monkeypatch.syspath_prepend(str(place))
    yield place
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(place) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def example(site: Path) -> Path:
    return install_example(site)


CONFIG: dict[str, Any] = {
    "method": "gce",
    "dataset": {"name": "gratings", "noise": "symmetric", "closed_ratio": 0.4},
    "validation": {"fraction": 0.3},
    "objective": {"average_last": 2},
    "fixed": {"epochs": 12, "lr": 0.05, "batch_size": 64},
}


def test_the_example_adds_a_method_and_a_dataset(example: Path) -> None:
    assert "gce" in method_names()
    assert "gratings" in dataset_names()
    assert settings_type("gce").model_fields["q"].default == 0.7
    assert get_dataset("gratings").description == "drawn gratings in six directions"
    assert parse_options({"name": "gratings", "closed_ratio": 0.4}).name == "gratings"


def test_without_the_package_there_is_nothing(tmp_path: Path) -> None:
    assert "gce" not in method_names()
    with pytest.raises(InputError, match="unknown method 'gce'"):
        training_type("gce")


def test_the_example_trains(example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    assert train([str(tmp_path / "config.yaml"), "--output", str(tmp_path / "run"), "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "training gce on gratings, 12 epochs" in told
    figure = re.search(r"^test_last10 +(\d+\.\d+)", told, flags=re.MULTILINE)
    assert figure is not None
    assert float(figure[1]) > 50, "a sixth would be guessing"
    assert train([str(tmp_path / "config.yaml"), "--set", "q=2", "--device", "cpu"]) == 2


def test_a_list_imports_nothing(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("gce", "gratings", "__init__"):
        (example / "lnl_example" / f"{module}.py").write_text("raise RuntimeError('imported')")
    assert data(["list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("gratings")]
    assert line.split() == ["gratings", "plug-in", "of", "lnl-example", "0.1"]
    assert "gce" in method_names()
    assert "lnl_example" not in sys.modules


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import no_such_package", "cannot be imported: ModuleNotFoundError: No module named 'no_such_package'"),
        ("raise RuntimeError('first line\\nsecond')", "cannot be imported: RuntimeError: first line"),
        ("def (", "cannot be imported: SyntaxError"),
        ("", "cannot be imported: AttributeError: module 'broken' has no attribute 'Thing'"),
        ("Thing = 3", "must be a tune_lnl."),
        ("class Thing: pass", "must be a tune_lnl."),
    ],
)
def test_a_broken_package_is_named_and_in_nobodys_way(code: str, told: str, site: Path) -> None:
    points = {group: {"theirs": "broken:Thing"} for group in (METHODS, DATASETS)}
    install(site, "broken-lnl", "broken", code, points)
    for lookup in (training_type, get_dataset):
        with pytest.raises(InputError) as raised:
            lookup("theirs")
        first, second = str(raised.value).splitlines()
        assert re.match(r"(method|dataset) 'theirs' of broken-lnl 1\.0 \(broken:Thing\) ", first)
        assert told in first
        assert second == "repair or uninstall the package that provides it"
    assert training_type("act").__name__ == "ActTraining"
    assert get_dataset("digits8no").name == "digits8no"
    assert data(["list"]) == 0


def test_a_method_without_settings_is_told(site: Path) -> None:
    code = "from tune_lnl.training.loop import Training\nclass Bare(Training): pass"
    install(site, "bare", "bare", code, {METHODS: {"bare": "bare:Bare"}})
    with pytest.raises(InputError, match=r"method 'bare' of bare 1\.0 \(bare:Bare\) has no Settings"):
        training_type("bare")


def test_a_dataset_that_calls_itself_otherwise_is_told(site: Path) -> None:
    install(site, "other", "other", "", {DATASETS: {"theirs": "tune_lnl.datasets.images.digits:Digits8NO"}})
    with pytest.raises(InputError, match=r"'theirs' of other .* calls itself 'digits8no'; both names must be the same"):
        get_dataset("theirs")


def test_an_unfinished_dataset_is_told(site: Path) -> None:
    code = "from tune_lnl.datasets.base import ImageDataset\nclass Half(ImageDataset): name = 'half'"
    install(site, "half", "half", code, {DATASETS: {"half": "half:Half"}})
    with pytest.raises(InputError, match=r"dataset 'half' of half 1\.0 .* cannot be made: .*load_source"):
        get_dataset("half")


def test_a_name_that_two_packages_offer_is_refused_with_both(site: Path) -> None:
    install_example(site)
    install(site, "another", "another", "", {METHODS: {"gce": "another:Mine"}})
    with pytest.raises(InputError) as raised:
        training_type("gce")
    assert str(raised.value).splitlines()[0] == (
        "method 'gce' is registered more than once, by another 1.0 (another:Mine) and by "
        "lnl-example 0.1 (lnl_example.gce:GceTraining)"
    )
    assert get_dataset("gratings").name == "gratings"


def test_a_built_in_name_is_nobody_elses(site: Path) -> None:
    install(site, "greedy", "greedy", "", {METHODS: {"act": "greedy:Act"}, DATASETS: {"cifar10n": "greedy:Data"}})
    with pytest.raises(
        InputError, match=r"'act' is registered more than once, by tune_lnl \(.*:ActTraining\) and by greedy"
    ):
        training_type("act")
    with pytest.raises(InputError, match=r"'cifar10n' is registered more than once, by tune_lnl .* and by greedy 1\.0"):
        get_dataset("cifar10n")
    assert method_names().count("act") == 1


def test_a_package_on_the_path_twice_is_one(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_example(site)
    monkeypatch.syspath_prepend(str(install_example(tmp_path / "again")))
    assert training_type("gce").__name__ == "GceTraining"


# ---- the page


def test_the_page_shows_the_example() -> None:
    """docs/plugins.md holds every file of the example, as it stands in the tests."""
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    shown = {}
    for text in re.findall(r"^```\w*\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL):
        first, _, rest = text.partition("\n")
        if re.fullmatch(r"# [\w/.]+\.(py|toml)", first):
            shown[first.removeprefix("# ")] = rest
    files = [path for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml")]
    there = {path.relative_to(EXAMPLE).as_posix(): path.read_text(encoding="utf-8") for path in files}
    assert shown == {name: text for name, text in there.items() if name != "lnl_example/__init__.py"}


# ---- in a process of its own


def run(site: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=840
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_is_searched_by_workers(tmp_path: Path) -> None:
    site = install_example(tmp_path / "site")
    space = {
        **CONFIG,
        "description": "a method and a dataset of another package",
        "fixed": {"epochs": 6, "batch_size": 64},
        "search": {
            "lr": {"type": "loguniform", "low": 0.01, "high": 0.1},
            "q": {"type": "uniform", "low": 0.1, "high": 1.0},
        },
        "start": [{"lr": 0.05, "q": 0.7}],
        "budget": {"trials": 2, "pruner": "none"},
    }
    (tmp_path / "gce_gratings.yaml").write_text(yaml.safe_dump(space))
    done = run(site, "tune_lnl.search", "gce_gratings.yaml", "--no-dashboard", "--concurrent", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = run(site, "tune_lnl.export", "gce_gratings", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    best = yaml.safe_load(shown.stdout)
    assert (best["method"], best["dataset"]["name"]) == ("gce", "gratings")
    assert 0.1 <= best["fixed"]["q"] <= 1.0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_contract_tests_hold_for_plug_ins(tmp_path: Path) -> None:
    site = install_example(tmp_path / "site")
    tests = ("tests/training/test_method_contract.py", "tests/datasets/test_dataset_contract.py")
    done = run(site, "pytest", "-vv", "-p", "no:cacheprovider", *tests, "-k", "gce or gratings", cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:]
    for file, name, least in zip(tests, ("gce", "gratings"), (15, 4), strict=True):
        assert len(re.findall(rf"{file}::\S*\b{name}\b\S* PASSED", done.stdout)) >= least, done.stdout
