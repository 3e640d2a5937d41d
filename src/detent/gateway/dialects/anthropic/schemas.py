"""JSON Schemas as Anthropic's structured outputs take them: objects are closed, and what is not enforced is told.

Source: https://platform.claude.com/docs/en/build-with-claude/structured-outputs
"""

from __future__ import annotations

from typing import Any, Final

_KEPT: Final = frozenset(
    {"type", "enum", "const", "description", "title", "default", "required", "$ref", "format", "additionalProperties"}
)
_INNER: Final = ("properties", "$defs", "definitions")
_LISTS: Final = ("anyOf", "allOf")
_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)


def enforceable(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without the keywords that the API answers with an error; they go into the description instead."""
    found: dict[str, Any] = {}
    told: list[str] = []
    for name, value in schema.items():
        if name in _INNER and isinstance(value, dict):
            found[name] = {key: _schema(inner) for key, inner in value.items()}
        elif name in _LISTS and isinstance(value, list):
            found[name] = [_schema(inner) for inner in value]
        elif name == "oneOf" and isinstance(value, list):
            found["anyOf"] = [_schema(inner) for inner in value]
        elif name == "items":
            found[name] = _schema(value)
        elif name == "format" and not (isinstance(value, str) and value in _FORMATS):
            told.append(f"format: {value}")
        elif name in _KEPT or (name == "minItems" and value in (0, 1)):
            found[name] = value
        elif not name.startswith("$"):
            told.append(f"{name}: {value}")
    if "properties" in found or found.get("type") == "object":
        found["additionalProperties"] = False
    if told:
        found["description"] = f"{found.get('description', '')}\n\n{{{', '.join(told)}}}".strip()
    return found


def _schema(value: Any) -> Any:
    return enforceable(value) if isinstance(value, dict) else value
