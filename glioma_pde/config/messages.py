"""Validation errors as sentences: where, what is wrong, and what was probably meant."""

from __future__ import annotations

import functools
import re
from typing import Any

from pydantic import ValidationError

from ..errors import one_line
from .base import nearest
from .fit import FIT_SECTIONS
from .image_sections import IMAGE_SECTIONS
from .sections import SECTIONS

__all__ = ["nearest", "sentences", "shown"]

_LENGTH = re.compile(
    r"^\w+ should have at (?P<bound>least|most) (?P<number>\d+) items? after validation, not (?P<found>\d+)"
)


def sentences(section: str, error: ValidationError, data: Any, most: int) -> list[str]:
    """Up to ``most`` errors of a section. That a list is too short is not said where entries of it are wrong: they
    are left out of the count."""
    found = error.errors(include_url=False)
    places = [e["loc"] for e in found]
    said = [
        e
        for e in found
        if e["type"] != "too_short" or all(p == e["loc"] or p[: len(e["loc"])] != e["loc"] for p in places)
    ]
    return [_sentence(section, e, data) for e in said[:most]]


def _sentence(section: str, error: Any, data: Any) -> str:
    """One pydantic error as 'path: what is wrong'."""
    path, value, tag = section, data, False
    for n, part in enumerate(error["loc"], start=1):
        absent = error["type"] == "missing" and n == len(error["loc"])
        if not tag and not absent and _is_tag(part, value):
            tag = True  # the tag of a discriminated union is no key
            continue
        tag = False
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            value = None
    path = one_line(path, 200)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        parent = _known_keys(section, tuple(error["loc"][:-1]))
        return f"{path}: unknown key{nearest(str(error['loc'][-1]), parent)}"
    if kind == "missing":
        return f"{path}: is missing"
    if kind == "union_tag_not_found":
        return f"{path}.kind: is missing"
    if kind == "union_tag_invalid":
        key = str(context.get("discriminator", "kind")).strip("'")
        tags = re.findall(r"'([^']+)'", context.get("expected_tags", ""))
        meant = nearest(str(context.get("tag")), tags)
        meant = meant if "did you mean" in meant else ""
        return f"{path}.{key}: {shown(context.get('tag'))} is not one of {', '.join(tags)}{meant}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if length := _LENGTH.match(message):
        entries = "entry" if length["number"] == "1" else "entries"
        message = f"should have at {length['bound']} {length['number']} {entries} (it has {length['found']})"
    it = "" if isinstance(value, dict | list) else f" (it is {shown(value)})"
    return f"{path}: {message}{it}"


def _is_tag(part: Any, value: Any) -> bool:
    """Whether a part of an error's place names the member of a union, not a key of the table ``value``."""
    if isinstance(value, dict):
        return part in (value.get("kind"), value.get("route")) or (isinstance(part, str) and part not in value)
    return isinstance(part, str) and value is not None


def shown(value: Any) -> str:
    """A value as it may stand in a sentence."""
    try:
        return one_line(repr(value), 80)
    except ValueError:  # Python writes no integers of thousands of digits
        return "a number of thousands of digits"


@functools.cache
def _schema(section: str) -> dict[str, Any]:
    return (SECTIONS | FIT_SECTIONS | IMAGE_SECTIONS)[section].json_schema()


@functools.lru_cache(maxsize=1000)
def _known_keys(section: str, loc: tuple) -> tuple[str, ...]:
    """Keys that are valid in the table at ``loc``."""
    schema = _schema(section)
    definitions = schema.get("$defs", {})

    def resolve(node: Any) -> list[dict]:
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rsplit("/", 1)[-1]])
        found = [node] if "properties" in node or isinstance(node.get("additionalProperties"), dict) else []
        for key in ("anyOf", "oneOf", "allOf"):
            for sub in node.get(key, []):
                found += resolve(sub)
        return found

    nodes = resolve(schema)
    for part in loc:
        deeper: list[dict] = []
        for node in nodes:
            keys = node.get("properties", {})
            child = keys.get(str(part), node.get("additionalProperties") or None)
            if child is None:
                tags = [keys.get(key, {}).get("const") for key in ("kind", "route")]
                deeper += [node] if part in tags or isinstance(part, int) else []
            else:
                deeper += resolve(child.get("items", child))
        nodes = deeper or nodes
    return tuple(sorted({k for node in nodes for k in node.get("properties", ())}))
