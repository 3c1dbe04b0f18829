"""What crosses to and from the network that knows products, `product_classifier`, and the folder it lies in.

Letters: B batch, S side of the square that a picture is brought to, F fine classes, C coarse classes, T likeliest classes that get a map,
G side of a map (S / 32 for most networks), D embedding dim.
"""

from __future__ import annotations

from collections.abc import Mapping

from contracts.tensors import ModelSpec, TensorSpec

BUNDLE = "products"
NAME = "product_classifier"
VERSION = "1"
"""Of the served model. A network trained anew replaces it."""
RECORD = "model.json"
"""Classes, sizes, what calibrates the answers, settings, data and code version, scores, checksums."""
MEANS = "means.npz"
"""Mean embedding of each fine class: `means` float32 (F, D)."""
FINGERPRINT = "fingerprint"
"""Parameter of a served config.pbtxt: which weights they are."""
TOP = 3
"""Classes that get an activation map, likeliest first; fewer where the network knows fewer."""
MAX_BATCH = 32


def product_spec(size: int, fine: int, coarse: int, dim: int, grid: int) -> ModelSpec:
    """The tensors of a network that was trained for so many classes; -1 for what a spec leaves open."""
    side = ((64, 160, 384),) if size == -1 else ()
    return ModelSpec(
        NAME,
        inputs=(TensorSpec("pixels", "uint8", (size, size, 3), sizes=side * 2),),  # RGB, the whole picture brought to a square
        outputs=(
            TensorSpec("fine_logits", "float32", (fine,)),  # divided by the temperature: softmax of them is calibrated
            TensorSpec("coarse_logits", "float32", (coarse,)),
            TensorSpec("embedding", "float32", (dim,)),  # L2 norm 1
            TensorSpec("top", "int64", (-1 if fine == -1 else min(TOP, fine),)),  # fine classes, likeliest first
            TensorSpec("maps", "float32", (-1 if fine == -1 else min(TOP, fine), grid, grid)),  # what each place adds to their logits
            TensorSpec("places", "float32", (grid, grid, dim)),  # what each place adds to the embedding before it is normalised
        ),
        max_batch_size=MAX_BATCH,
    )


PRODUCT_CLASSIFIER = product_spec(-1, -1, -1, -1, -1)
PRODUCT_MODELS: Mapping[str, ModelSpec] = {NAME: PRODUCT_CLASSIFIER}


def fingerprint(sha256: Mapping[str, str]) -> str:
    """Names the weights of a products folder by the checksum of its network."""
    return sha256[f"{NAME}.onnx"][:16]
