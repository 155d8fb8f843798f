"""Initial weights: choices, the cache, a download from a local server, and files that cannot be used."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from http_server import answering
from torch import nn

from tune_lnl.errors import CorruptDataError, InputError
from tune_lnl.models import weights
from tune_lnl.models.reid import build_reid_model
from tune_lnl.models.weights import default_weights, load_backbone, weights_file

SAVED = b"weights as they are published"
HASH = hashlib.sha256(SAVED).hexdigest()[:8]


class Published(http.server.BaseHTTPRequestHandler):
    """Serves one file whatever is asked for."""

    content = SAVED

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)


@pytest.fixture
def server() -> Iterator[str]:
    with answering(Published) as serving:
        yield f"http://127.0.0.1:{serving.server_port}"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to our own server must not go through a proxy of the machine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def publish(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(weights, "_published_url", lambda name: url)


def published_place(cache: Path) -> Path:
    return cache / "data" / "weights" / f"resnet50-{HASH}.pth"


# ---- choices


def test_none_is_a_random_start(tmp_path: Path) -> None:
    assert weights_file("reid_resnet50", "none", tmp_path) is None
    assert weights_file("no_such_model", "none", tmp_path) is None
    assert not any(tmp_path.iterdir())


def test_a_path_is_taken_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.pt"
    file.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for choice in (str(file), "mine.pt", "~/mine.pt"):
        assert weights_file("reid_small", choice, tmp_path / "cache") == file.resolve()


@pytest.mark.parametrize("choice", ["imagnet", "missing.pt", "folder.pth", "notes.txt"])
def test_a_path_that_is_none(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(InputError, match="must be imagenet, none or the path") as caught:
        weights_file("reid_resnet50", choice, tmp_path)
    assert repr(choice) in str(caught.value)
    assert ("did you mean 'imagenet'" in str(caught.value)) == (choice == "imagnet")


def test_a_model_without_imagenet_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"reid_small has no ImageNet weights \(reid_resnet50, resnet18, resnet50 have\)"
    ):
        weights_file("reid_small", "imagenet", tmp_path)


def test_defaults() -> None:
    assert default_weights("reid_resnet50") == "imagenet"
    assert default_weights("reid_small") == "none"


def test_the_published_weights_are_torchvisions_first() -> None:
    url = weights._published_url("reid_resnet50")
    assert url == torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url
    assert "-0676ba61." in url


# ---- the cache and the network


def test_weights_in_the_cache_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, f"http://127.0.0.1:9/resnet50-{HASH}.pth")
    place = published_place(tmp_path)
    place.parent.mkdir(parents=True)
    place.write_bytes(SAVED)
    assert weights_file("reid_resnet50", "imagenet", tmp_path) == place


def test_damaged_weights_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, f"http://127.0.0.1:9/resnet50-{HASH}.pth")
    place = published_place(tmp_path)
    place.parent.mkdir(parents=True)
    place.write_bytes(SAVED[:-1])
    with pytest.raises(CorruptDataError, match="delete it") as caught:
        weights_file("reid_resnet50", "imagenet", tmp_path)
    assert str(place) in str(caught.value)


def test_weights_are_downloaded_once(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, f"{server}/resnet50-{HASH}.pth")
    left = published_place(tmp_path).parent / "arriving" / f"resnet50-{HASH}.pth"  # of a download that was killed
    left.parent.mkdir(parents=True)
    left.write_bytes(SAVED[:4])
    place = weights_file("reid_resnet50", "imagenet", tmp_path)
    assert place == published_place(tmp_path)
    assert place.read_bytes() == SAVED
    assert not left.parent.exists()
    publish(monkeypatch, f"http://127.0.0.1:9/resnet50-{HASH}.pth")
    assert weights_file("reid_resnet50", "imagenet", tmp_path) == place


def test_a_download_of_something_else_is_not_kept(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, f"{server}/resnet50-00000000.pth")
    with pytest.raises(InputError, match="invalid hash value"):
        weights_file("reid_resnet50", "imagenet", tmp_path)
    assert not list((tmp_path / "data" / "weights").glob("resnet50*"))


def test_without_a_network_one_line_says_both_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, f"http://127.0.0.1:9/resnet50-{HASH}.pth")
    with pytest.raises(InputError) as caught:
        weights_file("reid_resnet50", "imagenet", tmp_path)
    said = str(caught.value)
    assert "\n" not in said
    assert "--set model.weights=none" in said
    assert "--set model.weights=PATH" in said
    assert str(published_place(tmp_path)) in said


# ---- loading


class Holder:
    """A network with a backbone and nothing else."""

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone


def tiny() -> Holder:
    return Holder(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)))


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def written(content: Any, file: Path, zipped: bool = True) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file


def test_a_torchvision_classifier_gives_its_backbone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    classifier = torchvision.models.resnet50(weights=None)
    file = written(classifier.state_dict(), tmp_path / "resnet50.pth")
    network = build_reid_model("reid_resnet50", 5, file)
    saved = classifier.state_dict()
    own = network.backbone.state_dict()
    assert own.keys() == {key for key in saved if not key.startswith("fc.")}
    assert all(torch.equal(own[key], saved[key]) for key in own)


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_old_and_new(zipped: bool, tmp_path: Path) -> None:
    source, target = tiny(), tiny()
    content = {key: value for key, value in source.backbone.state_dict().items() if "num_batches" not in key}
    load_backbone(target, written(content, tmp_path / "old.pth", zipped))
    assert same(source.backbone, target.backbone)


@pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"weights": weights, "model": "reid_small"}])
def test_a_network_of_ours_gives_its_backbone(wrap: Any, tmp_path: Path) -> None:
    source, target = build_reid_model("reid_small", 9, None), build_reid_model("reid_small", 4, None)
    load_backbone(target, written(wrap(source.state_dict()), tmp_path / "model.pt"))
    assert same(source.backbone, target.backbone)


def test_what_does_not_fit_is_named_and_nothing_changes(tmp_path: Path) -> None:
    target = tiny()
    before = {key: value.clone() for key, value in target.backbone.state_dict().items()}
    content = {**before, "layer9.weight": torch.ones(1), "0.weight": torch.ones(2, 3, 3, 3)}
    del content["1.running_mean"]
    with pytest.raises(InputError) as caught:
        load_backbone(target, written(content, tmp_path / "other.pt"))
    said = str(caught.value)
    assert "1 missing: 1.running_mean" in said
    assert "1 unknown: layer9.weight" in said
    assert "1 of another shape: 0.weight (2, 3, 3, 3) for (2, 3, 1, 1)" in said
    assert all(torch.equal(before[key], value) for key, value in target.backbone.state_dict().items())


def test_many_misfits_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"6 missing: 0\.bias, 0\.weight, 1\.bias and 3 more"):
        load_backbone(tiny(), written({"fc.weight": torch.ones(1)}, tmp_path / "head.pt"))


@pytest.mark.parametrize("content", [torch.ones(3), {}, {"epoch": 3}, [torch.ones(1)], {"weights": {"a": 1}}])
def test_files_that_hold_no_state_dict(content: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no state dict"):
        load_backbone(tiny(), written(content, tmp_path / "other.pt"))


def saved_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save(tiny().backbone.state_dict(), buffer)
    return buffer.getvalue()


def test_truncated_and_flipped_files_are_damaged(tmp_path: Path) -> None:
    whole, file = saved_bytes(), tmp_path / "damaged.pt"
    for length in (2, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(CorruptDataError, match="is damaged"):
            load_backbone(tiny(), file)
    weight = tiny().backbone.state_dict()["1.weight"].numpy().tobytes()
    place = whole.index(weight)
    file.write_bytes(whole[:place] + b"\x01" + whole[place + 1 :])
    with pytest.raises(CorruptDataError, match="bad checksum"):
        load_backbone(tiny(), file)
    file.write_bytes(b"")
    with pytest.raises(CorruptDataError, match="is damaged"):
        load_backbone(tiny(), file)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


def test_nothing_is_run_by_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="more than tensors"):
        load_backbone(tiny(), written({"0.weight": Hostile()}, tmp_path / "hostile.pt"))
    assert not (tmp_path / "owned").exists()


def test_files_of_another_kind_and_missing_ones(tmp_path: Path) -> None:
    file = tmp_path / "notes.pt"
    file.write_text("these are notes\n")
    with pytest.raises(InputError, match="not a state dict"):
        load_backbone(tiny(), file)
    with pytest.raises(InputError, match="cannot be read"):
        load_backbone(tiny(), tmp_path / "missing.pt")
