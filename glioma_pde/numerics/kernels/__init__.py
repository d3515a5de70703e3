"""Which kernels compute: native ones on CPU where they were built at installation, XLA's own loops everywhere else.

`drop_in` makes one JAX primitive out of a function written for XLA. The function says what is computed and gives
derivatives and batches; on one CPU device a native kernel may compute it instead, equal to rounding. Under sharded
`jit` the function itself is lowered, whose slices exchange halos only, where a foreign call would gather everything.

`choose` leaves native kernels out or insists on them; the command line does so by the variable ``GLIOMA_PDE_KERNELS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import jax
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ...errors import GliomaError

_native: ModuleType | None
try:
    from . import _native  # type: ignore[attr-defined, no-redef]
except ImportError:
    _native = None

REVISION = 2
"""Of the operands and results of the native kernels; `native.cpp` has the same number."""

KINDS = ("auto", "native", "xla")


def _register() -> str:
    """Make the native kernels known to XLA; why that cannot be, or nothing."""
    if _native is None:
        return "no native ones were built: the installation found no C++17 compiler"
    if getattr(_native, "revision", None) != REVISION:
        return "the native ones were built from other sources: install the package again"
    try:
        for name, capsule in _native.targets.items():
            jax.ffi.register_ffi_target(f"glioma_pde_{name}", capsule, platform="cpu")
    except Exception:  # whatever jaxlib raises: it only says that it is not the one they were built for
        return "the native ones were built for another jaxlib: install the package again"
    return ""


WHY_NOT = _register()
"""Why there are no native kernels; empty if there are."""

_chosen = "auto"


def in_use() -> str:
    """``"native"`` or ``"xla"``: what computes on one CPU device."""
    return "xla" if WHY_NOT or _chosen == "xla" else "native"


def describe() -> str:
    """`in_use`, and why, in words."""
    if in_use() == "native":
        assert _native is not None
        return f"native on CPU ({_native.instructions}), XLA elsewhere"
    return f"XLA ({WHY_NOT or 'as chosen'})"


def choose(kind: str) -> None:
    """Compile from now on with ``"native"`` kernels, with ``"xla"``, or (``"auto"``) with native ones where there are.

    Programs compiled with others are forgotten.

    Raises:
        GliomaError: if there is no such kind, or no native kernels.
    """
    global _chosen
    if kind not in KINDS:
        raise GliomaError(f"Kernels can be {', '.join(KINDS)}, not {kind!r}.")
    if kind == "native" and WHY_NOT:
        raise GliomaError(f"Native kernels were asked for; {WHY_NOT}.")
    before = in_use()
    _chosen = kind
    if in_use() != before:
        jax.clear_caches()


@contextmanager
def use(kind: str) -> Iterator[None]:
    """`choose` within it."""
    before = _chosen
    choose(kind)
    try:
        yield
    finally:
        choose(before)


Function = Callable[..., Any]


def call(kernel: str, results: Sequence[jax.ShapeDtypeStruct], *operands: Array) -> list[Array]:
    """What a native kernel makes of these operands."""
    return list(jax.ffi.ffi_call(f"glioma_pde_{kernel}_{operands[0].dtype}", results)(*operands))


def like(array: Array) -> jax.ShapeDtypeStruct:
    """A result of the shape and precision of ``array``."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def lower(primitive: Primitive, in_xla: Function, native: Function, takes: Function = lambda *_, **__: True) -> None:
    """Have ``primitive`` computed as `drop_in` says."""
    xla = mlir.lower_fun(in_xla, multiple_results=primitive.multiple_results)
    compiled = mlir.lower_fun(native, multiple_results=primitive.multiple_results)

    def on_cpu(ctx: mlir.LoweringRuleContext, *operands, **static):
        usable = in_use() == "native" and _alone(ctx) and _has_loops(ctx.avals_in[0]) and takes(*ctx.avals_in, **static)
        return (compiled if usable else xla)(ctx, *operands, **static)

    mlir.register_lowering(primitive, xla)
    mlir.register_lowering(primitive, on_cpu, platform="cpu")


def drop_in(
    name: str, results: Function, in_xla: Function, native: Function, takes: Function = lambda *_, **__: True
) -> Primitive:
    """A primitive that computes ``in_xla(*arrays, **static)``, or has a native kernel do so.

    Its derivatives are those of ``in_xla``, linearised where the primitive was; its batches are computed in XLA.

    Args:
        results: ``(*avals)`` to the list of what it returns.
        native: the same as ``in_xla``, by a `call`.
        takes: ``(*avals, **static)``, whether ``native`` does such operands. The first is float32 or float64 with one to
            three axes, not empty.
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
        return list(out), [0] * len(out)

    primitive.def_impl(lambda *arrays, **static: alone(*arrays, static=tuple(static.items())))
    primitive.def_abstract_eval(lambda *avals, **_: results(*avals))
    lower(primitive, in_xla, native, takes)
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    return primitive


def _alone(ctx: mlir.LoweringRuleContext) -> bool:
    """Whether one device computes all of the program, or all of this shard of it."""
    return getattr(ctx.module_context.axis_context, "num_devices", 1) == 1


def _has_loops(first: Any) -> bool:
    return str(first.dtype) in ("float32", "float64") and 1 <= first.ndim <= 3 and first.size > 0
