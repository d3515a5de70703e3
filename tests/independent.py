"""The semi-discrete system written a second time, from its equations: a list of faces and dense matrices.

Shares with the package only the numbers it is given (parameters, maps, grid) and the definitions of its schemes:
cell-centred finite volumes, harmonic means of D on faces, the limited slope σ(a, b) = a²b²(a + b)/(a⁴ + b⁴) upwind.
Unknowns are the cells of the mask in a row, u then s (then a, p and c, where these are dynamic), and the plasma level
P, whose kinetics are integrated along with the rest. Lengths in mm, times in days.
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np

HOURS = 24.0
UM = 1e12
"""1 mol/mm³ in µM."""


class System:
    """dy/dt of y = (u, s, P) or (u, s, a, p, c, P) in the cells of a mask.

    Args:
        model: read for its numbers alone.
        laws: the kinds of growth, kill and sensing and the switches (a `covering.Case`).
    """

    def __init__(self, model, laws):
        self.laws, self.K = laws, float(model.capacity_cells_per_mm3)
        self.m = {name: model[name] for name in ("tumour", "carriers", "attractant", "prodrug", "drug")}
        grid, mask = model.tissue.grid, np.asarray(model.tissue.mask)
        self.mask, self.cells = mask, [tuple(c) for c in np.argwhere(mask)]
        number = {c: i for i, c in enumerate(self.cells)}
        n, self.ndim, self.h = len(self.cells), len(grid.shape), grid.spacing_mm
        radial = grid.geometry == "radial"
        volume, faces = np.empty(n), []
        for i, c in enumerate(self.cells):
            if radial:
                inner, outer = c[0] * self.h[0], (c[0] + 1) * self.h[0]
                volume[i] = 4 / 3 * np.pi * (outer**3 - inner**3)
            else:
                volume[i] = np.prod(self.h)
            for axis in range(self.ndim):
                above = tuple(k + (a == axis) for a, k in enumerate(c))
                if above in number:
                    area = 4 * np.pi * outer**2 if radial else np.prod(self.h) / self.h[axis]
                    faces.append((i, number[above], axis, area, self.h[axis]))
        self.volume = volume
        self.low, self.high, self.axis = (np.array([f[k] for f in faces], int) for k in range(3))
        self.area, self.gap = (np.array([f[k] for f in faces]) for k in (3, 4))
        # the neighbour on either side along each axis; n stands for "nobody", whose density is zero
        self.before, self.after = np.full((self.ndim, n), n), np.full((self.ndim, n), n)
        self.before[self.axis, self.high], self.after[self.axis, self.low] = self.low, self.high
        tissue = model.tissue
        white, grey = (np.asarray(f)[mask] for f in (tissue.white, tissue.grey))
        self.laplace = {
            field: self._laplacian(m.diffusivity_white_mm2_per_day * white + m.diffusivity_grey_mm2_per_day * grey)
            for field, m in (("u", self.m["tumour"]), ("s", self.m["carriers"]))
        }
        one = np.ones(n)
        self.laplace |= {
            "a": self._laplacian(self.m["attractant"].diffusivity_mm2_per_day * one),
            "c": self._laplacian(self.m["drug"].diffusivity_mm2_per_day * one),
        }
        if laws.dynamic:
            self.laplace["p"] = self._laplacian(self.m["prodrug"].diffusivity_mm2_per_day * one)

    def _laplacian(self, D):
        """∇·D∇ as a matrix: every face takes its flux from one cell to the other."""
        D = np.asarray(D)
        out = np.zeros((len(self.cells),) * 2)
        for i, j, area, gap in zip(self.low, self.high, self.area, self.gap, strict=True):
            flow = area / gap * 2.0 / (1.0 / D[i] + 1.0 / D[j])
            out[i, i] -= flow / self.volume[i]
            out[i, j] += flow / self.volume[i]
            out[j, j] -= flow / self.volume[j]
            out[j, i] += flow / self.volume[j]
        return out

    # -- packing ----------------------------------------------------------------------------------

    def pack(self, u, s, P, *substances):
        inside = [jnp.asarray(f)[self.mask] for f in (u, s, *substances)]
        return jnp.concatenate([*inside, jnp.asarray(P)[None]])

    def field(self, values):
        out = np.zeros(self.mask.shape)
        out[self.mask] = values
        return out

    def split(self, y):
        n = len(self.cells)
        return y[:n], y[n : 2 * n], y[-1]

    # -- the equations ------------------------------------------------------------------------------

    def attractant(self, u):
        m = self.m["attractant"]
        matrix = m.decay_per_day * np.eye(len(self.cells)) - self.laplace["a"]
        return jnp.linalg.solve(matrix, m.release_per_day * u)

    def prodrug(self, s, P):
        """The positive root of k_ex (πP − p)(K_m + p) = W p, or πP."""
        m = self.m["prodrug"]
        supply = m.brain_plasma_ratio * P
        if not self.laws.depletable:
            return supply + 0.0 * s
        k, W = m.exchange_per_day, self.W(s)
        linear = k * (m.km_uM - supply) + W
        return (-linear + jnp.sqrt(linear**2 + 4 * k * k * supply * m.km_uM)) / (2 * k)

    def W(self, s):
        return UM * self.m["prodrug"].vmax_mol_per_cell_per_day * self.K * s

    def drug(self, u, s, p):
        sink, source = self.drug_sink(u), self.drug_source(s, p)
        return jnp.linalg.solve(jnp.diag(sink) - self.laplace["c"], source)

    def drug_sink(self, u):
        m = self.m["drug"]
        return m.decay_per_day + m.efflux_per_day + m.uptake_per_day * u

    def drug_source(self, s, p):
        return UM * self.m["drug"].secretion_mol_per_cell_per_day * self.K * s + self.converted(s, p)

    def converted(self, s, p):
        return self.W(s) * p / (self.m["prodrug"].km_uM + p)

    def kill(self, c):
        k = self.m["drug"].kill
        if self.laws.kill == "linear":
            return k.rate_per_uM_per_day * c
        return k.emax_per_day * c**k.hill / (k.ic50_uM**k.hill + c**k.hill)

    def growth(self, N):
        g = {"logistic": lambda: 1 - N, "gompertz": lambda: -jnp.log(N), "exponential": lambda: 1 + 0 * N}
        return g[self.laws.growth]()

    def wind(self, a):
        """Speed at every face [mm/day], from ∇a across it."""
        law, m = self.laws.sensing, self.m["carriers"].taxis
        full = self.m["attractant"].release_per_day / self.m["attractant"].decay_per_day
        if law == "linear":
            return m.sensitivity_mm2_per_day * self._across(a)
        if law == "receptor":
            return m.sensitivity_mm2_per_day * self._across(-m.receptor_constant / (m.receptor_constant + a))
        slope = self._across(jnp.log(a + m.offset_relative * full))
        if law == "logarithmic":
            return m.sensitivity_mm2_per_day * slope
        G = m.sensing_length_mm * slope
        # across the face its own difference; along it the mean of the four nearest, closed ones being zero
        square = G * G
        for other in range(self.ndim):
            here = jnp.zeros(len(self.cells))
            of_axis = self.axis == other
            for side in (self.low, self.high):
                here = here.at[side[of_axis]].add(0.5 * G[of_axis])
            square = square + jnp.where(of_axis, 0.0, (0.5 * (here[self.low] + here[self.high])) ** 2)
        return m.speed_mm_per_day * G / jnp.sqrt(1 + square)

    def _across(self, f):
        return (f[self.high] - f[self.low]) / self.gap

    def _at_faces(self, f):
        """Limited reconstructions of a field on both sides of each face."""
        padded = jnp.concatenate([f, jnp.zeros(1)])
        left = f[None] - padded[self.before]
        right = padded[self.after] - f[None]
        same = left * right > 0
        a, b = jnp.where(same, left, 1.0), jnp.where(same, right, 1.0)
        half = 0.5 * jnp.where(same, (a * b) ** 2 * (a + b) / (a**4 + b**4), 0.0)
        return f[self.low] + half[self.axis, self.low], f[self.high] - half[self.axis, self.high]

    def taxis(self, u, s, a):
        """−∇·(v φ(s)), the density taken upwind and, with volume filling, the room for it downwind."""
        v = self.wind(a)
        below, above = self._at_faces(s)
        if self.laws.filling:
            taken_below, taken_above = self._at_faces(u + s)
            below, above = below * (1 - taken_above), above * (1 - taken_below)
        flow = self.area * v * jnp.where(v > 0, below, above)
        out = jnp.zeros(len(self.cells))
        return (out.at[self.high].add(flow).at[self.low].add(-flow)) / self.volume

    def rate(self, t, y, intake):
        """dy/dt; ``intake`` is the prodrug's dose rate [mg/kg/day] now."""
        u, s, P = self.split(y)
        T, C, R, A = (self.m[name] for name in ("tumour", "carriers", "prodrug", "attractant"))
        if self.laws.dynamic:
            a, p, c = y[2 * len(u) : -1].reshape(3, -1)
        else:
            a, p = self.attractant(u), self.prodrug(s, P)
            c = self.drug(u, s, p)
        N = u + C.crowding * s
        E = self.kill(c)
        contact = C.tumour_kill_per_day * s / (1 + C.tumour_kill_saturation * s)
        du = self.laplace["u"] @ u + (T.proliferation_per_day * self.growth(N) - E - contact) * u
        free = 1 - (u + s) if self.laws.filling else 1 - N
        ds = self.laplace["s"] @ s + self.taxis(u, s, a)
        ds = ds + (C.proliferation_per_day * free - C.loss_per_day - C.drug_sensitivity * E) * s
        gained = 1e3 * R.bioavailability * intake / (R.volume_l_per_kg * R.molar_mass_g_per_mol)
        dP = gained - np.log(2) * HOURS / R.plasma_half_life_h * P
        if not self.laws.dynamic:
            return jnp.concatenate([du, ds, dP[None]])
        da = self.laplace["a"] @ a - A.decay_per_day * a + A.release_per_day * u
        dp = self.laplace["p"] @ p + R.exchange_per_day * (R.brain_plasma_ratio * P - p) - self.converted(s, p)
        dc = self.laplace["c"] @ c - self.drug_sink(u) * c + self.drug_source(s, p)
        return jnp.concatenate([du, ds, da, dp, dc, dP[None]])

    # -- events ---------------------------------------------------------------------------------------

    def footprint(self, grid, sites, sigmas, weights):
        """Gaussians whose cell means (three-point Gauss rule along each axis) are normalised within the mask."""
        nodes, shares = np.polynomial.legendre.leggauss(3)
        total = np.zeros(len(self.cells))
        centres = grid.world_mm()[:, self.mask]
        for site, sigma, weight in zip(sites, sigmas, weights, strict=True):
            g = np.zeros(len(self.cells))
            for picks in itertools.product(range(3), repeat=self.ndim):
                at = centres + 0.5 * (nodes[list(picks)] * np.asarray(self.h))[:, None]
                share = np.prod(0.5 * shares[list(picks)])
                if grid.geometry == "radial":
                    r2 = at[0] ** 2
                    whole = sum(
                        0.5 * w * (centres[0] + 0.5 * x * self.h[0]) ** 2 for x, w in zip(nodes, shares, strict=True)
                    )
                    share = share * r2 / whole
                else:
                    r2 = np.sum((at - np.asarray(site)[:, None]) ** 2, axis=0)
                g += share * np.exp(-0.5 * r2 / sigma**2)
            total += weight * g / np.sum(g * self.volume)
        return total
