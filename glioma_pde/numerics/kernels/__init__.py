"""Which kernels compute: native ones on CPU where they were built at installation, XLA's own loops everywhere else.

`drop_in` makes one JAX primitive out of a function written for XLA. The function says what is computed and gives
derivatives and batches; on one CPU device a native kernel may compute it instead, equal to rounding. Under sharded
`jit` the function itself is lowered, whose slices exchange halos only, where a foreign call would gather everything.

``GLIOMA_PDE_KERNELS`` set to ``xla`` leaves native kernels out, set to ``native`` insists on them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import jax
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_native: ModuleType | None
try:
    from . import _native  # type: ignore[attr-defined, no-redef]
except ImportError:
    _native = None

KINDS = ("auto", "native", "xla")


def _register() -> bool:
    """Whether the native kernels can be called by this jaxlib: they may have been built for another one."""
    if _native is None:
        return False
    for name, capsule in _native.targets.items():
        jax.ffi.register_ffi_target(f"glioma_pde_{name}", capsule, platform="cpu")
    return True


available = _register()
"""Whether native kernels were built."""

_chosen = os.environ.get("GLIOMA_PDE_KERNELS", "auto")


def in_use() -> str:
    """``"native"`` or ``"xla"``: what computes on one CPU device.

    Raises:
        ValueError: if ``GLIOMA_PDE_KERNELS`` is none of "auto", "native", "xla", or "native" and there are none.
    """
    if _chosen not in KINDS:
        raise ValueError(f"GLIOMA_PDE_KERNELS is {_chosen!r}; it can be {', '.join(KINDS)}.")
    if _chosen == "native" and not available:
        raise ValueError("GLIOMA_PDE_KERNELS asks for native kernels, and none were built at installation.")
    return "native" if available and _chosen != "xla" else "xla"


def describe() -> str:
    """`in_use`, and why, in words."""
    if in_use() == "native":
        assert _native is not None
        return f"native on CPU ({_native.instructions}), XLA elsewhere"
    why = "as GLIOMA_PDE_KERNELS says" if available else "no native ones were built; a C++17 compiler was missing"
    return f"XLA ({why})"


@contextmanager
def use(kind: str) -> Iterator[None]:
    """Within it, programs are compiled with kernels of that kind. Forgets all compiled programs, before and after."""
    global _chosen
    before = _chosen
    _chosen = kind
    try:
        in_use()
        jax.clear_caches()
        yield
    finally:
        _chosen = before
        jax.clear_caches()


Function = Callable[..., Any]


def lower(primitive: Primitive, in_xla: Function, native: Callable[..., str | None]) -> None:
    """Have ``primitive`` computed as `drop_in` says."""
    xla = mlir.lower_fun(in_xla, multiple_results=primitive.multiple_results)

    def on_cpu(ctx: mlir.LoweringRuleContext, *operands, **static):
        kernel = native(*ctx.avals_in, **static) if in_use() == "native" and _alone(ctx) else None
        if kernel is None or not _has_loops(ctx.avals_in[0]):
            return xla(ctx, *operands, **static)
        return jax.ffi.ffi_lowering(f"glioma_pde_{kernel}_{ctx.avals_in[0].dtype}")(ctx, *operands)

    mlir.register_lowering(primitive, xla)
    mlir.register_lowering(primitive, on_cpu, platform="cpu")


def drop_in(name: str, results: int, in_xla: Function, native: Callable[..., str | None]) -> Primitive:
    """A primitive that computes ``in_xla(*arrays, **static)``, or has a native kernel do so.

    Its derivatives are those of ``in_xla``, linearised where the primitive was; its batches are computed in XLA.

    Args:
        results: how many arrays it returns, as a list, all of the shape and precision of the first operand.
        native: ``(*avals, **static)`` to the name of the kernel without its precision, or None if there is none for
            such operands.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True

    @partial(jax.jit, static_argnames="static")
    def alone(*arrays, static):
        return primitive.bind(*arrays, **dict(static))

    def jvp(primals: Sequence[Array], tangents: Sequence[Any], **static):
        moving = [k for k, t in enumerate(tangents) if type(t) is not ad.Zero]

        def function(*values):
            arrays = list(primals)
            for k, value in zip(moving, values, strict=True):
                arrays[k] = value
            return list(in_xla(*arrays, **static))

        _, out = jax.jvp(function, [primals[k] for k in moving], [tangents[k] for k in moving])
        return primitive.bind(*primals, **static), out

    def batch(arrays, axes, **static):
        out = jax.vmap(partial(in_xla, **static), in_axes=axes)(*arrays)
        return list(out), [0] * results

    primitive.def_impl(lambda *arrays, **static: alone(*arrays, static=tuple(static.items())))
    primitive.def_abstract_eval(lambda first, *_, **__: [first] * results)
    lower(primitive, in_xla, native)
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    return primitive


def _alone(ctx: mlir.LoweringRuleContext) -> bool:
    """Whether one device computes all of the program, or all of this shard of it."""
    return getattr(ctx.module_context.axis_context, "num_devices", 1) == 1


def _has_loops(first: Any) -> bool:
    """Whether native loops take such an operand: float32 or float64, one to three axes, not empty."""
    return str(first.dtype) in ("float32", "float64") and 1 <= first.ndim <= 3 and first.size > 0
