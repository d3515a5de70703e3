// The loops of the native kernels, compiled once for every instruction set and chosen when the library is loaded.
#pragma once

#include <cstdint>

namespace glioma {

// A grid of three axes, the last contiguous. Grids of two axes are (n0, 1, n1), of one (1, 1, n).
struct Box {
  int64_t nz, ny, nx;
};

// What enters a diffusion: face arrays of the axes, null where there is no such axis. Face i lies between i - 1 and i.
template <typename T>
struct Conductances {
  const T *z, *y, *x;
};

// Speeds and factors of the faces, and what is occupied (null: nothing keeps carriers out).
template <typename T>
struct Wind {
  Conductances<T> speed, factor;
  const T* occupied;
};

// Conductances of a field that diffuses alike everywhere.
template <typename T>
struct Uniform {
  T z, y, x;
};

// One Chebyshev sweep: to = own + omega (source + weight Σ g (neighbours of other) - own), for own and other times
// `scale`.
template <typename T>
struct Sweep {
  const T *source, *weight, *other, *own;  // own may be null when omega is 1
  T* to;
  Uniform<T> g;
  T omega, scale;
};

// (sink + rows) c - inside Σ g (neighbours of c) = source, and the Jacobi iteration for it.
template <typename T>
struct Equation {
  const T *rows, *inside, *sink, *source, *guess;
  Uniform<T> g;
  T *scaled, *weight;  // source/(sink + rows) and inside/(sink + rows)
};

// Of one plane: least sink/(sink + rows), largest |source|/(sink + rows); products with weights 1/(sink + rows).
template <typename T>
struct Sums {
  T gap, highest, peak;
  double source_image, image2, source2, residual2;
};

// A stage of a step: to = stays start + (1 - stays)(u + dt (Σ g (u beyond - u here) + rate u (1 - u))), or + rate u
// without `limited`. Cells inside lie from `reach[0]` up to before `reach[1]` of a row; u is zero outside.
template <typename T>
struct Stage {
  const T *u, *start;
  T* to;
  Conductances<T> g;
  const int32_t* reach;  // two of each row
  T stays, dt, rate;
  bool limited, clears;  // clears: cells outside that the next stage reads are set to zero
};

// Work on the planes first ≤ z < last. `zeros` has nx entries of zero.
template <typename T>
struct Loops {
  void (*diffuse)(Box, const T* u, Conductances<T> g, T* net, const T* zeros, int64_t first, int64_t last);
  void (*sweep)(Box, Sweep<T>, const T* zeros, int64_t first, int64_t last);
  // Sums of each plane: those of equation and guess, then those of the residual of `multiple` guesses. `spare` has nx
  // entries.
  void (*weigh)(Box, Equation<T>, const T* zeros, T* spare, Sums<T>* sums, int64_t first, int64_t last);
  void (*miss)(Box, Equation<T>, T multiple, const T* zeros, T* spare, Sums<T>* sums, int64_t first, int64_t last);
  // `grown` of each plane: Σ rate u (1 - u).
  void (*grow)(Box, Stage<T>, const T* zeros, double* grown, int64_t first, int64_t last);
  // `scratch` has advect_scratch(box) entries.
  void (*advect)(Box, const T* s, Wind<T>, T* net, const T* zeros, T* scratch, int64_t first, int64_t last);
};

inline int64_t advect_scratch(Box b) { return 3 * b.ny * b.nx + 9 * (b.nx + 1); }

struct Table {
  Loops<float> f32;
  Loops<double> f64;
};

Table loops_baseline();
Table loops_avx2();
Table loops_avx512();

}  // namespace glioma
