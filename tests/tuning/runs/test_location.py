"""Where runs lie: working copies of object storage, and runs of version 0.1, whose study is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock
from s3_server import S3Server
from stored_runs import in_storage, objects_of
from tiny_search import record_run, tiny_plan, write_space

from tune_lnl import search
from tune_lnl.errors import InputError
from tune_lnl.object_storage import ObjectFolder
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.plan import Plan, plan_search
from tune_lnl.tuning.resources.divide import Machine
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.location import bring_here, local_folder, location
from tune_lnl.tuning.runs.run import Run, load_run


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    return (tmp_path / "storage").as_uri()


@pytest.fixture
def plan(tmp_path: Path, url: str) -> Plan:
    return in_storage(tiny_plan(tmp_path), url)


def old_run(tmp_path: Path, url: str) -> tuple[Run, ObjectFolder]:
    """A run of version 0.1 whose driver was killed: the end of its study is in ``study.tail``."""
    run, objects = record_run(tmp_path), ObjectFolder.of(url) / "tiny"
    study = run.files.study.read_bytes()
    half = study.index(b"\n", len(study) // 2) + 1
    objects.put("run.yaml", run.files.settings.read_bytes())
    objects.put("study.log", study[:half])
    objects.put("study.tail", b"%d\n" % half + study[half:])
    return run, objects


def test_urls_and_paths(tmp_path: Path, plan: Plan, url: str) -> None:
    assert location(plan.files.best) == f"{url}/tiny/best.yaml"
    assert location(local_folder(url)) == url
    assert location(tmp_path / "results" / "toy") == str(tmp_path / "results" / "toy")
    local = RunFolder.at(tmp_path / "results" / "toy")
    assert (type(local), local.url) == (RunFolder, None)
    assert bring_here(tmp_path / "results", "toy") == tmp_path / "results"
    assert not (tmp_path / "results").exists()


def test_a_new_run_there_needs_a_database(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    space = str(write_space(tmp_path))
    assert search.main([space, "--results-dir", url]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: --results-dir {url}: object storage holds the files of a run, its study needs")
    assert "--storage postgresql://USER@HOST/DATABASE" in said.err
    assert not (tmp_path / "storage").exists()
    assert not (tmp_path / "cache").exists()


def test_an_old_run_is_read(tmp_path: Path, url: str) -> None:
    run, objects = old_run(tmp_path, url)
    assert load_run("tiny", url).trials == run.trials
    # The driver's own working copy may hold records that it could not upload any more.
    study = local_folder(url) / "tiny" / "study.log"
    with study.open("ab") as file:
        file.write(b"{torn")
    bring_here(url, "tiny")
    assert study.read_bytes().endswith(b"{torn")
    # A tail of another upload than study.log, read between the two.
    objects.put("study.log", run.files.study.read_bytes())
    objects.put("study.tail", b"1000000\nof another upload\n")
    study.unlink()
    assert load_run("tiny", url).trials == run.trials


def test_an_old_run_is_resumed_from_a_download(tmp_path: Path, url: str) -> None:
    run, objects = old_run(tmp_path, url)
    options = SearchOptions.of(str(write_space(tmp_path)), results_dir=url, resume=True)
    with pytest.raises(InputError, match=r"study in object storage, which version 0\.1\.0 was the last to write; down"):
        plan_search(options, Machine(cpus=2, gpus=0))
    download = tmp_path / "downloaded" / "tiny"
    known = objects.list()
    objects.download(known, download, known)
    assert load_run(download).trials == run.trials
    assert not (download / "study.tail").exists()


def test_a_run_driven_on_this_machine_is_left_alone(plan: Plan, url: str) -> None:
    plan.files.write(plan.files.settings, "new")
    objects_of(plan).put("run.yaml", b"older")
    with FileLock(plan.files.lock):
        bring_here(url, "tiny")
        assert plan.files.settings.read_text() == "new"
    bring_here(url, "tiny")
    assert plan.files.settings.read_text() == "older"


def test_a_run_deleted_there_is_gone(tmp_path: Path, url: str) -> None:
    _, objects = old_run(tmp_path, url)
    load_run("tiny", url)
    for key in objects.list():
        objects.delete(key)
    with pytest.raises(InputError, match="no run 'tiny' under"):
        load_run("tiny", url)


def test_conditions_are_runs_of_their_own(tmp_path: Path, url: str) -> None:
    results = ObjectFolder.of(url)
    settings = record_run(tmp_path).files.settings.read_bytes()
    for name in ("one", "two"):
        results.put(f"tiny/{name}/run.yaml", settings)
    with pytest.raises(InputError, match="holds one run per condition; name one of: tiny/one, tiny/two"):
        load_run("tiny", url)
    assert load_run("tiny/one", url).files.url == f"{url}/tiny/one"
    assert load_run(f"{url}/tiny/one").files.url == f"{url}/tiny/one"


def test_a_storage_that_refuses_is_named_before_anything(s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    url = s3.url("results", bucket="nobody-made-this")
    with pytest.raises(InputError, match=r"NO_SUCH_BUCKET[^$]*create the bucket, or give another --results-dir"):
        bring_here(url, "toy", to_write=True)
    for arguments in (["--runs"], ["act_digits8no"]):
        assert search.main([*arguments, "--results-dir", "s3://key:hidden@bucket/results"]) == 2
        assert "hidden" not in capsys.readouterr().err
