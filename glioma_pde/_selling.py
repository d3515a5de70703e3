"""Selling's decomposition of positive definite matrices, in NumPy, for many of them at once.

    M = Σ λ_e e eᵀ,   λ_e ≥ 0,   e integer vectors,   at most n(n + 1)/2 of them for each n × n matrix

(Selling 1874; as stencils for anisotropic diffusion Fehrenbach & Mirebeau, J Math Imaging Vis 49, 2014). A superbase is
a set of n + 1 integer vectors that sum to zero, n of which span the lattice. It is obtuse for M when vᵢᵀ M vⱼ ≤ 0 for
all i ≠ j; then λ = −vᵢᵀ M vⱼ ≥ 0 belongs to the vector that is orthogonal to all others of the superbase.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

_MOST_STEPS = 10_000
"""Far more than any ratio of eigenvalues that a double can hold takes."""


def decompose(matrices: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Offsets ``(N, K, n)`` and weights λ ``(N, K)``, K = n(n + 1)/2, of symmetric positive definite matrices ``(N, n, n)``.

    The first entry of each offset that is not zero is positive.

    Raises:
        ValueError: if a matrix is not positive definite.
    """
    if len(matrices) and not np.linalg.eigvalsh(matrices).min() > 0.0:
        raise ValueError("Only positive definite matrices have a decomposition.")
    base = _obtuse_superbases(matrices)
    n = matrices.shape[-1]
    products = base @ matrices @ base.swapaxes(1, 2)
    offsets, weights = [], []
    for i, j in combinations(range(n + 1), 2):
        others = [base[:, k] for k in range(n + 1) if k not in (i, j)]
        across = others[0][:, ::-1] * (-1.0, 1.0) if n == 2 else np.cross(others[0], others[1])
        offsets.append(across)
        weights.append(np.maximum(-products[:, i, j], 0.0))  # obtuse to rounding
    return _pointing_up(np.rint(np.stack(offsets, axis=1)).astype(np.int64)), np.stack(weights, axis=1)


def _obtuse_superbases(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """An obtuse superbase for each matrix, ``(N, n + 1, n)``, by Selling's algorithm."""
    n = matrices.shape[-1]
    start = np.concatenate([np.eye(n), -np.ones((1, n))])
    base = np.repeat(start[None], len(matrices), axis=0)
    pairs = list(combinations(range(n + 1), 2))
    first, second = np.transpose(pairs)
    rounding = 4.0 * np.finfo(float).eps * np.trace(matrices, axis1=1, axis2=2)
    active = np.arange(len(matrices))
    for _ in range(_MOST_STEPS):
        here = base[active]
        products = (here @ matrices[active] @ here.swapaxes(1, 2))[:, first, second]
        worst = products.argmax(axis=1)
        acute = np.take_along_axis(products, worst[:, None], axis=1)[:, 0] > rounding[active]
        if not acute.any():
            return base
        active, worst = active[acute], worst[acute]
        for p, (i, j) in enumerate(pairs):
            chosen = active[worst == p]
            v = base[chosen]
            # Reversing vᵢ and giving it to the others keeps the sum at zero and shortens the superbase.
            if n == 2:
                (k,) = {0, 1, 2} - {i, j}
                base[chosen, k] = v[:, i] - v[:, j]
            else:
                for k in {0, 1, 2, 3} - {i, j}:
                    base[chosen, k] = v[:, k] + v[:, i]
            base[chosen, i] = -v[:, i]
    raise ValueError("The reduction of a matrix does not end; its eigenvalues are too far apart.")


def _pointing_up(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    sign = np.zeros(offsets.shape[:-1], np.int64)
    for k in range(offsets.shape[-1]):
        sign = np.where(sign == 0, np.sign(offsets[..., k]), sign)
    return offsets * sign[..., None]
