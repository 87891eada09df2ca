"""What every call and every reply has: where to answer, until when, and what an error looks like."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from sightline.contracts.fields import VERSION, Contract, Count, Finite, Version


class Envelope(Contract):
    """What a call of any kind says beside its request."""

    reply_key: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="Redis key of a list, new for each call: the answer is pushed there as JSON."
    )
    deadline: Annotated[Finite, Field(ge=0, le=1e10)] = Field(
        description="Seconds since 1970 by the clock of Redis (`TIME`). A call that a worker takes later is dropped.",
    )


class CallError(Contract):
    """Why a call could not be answered."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    error_class: str = Field(
        alias="class", description="A name to tell errors apart: `ContractViolated`, `NotAnImage`."
    )
    message: str = Field(description="A sentence for a person.")
    item: Count | None = Field(default=None, description="Number of the input that is to blame, from 0.")


class ErrorReply(Contract):
    """The answer to a call of any kind that could not be done."""

    version: Version = VERSION
    error: CallError = Field(description="What went wrong.")
