from __future__ import annotations

from pathlib import Path

import pytest
from tiny_search import write_space

from tune_lnl.errors import InputError
from tune_lnl.tuning.space.named import find_space, list_spaces, space_files

SHIPPED = {"act_digits8no", "act_cifar80no", "act_cifar100nc", "act_cifar10n"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_shipped_spaces_are_found_from_anywhere() -> None:
    assert set(space_files()) >= SHIPPED
    assert all(path.is_file() for path in space_files().values())


def test_the_working_directory_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "search_spaces"
    folder.mkdir()
    write_space(folder, name="act_digits8no")
    write_space(folder, name="mine")
    assert find_space("act_digits8no").resolve() == folder / "act_digits8no.yaml"
    assert find_space("mine").resolve() == folder / "mine.yaml"
    assert find_space("act_cifar80no").resolve().parent != folder


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write_space(tmp_path, name="here")
    assert find_space(str(path)) == path
    assert find_space("here.yaml") == Path("here.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("act_digit8no", r"unknown search space 'act_digit8no'; did you mean 'act_digits8no'\?.*path of a YAML file"),
        ("zzz", r"unknown search space 'zzz'; valid: act_cifar100nc, "),
        ("n" * 300, r"unknown search space 'n+'; valid: act_cifar100nc, "),
        ("absent.yaml", r"no search space file at 'absent\.yaml'; named spaces: act_cifar100nc, "),
        ("folder/absent", r"no search space file at 'folder/absent'"),
    ],
)
def test_unknown_names_are_told(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_space(name)


def test_a_line_per_space() -> None:
    lines = list_spaces()
    assert len(lines) == len(space_files())
    assert [line.split()[0] for line in lines] == sorted(space_files())
    assert all("\n" not in line and len(line.split()) > 3 for line in lines)
