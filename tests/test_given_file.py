"""Outputs that a user names: replaced where they are files, written to where they are pipes, devices or links."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_disk import fill, small_disk

from tune_lnl.files import given_file, is_disk_full, refuse_output, replace_given, whole_file

ROOT = Path(__file__).resolve().parents[1]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "p"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert refuse_output(pipe) is None
    replace_given(pipe, "the text")
    reader.join(timeout=30)
    assert read == ["the text"]
    assert pipe.is_fifo()


def test_a_link_stays_and_what_it_names_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    link.symlink_to(target)
    for text in ("first", "second"):  # also where nothing is there yet
        replace_given(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    with pytest.raises(UnicodeEncodeError), given_file(link) as beside:
        beside.write_text("half\ud800", encoding="utf-8")
    assert target.read_text() == "second"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_device_is_written_to(tmp_path: Path) -> None:
    replace_given(Path(os.devnull), "gone")
    assert Path(os.devnull).is_char_device()
    if os.geteuid() == 0:
        node = tmp_path / "null"
        try:
            os.mknod(node, 0o20666, os.makedev(1, 3))
            node.write_bytes(b"")
        except OSError:
            pytest.skip("devices cannot be made here")
        replace_given(node, "gone")
        assert node.is_char_device()


def test_the_shells_redirection_is_kept(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from tune_lnl.files import replace_given; replace_given(Path('/dev/stdout'), 'b')"
    )
    out = tmp_path / "out"
    out.write_text("a")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(f'{sys.executable} -c "{program}" >> {out}', shell=True, check=True, env=environment)
    assert out.read_text() in ("ab", "b")
    assert refuse_output(Path("/dev/stdout")) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".", "is a folder"),
        ("no/x", "lies in no existing folder"),
        ("x" * 300, "cannot be used"),
        ("\0", "cannot be used"),
    ],
)
def test_a_place_that_takes_no_file(tmp_path: Path, name: str, reason: str) -> None:
    assert (refuse_output(tmp_path / name) or "").startswith(reason)


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("x" * 100_000),
    "numpy": lambda path: np.save(path.open("wb"), np.zeros(100_000)),
    "npz": lambda path: np.savez(path.open("wb"), a=np.random.default_rng(0).bytes(100_000)),
    "parquet": lambda path: pq.write_table(pa.table({"a": np.random.default_rng(0).random(50_000)}), path),
    "torch": lambda path: torch.save(torch.randn(50_000), path),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("free", [0, 8192])
def test_every_writer_on_a_full_disk_gives_one_error(tmp_path: Path, writer: str, free: int) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        (disk / "file").write_text("before")
        fill(disk, free)
        with pytest.raises(OSError) as caught, whole_file(disk / "file") as beside:  # noqa: PT011
            WRITERS[writer](beside)
        assert is_disk_full(caught.value), repr(caught.value)
        assert (disk / "file").read_text() == "before"
        assert sorted(path.name for path in disk.iterdir()) == ["file", "filler"]


def test_a_limit_on_the_size_of_files_counts_as_a_full_disk(tmp_path: Path) -> None:
    program = f"""
import resource, sys; sys.path[:0] = ["{ROOT}", "{ROOT / "tests"}", "{ROOT / "tests/support"}"]
from pathlib import Path
from test_given_file import WRITERS, is_disk_full, whole_file
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for name, write in WRITERS.items():
    try:
        with whole_file(Path("{tmp_path}/file")) as beside:
            write(beside)
    except OSError as error:
        print(name, is_disk_full(error))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:-1] == [f"{name} True" for name in WRITERS]
