"""A random BLIP of one layer behind the protocol of captioners, one image at a time: a sound model to break."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BlipConfig, BlipForConditionalGeneration

from models.errors import InvalidInput, NonFinite
from models.protocols import GREEDY, Caption, Decoding, Identity

WORDS = [
    "[PAD]",
    "[END]",
    "[BOS]",
    "a",
    "picture",
    "of",
    "red",
    "blue",
    "cat",
    "dog",
    "on",
    "the",
    "mat",
    "two",
    "cubes",
]
END, START = 1, 2
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
SIDE, CONTEXT = 32, 128


class TinyCaptioner:
    """Greedy, sampled and beam search over fifteen words."""

    device = "cpu"
    identity = Identity("tiny-blip", None, "blip", "0" * 64, "words", "resize 32", "float32", "tests", {"torch": "2"})

    def __init__(self) -> None:
        config = BlipConfig(
            vision_config={**TOWER, "image_size": SIDE, "patch_size": 8},
            text_config={
                **TOWER, "encoder_hidden_size": 32, "vocab_size": len(WORDS), "max_position_embeddings": CONTEXT,
                "bos_token_id": START, "eos_token_id": END, "sep_token_id": END, "pad_token_id": 0,
            },
        )  # fmt: skip
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(3)
            self.network: Any = BlipForConditionalGeneration(config).eval()
            for weight in self.network.parameters():
                if weight.dim() > 1:
                    weight.normal_(std=0.25)
            self.network.text_decoder.cls.predictions.bias[END] += 1.5  # or it would hardly ever end

    def prepare_image(self, image: np.ndarray) -> np.ndarray:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InvalidInput(f"expected a uint8 RGB image, got {image.dtype} {image.shape}")
        return np.array(Image.fromarray(image).resize((SIDE, SIDE)))

    @torch.inference_mode()
    def caption(
        self, pixels: Sequence[np.ndarray], prompt: str | None = None, decoding: Decoding = GREEDY
    ) -> list[Caption]:
        words = (prompt or "").split()
        unknown = [word for word in words if word not in WORDS[3:]]
        if unknown or len(words) > 8:
            raise InvalidInput(f"the prompt of {len(words)} words cannot be used")
        start = [START, *(WORDS.index(word) for word in words)]
        found = [self._one(image, start, decoding) for image in pixels]
        bad = [index for index, caption in enumerate(found) if not np.isfinite(caption.score)]
        if bad:
            raise NonFinite(bad, "captions", "float32")
        return found

    def _one(self, image: np.ndarray, start: list[int], decoding: Decoding) -> Caption:
        batch = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        seen = self.network.vision_model(batch).last_hidden_state
        dice = torch.Generator().manual_seed(decoding.seed)
        beams: list[tuple[float, list[int]]] = [(0.0, [])]  # sum of log-probabilities, tokens
        for _ in range(decoding.max_tokens):
            if all(tokens[-1:] == [END] for _, tokens in beams):
                break
            grown = [beam for beam in beams if beam[1][-1:] == [END]]
            open_beams = [beam for beam in beams if beam[1][-1:] != [END]]
            ids = torch.tensor([start + tokens for _, tokens in open_beams])
            around = seen.expand(len(open_beams), -1, -1)
            logits = self.network.text_decoder(ids, encoder_hidden_states=around).logits[:, -1]
            for (score, tokens), row in zip(open_beams, logits, strict=True):
                if decoding.temperature:
                    odds = (row / decoding.temperature).softmax(-1).nan_to_num(1.0)
                    chosen = torch.multinomial(odds, 1, generator=dice)
                else:
                    chosen = row.topk(decoding.beams).indices
                logs = row.log_softmax(-1)
                grown.extend((score + float(logs[one]), [*tokens, int(one)]) for one in chosen)
            beams = sorted(grown, key=lambda beam: -beam[0])[: decoding.beams]
        score, tokens = beams[0]
        ended = tokens[-1:] == [END]
        text = " ".join(WORDS[token] for token in tokens if token > START)
        return Caption(text, score / len(tokens), len(tokens), not ended)
