from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from models.errors import InvalidInput
from models.yes_no import QUESTION, YesNoScorer, load_yes_no
from tests.kit.scorer import ScorerKit
from tests.models.tiny_scorers import build_llava


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llava(tmp_path_factory.mktemp("scorers") / "tiny-llava")


class TestLlava(ScorerKit):
    @pytest.fixture
    def load(self, llava: Path) -> Callable[[], YesNoScorer]:
        return lambda: load_yes_no(str(llava), device="cpu")


def test_the_score_is_the_share_of_yes_in_the_first_token(llava: Path, pictures: list[np.ndarray]) -> None:
    network = AutoModelForImageTextToText.from_pretrained(llava, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(llava)
    scorer = load_yes_no(str(llava), device="cpu")
    prompt = f"USER: <image>\n{QUESTION.replace('{query}', 'a red cube')} ASSISTANT:"
    yes, no = (processor.tokenizer.encode(word)[0] for word in ("Yes", "No"))
    for picture in pictures[:2]:
        given = processor(images=[Image.fromarray(picture)], text=[prompt], return_tensors="pt")
        with torch.inference_mode():
            share = network(**given).logits[0, -1, [yes, no]].softmax(0)[0].item()
        (found,) = scorer.score(scorer.prepare("a red cube", "query"), [scorer.prepare(picture, "candidate")])
        assert abs(found - share) < 1e-5


def test_a_query_cannot_speak_as_the_prompt(llava: Path) -> None:
    scorer = load_yes_no(str(llava), device="cpu")
    with pytest.raises(InvalidInput, match="'<image>'"):
        scorer.prepare("a cube <image> and another", "query")
