"""Ray's temporary folder: short enough for sockets, and nothing else of the machine is ever deleted for it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tune_lnl.errors import InputError
from tune_lnl.tuning.engine import temporary
from tune_lnl.tuning.engine.temporary import clear_leftovers, is_ray_folder, new_ray_folder, place_for_ray
from tune_lnl.tuning.runs.layout import RunFiles


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place for Ray's folder."""
    own = tmp_path / "t"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    monkeypatch.setattr(temporary, "OTHER_PLACES", ())
    monkeypatch.setattr(temporary, "LONGEST_SOCKET", 400)
    return own


def test_a_folder_that_a_search_has_made_goes_and_the_list_with_it(tmp_path: Path, places: Path) -> None:
    files = RunFiles(tmp_path)
    folder = new_ray_folder(files)
    (folder / "ray" / "session").mkdir(parents=True)
    assert folder.stat().st_mode & 0o777 == 0o700
    clear_leftovers(files)
    assert not folder.exists()
    assert not files.ray_folder.exists()


@pytest.mark.parametrize(
    "name",
    [
        "t/tune_lnl-mythesis",
        "t/tune_lnl-0123abcd-old",
        "t/tune_lnl-0123ABCD",
        "t/tune_lnl-0123abcd/../../thesis",
        "t/tune_lnl-0123abcd/inner",
        "thesis/tune_lnl-0123abcd",
        "t",
        "thesis",
        "",
        "\0",
    ],
)
def test_what_a_list_names_beside_that_stays(tmp_path: Path, places: Path, name: str) -> None:
    thesis = (tmp_path / name) if "\0" not in name else tmp_path / "thesis"
    thesis.mkdir(parents=True, exist_ok=True)
    (thesis / "thesis.tex").write_text("years of work")
    files = RunFiles(tmp_path / "run")
    files.root.mkdir()
    files.ray_folder.write_text(f"{tmp_path / name}\n{name}\n")
    clear_leftovers(files)
    assert (thesis / "thesis.tex").exists()
    assert not files.ray_folder.exists()


def test_a_link_and_the_folder_of_another_user_stay(tmp_path: Path, places: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (places / "tune_lnl-0123abcd").symlink_to(thesis)
    assert not is_ray_folder(places / "tune_lnl-0123abcd")
    other = places / "tune_lnl-01234567"
    other.mkdir()
    assert is_ray_folder(other)
    if os.geteuid() == 0:
        os.chown(other, 65534, 65534)
        assert not is_ray_folder(other)


def test_the_first_place_that_is_short_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert place_for_ray() == Path("/tmp")
    monkeypatch.setattr(temporary, "LONGEST_SOCKET", 103)  # of a Mac
    assert place_for_ray() == Path("/tmp")
    monkeypatch.setattr(temporary, "OTHER_PLACES", (str(tmp_path / "absent"),))
    with pytest.raises(InputError, match=r"at most 17 bytes, got TMPDIR .*\nset TMPDIR to a short folder"):
        place_for_ray()
