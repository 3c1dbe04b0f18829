"""What crosses to and from the two networks that read text, `ocr_detect` and `ocr_recognize`, and the folder they lie in.

Letters: B batch, H W sizes of a picture in pixels, T steps along a line of text, one for every 8 pixels of a crop.
"""

from __future__ import annotations

from collections.abc import Mapping

from contracts.tensors import ModelSpec, TensorSpec

BUNDLE = "ocr"
VERSION = "1"
"""Of the served models. Another export of the same weights replaces it: nobody waits for an older one."""
RECORD = "model.json"
"""Where the weights come from, under which licence, their checksums and the characters they know."""
FINGERPRINT = "fingerprint"
"""Parameter of a served config.pbtxt: which weights they are."""

CROP_HEIGHT = 48
STEP = 8  # pixels of a crop's width that make one step of its reading
READINGS = 3
"""Characters a step is given, the likeliest first; the others are what it might have been."""
BLANK = 0
"""Index of "no character here"; the record's characters begin at 1."""

OCR_DETECT = ModelSpec(
    "ocr_detect",
    inputs=(TensorSpec("pixels", "uint8", (-1, -1, 3), sizes=((32, 960, 2048), (32, 960, 2048))),),  # RGB; both sizes multiples of 32
    outputs=(TensorSpec("text_map", "uint8", (-1, -1)),),  # P(text) x 255 of each pixel
    max_batch_size=4,
)
OCR_RECOGNIZE = ModelSpec(
    "ocr_recognize",
    inputs=(TensorSpec("crops", "uint8", (CROP_HEIGHT, -1, 3), sizes=((32, 320, 2048),)),),  # RGB, padded on the right with 127
    outputs=(TensorSpec("characters", "int32", (-1, READINGS)), TensorSpec("probabilities", "float32", (-1, READINGS))),  # (B, T, 3)
    max_batch_size=16,
)
OCR_MODELS: Mapping[str, ModelSpec] = {m.name: m for m in (OCR_DETECT, OCR_RECOGNIZE)}


def fingerprint(sha256: Mapping[str, str]) -> str:
    """Names the weights of an OCR folder by the checksums of its files."""
    return "-".join(sha256[f"{name}.onnx"][:16] for name in OCR_MODELS)
