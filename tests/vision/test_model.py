"""The network of products: its answers in one pass, its losses, and where its first weights come from."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional

from contracts.errors import ArtifactError, ConfigError
from vision import model as module
from vision.model import ProductConfig, ProductNet, hierarchical_loss, load_weights, package_weights

TINY = "test_efficientnet"


def config(**changes):
    return ProductConfig(**({"model": TINY, "size": 64, "parents": (0, 0, 1, 1, 2), "coarse": 3, "dim": 16} | changes))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = ProductNet(config()).eval()
    torch.nn.init.normal_(net.fine.bias)
    return net


@pytest.fixture(scope="module")
def pixels():
    return torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def answer(net, pixels):
    with torch.no_grad():
        return dict(zip(("fine", "coarse", "embedding", "top", "maps", "places"), net(pixels), strict=True))


def test_maps_are_what_each_place_adds_to_its_logit(net, answer):
    means = answer["maps"].mean((2, 3)) + net.fine.bias[answer["top"]].detach()
    assert torch.allclose(means, answer["fine"].gather(1, answer["top"]), atol=1e-4)


def test_places_add_up_to_the_embedding(answer):
    assert torch.allclose(functional.normalize(answer["places"].mean((1, 2)), dim=1), answer["embedding"], atol=1e-5)
    assert torch.allclose(answer["embedding"].norm(dim=1), torch.ones(4), atol=1e-5)


def test_forward_and_training_heads_agree(net, pixels, answer):
    with torch.no_grad():
        fine, coarse, cosines = net.heads(pixels.permute(0, 3, 1, 2).float())
    assert torch.allclose(fine, answer["fine"], atol=1e-4)
    assert torch.allclose(coarse, answer["coarse"], atol=1e-4)
    assert torch.allclose(cosines, module.COSINE_SCALE * answer["embedding"] @ functional.normalize(net.proxies, dim=1).T, atol=1e-3)


def test_temperatures_divide_the_logits_and_leave_the_rest(net, pixels, answer):
    net.temperatures.copy_(torch.tensor([2.0, 4.0]))
    with torch.no_grad():
        fine, coarse, embedding, top, maps, _ = net(pixels)
    net.temperatures.copy_(torch.ones(2))
    assert torch.allclose(fine * 2, answer["fine"], atol=1e-5)
    assert torch.allclose(coarse * 4, answer["coarse"], atol=1e-5)
    assert (top == answer["top"]).all()
    assert torch.allclose(embedding, answer["embedding"])
    assert torch.allclose(maps, answer["maps"])


def test_a_picture_is_answered_alike_whatever_is_beside_it(net, pixels, answer):
    with torch.no_grad():
        alone = net(pixels[2:3])
    assert torch.allclose(alone[0], answer["fine"][2:3], atol=1e-4)
    assert torch.allclose(alone[4], answer["maps"][2:3], atol=1e-3)


def test_loss_is_the_sum_of_its_terms_computed_by_hand():
    rng = np.random.default_rng(0)
    fine, coarse, cosines = rng.normal(size=(4, 5)), rng.normal(size=(4, 3)), rng.normal(size=(4, 5))
    target = rng.dirichlet(np.ones(5), 4)
    parents = np.eye(3)[[0, 0, 1, 1, 2]]

    def cross_entropy(logits, wanted, smoothing):
        wanted = wanted * (1 - smoothing) + smoothing / wanted.shape[1]
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -(wanted * logs).sum(1).mean()

    expected = (
        cross_entropy(fine, target, 0.1) + 0.3 * cross_entropy(coarse, target @ parents, 0.1) + 0.5 * cross_entropy(cosines, target, 0.1)
    )
    given = [torch.tensor(a) for a in (fine, coarse, cosines, target, parents)]
    assert float(hierarchical_loss(*given, (0.3, 0.5), 0.1)) == pytest.approx(expected, rel=1e-5)
    assert float(hierarchical_loss(*given, (0.0, 0.0), 0.1)) == pytest.approx(cross_entropy(fine, target, 0.1), rel=1e-5)


def test_an_unknown_network_is_refused_with_names_like_it():
    with pytest.raises(ConfigError, match="no network 'efficientnet_b99'"):
        ProductNet(config(model="efficientnet_b99"))


def test_a_network_without_a_feature_map_is_refused():
    with pytest.raises(ConfigError, match="must end in a feature map"):
        ProductNet(config(model="test_vit", size=160))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path, suffix):
    from safetensors.torch import save_file

    donor = timm.create_model(TINY, num_classes=7).state_dict()
    path = tmp_path / f"w{suffix}"
    save_file(donor, path) if suffix == ".safetensors" else torch.save(donor, path)
    net = ProductNet(config(), path)
    assert torch.equal(net.backbone.state_dict()["conv_stem.weight"], donor["conv_stem.weight"])


def test_weights_of_the_same_network_under_other_names_go_by_their_order(tmp_path):
    donor = timm.create_model(TINY, num_classes=7).state_dict()
    renamed = {f"_x{i}.{name.rpartition('.')[2]}": value for i, (name, value) in enumerate(donor.items())}
    torch.save(renamed, tmp_path / "w.pth")
    backbone = timm.create_model(TINY, num_classes=0)
    load_weights(backbone, tmp_path / "w.pth")
    assert all(torch.equal(value, donor[name]) for name, value in backbone.state_dict().items())


def test_weights_that_do_not_fit_or_cannot_be_read_are_refused(tmp_path):
    backbone = timm.create_model(TINY, num_classes=0)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "other.pth")
    with pytest.raises(ArtifactError, match="do not fit"):
        load_weights(backbone, tmp_path / "other.pth")
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    with pytest.raises(ArtifactError, match="cannot read weights"):
        load_weights(backbone, tmp_path / "damaged.pth")
    with pytest.raises(ArtifactError, match="cannot read weights"):
        load_weights(backbone, tmp_path / "missing.safetensors")


def test_weights_of_the_hub_that_cannot_be_had_are_a_clear_error(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ArtifactError, match=r"from the hub.*REGULARS_PRODUCTS_WEIGHTS"):
        ProductNet(config(), "hub")


def test_weights_of_the_package_fit_where_it_is_installed():
    if importlib.util.find_spec(module.PACKAGE) is None:
        assert package_weights() is None
        return
    path = package_weights()
    assert path is not None
    ProductNet(config(model=module.PACKAGE_MODEL), path)
