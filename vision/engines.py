"""The engines that read text, and the choice of one by setting.

`paddle` is ours (vision/ocr.py). The others are peers that it is measured against, and a way out for scripts that it does not know.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import math
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from contracts.errors import ArtifactError, ConfigError, UpstreamError, UpstreamTimeout
from contracts.ocr import BUNDLE
from vision.export_ocr import export
from vision.ocr import LocalNetworks, Networks, PaddleOcr, check_picture
from vision.ocr_settings import OcrSettings
from vision.types import OcrEngine, Quad, TextLine

TESSERACT_TIMEOUT_S = 60.0


def ocr_folder(home: Path) -> Path:
    """Where a home keeps the networks that read text."""
    return home / "vision" / BUNDLE


def open_engine(home: Path, settings: OcrSettings | None = None, networks: Callable[[Path], Networks] | None = None) -> OcrEngine:
    """The engine that the settings name. Networks that are not in the home yet are exported into it from the installed package.

    Args:
        home: the data directory.
        settings: read from the environment when None.
        networks: from the OCR folder to where `paddle`'s networks run; this process when None.

    Raises:
        ConfigError: what the engine needs is not installed.
        ArtifactError: its weights are missing or damaged.
    """
    chosen = settings or OcrSettings.load()
    match chosen.engine:
        case "paddle":
            folder = ocr_folder(home)
            export(folder, chosen.script)
            return PaddleOcr(networks(folder) if networks else LocalNetworks(folder, chosen.threads or None), chosen)
        case "rapidocr":
            return RapidOcrEngine(chosen.min_confidence)
        case "tesseract":
            return TesseractEngine(chosen.tesseract_language)
        case "easyocr":
            return EasyOcrEngine(chosen.easyocr_folder, chosen.min_confidence)


def _quad(points: Iterable[Iterable[float]]) -> Quad:
    a, b, c, d = ((round(float(x), 1), round(float(y), 1)) for x, y in points)
    return a, b, c, d


class RapidOcrEngine:
    """The package `rapidocr` as it is, with its own settings but for the confidence.

    Raises:
        ConfigError: it is not installed.
    """

    name = "rapidocr"

    def __init__(self, min_confidence: float = 0.5) -> None:
        if importlib.util.find_spec("rapidocr") is None:
            raise ConfigError(
                "the engine rapidocr needs the package of that name, which is not installed. Install it: pip install rapidocr==3.10.*"
            )
        module = importlib.import_module("rapidocr")
        self._read = module.RapidOCR(params={"Global.log_level": "critical", "Global.text_score": min_confidence})

    def read(self, pixels: np.ndarray) -> list[TextLine]:
        """See OcrEngine. Raises ShapeError."""
        check_picture(pixels)
        found = self._read(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        if found.boxes is None:
            return []
        return [TextLine(_quad(q), text, float(score)) for q, text, score in zip(found.boxes, found.txts, found.scores, strict=True)]


class TesseractEngine:
    """The program `tesseract`, a line of its layout a piece of text.

    Args:
        language: its option -l, for example `eng` or `eng+deu`.
        timeout_s: after which it is stopped.

    Raises:
        ConfigError: there is no such program on the path, or it lacks the language.
    """

    name = "tesseract"

    def __init__(self, language: str = "eng", timeout_s: float = TESSERACT_TIMEOUT_S) -> None:
        program = shutil.which("tesseract")
        if program is None:
            raise ConfigError(
                "the engine tesseract needs the program of that name, which is not on the path. Install it: apt-get install tesseract-ocr"
            )
        self._program, self._language, self._timeout_s = program, language, timeout_s
        known = subprocess.run([program, "--list-langs"], capture_output=True, text=True, timeout=timeout_s, check=False).stdout.split()
        missing = [part for part in language.split("+") if part not in known]
        if missing:
            packages = " ".join(f"tesseract-ocr-{part.replace('_', '-')}" for part in missing)
            raise ConfigError(f"tesseract does not know the language {', '.join(missing)}. Install it: apt-get install {packages}")

    def read(self, pixels: np.ndarray) -> list[TextLine]:
        """See OcrEngine.

        Raises:
            ShapeError: not a picture.
            UpstreamTimeout: it took longer than `timeout_s`.
            UpstreamError: it failed.
        """
        check_picture(pixels)
        _, encoded = cv2.imencode(".bmp", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        command = [self._program, "stdin", "stdout", "-l", self._language, "--psm", "4", "tsv"]
        try:
            done = subprocess.run(command, input=encoded.tobytes(), capture_output=True, timeout=self._timeout_s, check=True)
        except subprocess.TimeoutExpired as exc:
            raise UpstreamTimeout(f"tesseract took longer than {self._timeout_s:g} s on a picture. Send a smaller one") from exc
        except subprocess.CalledProcessError as exc:
            said = exc.stderr.decode(errors="replace").strip()[-300:]
            raise UpstreamError(f"tesseract ended with {exc.returncode} on a picture: {said}. Try it by hand") from exc
        return _lines_of(done.stdout.decode(errors="replace"))


def _lines_of(tsv: str) -> list[TextLine]:
    """Lines of tesseract's TSV: words of one (block, paragraph, line) together."""
    lines: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(tsv), delimiter="\t", quoting=csv.QUOTE_NONE):
        if row["level"] == "5" and row["text"].strip():
            lines.setdefault((row["page_num"], row["block_num"], row["par_num"], row["line_num"]), []).append(row)
    return sorted((_line_of(words) for words in lines.values()), key=lambda line: (line.quad[0][1], line.quad[0][0]))


def _line_of(words: list[dict[str, str]]) -> TextLine:
    boxes = np.array([[float(w[k]) for k in ("left", "top", "width", "height")] for w in words])
    left, top = boxes[:, :2].min(0)
    right, bottom = (boxes[:, :2] + boxes[:, 2:]).max(0)
    texts = [w["text"] for w in words]
    weights = np.array([len(t) for t in texts])
    sure = float(np.average([max(0.0, float(w["conf"])) / 100 for w in words], weights=weights))
    return TextLine(_quad(((left, top), (right, top), (right, bottom), (left, bottom))), " ".join(texts), min(1.0, sure))


class EasyOcrEngine:
    """The package `easyocr` with weights that lie on this machine; nothing is downloaded.

    Args:
        folder: holds the weights; the package's own ~/.EasyOCR/model when empty.
        min_confidence: readings less sure are left out.

    Raises:
        ConfigError: the package is not installed.
        ArtifactError: its weights are not in the folder.
    """

    name = "easyocr"
    WEIGHTS = ("craft_mlt_25k.pth", "english_g2.pth")

    def __init__(self, folder: str = "", min_confidence: float = 0.5) -> None:
        if importlib.util.find_spec("easyocr") is None:
            raise ConfigError("the engine easyocr needs the package of that name, which is not installed. Install it: pip install easyocr")
        place = Path(folder) if folder else Path.home() / ".EasyOCR" / "model"
        missing = [name for name in self.WEIGHTS if not (place / name).is_file()]
        if missing:
            raise ArtifactError(
                f"{place} lacks {', '.join(missing)}, the weights of easyocr, which are not in its package. Put them there (from "
                "https://www.jaided.ai/easyocr/modelhub), or name the folder that has them: REGULARS_OCR_EASYOCR_FOLDER"
            )
        module = importlib.import_module("easyocr")
        self._reader: Any = module.Reader(["en"], gpu=False, model_storage_directory=str(place), download_enabled=False, verbose=False)
        self._min_confidence = min_confidence

    def read(self, pixels: np.ndarray) -> list[TextLine]:
        """See OcrEngine. Raises ShapeError."""
        check_picture(pixels)
        found = [TextLine(_quad(q), text, float(s)) for q, text, s in self._reader.readtext(pixels) if s >= self._min_confidence]
        return sorted(found, key=lambda line: (math.floor(line.quad[0][1] / 10), line.quad[0][0]))
