/* The tumour step as one would write it by hand: u ← u + dt (∇·(D∇u) + ρ u (1 − u)) in finite volumes, one pass per stage.

   Arrays of nx × ny × nz cells, z fastest. gx[c], gy[c], gz[c] [1/day] belong to the lower faces of cell c, and are zero
   at walls, so that what is read beyond a wall does not count. REAL is float or double. */

static inline REAL stage(const REAL *restrict u, long c, long xl, long xh, long yl, long yh, long zl, long zh,
                         const REAL *restrict gx, const REAL *restrict gy, const REAL *restrict gz, REAL hx, REAL hy,
                         REAL hz, REAL dt, REAL rho)
{
    REAL v = u[c];
    REAL net = hx * (u[xh] - v) - gx[c] * (v - u[xl]) + hy * (u[yh] - v) - gy[c] * (v - u[yl]) + hz * (u[zh] - v) -
               gz[c] * (v - u[zl]);
    return v + dt * (net + rho * v * ((REAL)1 - v));
}

/* out ← a·first + (1 − a)·E(u), E one Euler step: a = 0 and then 1/2 make SSP-RK2. */
static void sweep(long nx, long ny, long nz, const REAL *restrict u, const REAL *restrict gx, const REAL *restrict gy,
                  const REAL *restrict gz, REAL dt, REAL rho, REAL a, const REAL *first, REAL *out)
{
    const long sx = ny * nz, sy = nz;
#pragma omp parallel for schedule(static)
    for (long i = 0; i < nx; i++)
        for (long j = 0; j < ny; j++) {
            const long row = i * sx + j * sy;
            const long xl = i > 0 ? -sx : 0, xh = i + 1 < nx ? sx : 0, yl = j > 0 ? -sy : 0, yh = j + 1 < ny ? sy : 0;
            const REAL ox = i + 1 < nx, oy = j + 1 < ny;
#pragma omp simd
            for (long c = row + 1; c < row + nz - 1; c++)
                out[c] = a * first[c] + ((REAL)1 - a) * stage(u, c, c + xl, c + xh, c + yl, c + yh, c - 1, c + 1, gx, gy, gz,
                                                              ox * gx[c + xh], oy * gy[c + yh], gz[c + 1], dt, rho);
            const long e = row + nz - 1;
            out[row] = a * first[row] +
                       ((REAL)1 - a) * stage(u, row, row + xl, row + xh, row + yl, row + yh, row, nz > 1 ? row + 1 : row, gx,
                                             gy, gz, ox * gx[row + xh], oy * gy[row + yh], nz > 1 ? gz[row + 1] : 0, dt, rho);
            if (nz > 1)
                out[e] = a * first[e] + ((REAL)1 - a) * stage(u, e, e + xl, e + xh, e + yl, e + yh, e - 1, e, gx, gy, gz,
                                                              ox * gx[e + xh], oy * gy[e + yh], 0, dt, rho);
        }
}

/* `steps` steps of SSP-RK2; `work` has the size of u. */
void ssprk2(long nx, long ny, long nz, REAL *u, REAL *work, const REAL *gx, const REAL *gy, const REAL *gz, REAL dt,
            REAL rho, long steps)
{
    for (long k = 0; k < steps; k++) {
        sweep(nx, ny, nz, u, gx, gy, gz, dt, rho, 0, u, work);
        sweep(nx, ny, nz, work, gx, gy, gz, dt, rho, (REAL)0.5, u, u);
    }
}
