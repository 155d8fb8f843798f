"""The re-ID networks: published shape and start, features before the head, batches of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tune_lnl.errors import InputError
from tune_lnl.models.reid import REID_MODELS, ReidNetwork, build_reid_model

FEATURES = {"reid_resnet50": 2048, "reid_small": 128}


def seeded(name: str = "reid_small", num_classes: int = 10, seed: int = 0) -> ReidNetwork:
    torch.manual_seed(seed)
    return build_reid_model(name, num_classes, None)


def images(batch: int, height: int = 64, width: int = 32, seed: int = 7) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_every_model_is_under_contract() -> None:
    assert sorted(REID_MODELS) == sorted(FEATURES)


@pytest.mark.parametrize("name", sorted(REID_MODELS))
def test_shapes(name: str) -> None:
    network = seeded(name).eval()
    x = images(3)
    logits, features = network.forward_both(x)
    assert logits.shape == network(x).shape == (3, 10)
    assert features.shape == network.features(x).shape == (3, FEATURES[name])
    assert network.feature_dim == FEATURES[name]
    assert logits.dtype == features.dtype == torch.float32
    assert torch.equal(network.features(x), features)
    assert torch.equal(network(x), logits)


def test_the_published_head() -> None:
    network = seeded("reid_resnet50", 20).eval()
    linear, norm, activation, dropout = network.head
    assert isinstance(linear, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(activation, nn.LeakyReLU)
    assert isinstance(dropout, nn.Dropout)
    assert (linear.in_features, linear.out_features, norm.num_features) == (2048, 512, 512)
    assert activation.negative_slope == pytest.approx(0.1)
    assert dropout.p == pytest.approx(0.5)
    logits, features = network.forward_both(images(3))
    torch.testing.assert_close(network.classifier(network.head(features)), logits)


def test_the_published_start() -> None:
    """Means and deviations over many values: Kaiming fan-out, N(1, 0.02), N(0, 0.001), biases 0."""
    network = seeded("reid_resnet50", 751)
    linear, norm = network.head[0], network.head[1]
    assert isinstance(linear, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    assert linear.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.01)
    assert norm.weight.mean().item() == pytest.approx(1.0, abs=0.004)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert network.classifier.weight.std().item() == pytest.approx(0.001, rel=0.01)
    assert network.classifier.weight.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert all(not layer.bias.any() for layer in (linear, norm, network.classifier))


def test_the_published_backbone() -> None:
    """ResNet-50 without fc, 23,508,032 parameters, its last stage halving the map: stride 32 in all."""
    network = seeded("reid_resnet50")
    assert sum(parameter.numel() for parameter in network.backbone.parameters()) == 23_508_032
    with torch.inference_mode():
        assert network.eval().backbone(images(1, 128, 64)).shape == (1, 2048, 4, 2)
    names = {key.partition(".")[0] for key in network.backbone.state_dict()}
    assert names == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}


def test_the_small_backbone_is_as_documented() -> None:
    network = seeded()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.eval()(images(1))
    assert 5e6 < counter.get_total_flops() / 2 < 15e6
    before_classifier = sum(p.numel() for p in network.backbone.parameters()) + sum(
        p.numel() for p in network.head.parameters()
    )
    assert before_classifier == pytest.approx(0.23e6, rel=0.03)


def test_the_small_network_is_ranked_by_what_its_stripes_say() -> None:
    network = seeded().eval()
    stripes = network.backbone(images(2)).unflatten(2, (4, 2)).mean(dim=(3, 4)).flatten(1)
    linear, norm, activation, dropout = network.head
    logits, features = network.forward_both(images(2))
    torch.testing.assert_close(features, norm(linear(stripes)))
    torch.testing.assert_close(logits, network.classifier(dropout(activation(features))))


def test_features_are_the_mean_of_the_maps_and_not_normalised() -> None:
    network = seeded("reid_resnet50").eval()
    x = images(4, 48, 24)
    features = network.features(x)
    torch.testing.assert_close(features, network.backbone(x).flatten(2).mean(dim=2))
    assert (features.norm(dim=1) - 1).abs().min() > 0.01


@pytest.mark.parametrize("name", sorted(REID_MODELS))
def test_parameters_are_split_without_rest_or_overlap(name: str) -> None:
    network = seeded(name)
    backbone, head = ({id(p) for p in part} for part in (network.backbone_parameters(), network.head_parameters()))
    assert not backbone & head
    assert backbone | head == {id(p) for p in network.parameters()}
    assert {id(network.classifier.weight), id(network.head[0].weight)} <= head


@pytest.mark.parametrize(
    ("name", "size"), [("reid_small", (64, 32)), ("reid_small", (8, 4)), ("reid_resnet50", (32, 32))]
)
def test_a_batch_of_one_trains_everything(name: str, size: tuple[int, int]) -> None:
    """The smaller sizes leave a single pixel, so the backbone's normalisation has one value as well."""
    network = seeded(name)
    # A fresh classifier is nearly 0, and so would be the gradients behind it.
    nn.init.normal_(network.classifier.weight)
    loss = nn.functional.cross_entropy(network(images(1, *size)), torch.tensor([3]))
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


def test_a_batch_of_one_in_training_leaves_the_statistics_of_the_head() -> None:
    network = seeded()
    norm = network.head[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    network(images(8))
    before = norm.running_mean.clone()
    network(images(1))
    assert torch.equal(norm.running_mean, before)
    network(images(2))
    assert not torch.equal(norm.running_mean, before)


def test_a_batch_of_one_keeps_its_dimension() -> None:
    network = seeded().eval()
    assert network.features(images(1)).shape == (1, 128)
    torch.testing.assert_close(network(images(5))[:1], network(images(5)[:1]), rtol=1e-4, atol=1e-6)


def test_the_head_drops_only_in_training() -> None:
    network = seeded()
    nn.init.normal_(network.classifier.weight)
    network(images(8))
    x = images(4)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_the_global_seed_decides_the_weights() -> None:
    first, again, other = (seeded(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_the_small_network_tells_colours_apart_after_a_few_steps() -> None:
    torch.manual_seed(0)
    network = build_reid_model("reid_small", 3, None)
    labels = torch.arange(30) % 3
    x = images(30, 24, 12) * 0.5
    x[torch.arange(30), labels] += 1.0
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert (network(x).argmax(dim=1) == labels).float().mean() > 0.9


def test_unknown_names_and_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'reid_small'"):
        build_reid_model("reid_smal", 10, None)
    with pytest.raises(InputError, match="at least 2 identities; got 1"):
        build_reid_model("reid_small", 1, None)


def test_weights_go_into_the_backbone_alone(tmp_path: Path) -> None:
    source, file = seeded(seed=3), tmp_path / "model.pt"
    torch.save({"weights": source.state_dict(), "model": "reid_small"}, file)
    torch.manual_seed(4)
    started = build_reid_model("reid_small", 25, file)
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(started.backbone.state_dict()[key], value)
    assert torch.equal(started.classifier.weight, seeded("reid_small", 25, seed=4).classifier.weight)
