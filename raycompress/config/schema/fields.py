"""Building blocks of the keys of an experiment file: the base class, the types of values, and their validators."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    create_model,
)
from pydantic_core import CoreSchema, PydanticCustomError, ValidationError, core_schema

from raycompress.config.schema.ranges import KEYS, TYPES, Finding, check_range, is_range
from raycompress.config.text.reader import JsonPath
from raycompress.text import did_you_mean, join_names

_NO_MEANING = "Of the old tool's remote execution: taken, and without meaning here."


_Keys = TypeVar("_Keys", bound="Keys")


def _extend(schema: dict[str, Any], model: type[Any]) -> None:
    """Add the keys that are no fields."""
    properties = schema.setdefault("properties", {})
    properties.update({key: {"description": _NO_MEANING} for key in model.meaningless})


class Keys(BaseModel):
    """An object of the file: its keys are known, each value has exactly the type that its key says."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra=_extend)
    meaningless: ClassVar[tuple[str, ...]] = ()
    """Keys of the old tool that have no meaning here: using one is taken, with a note."""


class RangeOr:
    """Marks a value that a search range may stand for; the range's ends and choices must be such values."""

    def __init__(self, only: str | None = None) -> None:
        self.only = only

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._validate, handler(source))

    def _validate(self, value: Any, handler: Any) -> Any:
        if not is_range(value):
            return handler(value)
        if findings := check_range(value, only=self.only):
            raise PydanticCustomError("findings", "a search range", {"findings": findings})
        members, wrong = _members(value, handler)
        if wrong:  # described where the key is known that the range stands for
            raise PydanticCustomError("members", "a search range", {"members": wrong})
        return {**value, "range": members}

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(schema), SEARCH_RANGE]}


def _members(value: Mapping[str, Any], handler: Any) -> tuple[list[Any], list[tuple[JsonPath, list[Any]]]]:
    """Return the range's ends or choices as the values that they stand for, and pydantic's errors by path."""
    members: list[Any] = []
    wrong: list[tuple[JsonPath, list[Any]]] = []
    for index, member in enumerate(value["range"]):
        try:
            members.append(handler(member))
        except ValidationError as error:
            wrong.append((("range", index), list(error.errors(include_url=False))))
    return members, wrong


SEARCH_RANGE: dict[str, Any] = {
    "type": "object",
    "title": "Search range",
    "properties": {
        "type": {"enum": list(TYPES)},
        "range": {"type": "array", "minItems": 1, "description": "[low, high], both included; of a choice the values"},
        "interval": {"type": "number", "exclusiveMinimum": 0, "description": "for the proposer sequence: the step"},
        "n": {"type": "integer", "minimum": 2, "description": "for the proposer sequence: how many values"},
        "log": {"type": "boolean", "description": "search the logarithm"},
    },
    "required": ["type", "range"],
    "additionalProperties": False,
}
assert tuple(SEARCH_RANGE["properties"]) == KEYS


def complaint(what: str, fix: str) -> PydanticCustomError:
    """Return the error of a validator that knows its own words."""
    return PydanticCustomError("findings", "a mistake", {"findings": [Finding((), what, fix)]})


class OneOf:
    """Marks a text that must be one of `options`; `refused` are known, and never will be.

    Options that plug-ins add to are given as a function.
    """

    def __init__(
        self,
        noun: str,
        options: Sequence[str] | Callable[[], Sequence[str]],
        *,
        refused: Mapping[str, str] | None = None,
    ) -> None:
        self.noun, self._options, self.refused = noun, options, refused or {}

    @property
    def options(self) -> Sequence[str]:
        """The texts that are taken, as of now."""
        return self._options() if callable(self._options) else self._options

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._validate, handler(source))

    def _validate(self, value: str) -> str:
        if value in self.options:
            return value
        every = f"use one of {join_names(self.options)}"
        if value in self.refused:
            raise complaint(f'the {self.noun} "{value}" is refused: {self.refused[value]}', every)
        raise complaint(f'unknown {self.noun} "{value}"', did_you_mean(value, self.options) or every)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.options)}


class OneThatFits(OneOf):
    """Marks a text that must be one of `options` and fit other keys: `raycompress.config.checks.names` checks both."""

    def _validate(self, value: str) -> str:
        return value


def absent(description: str) -> Any:
    """A key without a default: it may be left out, and cannot be null."""
    return Field(default=None, description=description)


def with_options(options: type[Any]) -> Callable[[type[_Keys]], type[_Keys]]:
    """Add the keys of `options`, a dataclass of `raycompress.config.options.option`, to an object of the file."""
    hints = get_type_hints(options)
    members: dict[str, Any] = {}
    for one in fields(options):
        if "key" in one.metadata:
            kinds = [kind for kind in get_args(hints[one.name]) if kind is not NoneType]
            kind = kinds[0] if one.default is None else hints[one.name]
            limited = Annotated[kind, Field(**one.metadata["limits"])] if one.metadata["limits"] else kind
            given = Field(default=one.default, description=one.metadata["description"])
            members[one.metadata["key"] or one.name] = (limited, given)

    def extend(keys: type[_Keys]) -> type[_Keys]:
        return create_model(keys.__name__, __base__=keys, __module__=keys.__module__, __doc__=keys.__doc__, **members)

    return extend


def no_nul(value: str) -> str:
    """Return `value`; raise where it holds a NUL character."""
    if "\0" in value:
        raise complaint("a NUL character, which no name, path or command can hold", "remove \\u0000")
    return value


def device_name(value: str) -> str:
    """Return `value`; raise where it names no device of a target."""
    host = value.removeprefix("ssh://")
    if value in ("cpu", "gpu") or (host != value and re.fullmatch(r"([\w.-]+@)?[\w.-]+(:\d{1,5})?", host)):
        return value
    other = did_you_mean(value, ("cpu", "gpu")) or 'write "device": "cpu", or "gpu", or "ssh://user@host"'
    fix = 'write "device": "gpu"' if value.startswith("cuda") else other
    raise complaint(f'"{value}" is no device', fix)


Text = Annotated[str, Field(min_length=1), AfterValidator(no_nul)]
Texts = Annotated[list[Text], Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1), RangeOr()]
Step = Annotated[int, Field(ge=0), RangeOr("int")]
Many = Annotated[int, Field(ge=1), RangeOr("int")]


def _no_number(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):  # a Literal takes 1 for true
        raise complaint(f'"expand_op_names" must be one of true, false, dependency, not {value}', "write true or false")
    return value


Expand = Annotated[Literal[True, False, "dependency"], BeforeValidator(_no_number)]


def _bits_or_each(value: Any) -> str:
    if isinstance(value, str):
        return "<name>"
    return "<each>" if isinstance(value, dict) and not is_range(value) else "<bits>"


def name_or_object(value: Any) -> str:
    """Return the tag of a value that is a name or an object."""
    return "<object>" if isinstance(value, dict) else "<name>"


QuantizedPart = Literal["weight", "input", "output"]
Bits = Annotated[
    Annotated[Many, Tag("<bits>")]
    | Annotated[dict[QuantizedPart, Many], Tag("<each>")]
    | Annotated[Literal["sensitivity"], Tag("<name>")],
    Discriminator(_bits_or_each),
]
