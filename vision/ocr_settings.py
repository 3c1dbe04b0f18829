"""Settings of reading text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from contracts.settings import StackSettings, settings_config


class OcrSettings(StackSettings):
    """How text is read from pictures; variables REGULARS_OCR_*."""

    model_config = settings_config("REGULARS_OCR_")

    engine: Literal["paddle", "rapidocr", "tesseract", "easyocr"] = Field(
        default="paddle",
        description="paddle: PP-OCRv6 run by us; rapidocr: the package as it is; tesseract: the program; easyocr: the package",
    )
    script: Literal["latin", "all"] = Field(
        default="latin", description="characters that paddle knows; all adds Chinese, Japanese, Greek, symbols"
    )
    longest_px: int = Field(
        default=960, ge=320, le=2048, description="longer side at which text is looked for; larger pictures are scaled down"
    )
    map_threshold: float = Field(default=0.3, gt=0, lt=1, description="probability from which a pixel belongs to text")
    box_threshold: float = Field(default=0.5, ge=0, lt=1, description="mean probability inside a box from which it is text")
    growth: float = Field(default=1.6, ge=1, le=3, description="how far a box is grown around the core that the network marks")
    min_confidence: float = Field(default=0.5, ge=0, lt=1, description="readings less sure than this are left out")
    turn: bool = Field(default=True, description="find out whether the page lies on its side or stands on its head")
    stretch: bool = Field(default=True, description="raise the contrast of pale and dark pictures")
    threads: int = Field(default=0, ge=0, le=256, description="cores that reading in this process may use; 0: all that it is given")
    tesseract_language: str = Field(
        default="eng", pattern=r"^[A-Za-z0-9_+/-]{2,64}$", description="languages of tesseract, as its option -l"
    )
    easyocr_folder: str = Field(default="", description="folder that holds EasyOCR's weights; its own ~/.EasyOCR when empty")
