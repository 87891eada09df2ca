"""Captioners of BLIP format: images to texts, word by word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from models.blip import BlipCheckpoint, open_blip
from models.device import DTYPES, pick_device, pick_dtype
from models.errors import BrokenCheckpoint, InvalidInput, NonFinite
from models.pixels import PixelBatch
from models.protocols import GREEDY, Caption, Decoding
from models.scenes.tokens import FULL as FULL_PROMPT
from models.tokenizer import LoadedTokenizer, load_tokenizer

__all__ = ["FULL_PROMPT", "BlipCaptioner", "load_captioner"]

_PARTS = ("vision_model.", "text_decoder.")


class BlipCaptioner:
    """One captioner on one device; conforms to `models.protocols.Captioner`.

    The bundled one writes vague captions; the prompt `FULL_PROMPT` asks it for everything that it sees.
    """

    def __init__(
        self, opened: BlipCheckpoint, network: Any, tokenizer: LoadedTokenizer, dtype: str, device: torch.device
    ) -> None:
        text = opened.config.text_config
        self.identity = opened.identity(tokenizer.digest(tokenizer.encode), dtype)
        self.device = str(device)
        self.context_length = opened.context_length
        self._image, self._tokenizer, self._network = opened.image, tokenizer, network
        self._target = device
        self._pixels = PixelBatch(opened.image, device, DTYPES[dtype])
        self._start, self._end, self._pad = text.bos_token_id, text.sep_token_id, text.pad_token_id

    def prepare_image(self, image: np.ndarray) -> np.ndarray:
        """Resize as the checkpoint asks: uint8 RGB of any size to a uint8 square. Raises InvalidInput."""
        return self._image.apply(image)

    def caption(
        self, pixels: Sequence[np.ndarray], prompt: str | None = None, decoding: Decoding = GREEDY
    ) -> list[Caption]:
        """One caption for each prepared image; see `models.protocols.Captioner`.

        Raises:
            InvalidInput: a word of the prompt that the model does not know, a prompt that leaves no room for a caption,
                or an image that was not prepared.
            NonFinite: NaN or infinity, with the indices.
        """
        return [captions[0] for captions in self.draw(pixels, 1, prompt, decoding)]

    def draw(
        self, pixels: Sequence[np.ndarray], n: int, prompt: str | None = None, decoding: Decoding = GREEDY
    ) -> list[list[Caption]]:
        """n captions for each prepared image, of the seeds from `decoding.seed` on; each image is looked at once.

        Raises as `caption`.
        """
        begin = [self._start, *self._prompt_ids(prompt or "")]
        room = self.context_length - len(begin)
        if room < 1:
            raise InvalidInput(
                f"the prompt has {len(begin)} tokens and the model takes {self.context_length}: no room is left for a "
                f"caption; shorten it"
            )
        if not pixels:
            return []
        limit = min(decoding.max_tokens, room)
        try:
            with torch.inference_mode():
                images = self._network.vision_model(**self._pixels(pixels)).last_hidden_state
                images = images.repeat_interleave(n, 0)
                start = torch.tensor([begin], device=self._target).repeat(len(images), 1)
                if decoding.beams > 1:
                    found = self._beams(images, start, limit, decoding.beams)
                else:
                    found = self._words(images, start, limit, decoding, n)
        except NonFinite as error:
            raise NonFinite(sorted({row // n for row in error.indices}), "captions", self.identity.dtype) from error
        captions = [self._caption(ids, score) for ids, score in found]
        return [captions[first : first + n] for first in range(0, len(captions), n)]

    def likelihood(self, pixels: Sequence[np.ndarray], texts: Sequence[str], prompt: str | None = None) -> np.ndarray:
        """Mean natural-log probability, float64 (n,), of the tokens of each text about the image in the same place.

        The end token is included, as in `Caption.score`; a text is read as far as the context goes.

        Raises as `caption`, and InvalidInput for a text with a lone surrogate.
        """
        begin = [self._start, *self._prompt_ids(prompt or "")]
        rows = [[*begin, *self._ids(text), self._end][: self.context_length] for text in texts]
        if not rows:
            return np.empty(0)
        ids = torch.full((len(rows), max(map(len, rows))), self._pad)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
        ids = ids.to(self._target)
        with torch.inference_mode():
            images = self._network.vision_model(**self._pixels(pixels)).last_hidden_state
            logs = (
                self._network.text_decoder(input_ids=ids, encoder_hidden_states=images).logits.float().log_softmax(-1)
            )
            picked = logs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].double().cpu().numpy()
        means = np.array([row[len(begin) - 1 : len(ids) - 1].mean() for row, ids in zip(picked, rows, strict=True)])
        if len(bad := np.flatnonzero(np.isnan(means))):
            raise NonFinite(bad.tolist(), "captions", self.identity.dtype)
        return means

    def _prompt_ids(self, prompt: str) -> list[int]:
        ids = self._ids(prompt)
        if self._tokenizer.own.unk_token_id in ids:
            raise InvalidInput(f"the prompt {prompt[:60]!r} holds a word that {self.identity.model} does not know")
        return ids

    def _ids(self, text: str) -> list[int]:
        """The tokens of a text, without special ones."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"the text holds a lone surrogate at character {error.start}") from error
        tokenizer = self._tokenizer
        ids = tokenizer.encode(text)
        return ids[len(tokenizer.prefix) : len(ids) - len(tokenizer.suffix)]

    def _words(
        self, images: torch.Tensor, start: torch.Tensor, limit: int, decoding: Decoding, n: int
    ) -> list[tuple[list[int], float]]:
        """Greedy or sampled tokens of each image, the end token included, and their mean log-probability.

        Whatever has ended leaves the batch once that is half of it, so that short captions do not pay for long ones.
        """
        dice = [np.random.default_rng(decoding.seed + row % n) for row in range(len(images))]
        written: list[list[int]] = [[] for _ in dice]
        scores = np.zeros(len(dice))
        rows = list(range(len(dice)))
        branches = 1
        if decoding.guidance > 1:
            # The captioner learnt to write without an image from image tokens of zero (models/scenes/blip_losses.py).
            images, start, branches = torch.cat([images, torch.zeros_like(images)]), start.repeat(2, 1), 2
        cache, given = None, start
        for _ in range(limit):
            out = self._network.text_decoder(
                input_ids=given, encoder_hidden_states=images, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            cache = out.past_key_values
            own, *none = out.logits[:, -1].float().log_softmax(-1).chunk(branches)
            logs = own.cpu().numpy()
            choice = _guided(own, none[0], decoding.guidance).cpu().numpy() if none else logs
            going = [place for place, row in enumerate(rows) if written[row][-1:] != [self._end]]
            self._check_finite(logs, going, rows)
            for place in going:
                row = rows[place]
                token = _choose(choice[place], decoding, dice[row])
                written[row].append(token)
                scores[row] += float(logs[place, token])
            going = [place for place in going if written[rows[place]][-1] != self._end]
            if not going:
                break
            if 2 * len(going) <= len(rows):
                places = torch.tensor([place + b * len(rows) for b in range(branches) for place in going])
                places = places.to(self._target)
                cache.batch_select_indices(places)
                images, rows = images[places], [rows[place] for place in going]
            given = torch.tensor([[written[row][-1]] for row in rows], device=self._target).repeat(branches, 1)
        return [(ids, score / len(ids)) for ids, score in zip(written, scores, strict=True)]

    def _beams(
        self, images: torch.Tensor, start: torch.Tensor, limit: int, beams: int
    ) -> list[tuple[list[int], float]]:
        """The tokens of transformers' beam search, and their mean log-probability, from one more forward."""
        first = self._network.text_decoder(input_ids=start, encoder_hidden_states=images, logits_to_keep=1)
        self._check_finite(first.logits[:, -1].float().cpu().numpy(), *[list(range(len(images)))] * 2)
        out = self._network.text_decoder.generate(
            input_ids=start,
            attention_mask=torch.ones_like(start),
            encoder_hidden_states=images,
            eos_token_id=self._end,
            pad_token_id=self._pad,
            max_new_tokens=limit,
            num_beams=beams,
            do_sample=False,
        )
        logits = self._network.text_decoder(input_ids=out, encoder_hidden_states=images).logits
        logs = logits[:, start.shape[1] - 1 : -1].float().log_softmax(-1)
        chosen = out[:, start.shape[1] :]
        picked = logs.gather(-1, chosen[..., None])[..., 0].cpu().numpy()
        found = []
        for ids, row in zip(chosen.tolist(), picked, strict=True):
            length = ids.index(self._end) + 1 if self._end in ids else len(ids)
            found.append((ids[:length], float(row[:length].mean())))
        self._check_finite(np.array([[score] for _, score in found]), *[list(range(len(found)))] * 2)
        return found

    def _check_finite(self, logs: np.ndarray, which: list[int], rows: Sequence[int]) -> None:
        """A log-probability may be minus infinity, never NaN, nor all of them infinite; `rows` are the batch's."""
        bad = [rows[place] for place in which if np.isnan(logs[place]).any() or not np.isfinite(logs[place]).any()]
        if bad:
            raise NonFinite(bad, "captions", self.identity.dtype)

    def _caption(self, ids: list[int], score: float) -> Caption:
        text = self._tokenizer.own.decode(ids, skip_special_tokens=True)
        return Caption(" ".join(text.split()), min(float(score), 0.0), len(ids), ids[-1] != self._end)


def _guided(own: torch.Tensor, none: torch.Tensor, guidance: float) -> torch.Tensor:
    """none + guidance * (own - none), as log-probabilities (n, vocabulary)."""
    mixed = none + guidance * (own - none)
    return torch.where(mixed.isnan(), own, mixed).log_softmax(-1)


def _choose(logs: np.ndarray, decoding: Decoding, dice: np.random.Generator) -> int:
    """The likeliest token, or one drawn from the smallest set whose probability reaches `top_p`.

    Args:
        logs: log-probabilities (vocabulary,).
    """
    if decoding.temperature == 0:
        return int(logs.argmax())
    scaled = logs.astype(np.float64) / decoding.temperature
    odds = np.exp(scaled - scaled.max())
    odds /= odds.sum()
    order = np.argsort(-odds, kind="stable")
    reached = np.cumsum(odds[order])
    kept = int(np.searchsorted(reached, decoding.top_p)) + 1
    place = int(np.searchsorted(reached[:kept], dice.random() * reached[:kept][-1], side="right"))
    return int(order[min(place, kept - 1, len(order) - 1)])


def load_captioner(
    model: str = "bundled", revision: str | None = None, device: str = "auto", dtype: str | None = None
) -> BlipCaptioner:
    """Load a captioner of BLIP format, and caption one image to see that it works.

    Args:
        model: a hub id ("Salesforce/blip-image-captioning-base"), a folder, or "bundled".
        revision: branch, tag or commit of a hub repository.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32", "bfloat16" or "float16"; None is float32 on a CPU and bfloat16 on a GPU.

    Raises:
        ModelError: one of the tree in `models.errors`, with what to do about it.
    """
    target = pick_device(device)
    number_format = pick_dtype(dtype, target)
    opened = open_blip(model, revision)
    tokenizer = load_tokenizer(opened.checkpoint)
    network = opened.load("BlipForConditionalGeneration", _PARTS, target, DTYPES[number_format])
    _check_tokens(opened, tokenizer)
    captioner = BlipCaptioner(opened, network, tokenizer, number_format, target)
    black = captioner.prepare_image(np.zeros((64, 64, 3), np.uint8))
    captioner.caption([black], decoding=Decoding(max_tokens=1))
    return captioner


def _check_tokens(opened: BlipCheckpoint, tokenizer: LoadedTokenizer) -> None:
    """The tokenizer must know the decoder's start and end, or every caption would run to its limit."""
    text = opened.config.text_config
    known = len(tokenizer.own)
    for name in ("bos_token_id", "sep_token_id"):
        if not 0 <= getattr(text, name) < text.vocab_size:
            raise BrokenCheckpoint(
                f"{name} of {opened.checkpoint.model} is {getattr(text, name)}, outside its table of {text.vocab_size} "
                f"rows; correct config.json"
            )
    if known > text.vocab_size:
        raise BrokenCheckpoint(
            f"the tokenizer of {opened.checkpoint.model} has {known} tokens and its decoder {text.vocab_size} rows; "
            f"they belong to different models"
        )
