"""What an encoder, a captioner and a scorer must offer to join: the workers call nothing else of them.

`tests/kit` holds one conformance kit for each; a model that passes it may be served. In all of them `prepare*` may be
called by many threads at once and holds what is slow on a CPU, `collate*` brings a batch to the device and may be
called while a forward runs, and the forward is called by one thread at a time. A result depends on its own input alone,
never on what else is in the batch. Errors are those of `models.errors`: `InvalidInput` blames one input, `NonFinite`
names the positions in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np

from models.passport import Passport

Modality = Literal["image", "text"]
Role = Literal["query", "candidate"]
Part = str | np.ndarray
"""A text, or an image as uint8 (height, width, 3), RGB, of any size."""


class Prepared(Protocol):
    """A text that is ready for the forward."""

    @property
    def tokens(self) -> int:
        """How many tokens the whole text has, special tokens included."""

    @property
    def truncated(self) -> bool:
        """Whether the model reads less than the whole text."""


class ImageEncoder(Protocol):
    """Images to vectors. Models that take no text are this alone.

    Attributes:
        passport: identity of the space.
        dim: length of the vectors.
        device: where the forward runs, "cpu" or "cuda:0".
    """

    passport: Passport
    dim: int
    device: str

    def decode_size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height that a decoder which can scale must leave of an image of this size."""

    def prepare_image(self, image: np.ndarray) -> np.ndarray:
        """uint8 (height, width, 3), RGB, of any size to what `encode_images` takes, sharing no memory with it."""

    def collate_images(self, pixels: Sequence[np.ndarray]) -> Any:
        """Prepared images, at least one, to what `forward` takes. Raises InvalidInput."""

    def forward(self, batch: Any) -> np.ndarray:
        """A collated batch to float32 (n, dim), not normalised. Raises NonFinite."""

    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Both in one, for any number of images."""


class ImageTextEncoder(ImageEncoder, Protocol):
    """Images and texts to vectors of one space.

    Attributes:
        context_length: tokens of the longest text that is not cut.
    """

    context_length: int

    def prepare_text(self, text: str) -> Prepared:
        """Tokenise and cut; the result says whether it was cut. Raises InvalidInput on a lone surrogate."""

    def collate_texts(self, texts: Sequence[Any]) -> Any:
        """Prepared texts, at least one, to what `forward` takes."""

    def encode_texts(self, texts: Sequence[Any]) -> np.ndarray:
        """`collate_texts` and `forward` in one, for any number of texts."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which captioner or scorer made a result; stored beside it. Spaces have a `Passport` instead.

    Args:
        model: hub id, folder name or public id of a bundled model. Never a path.
        revision: commit of the hub repository; None for folders and bundled models.
        kind: family of the model, such as "blip".
        weights: digest of the weights; None for an endpoint, which does not tell.
        tokenizer, preprocessing: digests of what is done to texts and images; None where there are none.
        dtype: number format of the forward.
        source: "hub", "bundled", an endpoint's address without credentials, or the folder's path.
        libraries: versions of the libraries that computed it.
    """

    model: str
    revision: str | None
    kind: str
    weights: str | None
    tokenizer: str | None
    preprocessing: str | None
    dtype: str
    source: str
    libraries: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a captioner chooses its words; greedy by default.

    Args:
        max_tokens: generated tokens after which a caption is cut, and reported as truncated.
        beams: width of the beam search; 1 for greedy and sampling.
        temperature: 0 takes the likeliest token; above it tokens are sampled, and `beams` must be 1.
        top_p: sample from the smallest set of tokens whose probability reaches this.
        seed: of the sampling. Each image draws from a stream of its own that starts here, so that one seed gives one
            caption in any batch; n captions of one image are n seeds.
        guidance: classifier-free guidance (Kornblith et al. 2023, arXiv 2307.16686): words are chosen by
            none + guidance * (image - none), the log-probabilities with the image and without one. 1 is plain; above
            it `beams` must be 1, and a captioner that cannot raises InvalidInput.
    """

    max_tokens: int = 64
    beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.beams < 1:
            raise ValueError(f"max_tokens and beams must be at least 1, got {self.max_tokens} and {self.beams}")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature must be at least 0 and top_p in (0, 1], got {self.temperature} and {self.top_p}"
            )
        if self.temperature and self.beams > 1:
            raise ValueError(f"sampling takes one beam, got {self.beams}; set temperature to 0 for a beam search")
        if not 1 <= self.guidance < float("inf"):
            raise ValueError(f"guidance must be a number from 1, got {self.guidance}")
        if self.guidance > 1 and self.beams > 1:
            raise ValueError(f"guidance takes one beam, got {self.beams}")


GREEDY = Decoding()


@dataclass(frozen=True, slots=True)
class Caption:
    """One text about one image.

    Args:
        text: without prompt and special tokens.
        score: mean natural-log probability of the generated tokens under the model (before temperature and top_p), the
            end token included; at most 0. None for an endpoint that does not tell.
        tokens: generated tokens, the end token included, the prompt not. None for an endpoint that does not tell.
        truncated: whether `max_tokens` ended it rather than the model.
    """

    text: str
    score: float | None
    tokens: int | None
    truncated: bool


class Captioner(Protocol):
    """Images to captions.

    Attributes:
        identity: which model this is.
        device: where the forward runs; "remote" for an endpoint.
    """

    identity: Identity
    device: str

    def prepare_image(self, image: np.ndarray) -> np.ndarray:
        """uint8 (height, width, 3), RGB, of any size to what `caption` takes, sharing no memory with it."""

    def caption(
        self, pixels: Sequence[np.ndarray], prompt: str | None = None, decoding: Decoding = GREEDY
    ) -> list[Caption]:
        """One caption for each prepared image, any number; none for none.

        Args:
            pixels: what `prepare_image` returned.
            prompt: how every caption begins, or what is asked about every image.
            decoding: greedy, beam or sampling.

        Raises:
            InvalidInput: the prompt cannot be used, for one that leaves no room for a caption too.
            NonFinite: NaN or infinity, with the indices.
        """


@dataclass(frozen=True, slots=True)
class PreparedPart:
    """A query or candidate that is ready for the forward.

    Args:
        modality: what it was.
        value: the scorer's own.
        truncated: whether the model reads less than the whole text.
        size: what its part of a pair costs by: tokens that are read, of text or image.
    """

    modality: Modality
    value: Any
    truncated: bool = False
    size: int = 1


class Scorer(Protocol):
    """How well candidates fit a query. `models.scorer.score_each` gives a bad candidate its error and scores the rest.

    Attributes:
        identity: which model this is.
        device: where the forward runs; "remote" for an endpoint.
        takes: the (query, candidate) modalities that it can compare.
    """

    identity: Identity
    device: str
    takes: frozenset[tuple[Modality, Modality]]

    def prepare(self, part: Part, role: Role) -> PreparedPart:
        """Make one query or candidate ready. Raises InvalidInput, for an empty text too."""

    def score(self, query: PreparedPart, candidates: Sequence[PreparedPart]) -> np.ndarray:
        """float32 (n,) in [0, 1], higher fits better; comparable within one scorer only. Raises NonFinite."""
