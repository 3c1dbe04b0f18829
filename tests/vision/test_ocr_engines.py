"""The choice of an engine, and what each says when what it needs is not there."""

from __future__ import annotations

import importlib.util
import stat
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import ArtifactError, ConfigError, ShapeError, UpstreamError, UpstreamTimeout
from vision import engines
from vision.engines import EasyOcrEngine, RapidOcrEngine, TesseractEngine, ocr_folder, open_engine
from vision.ocr import PaddleOcr
from vision.ocr_settings import OcrSettings

from .drawn import plain, receipt

HEAD = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext"
WORDS = (
    "1\t1\t0\t0\t0\t0\t0\t0\t300\t200\t-1\t",
    "5\t1\t2\t1\t1\t1\t30\t90\t50\t12\t96.5\tTOTAL",
    "5\t1\t2\t1\t1\t2\t90\t88\t40\t14\t60\t12.40",
    "5\t1\t1\t1\t1\t1\t40\t20\t60\t10\t90\tBAKERY",
    "5\t1\t1\t1\t2\t1\t40\t40\t60\t10\t95\t ",
    '5\t1\t3\t1\t1\t1\t40\t140\t60\t10\t80\t12"',
)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a shell script named tesseract on the path, and nothing else but the system's programs."""

    def make(body: str) -> Path:
        script = tmp_path / "bin" / "tesseract"
        script.parent.mkdir(exist_ok=True)
        languages = 'if [ "$1" = "--list-langs" ]; then printf "List of available languages (2):\\neng\\nosd\\n"; exit 0; fi\n'
        script.write_text(f"#!/bin/sh\n{languages}{body}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
        return script

    return make


def test_the_default_is_ours_with_networks_exported_into_the_home(tmp_path, networks):
    asked = []
    engine = open_engine(tmp_path, OcrSettings.load(), lambda folder: asked.append(folder) or networks)
    assert isinstance(engine, PaddleOcr)
    assert asked == [ocr_folder(tmp_path)]
    assert (ocr_folder(tmp_path) / "model.json").is_file()


def test_without_a_model_server_ours_runs_in_this_process(tmp_path):
    engine = open_engine(tmp_path, OcrSettings.load(threads=1))
    assert engine.name == "paddle"
    assert plain("".join(line.text for line in engine.read(receipt(("BAKERY",))))) == "BAKERY"


def test_the_plain_package_reads_a_receipt():
    engine = open_engine(Path(), OcrSettings.load(engine="rapidocr"))
    lines = engine.read(receipt(("GREEN LEAF BAKERY", "TOTAL 12.40")))
    assert [plain(line.text) for line in lines] == ["GREENLEAFBAKERY", "TOTAL1240"]
    assert lines[0].quad[0][1] < lines[1].quad[0][1]
    assert engine.read(np.full((120, 120, 3), 240, np.uint8)) == []
    with pytest.raises(ShapeError):
        engine.read(np.zeros((9, 9), np.uint8))


def test_the_program_reads_lines_with_their_corners_and_certainty(program):
    program(f"cat > /dev/null; cat <<'END'\n{HEAD}\n" + "\n".join(WORDS) + "\nEND")
    engine = open_engine(Path(), OcrSettings.load(engine="tesseract"))
    lines = engine.read(receipt(("TOTAL",)))
    assert [line.text for line in lines] == ["BAKERY", "TOTAL 12.40", '12"']
    assert lines[1].quad == ((30, 88), (130, 88), (130, 102), (30, 102))
    assert lines[1].confidence == pytest.approx((0.965 * 5 + 0.60 * 5) / 10)
    with pytest.raises(ShapeError):
        engine.read(np.zeros((9, 9), np.uint8))


def test_the_program_gets_the_picture_as_it_is(program, tmp_path):
    program(f"cat > {tmp_path}/seen.bmp; echo '{HEAD}'")
    picture = receipt(("A",))
    picture[:5] = (250, 10, 20)
    assert TesseractEngine().read(picture) == []
    import cv2

    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "seen.bmp"))[..., ::-1], picture)


def test_a_program_that_fails_or_hangs_is_reported(program):
    program("cat > /dev/null; echo 'cannot open data' >&2; exit 3")
    with pytest.raises(UpstreamError, match="ended with 3 on a picture: cannot open data"):
        TesseractEngine().read(receipt(("A",)))
    program("exec sleep 60")
    with pytest.raises(UpstreamTimeout, match=r"longer than 0\.5 s"):
        TesseractEngine(timeout_s=0.5).read(receipt(("A",)))


def test_a_program_or_language_that_is_not_there_is_asked_for(program, monkeypatch, tmp_path):
    program("true")
    with pytest.raises(ConfigError, match=r"deu.*apt-get install tesseract-ocr-deu"):
        open_engine(Path(), OcrSettings.load(engine="tesseract", tesseract_language="eng+deu"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="apt-get install tesseract-ocr"):
        TesseractEngine()


def test_packages_that_are_not_there_are_asked_for(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None if name in ("rapidocr", "easyocr") else find(name))
    with pytest.raises(ConfigError, match=r"pip install rapidocr==3\.10"):
        RapidOcrEngine()
    with pytest.raises(ConfigError, match="pip install easyocr"):
        open_engine(Path(), OcrSettings.load(engine="easyocr"))


def test_easyocr_never_downloads_its_weights(monkeypatch, tmp_path):
    """A stand-in for the package: what is tested is where it is told to look, and what becomes of its answer."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "easyocr.py").write_text(
        "class Reader:\n"
        "    def __init__(self, languages, **options):\n"
        "        assert options['download_enabled'] is False and options['gpu'] is False\n"
        "        self.folder = options['model_storage_directory']\n"
        "    def readtext(self, pixels):\n"
        "        box = [[10, 50], [60, 50], [60, 62], [10, 62]]\n"
        "        return [(box, 'LOW', 0.9), ([[x, y - 40] for x, y in box], 'HIGH', 0.8), (box, 'NOISE', 0.1)]\n"
    )
    monkeypatch.syspath_prepend(package)
    with pytest.raises(ArtifactError, match=r"lacks craft_mlt_25k\.pth, english_g2\.pth.*REGULARS_OCR_EASYOCR_FOLDER"):
        EasyOcrEngine(str(tmp_path))
    for name in EasyOcrEngine.WEIGHTS:
        (tmp_path / name).touch()
    engine = open_engine(Path(), OcrSettings.load(engine="easyocr", easyocr_folder=str(tmp_path)))
    assert engine._reader.folder == str(tmp_path)
    assert [line.text for line in engine.read(np.zeros((80, 80, 3), np.uint8))] == ["HIGH", "LOW"]
    with pytest.raises(ShapeError):
        engine.read(np.zeros((9, 9), np.uint8))
