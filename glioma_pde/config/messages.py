"""Validation errors as sentences: where, what is wrong, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from .sections import SECTIONS


def sentence(section: str, error: Any, data: Any) -> str:
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
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        parent = _known_keys(section, error["loc"])
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
        return f"{path}.{key}: {context.get('tag')!r} is not one of {', '.join(tags)}{meant}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    shown = "" if isinstance(value, dict | list) else f" (it is {value!r})"
    return f"{path}: {message}{shown}"


def _is_tag(part: Any, value: Any) -> bool:
    """Whether a part of an error's place names the member of a union, not a key of the table ``value``."""
    if isinstance(value, dict):
        return part in (value.get("kind"), value.get("route")) or (isinstance(part, str) and part not in value)
    return isinstance(part, str) and value is not None


def _known_keys(section: str, loc: tuple) -> list[str]:
    """Keys that are valid where an unknown one stood."""
    schema = SECTIONS[section].json_schema()
    definitions = schema.get("$defs", {})

    def resolve(node: Any) -> list[dict]:
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rsplit("/", 1)[-1]])
        found = [node] if "properties" in node else []
        for key in ("anyOf", "oneOf", "allOf"):
            for sub in node.get(key, []):
                found += resolve(sub)
        return found

    nodes = resolve(schema)
    for part in loc[:-1]:
        deeper: list[dict] = []
        for node in nodes:
            child = node["properties"].get(str(part))
            if child is None:
                tags = [node["properties"].get(key, {}).get("const") for key in ("kind", "route")]
                deeper += [node] if part in tags or isinstance(part, int) else []
            else:
                deeper += resolve(child.get("items", child))
        nodes = deeper or nodes
    return sorted({k for node in nodes for k in node["properties"]})


def nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if known and len(known) <= 16 else ""
