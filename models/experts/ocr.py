"""Words that can be read in an image: RapidOCR, which runs PP-OCR's networks on ONNX Runtime.

Chosen because it is maintained, Apache-2.0 with its networks, and ships them in its wheel, so that nothing is fetched;
it needs OpenCV without windows only. Other packages fetch their networks when first used, or bring a second framework.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.endpoint.text import one_line
from models.errors import MissingLibrary, ModelError
from models.experts.finding import Box, Finding, Found
from models.preprocess import check_rgb
from models.protocols import Identity

_DETECTS, _READS = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
_LEAST_SIDE: Final = 224
"""Smaller images are enlarged to this shorter side. 30 of 30 words of validation scenes are read with 224 as with the
package's own 736, in a quarter of the time (0.16 s against 0.67 s of one core)."""
_LONGEST_SIDE: Final = 2000
_LEAST_HEIGHT: Final = 17
_MIN_SIGNS: Final = 2
"""Letters and digits that a reading must have: outlines of shapes are read as O, C or 口."""


class TextReader:
    """Reads words in 50 languages of Latin script, Chinese and Japanese; conforms to `models.experts.finding.Expert`.

    One image at a time: the networks use the threads that they were given for each.

    Args:
        threads: of ONNX Runtime for one image; 0 takes all cores.

    Raises:
        MissingLibrary: rapidocr is not installed, or its wheel came without networks.
    """

    name = "ocr"
    trusted = 0.5

    def __init__(self, threads: int = 1) -> None:
        try:
            import rapidocr
        except ImportError as error:
            raise MissingLibrary(
                "words in images are read with rapidocr, which is not installed: pip install 'sightline[ocr]'"
            ) from error
        folder = Path(rapidocr.__file__).parent / "models"
        missing = [name for name in (_DETECTS, _READS) if not (folder / name).is_file()]
        if missing:
            raise MissingLibrary(
                f"rapidocr {version('rapidocr')} came without {', '.join(missing)}: install a version that has them "
                f"(3.10 does); nothing is fetched at run time"
            )
        engine = "EngineConfig.onnxruntime."
        self._reader = rapidocr.RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.use_cls": False,  # text that stands on its head is rare, and "0°" is its most common answer
                "Global.text_score": self.trusted,
                "Det.model_path": str(folder / _DETECTS),
                "Rec.model_path": str(folder / _READS),
                "Det.limit_side_len": _LEAST_SIDE,
                "Global.max_side_len": _LONGEST_SIDE,
                engine + "intra_op_num_threads": threads or -1,
                engine + "inter_op_num_threads": 1,
            }
        )
        self._lock = threading.Lock()  # its networks are made on first use
        self.identity = Identity(
            model="PP-OCRv6_small",
            revision=None,
            kind="ocr",
            weights=None,
            tokenizer=None,
            preprocessing=f"shorter side at least {_LEAST_SIDE}",
            dtype="float32",
            source="rapidocr",
            libraries={name: version(name) for name in ("rapidocr", "onnxruntime")},
        )

    def find(self, images: Sequence[np.ndarray]) -> list[Found]:
        """The lines of words in each image, surest first."""
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> Found:
        try:
            check_rgb(image)
        except ModelError as error:
            return error
        if min(image.shape[:2]) * min(1.0, _LONGEST_SIDE / max(image.shape[:2])) < _LEAST_HEIGHT:
            return []  # a line of words needs some height; the package raises over strips of a pixel
        with self._lock:
            out: Any = self._reader(np.ascontiguousarray(image[..., ::-1]))
        if out.txts is None or out.boxes is None or out.scores is None:
            return []
        read = [one_line(text) for text in out.txts]
        found = [
            Finding(self.name, "word", text, float(score), _box(corners, image))
            for text, score, corners in zip(read, out.scores, out.boxes, strict=True)
            if sum(map(str.isalnum, text)) >= _MIN_SIGNS
        ]
        return sorted(found, key=lambda finding: -finding.score)


def _box(corners: np.ndarray, image: np.ndarray) -> Box:
    """The upright box around four corners in pixels."""
    shares = np.asarray(corners, np.float64) / (image.shape[1], image.shape[0])
    (left, top), (right, bottom) = shares.min(axis=0).clip(0, 1), shares.max(axis=0).clip(0, 1)
    return float(left), float(top), float(right), float(bottom)
