"""What contracts are made of: their base, and the types of fields that several of them share."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, field_validator, model_validator

T = TypeVar("T")


class Contract(BaseModel):
    """Strict, closed and frozen: a value of another type, or a field more, is refused, never converted or ignored.

    A published version never changes; what must change is a new class with the next number in `version`.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, defer_build=True)


class OneOf(Contract):
    """An object with exactly one of its fields."""

    @field_validator("*", mode="before")
    @classmethod
    def _given(cls, value: object) -> object:
        if value is None:
            raise ValueError("null is not given")
        return value

    @model_validator(mode="after")
    def _one(self) -> OneOf:
        if len(self.model_fields_set) != 1:
            raise ValueError("exactly one field")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema: dict[str, Any] = handler.resolve_ref_schema(handler(core_schema))
        schema |= {"minProperties": 1, "maxProperties": 1}
        return schema


# Lists are tuples, for frozen models hold nothing that can change; strict tuples would refuse the lists of JSON.
Several = Annotated[tuple[T, ...], Field(strict=False)]


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a boolean")  # noqa: TRY004 - pydantic wants this one; Python takes True for 1
    return value


Version = Annotated[Literal[1], BeforeValidator(_no_boolean)]
VERSION: Any = Field(
    default=1, description="Of this contract. Without it the newest counts: code that is to last states it."
)

Name = Annotated[str, Field(min_length=1, max_length=40)]
Recipe = Annotated[str, Field(pattern="^[a-z][a-z0-9-]{0,59}$")]
Words = Annotated[str, Field(min_length=1, max_length=10_000)]
ModelName = Annotated[str, Field(min_length=1, max_length=200)]
ItemId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Language = Annotated[str, Field(pattern="^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]
Free = dict[str, JsonValue]
