"""Tensor diffusion: its decomposition, its order, and that it neither leaks nor turns negative."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import orders
from scipy.ndimage import label
from scipy.sparse import coo_array, identity
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import expm_multiply, spsolve

from glioma_pde._selling import decompose
from glioma_pde.numerics.diffusion import conductances, diffuse, outflow_rate
from glioma_pde.numerics.links import guide, links
from glioma_pde.numerics.taxis import gradient, gradient_magnitude2, guided, stretch
from glioma_pde.tissue import Tissue

ULP = np.finfo(float).eps
make = eqx.filter_jit(links)
spread = eqx.filter_jit(diffuse)


def rotated(n, ratios, seed=0, count=None):
    """Random tensors ``(count, n, n)`` with the given ratio of eigenvalues."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((count or len(ratios), n, n)))[0]
    ratios = np.broadcast_to(ratios, len(q))
    between = ratios[:, None] ** rng.random((len(q), n))
    between[:, 0], between[:, -1] = 1.0, ratios
    return np.einsum("aik,ak,ajk->aij", q, between, q)


def box(shape, spacing=1.0, tensors=None, mask=None, dtype=None, ratio=1e3):
    white = np.where(np.arange(shape[0]) < shape[0] / 2, 0.8, 0.3).reshape(-1, *[1] * (len(shape) - 1)) * np.ones(shape)
    tissue = Tissue.from_arrays(white, 1.0 - white, mask=mask, spacing_mm=spacing, dtype=dtype)
    return tissue if tensors is None else tissue.with_tensors(tensors, largest_ratio=ratio)


def everywhere(tensor, shape):
    return np.broadcast_to(tensor, (*shape, *np.shape(tensor)))


def matrix(g, shape):
    """The operator as a sparse matrix, from the links alone."""
    cells = np.arange(np.prod(shape)).reshape(shape)
    rows, columns, values = [], [], []
    for e, conductance in zip(g.offsets, g.g, strict=True):
        here = tuple(slice(max(k, 0), min(n, n + k)) for k, n in zip(e, shape, strict=True))
        there = tuple(slice(max(-k, 0), min(n, n - k)) for k, n in zip(e, shape, strict=True))
        a, b, c = cells[here].ravel(), cells[there].ravel(), np.asarray(conductance)[here].ravel()
        rows += [a, b, a, b]
        columns += [b, a, a, b]
        values += [c, c, -c, -c]
    parts = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return coo_array(parts, shape=(cells.size, cells.size)).tocsr()


# -- the decomposition ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3])
def test_every_definite_matrix_is_a_sum_over_integer_vectors(n):
    matrices = rotated(n, 10.0 ** np.random.default_rng(1).uniform(0, 4, 500))
    offsets, weights = decompose(matrices)
    assert weights.min() >= 0.0
    again = np.einsum("ak,aki,akj->aij", weights, offsets, offsets)
    size = np.abs(matrices).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(again / size, matrices / size, rtol=0, atol=1e-11)
    assert offsets.shape[1] == n * (n + 1) // 2
    with pytest.raises(ValueError, match="positive definite"):
        decompose(np.array([[[1.0, 2.0], [2.0, 1.0]]]))


@pytest.mark.parametrize("spacing", [(1.0, 0.6), (1.0, 0.7, 1.9)])
def test_links_of_a_tissue_add_up_to_its_tensors(spacing):
    n = len(spacing)
    shape = (5, 4, 3)[:n]
    tensors = rotated(n, 50.0, 2, int(np.prod(shape))).reshape(*shape, n, n)
    field = box(shape, spacing, 3.0 * tensors).tensors
    directions = np.array(field.offsets) * np.array(spacing)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    again = np.einsum("k...,ki,kj->...ij", np.asarray(field.weights), directions, directions)
    trace = np.trace(tensors, axis1=-2, axis2=-1)[..., None, None]
    np.testing.assert_allclose(again, n * tensors / trace, rtol=0, atol=1e-12)
    assert float(field.weights.min()) >= 0.0


# -- order and limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "spacing"), [((24, 36, 54), (1.0, 0.8)), ((16, 24, 36), (1.0, 0.8, 1.1))])
def test_a_gaussian_spreads_as_it_should_to_second_order(sizes, spacing):
    """Under a constant tensor a Gaussian stays one, with the covariance Σ₀ + 2 D T t; time is integrated exactly."""
    dim, t = len(spacing), 0.5
    tensor = rotated(dim, [8.0], 5)[0]
    tensor *= dim / np.trace(tensor)
    width = 3.0 * np.eye(dim)

    def gaussian(x, covariance):
        exponent = np.einsum("...i,ij,...j->...", x, np.linalg.inv(covariance), x)
        return np.exp(-0.5 * exponent) / np.sqrt(np.linalg.det(covariance))

    errors = []
    for n in sizes:
        h = tuple(26.0 / n * k for k in spacing)
        tissue = box((n,) * dim, h, everywhere(tensor, (n,) * dim))
        operator = matrix(make(tissue, jnp.ones((n,) * dim), 1.0), (n,) * dim)
        x = np.moveaxis(tissue.grid.world_mm(), 0, -1)
        found = expm_multiply(t * operator, gaussian(x, width).ravel(), traceA=t * operator.trace())
        errors.append(np.sqrt(np.mean((found - gaussian(x, width + 2.0 * tensor * t).ravel()) ** 2)))
    np.testing.assert_allclose(orders(errors, 1.5), 2.0, atol=0.1)


def test_a_tensor_field_that_turns_is_solved_to_second_order():
    """u − ∇·(D T ∇u) = f with a smooth D, and T whose links change from place to place."""
    size = np.array([1.0, 1.3])

    def tensor(x):
        angle = 1.6 * x[0] + 0.8 * jnp.sin(2.0 * x[1])
        along = jnp.array([jnp.cos(angle), jnp.sin(angle)])
        ratio = 8.0 + 4.0 * jnp.cos(4.0 * x[0] * x[1])
        t = jnp.eye(2) + (ratio - 1.0) * jnp.outer(along, along)
        return 2.0 * t / jnp.trace(t)

    def diffusivity(x):
        return 0.02 * (1.0 + 0.5 * jnp.sin(3.0 * x[0] - 2.0 * x[1]))

    def exact(x):
        return jnp.prod(jnp.sin(jnp.pi * x / size) ** 4) * (1.0 + x[0])

    @jax.jit
    @jax.vmap
    def data(x):
        flux = jax.jacfwd(lambda y: diffusivity(y) * tensor(y) @ jax.grad(exact)(y))
        return tensor(x), diffusivity(x), exact(x), exact(x) - jnp.trace(flux(x))

    errors, sizes = [], (32, 64, 128)
    for n in sizes:
        centres = [(np.arange(n) + 0.5) / n * length for length in size]
        points = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1).reshape(-1, 2)
        padded = np.concatenate([points, np.full((sizes[-1] ** 2 - len(points), 2), 0.5)])
        T, D, u, f = (np.asarray(v)[: n * n] for v in data(padded))
        tissue = box((n, n), tuple(size / n), T.reshape(n, n, 2, 2))
        operator = matrix(make(tissue, jnp.asarray(D.reshape(n, n)), 1.0), (n, n))
        errors.append(np.sqrt(np.mean((spsolve(identity(n * n, format="csr") - operator, f) - u) ** 2)))
    assert len(tissue.tensors.offsets) >= 8
    np.testing.assert_allclose(orders(errors), 2.0, atol=0.1)


def test_second_moments_grow_exactly():
    tensor = rotated(3, [30.0], 7)[0]
    shape, h = (15, 15, 15), (1.0, 0.7, 1.3)
    tissue = box(shape, h, everywhere(tensor, shape))
    rate = spread(tissue.grid, jnp.zeros(shape).at[7, 7, 7].set(1.0), make(tissue, jnp.full(shape, 0.3), 1.0))
    x = tissue.grid.world_mm()
    moments = np.einsum("iabc,jabc,abc->ij", x, x, np.asarray(rate))
    np.testing.assert_allclose(moments, 2 * 0.3 * 3.0 * tensor / np.trace(tensor), atol=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 0.6), (1.0, 0.6, 1.7)])
def test_tensors_along_the_axes_need_faces_only(spacing):
    n = len(spacing)
    shape = (7, 6, 5)[:n]
    u = jnp.asarray(np.random.default_rng(0).random(shape))
    for eigenvalues in ((1.0,) * n, (4.0, 1.0, 2.5)[:n]):
        scale = n * np.array(eigenvalues) / sum(eigenvalues)
        tissue = box(shape, spacing, everywhere(np.diag(eigenvalues), shape))
        d = tissue.diffusivity(0.13, 0.026)
        faces = conductances(tissue.grid, [k * f for k, f in zip(scale, tissue.face_average(d), strict=True)])
        found = make(tissue, d, 1.0)
        assert len(found.offsets) == n
        np.testing.assert_allclose(
            spread(tissue.grid, u, found), spread(tissue.grid, u, faces), rtol=10 * ULP, atol=10 * ULP
        )
    # none of its strength is no tensor at all, bit for bit
    oblique = box(shape, spacing, everywhere(rotated(n, [20.0])[0], shape))
    weak = spread(tissue.grid, u, make(oblique, d, 0.0))
    plain = spread(tissue.grid, u, conductances(tissue.grid, tissue.face_average(d)))
    np.testing.assert_allclose(weak, plain, rtol=0, atol=2 * ULP)


def test_a_quarter_turn_of_tensors_is_a_quarter_turn_of_everything():
    shape = (8, 8)
    field = rotated(2, 12.0, 3, 64).reshape(8, 8, 2, 2)
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    turned = np.rot90(quarter @ field @ quarter.T, axes=(0, 1))
    u = np.random.default_rng(4).random(shape)
    d = jnp.full(shape, 0.2)
    one, two = (box(shape, 1.0, t) for t in (field, turned))
    first = spread(one.grid, jnp.asarray(u), make(one, d, 1.0))
    second = spread(two.grid, jnp.asarray(np.rot90(u).copy()), make(two, d, 1.0))
    np.testing.assert_allclose(np.rot90(first), second, rtol=0, atol=1e-14)
    # along the axes, it is the one axis's spreading on the other
    along, across = (box(shape, 1.0, everywhere(np.diag(v), shape)) for v in ((5.0, 1.0), (1.0, 5.0)))
    a = spread(along.grid, jnp.asarray(u), make(along, d, 1.0))
    b = spread(across.grid, jnp.asarray(u.T.copy()), make(across, d, 1.0))
    np.testing.assert_allclose(a.T, b, rtol=0, atol=1e-14)


# -- what must never happen ------------------------------------------------------------------------------


def pieces(shape, ratio, seed):
    """Four tensors in turn, which keeps the number of links small in three dimensions."""
    n = len(shape)
    which = np.indices(shape).sum(axis=0) % 4
    return rotated(n, ratio, seed, 4)[which]


@pytest.mark.parametrize("shape", [(14, 11), (7, 6, 5)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_extreme_tensors_conserve_and_stay_positive_at_the_largest_step(shape, dtype):
    n = len(shape)
    mask = np.random.default_rng(1).random(shape) < 0.8
    tissue = box(shape, (1.0, 0.7, 1.4)[:n], pieces(shape, 50.0, 6), mask, dtype)
    g = make(tissue, tissue.diffusivity(dtype(0.13), dtype(0.026)), 1.0)
    assert len(g.offsets) > n
    assert all(v.dtype == dtype and float(v.min()) >= 0.0 for v in g.g)
    u = jnp.asarray(np.where(mask & (np.random.default_rng(2).random(shape) < 0.1), 1.0, 0.0), dtype)
    dt = (1.0 / outflow_rate(tissue.grid, g)).astype(dtype)
    before, eps = float(u.sum()), np.finfo(dtype).eps
    for _ in range(30):
        u = u + dt * spread(tissue.grid, u, g)
        assert float(u.min()) >= -eps * float(u.max())
    assert float(u.sum()) == pytest.approx(before, rel=1e-13 if dtype == np.float64 else 1e-5)
    assert not np.any(np.asarray(u)[~mask])
    # no step is shorter than that of isotropic migration with the same mean on the finest axis
    assert float(dt) >= min(tissue.grid.spacing_mm) ** 2 / (2 * n * 0.13)


@pytest.mark.parametrize("shape", [(9, 8), (5, 5, 4)])
def test_no_link_leads_where_faces_do_not(shape):
    """On random masks: linked cells are connected through faces, and every cell on the way is inside."""
    n = len(shape)
    whole = box(shape, 1.0, pieces(shape, 40.0, 9))
    masks = np.random.default_rng(3).random((12, *shape)) < np.linspace(0.5, 0.95, 12).reshape(-1, *[1] * n)
    d = jnp.full(shape, 0.3)
    all_links = jax.jit(jax.vmap(lambda mask: links(replace(whole, mask=mask), d, 1.0)))(masks)  # masks are traced
    steps = (np.arange(1000) + 0.5) / 1000  # none falls on the boundary of two cells
    opened = closed = 0
    for i, mask in enumerate(masks):
        g = jax.tree.map(lambda leaf, i=i: leaf[i], all_links)
        graph = matrix(g, shape)
        graph.setdiag(0)
        graph.eliminate_zeros()
        linked, faces = connected_components(graph)[1], label(mask)[0].ravel()
        inside = mask.ravel()
        for group in np.unique(linked[inside]):
            assert len(np.unique(faces[inside & (linked == group)])) == 1
        for e, conductance in zip(g.offsets[n:], g.g[n:], strict=True):
            line = np.unique(np.rint(steps[:, None] * np.array(e)).astype(int), axis=0) - e
            beyond = np.pad(mask, np.abs(line).max())
            free = np.all([np.roll(beyond, -cell, range(n)) for cell in line], axis=0)
            free = free[tuple(slice(np.abs(line).max(), np.abs(line).max() + k) for k in shape)]
            is_open = np.asarray(conductance) > 0
            assert not np.any(is_open & ~free)
            opened, closed = opened + is_open.sum(), closed + (~free).sum()
    assert min(opened, closed) > 100


def test_a_gap_of_one_cell_holds_whatever_its_course():
    shape = (16, 16)
    tensor = np.array([[1.0, 0.97], [0.97, 1.0]])
    straight, oblique = np.ones(shape, bool), np.ones(shape, bool)
    straight[:, 8] = False
    oblique[np.arange(16), np.arange(16)] = False  # cells that touch at their corners only
    for gap in (straight, oblique, oblique[::-1]):
        tissue = box(shape, 1.0, everywhere(tensor, shape), gap)
        g = make(tissue, jnp.ones(shape), 1.0)
        side = label(gap)[0] == 1
        u = jnp.asarray(np.where(side, 1.0, 0.0))
        assert not np.any(np.asarray(spread(tissue.grid, u, g)))
    # a cell that nothing enters is as closed as one outside
    tissue = box(shape, 1.0, everywhere(tensor, shape))
    d = jnp.where(jnp.asarray(straight), 1.0, 0.0)
    left = jnp.asarray(np.where(np.arange(16) < 8, 1.0, 0.0) * np.ones(shape))
    assert not np.any(np.asarray(spread(tissue.grid, left, make(tissue, d, 1.0))))
    slope = jax.grad(lambda d: jnp.sum(spread(tissue.grid, left, make(tissue, d, 1.0)) ** 2))(d)
    assert np.all(np.isfinite(slope))


def test_links_batch_over_strength_and_diffusivity():
    shape = (6, 5)
    tissue = box(shape, 1.0, pieces(shape, 20.0, 2))
    u = jnp.asarray(np.random.default_rng(0).random(shape))

    def rate(white, strength):
        return diffuse(tissue.grid, u, links(tissue, tissue.diffusivity(white, 0.05), strength))

    whites, strengths = jnp.array([0.1, 0.2, 0.4]), jnp.array([0.0, 0.5, 1.0])
    batch = jax.jit(jax.vmap(rate))(whites, strengths)
    one = jax.jit(rate)
    alone = jnp.stack([one(w, s) for w, s in zip(whites, strengths, strict=True)])
    np.testing.assert_allclose(batch, alone, rtol=0, atol=1e-15)


# -- guidance --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(1.0, 0.6), (1.0, 0.6, 1.7)])
def test_a_guided_gradient_is_the_tensor_times_the_gradient(spacing):
    n = len(spacing)
    shape = (6, 5, 7)[:n]
    tensor = rotated(n, [9.0], 8)[0]
    tensor *= n / np.trace(tensor)
    tissue = box(shape, spacing, everywhere(tensor, shape))
    slope = np.array([0.3, -0.8, 0.5])[:n]
    f = jnp.asarray(np.einsum("i,i...->...", slope, tissue.grid.world_mm()))
    gradients = gradient(tissue.grid, f, tissue.open_faces())
    along, squares = guided(gradients, guide(tissue, 1.0))
    expected = tensor @ slope
    inner = (slice(2, -2),) * n
    for k in range(n):
        np.testing.assert_allclose(along[k][inner], expected[k], atol=1e-12)
        np.testing.assert_allclose(squares[k][inner], expected @ expected, atol=1e-12)
        assert np.all(np.asarray(squares[k] - along[k] ** 2) >= 0.0)
    assert float(stretch(guide(tissue, 1.0), n)) == pytest.approx(np.abs(tensor).sum(axis=1).max(), rel=1e-12)
    unguided = guided(gradients, guide(tissue, 0.0))
    is_open = np.stack(tissue.open_faces())
    for found, plain in zip(unguided, (gradients, gradient_magnitude2(gradients)), strict=True):
        np.testing.assert_allclose(is_open * np.stack(found), is_open * np.stack(plain), rtol=0, atol=4 * ULP)
