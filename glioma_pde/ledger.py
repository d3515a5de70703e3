"""The books: which entries of the ledger explain which field, and how well they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from .biology.base import Event, Transfer
from .model import Model

Signs = dict[str, dict[str, float]]


def balances(model: Model, events: Sequence[Event] = ()) -> Signs:
    """For each transported field, the ledger entries that change its total, with their signs."""
    out: Signs = {f.name: {} for f in model.fields}

    def collect(x, warm):
        zero = jnp.zeros((), model.tissue.white.dtype)
        medium = model.prepare()
        q = model.quantities(x, warm, medium, zero, zero)
        for transfer in model._statements(x, q, medium, zero, zero):
            if isinstance(transfer, Transfer):
                if transfer.source is not None:
                    out[transfer.source][transfer.name] = -1.0
                if transfer.sink is not None:
                    out[transfer.sink][transfer.name] = 1.0
        return zero

    dtype, shape = model.tissue.white.dtype, model.tissue.grid.shape
    blank = jax.ShapeDtypeStruct(shape, dtype)
    jax.eval_shape(collect, {f.name: blank for f in model.fields}, {f.name: blank for f in model.memory})
    for event in events:
        for entry, change in event.entries(model).items():
            if change is not None:
                out[change[0]][entry] = change[1]
    return out


def steady_balances(model: Model) -> Signs:
    """For each quasi-steady field that is balanced, the ledger entries that sum to zero, with their signs."""
    return {field: dict(signs) for m in model.modules for field, signs in m.balance().items()}


def book_row(
    transported: Signs,
    steady: Signs,
    start: Mapping[str, float],
    total: Mapping[str, float],
    entry: Mapping[str, float],
    unit: Mapping[str, float],
) -> dict[str, float]:
    """Totals, entries and relative imbalances of an instant, by column.

    A transported field has to hold what it began with and all that came and went; a quasi-steady one holds nothing.

    Args:
        transported, steady: from `balances` and `steady_balances`.
        start, total: content of each transported field at the beginning and now. entry: the ledger.
        unit: by which a field's amounts are shown.
    """
    row = {f"{name}_total": v * unit[name] for name, v in total.items()}
    for name, signs in transported.items():
        expected = start[name] + sum(sign * entry[e] for e, sign in signs.items())
        scale = max(total[name], start[name], *(entry[e] for e in signs), 1e-300)
        row[f"{name}_imbalance"] = (total[name] - expected) / scale
        row |= {e: entry[e] * unit[name] for e in signs}
    for name, signs in steady.items():
        scale = max(*(entry[e] for e in signs), 1e-300)
        row[f"{name}_imbalance"] = sum(sign * entry[e] for e, sign in signs.items()) / scale
        row |= {e: entry[e] for e in signs}
    return row
