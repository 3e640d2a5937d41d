"""JSON Schemas for providers that understand only a part of the language."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

GEMINI: Final = frozenset(
    {
        "$anchor",
        "$defs",
        "$id",
        "$ref",
        "additionalProperties",
        "anyOf",
        "description",
        "enum",
        "format",
        "items",
        "maxItems",
        "maximum",
        "minItems",
        "minimum",
        "oneOf",
        "prefixItems",
        "properties",
        "propertyOrdering",
        "required",
        "title",
        "type",
    }
)
"""Keywords of `responseJsonSchema` and `parametersJsonSchema`.

Source: https://ai.google.dev/api/generate-content#FIELDS.response_json_schema
"""

_NOTES: Final = frozenset(
    {"$comment", "$schema", "default", "deprecated", "examples", "example", "readOnly", "writeOnly", "nullable"}
)
"""Keywords that hold nobody to anything."""

_DEPTH: Final = 64


def reduced(schema: dict[str, Any], keywords: frozenset[str]) -> tuple[dict[str, Any], set[str]]:
    """A schema in fewer keywords, and those that were left out although they meant something.

    What can be said in other words is: `const` as an `enum` of one, `allOf` of one as that one, `definitions` as
    `$defs`. What remains allows everything that the whole one allowed.
    """
    lost: set[str] = set()
    return _reduced(schema, keywords, lost, 0), lost


def _reduced(schema: dict[str, Any], keywords: frozenset[str], lost: set[str], depth: int) -> dict[str, Any]:
    if depth > _DEPTH:
        lost.add("depth")
        return {}
    found: dict[str, Any] = {}

    def within(value: object) -> Any:
        return _reduced(value, keywords, lost, depth + 1) if isinstance(value, dict) else value

    for word, value in schema.items():
        if word == "const":
            found.setdefault("enum", [value])
        elif word == "allOf" and isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
            found = {**within(value[0]), **found}
        elif word == "definitions" and isinstance(value, dict):
            found.setdefault("$defs", {}).update(_each(value, within))
        elif word not in keywords:
            if word not in _NOTES:
                lost.add(word)
        elif word == "$ref" and isinstance(value, str):
            found[word] = value.replace("#/definitions/", "#/$defs/")
        elif word in {"properties", "$defs"} and isinstance(value, dict):
            found[word] = {**found.get(word, {}), **_each(value, within)}
        elif word in {"anyOf", "oneOf", "prefixItems"} and isinstance(value, list):
            found[word] = [within(each) for each in value]
        elif word in {"items", "additionalProperties"}:
            found[word] = within(value)
        else:
            found[word] = value
    return found


def _each(schemas: dict[str, Any], within: Callable[[object], Any]) -> dict[str, Any]:
    return {name: within(value) for name, value in schemas.items()}
