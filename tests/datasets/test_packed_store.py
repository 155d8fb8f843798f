from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tune_lnl.datasets.store import DecodedArrays, SourceFiles, open_or_pack, store_path
from tune_lnl.errors import CorruptDataError, InputError

# A process that packs the file it is given and notes each decoding; optionally it dies while writing.
PACK = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from tune_lnl.datasets import store
cache, file, log, die = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "die"
def decode():
    with log.open("a") as lines:
        lines.write("decoded\\n")
    time.sleep(0.3)
    ones = np.ones((4, 2, 2, 3), dtype=np.uint8)
    return store.DecodedArrays(ones, np.arange(4), ones, np.arange(4), ("a", "b", "c", "d"))
if die:
    save = store._save
    def killed_after_saving(path, array):
        save(path, array)
        os.kill(os.getpid(), signal.SIGKILL)
    store._save = killed_after_saving
print(store.open_or_pack(cache, "toy", store.SourceFiles(file.parent, "toy", (file,)), decode).fingerprint)
"""


@pytest.fixture
def source(tmp_path: Path) -> SourceFiles:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    return SourceFiles(folder, "toy", (folder / "file",))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def arrays() -> DecodedArrays:
    images = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
    return DecodedArrays(images, np.arange(4), images[:2], np.arange(2), ("a", "b", "c", "d"))


def never() -> DecodedArrays:
    pytest.fail("a sound store is opened, not packed")


def pack_in_process(cache: Path, source: SourceFiles, log: Path, *, die: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PACK, str(cache), str(source.files[0]), str(log), "die" if die else "live"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_packed_once_and_mapped(cache: Path, source: SourceFiles) -> None:
    packed = open_or_pack(cache, "toy", source, arrays)
    opened = open_or_pack(cache, "toy", source, never)
    assert isinstance(opened.train_images, np.memmap)
    assert np.array_equal(opened.train_images, arrays().train_images)
    assert np.array_equal(opened.test_labels, arrays().test_labels)
    assert opened.class_names == ("a", "b", "c", "d")
    assert opened.fingerprint == packed.fingerprint
    meta = json.loads((store_path(cache, "toy", source) / "meta.json").read_text())
    assert (meta["fingerprint"], meta["form"], meta["source_files"]) == (packed.fingerprint, "toy", ["file"])


@pytest.mark.parametrize("change", ["size", "mtime", "name"])
def test_a_changed_source_has_another_store(cache: Path, source: SourceFiles, change: str) -> None:
    before = store_path(cache, "toy", source)
    file = source.files[0]
    if change == "size":
        stat = file.stat()
        file.write_bytes(b"more content")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "mtime":
        os.utime(file, (1, 1))
    else:
        file = file.rename(file.with_name("other"))
    assert store_path(cache, "toy", SourceFiles(source.root, "toy", (file,))) != before


@pytest.mark.parametrize("damage", ["cut", "grown", "no array", "no meta", "torn meta", "meta of another", "bad meta"])
def test_a_damaged_store_is_rebuilt(cache: Path, source: SourceFiles, damage: str) -> None:
    open_or_pack(cache, "toy", source, arrays)
    store = store_path(cache, "toy", source)
    images, meta = store / "train_images.npy", store / "meta.json"
    if damage == "cut":
        os.truncate(images, images.stat().st_size - 1)
    elif damage == "grown":
        images.write_bytes(images.read_bytes() + b"x")
    elif damage == "no array":
        images.unlink()
    elif damage == "no meta":
        meta.unlink()
    elif damage == "torn meta":
        os.truncate(meta, 40)
    elif damage == "meta of another":
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "key": "0123456789abcdef"}))
    else:
        meta.write_text("[1, 2]")
    calls: list[int] = []

    def decode() -> DecodedArrays:
        calls.append(1)
        return arrays()

    opened = open_or_pack(cache, "toy", source, decode)
    assert calls == [1]
    assert np.array_equal(opened.train_images, arrays().train_images)
    assert sorted(path.name for path in store.parent.iterdir()) == [store.name, f"{store.name}.lock"]


def test_a_killed_packing_leaves_nothing_that_looks_finished(cache: Path, source: SourceFiles, tmp_path: Path) -> None:
    process = pack_in_process(cache, source, tmp_path / "log", die=True)
    process.communicate()
    assert process.returncode == -9
    store = store_path(cache, "toy", source)
    assert not store.exists()
    assert store.with_name(f"{store.name}.building").exists(), "it must have died in the middle"
    opened = open_or_pack(cache, "toy", source, arrays)
    assert np.array_equal(opened.train_images, arrays().train_images)
    assert sorted(path.name for path in store.parent.iterdir()) == [store.name, f"{store.name}.lock"]


def test_two_processes_never_pack_at_once(cache: Path, source: SourceFiles, tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [pack_in_process(cache, source, log) for _ in range(3)]
    fingerprints = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(fingerprints) == 1
    assert log.read_text() == "decoded\n"


def test_a_failing_decode_leaves_nothing(cache: Path, source: SourceFiles) -> None:
    def decode() -> DecodedArrays:
        raise CorruptDataError("file is damaged")

    with pytest.raises(CorruptDataError, match="file is damaged"):
        open_or_pack(cache, "toy", source, decode)
    assert [path.suffix for path in (cache / "packed").iterdir()] == [".lock"]


def test_a_source_that_changes_while_it_is_read(cache: Path, source: SourceFiles) -> None:
    def decode() -> DecodedArrays:
        source.files[0].write_bytes(b"still being written")
        return arrays()

    with pytest.raises(CorruptDataError, match="changed while they were read"):
        open_or_pack(cache, "toy", source, decode)


def test_an_unreadable_source_is_told_apart_from_an_unwritable_cache(cache: Path, source: SourceFiles) -> None:
    def decode() -> DecodedArrays:
        raise PermissionError("denied")

    with pytest.raises(InputError, match="cannot be read: denied"):
        open_or_pack(cache, "toy", source, decode)
    blocked = cache / "file"
    blocked.write_text("a file where a directory should be")
    with pytest.raises(InputError, match="TUNE_LNL_CACHE"):
        open_or_pack(blocked, "toy", source, arrays)
