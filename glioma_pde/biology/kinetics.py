"""Plasma kinetics in closed form: means over a step, so that it need not resolve them.

All are sums of terms that are never negative, and exactly zero before the dose.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def mean_rise(t: Array, dt: Array, start: Array, end: Array, k) -> Array:
    """Mean over [t, t + dt] of the response to a unit level held from start to end:
    0 before, 1 − e^{−k(t − start)} during, (1 − e^{−k(end − start)}) e^{−k(t − end)} after."""
    later = _overlap(t, dt, end)
    during = _overlap(t, dt, start) - later
    x, y = jnp.maximum(t - start, 0.0), jnp.maximum(t - end, 0.0)
    reached = -jnp.expm1(-k * jnp.clip(t - start, 0.0, end - start)) * jnp.exp(-k * y)
    rise = -jnp.expm1(-k * x) * during + jnp.exp(-k * x) * _above_exponential(k * during) / k
    fall = jnp.expm1(-k * (end - start)) * jnp.exp(-k * y) * jnp.expm1(-k * later) / k
    length = jnp.where(dt > 0, dt, 1.0)
    return jnp.where(dt > 0, (rise + fall) / length, reached)


def mean_decay(t: Array, dt: Array, start: Array, k) -> Array:
    """Mean over [t, t + dt] of 0 before ``start``, e^{−k(t − start)} after."""
    decayed = jnp.exp(-k * jnp.maximum(t - start, 0.0))
    length = jnp.where(dt > 0, dt, 1.0)
    mean = -decayed * jnp.expm1(-k * _overlap(t, dt, start)) / (k * length)
    return jnp.where(dt > 0, mean, jnp.where(t < start, 0.0, decayed))


def _overlap(t: Array, dt: Array, start: Array) -> Array:
    """Length of the part of [t, t + dt] after ``start``."""
    return jnp.clip(t + dt - start, 0.0, dt)


def _above_exponential(z: Array) -> Array:
    """z − 1 + e^{−z} for z ≥ 0, without cancellation at small z."""
    small = z < 0.03
    series = 0.5 * z * z * (1.0 - z / 3.0 * (1.0 - z / 4.0 * (1.0 - z / 5.0 * (1.0 - z / 6.0))))
    return jnp.where(small, series, z + jnp.expm1(-z))
