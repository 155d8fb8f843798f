"""Folders in object storage: against an S3 server of the tests' own, and against pyarrow's local file system."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest
from http_server import answering
from s3_server import S3Server

from tune_lnl.errors import InputError
from tune_lnl.object_storage import ObjectFolder, StorageError, _next_step, for_all, is_url, local_file


@pytest.fixture(params=["s3", "file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectFolder:
    if request.param == "file":
        return ObjectFolder.of((tmp_path / "storage").as_uri())
    server: S3Server = request.getfixturevalue("s3")
    return ObjectFolder.of(server.url(tmp_path.name))


def test_what_is_put_is_read_listed_and_deleted(folder: ObjectFolder) -> None:
    folder.check_writable()
    assert folder.list() == {}
    large = bytes(range(256)) * 50_000  # more than one part of an upload
    folder.put("a/b/large.pt", large)
    folder.put("small", b"1")
    folder.put("small", b"22")
    assert folder.get("a/b/large.pt") == large
    assert {key: stored.size for key, stored in folder.list().items()} == {"a/b/large.pt": len(large), "small": 2}
    assert list(folder.list("a")) == ["a/b/large.pt"]
    assert (folder / "a").get("b/large.pt") == large
    folder.delete("small")
    folder.delete("small")
    assert folder.get("small") is None
    assert list(folder.list()) == ["a/b/large.pt"]


def test_download_brings_what_is_new(folder: ObjectFolder, tmp_path: Path) -> None:
    for_all(["x/1", "x/2", "y"], lambda key: folder.put(key, key.encode()))
    known = folder.list()
    folder.download(known, tmp_path / "here", known)
    assert (tmp_path / "here" / "x" / "2").read_text() == "x/2"
    untouched = (tmp_path / "here" / "x" / "1").stat().st_ino
    time.sleep(1.1)  # S3 counts in seconds
    folder.put("y", b"2")
    known = folder.list()
    folder.download(known, tmp_path / "here", known)
    assert (tmp_path / "here" / "y").read_text() == "2"
    assert (tmp_path / "here" / "x" / "1").stat().st_ino == untouched


def test_a_storage_that_comes_back_is_waited_for(s3: S3Server) -> None:
    folder = ObjectFolder.of(s3.url("comes-back"))
    folder.put("a", b"1")
    s3.away = True
    back = threading.Timer(2.0, setattr, (s3, "away", False))
    back.start()
    folder.put("a", b"2")
    back.join()
    assert folder.get("a") == b"2"


@pytest.mark.parametrize(
    ("message", "step"),
    [
        (
            "s3://b/x?endpoint_override=127.0.0.1:40335: AWS Error UNKNOWN (HTTP status 503) for 'b/403'",
            "check the URL",
        ),
        ("s3://resolved/x: AWS Error UNKNOWN (HTTP status 500)", "check the URL"),
        ("s3://b/x: AWS Error UNKNOWN (HTTP status 403) during PutObject operation", "set credentials"),
        ("s3://b/x: AWS Error ACCESS_DENIED during PutObject operation", "set credentials"),
        ("s3://b/x: AWS Error NO_SUCH_BUCKET during PutObject operation", "create the bucket"),
        ("s3://b/x: curlCode: 6, Couldn't resolve host 'b'", "check the network"),
    ],
)
def test_the_next_step_depends_on_the_error_and_not_on_the_address(message: str, step: str) -> None:
    assert _next_step(message).startswith(step)


@pytest.mark.slow
def test_a_storage_that_stays_away_is_given_up(s3: S3Server) -> None:
    folder = ObjectFolder.of(s3.url("stays-away"))
    s3.away = True
    with pytest.raises(StorageError, match=r"stays-away/a.* cannot be written"):
        folder.put("a", b"1", patience=0.5)
    with pytest.raises(InputError, match="check the URL and your rights there"):
        folder.check_writable()


@pytest.mark.slow
def test_nobody_listens(s3: S3Server) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = s3.url("x").replace(f":{s3.port}", f":{nobody.getsockname()[1]}")
        with pytest.raises(InputError, match="check the network and the address"):
            ObjectFolder.of(url).check_writable()


def test_a_bucket_that_is_not_there(s3: S3Server) -> None:
    with pytest.raises(InputError, match=r"NO_SUCH_BUCKET.*\ncreate the bucket"):
        ObjectFolder.of(s3.url("x", bucket="nobody-made-this")).check_writable()


class _Refusing(BaseHTTPRequestHandler):
    requests: ClassVar[list[str]] = []

    def do_PUT(self) -> None:
        self.requests.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT  # noqa: N815


@pytest.fixture
def refusing() -> Iterator[int]:
    """Return the port of a storage that forbids all writes."""
    with answering(_Refusing) as server:
        yield server.server_port


def test_no_permission_to_write(s3: S3Server, refusing: int) -> None:
    url = s3.url("x").replace(f":{s3.port}", f":{refusing}")
    folder = ObjectFolder.of(url)
    with pytest.raises(InputError, match=r"ACCESS_DENIED.*\nset credentials with the rights to read, write"):
        folder.check_writable()
    before = len(_Refusing.requests)
    with pytest.raises(StorageError):
        folder.put("a", b"1")
    assert len(_Refusing.requests) == before + 1, "it was repeated, which cannot help"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:hidden@bucket/prefix", r"from the environment, never from a URL: s3://\*\*\*@bucket/prefix"),
        ("s3://bucket/prefix?secret_key=hidden", r"never from a URL: s3://bucket/prefix\?secret_key=\*\*\*"),
        ("s3://bucket/prefix?session_token=hidden", "'session_token' comes from the environment"),
        ("s3:///", "names no bucket"),
        ("s3://bucket/prefix#part", "no '#'"),
    ],
)
def test_urls_that_are_refused(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        ObjectFolder.of(url)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("url", ["gopher://bucket/prefix", "s3://bucket/prefix?speed=high", "file://host/place"])
def test_places_that_pyarrow_does_not_know(url: str) -> None:
    with pytest.raises(InputError, match=r"cannot be opened as object.*\ngive a folder's path, or a URL such as s3://"):
        ObjectFolder.of(url).check_writable()


def test_what_is_a_url() -> None:
    assert is_url("s3://bucket/prefix")
    assert not is_url("results")
    assert not is_url(Path("/a/b:c"))
    with pytest.raises(InputError, match="pass a str"):
        is_url(Path("s3://bucket/prefix"))


def test_local_file(folder: ObjectFolder, tmp_path: Path) -> None:
    assert local_file("best.yaml", tmp_path) == Path("best.yaml")
    (folder / "run").put("best.yaml", b"a: 1\n")
    brought = local_file((folder / "run" / "best.yaml").url, tmp_path / "cache")
    assert brought.read_text() == "a: 1\n"
    assert (brought.parent.name, brought.name) == ("run", "best.yaml")
    with pytest.raises(InputError, match="no such object"):
        local_file((folder / "run" / "worst.yaml").url, tmp_path / "cache")
