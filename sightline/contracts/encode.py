"""Encode: images and texts become vectors of one space."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sightline.contracts.call import Envelope
from sightline.contracts.fields import (
    VERSION,
    Contract,
    Finite,
    ItemId,
    Name,
    OneOf,
    Several,
    Version,
)

MAX_INPUTS = 256
"""Of one call."""


class EncodePayload(Contract):
    """An encode job: each of its items gets a vector of the space."""

    version: Version = VERSION
    space: Name = Field(default="current", description="Name or alias of the space to encode into.")


class EncodeResult(Contract):
    """What an encode job leaves for each item that is done: a row of the view `<space>_image` or `<space>_text`."""

    item_id: ItemId = Field(description="The item.")
    external_id: str = Field(description="Its name in its collection.")
    space: Name = Field(description="Name of the space.")
    modality: Literal["image", "text"] = Field(description="Of the item.")
    stale: bool = Field(description="The item's content has changed since it was encoded.")
    norm: Finite = Field(description="L2 norm of the vector before it was normalised.")
    embedding: Several[Finite] = Field(description="The vector, of unit length, with as many numbers as the space has.")


class EncodeInput(OneOf):
    """One thing to encode."""

    text: str | None = Field(default=None, description="A text.")
    image: str | None = Field(default=None, description="The bytes of an image file, in base64.")


class EncodeRequest(Contract):
    """What is asked of an encode call."""

    kind: Literal["encode"] = Field(description="The kind of the call.")
    version: Version = VERSION
    space: Name = Field(default="current", description="Name or alias of the space.")
    inputs: Annotated[Several[EncodeInput], Field(min_length=1, max_length=MAX_INPUTS)] = Field(
        description="What to encode."
    )


class EncodeCall(EncodeRequest, Envelope):
    """Encode now and store nothing: the query of a search."""


class EncodeReply(Contract):
    """The answer to an encode call, one element for each input in their order."""

    version: Version = VERSION
    space: Name = Field(description="Name of the space, whatever alias was asked for.")
    vectors: Several[Several[Finite]] = Field(description="Vectors of unit length.")
    notes: Several[Several[str]] = Field(
        description="What the vector does not show of its input, in words: the end of a long text, other frames."
    )
