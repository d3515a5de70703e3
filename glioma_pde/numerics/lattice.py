"""How fast a lattice lets an invasion front run.

The front of ∂t u = D∇²u + ρ g(u) u is pulled by its leading edge, where u ~ e^{−λ(x − ct)}. Cells of size h turn
the dispersion relation into

    c(λ) = [ρ + 2D (cosh λh − 1)/h²] / λ,

whose minimum over λ is the speed selected (Ebert & van Saarloos 2000). It exceeds 2√(Dρ): a coarse lattice makes
fronts faster, by h²ρ/(24 D) to leading order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_STEPS = 100
"""Newton steps allowed; from above, a convex function needs about ten."""


def front_speed(
    diffusivity_mm2_per_day: ArrayLike, proliferation_per_day: ArrayLike, spacing_mm: ArrayLike
) -> NDArray[np.float64]:
    """Speed [mm/day] of a plane front along an axis of the lattice, after its transient.

    Along any other direction, in two or three dimensions, the lattice disturbs the front less.

    Args:
        diffusivity_mm2_per_day: D.
        proliferation_per_day: growth rate ρ at vanishing density (for Gompertz growth: ρ ln K, from its floor).
        spacing_mm: cell size h along that axis. All three broadcast.

    Raises:
        ValueError: for a negative or non-finite D or ρ, or a spacing that is not positive.
    """
    D, rho, h = _checked(diffusivity_mm2_per_day, proliferation_per_day, spacing_mm)
    return 2.0 * np.sqrt(D) * np.sqrt(rho) * _stretch(*_edge(D, rho, h))


def speed_excess(
    diffusivity_mm2_per_day: ArrayLike, proliferation_per_day: ArrayLike, spacing_mm: ArrayLike
) -> NDArray[np.float64]:
    """How much `front_speed` exceeds 2√(Dρ), relative to it: 0.05 is five per cent.

    Zero without growth, infinite for growth without diffusion. Arguments and errors as in `front_speed`.
    """
    D, rho, h = _checked(diffusivity_mm2_per_day, proliferation_per_day, spacing_mm)
    kappa, y = _edge(D, rho, h)
    excess = _stretch(kappa, y) - 1.0
    return np.where((D == 0) & (rho > 0), np.inf, excess)


def edge_decay(
    diffusivity_mm2_per_day: ArrayLike, proliferation_per_day: ArrayLike, spacing_mm: ArrayLike
) -> NDArray[np.float64]:
    """Decay rate λ* [1/mm] of the leading edge of that front; √(ρ/D) without a lattice."""
    D, rho, h = _checked(diffusivity_mm2_per_day, proliferation_per_day, spacing_mm)
    return _edge(D, rho, h)[1] / h


def relative_spacing(excess: float) -> float:
    """h√(ρ/D) at which `speed_excess` has that value.

    Raises:
        ValueError: for an excess that is not positive.
    """
    if not excess > 0:
        raise ValueError("A lattice makes fronts faster: the excess must be positive.")
    low, high = 0.0, 1.0
    while float(speed_excess(1.0, 1.0, high)) < excess:
        high *= 2.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if float(speed_excess(1.0, 1.0, middle)) < excess else (low, middle)
    return high


def _checked(*values: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    D, rho, h = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in values))
    if not (np.all(np.isfinite(D) & np.isfinite(rho) & np.isfinite(h)) and np.all((D >= 0) & (rho >= 0) & (h > 0))):
        raise ValueError("A front needs a diffusivity and a proliferation of at least 0 and a positive spacing.")
    return D, rho, h


def _edge(D, rho, h) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """κ = h√(ρ/D) and y = λ*h, the root of y sinh y − cosh y + 1 = κ²/2 (from dc/dλ = 0).

    Zero where D or ρ is zero, and no front runs.
    """
    kappa = h * np.sqrt(np.divide(rho, D, out=np.zeros_like(rho), where=D > 0))
    # Both starts lie above the root of a function that is convex and increases: Newton cannot overshoot.
    y = np.minimum(kappa, 2.0 + 2.0 * np.log1p(kappa))
    for _ in range(_STEPS):
        # y sinh y − (cosh y − 1) with cosh y − 1 = 2 sinh²(y/2), free of cancellation
        value = y * np.sinh(y) - 2.0 * np.sinh(0.5 * y) ** 2 - 0.5 * kappa**2
        slope = y * np.cosh(y)
        step = np.divide(value, slope, out=np.zeros_like(y), where=slope > 0)
        y = y - step
        if np.all(np.abs(step) <= 4.0 * np.finfo(float).eps * y):
            break
    return kappa, y


def _stretch(kappa, y) -> NDArray[np.float64]:
    """c*/(2√(Dρ)) = sinh(y)/κ: at the minimum c is also the derivative of the dispersion relation."""
    return np.divide(np.sinh(y), kappa, out=np.ones_like(kappa), where=kappa > 0)
