"""One file of arrays that is either whole or refused: written atomically, read with its checksum, never with pickle."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import ArtifactError


def as_bytes(value: Any) -> np.ndarray:
    """A JSON value as uint8: an object array would need pickle to be read again."""
    return np.frombuffer(json.dumps(value, sort_keys=True).encode(), dtype=np.uint8)


def digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 (hex) over names, types, shapes and contents."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype} {array.shape} ".encode())
        found.update(array.data if array.size else b"")
    return found.hexdigest()


def write(path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write the arrays and what is to be known of them; a reader sees the old file or the new one, whole."""
    stored = arrays | {"meta": as_bytes(meta | {"sha256": digest(arrays)})}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as f:
            np.savez(f, allow_pickle=False, **stored)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, expected_format: int, again: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `write` wrote: the arrays and the meta data.

    Args:
        expected_format: the `format` that the meta data must name.
        again: what to do about a file that cannot be used, for the messages.

    Raises:
        ArtifactError: the file is missing, damaged, or of another format.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop("meta").tobytes())
        expected, version = meta["sha256"], meta["format"]
    except Exception as exc:  # a damaged zip makes NumPy raise almost anything
        raise ArtifactError(f"cannot read index {path}: {exc}. {again}") from exc
    if version != expected_format:
        raise ArtifactError(f"index {path} has format {version}, this release reads {expected_format}. {again}")
    found = digest(arrays)
    if found != expected:
        raise ArtifactError(f"index {path} has checksum {found[:12]}, its own record says {expected[:12]}. {again}")
    return arrays, meta
