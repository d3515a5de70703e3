"""Derived parameters: ``"0.5 * speed / width"`` of other parameters, and nothing else that Python could say."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

_FUNCTIONS = {"sqrt": jnp.sqrt, "exp": jnp.exp, "log": jnp.log}
_BINARY = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}


@dataclass(frozen=True)
class Formula:
    """Numbers, names (dots allowed), + − * / **, and sqrt, exp, log.

    Raises:
        ValueError: in one sentence, for anything else.
    """

    text: str

    def __post_init__(self) -> None:
        self.names()

    def names(self) -> list[str]:
        """Names it reads, each once."""
        found: list[str] = []
        _walk(self._tree(), None, found)
        return list(dict.fromkeys(found))

    def __call__(self, theta: Mapping[str, Array]) -> Array:
        return _walk(self._tree(), theta, [])

    def _tree(self) -> ast.expr:
        try:
            return ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError):
            raise ValueError(f"{self.text!r} is not a formula") from None


def _walk(node: ast.expr, theta: Mapping[str, Array] | None, found: list[str]):
    """The value of a node, or with ``theta = None`` only the names in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.Name | ast.Attribute):
        name = ast.unparse(node)
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} in a formula is not a name")
        found.append(name)
        return 1.0 if theta is None else theta[name]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_walk(node.operand, theta, found)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _walk(node.left, theta, found), _walk(node.right, theta, found)
        return 1.0 if theta is None else _BINARY[type(node.op)](left, right)
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _FUNCTIONS
        and len(node.args) == 1
        and not node.keywords
    ):
        inner = _walk(node.args[0], theta, found)
        return 1.0 if theta is None else _FUNCTIONS[node.func.id](inner)
    raise ValueError(
        f"a formula may not say {ast.unparse(node)!r}; it has names, numbers, + - * / ** and sqrt, exp, log"
    )
