// Compiled several times, with GLIOMA_ISA naming the instruction set of the compiler's options.
#include "loops.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace glioma {
namespace {

// A row and its neighbours; rows beyond the grid are zero.
template <typename T>
struct Around {
  const T *c, *um, *up, *vm, *vp;
};

template <typename T>
inline Around<T> around(Box b, const T* f, const T* zeros, int64_t z, int64_t y) {
  const int64_t n = b.nx, plane = b.ny * n;
  const T* c = f + z * plane + y * n;
  return {c, z > 0 ? c - plane : zeros, z + 1 < b.nz ? c + plane : zeros, y > 0 ? c - n : zeros,
          y + 1 < b.ny ? c + n : zeros};
}

// --- diffusion: Σ over faces of g (u beyond - u here) ------------------------------------------------------------

// Calls cell(x, net) along a row.
template <typename T, typename Cell>
inline void exchange(Box b, const T* u, const Conductances<T>& g, const T* zeros, int64_t z, int64_t y, Cell cell) {
  const int64_t n = b.nx, plane = b.ny * n, at = z * plane + y * n;
  const Around<T> rows = around(b, u, zeros, z, y);
  const T *c = rows.c, *um = rows.um, *up = rows.up, *vm = rows.vm, *vp = rows.vp;
  // beyond the grid there is nothing, and the upper faces of the last cells are closed
  const T *gz = g.z ? g.z + at : zeros, *gzp = g.z && z + 1 < b.nz ? g.z + at + plane : zeros;
  const T *gy = g.y ? g.y + at : zeros, *gyp = g.y && y + 1 < b.ny ? g.y + at + n : zeros;
  const T* gx = g.x + at;
  auto across = [=](int64_t x) {
    return gz[x] * (um[x] - c[x]) + gzp[x] * (up[x] - c[x]) + gy[x] * (vm[x] - c[x]) + gyp[x] * (vp[x] - c[x]);
  };
  cell(0, across(0) - gx[0] * c[0] + (n > 1 ? gx[1] * (c[1] - c[0]) : T(0)));
#pragma GCC ivdep
  for (int64_t x = 1; x < n - 1; ++x) cell(x, across(x) + (gx[x] * (c[x - 1] - c[x]) + gx[x + 1] * (c[x + 1] - c[x])));
  if (n > 1) cell(n - 1, across(n - 1) + gx[n - 1] * (c[n - 2] - c[n - 1]));
}

template <typename T>
void diffuse(Box b, const T* u, Conductances<T> g, T* net, const T* zeros, int64_t first, int64_t last) {
  for (int64_t z = first; z < last; ++z)
    for (int64_t y = 0; y < b.ny; ++y) {
      T* out = net + (z * b.ny + y) * b.nx;
      exchange(b, u, g, zeros, z, y, [=](int64_t x, T gain) { out[x] = gain; });
    }
}

// --- a population that diffuses and grows on its own -----------------------------------------------------------------

// What one row of a stage reads and writes.
template <typename T>
struct Growing {
  Around<T> rows;
  const T *gz, *gzp, *gy, *gyp, *gx, *start;
  T *to, *grown;  // `grown` has one sum for every cell of a vector
  T stays, dt, rate;
};

template <typename T>
constexpr int64_t lanes = 64 / sizeof(T);

// The cells of one vector. `edge`: it may hold the first or the last of the row.
template <bool limited, bool starts, bool edge, typename T>
inline void grow_vector(int64_t begin, int64_t n, const Growing<T>& k) {
  const T *c = k.rows.c, *um = k.rows.um, *up = k.rows.up, *vm = k.rows.vm, *vp = k.rows.vp;
  const T *gz = k.gz, *gzp = k.gzp, *gy = k.gy, *gyp = k.gyp, *gx = k.gx, *start = k.start;
  T *to = k.to, *grown = k.grown;
  const T stays = k.stays, moves = T(1) - k.stays, dt = k.dt, rate = k.rate;
#pragma GCC ivdep
  for (int64_t lane = 0; lane < lanes<T>; ++lane) {
    const int64_t x = begin + lane;
    if (edge && x >= n) continue;
    const T here = c[x], left = edge && x == 0 ? T(0) : c[x - 1], right = edge && x + 1 == n ? T(0) : c[x + 1],
            beyond = edge && x + 1 == n ? T(0) : gx[x + 1];
    const T net = gz[x] * (um[x] - here) + gzp[x] * (up[x] - here) + gy[x] * (vm[x] - here) + gyp[x] * (vp[x] - here) +
                  (gx[x] * (left - here) + beyond * (right - here));
    const T gain = limited ? rate * here * (T(1) - here) : rate * here;
    const T after = here + dt * (net + gain);
    to[x] = starts ? after : stays * start[x] + moves * after;
    grown[lane] += gain;
  }
}

struct Range {
  int64_t from, to;
};

// The cells of a row that a stage reads: those of its own and of the rows beside it, and their neighbours.
inline Range read_of(Box b, const int32_t* reach, int64_t z, int64_t y) {
  Range all{b.nx, 0};
  auto take = [&](int64_t z, int64_t y, int64_t by) {
    const int32_t* at = reach + 2 * (z * b.ny + y);
    if (z < 0 || z >= b.nz || y < 0 || y >= b.ny || at[0] == at[1]) return;
    all = {std::min<int64_t>(all.from, at[0] - by), std::max<int64_t>(all.to, at[1] + by)};
  };
  take(z, y, 1);
  take(z - 1, y, 0);
  take(z + 1, y, 0);
  take(z, y - 1, 0);
  take(z, y + 1, 0);
  return {std::max<int64_t>(all.from, 0), std::min(all.to, b.nx)};
}

template <bool limited, bool starts, typename T>
void grow_planes(Box b, const Stage<T>& k, const T* zeros, double* grown, int64_t first, int64_t last) {
  const int64_t n = b.nx, plane = b.ny * n;
  for (int64_t z = first; z < last; ++z) {
    T gain[lanes<T>] = {};
    for (int64_t y = 0; y < b.ny; ++y) {
      const int64_t row = z * b.ny + y, at = row * n, from = k.reach[2 * row], to = k.reach[2 * row + 1];
      if (k.clears) {
        const auto [low, high] = read_of(b, k.reach, z, y);
        std::fill(k.to + at + std::min(low, from), k.to + at + from, T(0));
        std::fill(k.to + at + to, k.to + at + std::max(high, to), T(0));
      }
      const Growing<T> one{around(b, k.u, zeros, z, y),
                           k.g.z ? k.g.z + at : zeros,
                           k.g.z && z + 1 < b.nz ? k.g.z + at + plane : zeros,
                           k.g.y ? k.g.y + at : zeros,
                           k.g.y && y + 1 < b.ny ? k.g.y + at + n : zeros,
                           k.g.x + at,
                           k.start + at,
                           k.to + at,
                           gain,
                           k.stays,
                           k.dt,
                           k.rate};
      int64_t x = from;
      if (x == 0 && x < to) grow_vector<limited, starts, true>(x, n, one), x += lanes<T>;
      for (; x + lanes<T> < to || (x + lanes<T> == to && to < n); x += lanes<T>)
        grow_vector<limited, starts, false>(x, n, one);
      if (x < to) grow_vector<limited, starts, true>(x, n, one);
    }
    double sum = 0;
    for (T part : gain) sum += part;
    grown[z] = sum;
  }
}

template <typename T>
void grow(Box b, Stage<T> k, const T* zeros, double* grown, int64_t first, int64_t last) {
  const auto planes = k.limited ? (k.stays == T(0) ? grow_planes<true, true, T> : grow_planes<true, false, T>)
                                : (k.stays == T(0) ? grow_planes<false, true, T> : grow_planes<false, false, T>);
  planes(b, k, zeros, grown, first, last);
}

// --- elliptic solves ------------------------------------------------------------------------------------------------

// Calls cell(x, Σ g (neighbours of x)) along a row.
template <typename T, typename Cell>
inline void gather(int64_t n, const Around<T>& at, const Uniform<T>& g, Cell cell) {
  const T *c = at.c, *um = at.um, *up = at.up, *vm = at.vm, *vp = at.vp;
  const T gz = g.z, gy = g.y, gx = g.x;
  auto sum = [=](int64_t x, T along) { return gz * (um[x] + up[x]) + gy * (vm[x] + vp[x]) + gx * along; };
  cell(0, sum(0, n > 1 ? c[1] : T(0)));
#pragma GCC ivdep
  for (int64_t x = 1; x < n - 1; ++x) cell(x, sum(x, c[x - 1] + c[x + 1]));
  if (n > 1) cell(n - 1, sum(n - 1, c[n - 2]));
}

// Cells of one colour along a row, each after the other: those with x + y + z even (red) or odd (black). Where `late`,
// the neighbours of the j-th cell along the row are the j-th and the next of the other colour, else the one before and
// the j-th.
template <typename T, typename Cell>
inline void gather_half(int64_t half, bool late, const Around<T>& at, const Uniform<T>& g, Cell cell) {
  const T *c = at.c, *um = at.um, *up = at.up, *vm = at.vm, *vp = at.vp;
  const T gz = g.z, gy = g.y, gx = g.x;
  auto sum = [=](int64_t j, T along) { return gz * (um[j] + up[j]) + gy * (vm[j] + vp[j]) + gx * along; };
  const int64_t last = half - 1;
  if (late) {
#pragma GCC ivdep
    for (int64_t j = 0; j < last; ++j) cell(j, sum(j, c[j] + c[j + 1]));
    cell(last, sum(last, c[last]));
  } else {
    cell(0, sum(0, c[0]));
#pragma GCC ivdep
    for (int64_t j = 1; j < half; ++j) cell(j, sum(j, c[j - 1] + c[j]));
  }
}

// Half of a row: what stands at even places of the colour's row, or at odd ones.
template <typename T>
inline void split(int64_t n, int64_t half, bool odd, const T* __restrict row, T* red, T* black) {
  T* __restrict even = odd ? black : red, * __restrict other = odd ? red : black;
  for (int64_t j = 0; j < n / 2; ++j) {
    even[j] = row[2 * j];
    other[j] = row[2 * j + 1];
  }
  if (n % 2) {  // beyond the grid there is nothing
    even[half - 1] = row[n - 1];
    other[half - 1] = T(0);
  }
}

template <typename T>
void sweep(Box b, Sweep<T> k, const T* zeros, T* spare, Sums<T>* sums, int64_t first, int64_t last) {
  const int64_t half = half_of(b);
  const Box halves{b.nz, b.ny, half};
  for (int64_t z = first; z < last; ++z) {
    T peak = T(0);
    double total = 0;
    for (int64_t y = 0; y < b.ny; ++y) {
      const int64_t at = (z * b.ny + y) * half;
      const bool odd = (z + y) % 2, late = k.red == odd;
      const T *scaled = k.scaled + at, *weight = k.weight + at;
      T* to = k.to + at;
      const T omega = k.omega, scale = k.scale;
      const Around<T> rows = around(halves, k.other, zeros, z, y);
      if (k.whole) {  // the last sweep, of the red cells: it writes all cells where they belong
        gather_half(half, late, rows, k.g, [=](int64_t j, T sum) { spare[j] = scaled[j] + weight[j] * scale * sum; });
        for (int64_t j = 0; j < half; ++j) spare[half + j] = scale * rows.c[j];
        const T* __restrict even = odd ? spare + half : spare, * __restrict other = odd ? spare : spare + half;
        T* __restrict out = k.whole + (z * b.ny + y) * b.nx;
        for (int64_t j = 0; j < b.nx / 2; ++j) {
          out[2 * j] = even[j];
          out[2 * j + 1] = other[j];
        }
        if (b.nx % 2) out[b.nx - 1] = even[half - 1];
      } else if (k.first) {
        gather_half(half, late, rows, k.g, [=](int64_t j, T sum) { to[j] = scaled[j] + weight[j] * scale * sum; });
      } else if (sums) {  // the first sweep of the black cells: what the guess lacks
        gather_half(half, late, rows, k.g, [=](int64_t j, T sum) { spare[j] = scaled[j] + weight[j] * sum; });
        T rr = T(0), most = peak;
#pragma omp simd reduction(max : most) reduction(+ : rr)
        for (int64_t j = 0; j < half; ++j) {
          const T guess = scale * to[j], lacking = spare[j] - guess, size = std::abs(lacking);
          rr +=
              lacking * lacking / (weight[j] > T(0) ? weight[j] : T(1));  // nothing is lacking where there is no weight
          most = size > most ? size : most;
          to[j] = guess + omega * lacking;
        }
        peak = most;
        total += rr;
      } else {
        gather_half(half, late, rows, k.g,
                    [=](int64_t j, T sum) { to[j] += omega * (scaled[j] + weight[j] * sum - to[j]); });
      }
    }
    if (sums) {
      sums[z].peak = peak;
      sums[z].residual2 = total;
    }
  }
}

// Sums of a row in the arrays' own precision, of rows in double.
template <bool uniform, typename T>
void weigh_planes(Box b, const Equation<T>& e, const T* zeros, T* spare, Sums<T>* sums, int64_t first, int64_t last) {
  const int64_t n = b.nx, half = half_of(b);
  T *scaled = spare + n, *weight = spare + 2 * n;
  const T everywhere = *e.sink;
  for (int64_t z = first; z < last; ++z) {
    Sums<T> of{std::numeric_limits<T>::infinity(), T(0), T(0), 0, 0, 0, 0};
    for (int64_t y = 0; y < b.ny; ++y) {
      const int64_t at = (z * b.ny + y) * n, to = (z * b.ny + y) * half;
      const T *rows = e.rows + at, *inside = e.inside + at, *source = e.source + at, *guess = e.guess + at;
      gather(n, around(b, e.guess, zeros, z, y), e.g, [=](int64_t x, T sum) { spare[x] = sum; });
      T gap = of.gap, highest = of.highest, sb = T(0), bb = T(0), ss = T(0);
      const T* sinks = uniform ? zeros : e.sink + at;
#pragma omp simd reduction(min : gap) reduction(max : highest) reduction(+ : sb, bb, ss)
      for (int64_t x = 0; x < n; ++x) {
        const T sink = uniform ? everywhere : sinks[x];
        const T all = sink + rows[x], inverse = T(1) / all, image = all * guess[x] - spare[x] * inside[x];
        const T here = source[x] * inverse, lowest = sink * inverse, size = std::abs(here);
        scaled[x] = here;
        weight[x] = inside[x] * inverse;
        gap = lowest < gap ? lowest : gap;
        highest = size > highest ? size : highest;
        sb += here * image;
        bb += image * image * inverse;
        ss += here * source[x];
      }
      of.gap = gap;
      of.highest = highest;
      of.source_image += sb;
      of.image2 += bb;
      of.source2 += ss;
      const bool odd = (z + y) % 2;
      split(n, half, odd, scaled, e.scaled.red + to, e.scaled.black + to);
      split(n, half, odd, weight, e.weight.red + to, e.weight.black + to);
      split(n, half, odd, guess, spare, e.black + to);
    }
    sums[z] = of;
  }
}

template <typename T>
void weigh(Box b, Equation<T> e, const T* zeros, T* spare, Sums<T>* sums, int64_t first, int64_t last) {
  if (e.one_sink)
    weigh_planes<true>(b, e, zeros, spare, sums, first, last);
  else
    weigh_planes<false>(b, e, zeros, spare, sums, first, last);
}

// --- directed migration ---------------------------------------------------------------------------------------------

// σ(a, b)/2 = a²b²(a + b) / (a⁴ + b⁴) / 2 where ab > 0, scaled by the larger so that nothing underflows.
template <typename T>
inline T half_slope(T a, T b) {
  const T scale = std::max(std::max(std::abs(a), std::abs(b)), std::numeric_limits<T>::min());
  const T inverse = T(1) / scale;
  a *= inverse;
  b *= inverse;
  const T a2 = a * a, b2 = b * b, quartic = a2 * a2 + b2 * b2;
  const T slope = T(0.5) * scale * a2 * b2 * (a + b) / (quartic > T(0) ? quartic : T(1));
  return a * b > T(0) ? slope : T(0);
}

// Half the slope of the free space (1 - N)₊ with the opposite sign, from what is occupied: that is nothing beyond the
// mask and beyond the grid alike.
template <typename T>
inline T half_slope_filled(T before, T here, T after) {
  here = std::min(here, T(1));
  return half_slope(here - std::min(before, T(1)), std::min(after, T(1)) - here);
}

// Upwind flux of what the cell below and the cell above offer to the face between them.
template <typename T>
inline T upwind(T rate, T below, T above) {
  return rate * (rate > T(0) ? below : above);
}

// The rows of one quantity at, before and after a place along an axis.
template <typename T>
struct Rows {
  const T *before, *here, *after;
};

// Values carried along an axis: at the upper faces of the cells passed last, and the flow into those cells.
template <typename T>
struct Passed {
  T *upper, *free_upper, *flow;
};

// Values at the upper faces of a row.
template <bool crowded, typename T>
void look(int64_t n, Rows<T> s, Rows<T> occupied, Passed<T> passed) {
  for (int64_t x = 0; x < n; ++x)
    passed.upper[x] = s.here[x] + half_slope(s.here[x] - s.before[x], s.after[x] - s.here[x]);
  if (crowded)
    for (int64_t x = 0; x < n; ++x)
      passed.free_upper[x] = std::max(T(1) - occupied.here[x], T(0)) -
                             half_slope_filled(occupied.before[x], occupied.here[x], occupied.after[x]);
}

// Through the lower faces of a row: `behind`, the cells passed last, gain what entered them less what leaves them.
template <bool crowded, typename T>
void pass(int64_t n, Rows<T> s, Rows<T> occupied, const T* speed, const T* factor, Passed<T> passed, T* behind) {
#pragma GCC ivdep
  for (int64_t x = 0; x < n; ++x) {
    const T half = half_slope(s.here[x] - s.before[x], s.after[x] - s.here[x]);
    T from_below = passed.upper[x], from_above = s.here[x] - half;
    passed.upper[x] = s.here[x] + half;
    if (crowded) {  // into what is free on the receiving side
      const T half_filled = half_slope_filled(occupied.before[x], occupied.here[x], occupied.after[x]);
      const T free = std::max(T(1) - occupied.here[x], T(0));
      from_below *= free + half_filled;
      from_above *= passed.free_upper[x];
      passed.free_upper[x] = free - half_filled;
    }
    const T flow = upwind(speed[x] * factor[x], from_below, from_above);
    behind[x] += passed.flow[x] - flow;
    passed.flow[x] = flow;
  }
}

// The axis along a row, which sets `net`.
template <bool crowded, typename T>
void along(int64_t n, const T* s, const T* occupied, const T* speed, const T* factor, T* __restrict upper,
           T* __restrict lower, T* __restrict free_upper, T* __restrict free_lower, T* __restrict flow,
           T* __restrict net) {
  // faces x + 1 of the cells x stand at x + 1
  auto faces = [&](int64_t x, T before, T after) {
    const T half = half_slope(s[x] - before, after - s[x]);
    upper[x + 1] = s[x] + half;
    lower[x] = s[x] - half;
  };
  auto free_faces = [&](int64_t x, T before, T after) {
    const T half = half_slope_filled(before, occupied[x], after), free = std::max(T(1) - occupied[x], T(0));
    free_upper[x + 1] = free - half;
    free_lower[x] = free + half;
  };
  const int64_t last = n - 1;
  upper[0] = T(0);
  faces(0, T(0), last > 0 ? s[1] : T(0));
  for (int64_t x = 1; x < last; ++x) faces(x, s[x - 1], s[x + 1]);
  if (last > 0) faces(last, s[last - 1], T(0));
  if (crowded) {
    free_upper[0] = T(0);
    free_faces(0, T(0), last > 0 ? occupied[1] : T(0));
    for (int64_t x = 1; x < last; ++x) free_faces(x, occupied[x - 1], occupied[x + 1]);
    if (last > 0) free_faces(last, occupied[last - 1], T(0));
  }
  for (int64_t x = 0; x < n; ++x)
    flow[x] = crowded ? upwind(speed[x] * factor[x], upper[x] * free_lower[x], lower[x] * free_upper[x])
                      : upwind(speed[x] * factor[x], upper[x], lower[x]);
  flow[n] = T(0);
  for (int64_t x = 0; x < n; ++x) net[x] = flow[x] - flow[x + 1];
}

template <bool crowded, typename T>
void advect_planes(Box b, const T* s, const T* occupied, const Wind<T>& w, T* net, const T* zeros, T* scratch,
                   int64_t first, int64_t last) {
  const int64_t n = b.nx, plane = b.ny * n, row = n + 1;
  const Passed<T> in_z{scratch, scratch + plane, scratch + 2 * plane};
  T* rows = scratch + 3 * plane;
  const Passed<T> in_y{rows, rows + row, rows + 2 * row};
  T *upper = rows + 3 * row, *lower = rows + 4 * row, *free_upper = rows + 5 * row, *free_lower = rows + 6 * row,
    *flow = rows + 7 * row, *nowhere = rows + 8 * row;

  auto along_axis = [&](const T* f, int64_t at, int64_t i, int64_t count, int64_t by) {
    if (!f) return Rows<T>{zeros, zeros, zeros};
    return Rows<T>{i > 0 ? f + at - by : zeros, f + at, i + 1 < count ? f + at + by : zeros};
  };
  auto clear = [](Passed<T> p, int64_t count) {
    for (T* values : {p.upper, p.free_upper, p.flow}) std::fill(values, values + count, T(0));
  };
  auto from = [](Passed<T> p, int64_t by) { return Passed<T>{p.upper + by, p.free_upper + by, p.flow + by}; };

  std::fill(nowhere, nowhere + row, T(0));
  clear(in_z, plane);
  if (w.speed.z && first > 0)
    for (int64_t y = 0; y < b.ny; ++y) {
      const int64_t at = (first - 1) * plane + y * n;
      look<crowded>(n, along_axis(s, at, first - 1, b.nz, plane), along_axis(occupied, at, first - 1, b.nz, plane),
                    from(in_z, y * n));
    }
  for (int64_t z = first; z < last; ++z) {
    clear(in_y, row);
    for (int64_t y = 0; y < b.ny; ++y) {
      const int64_t at = z * plane + y * n;
      along<crowded>(n, s + at, occupied ? occupied + at : zeros, w.speed.x + at, w.factor.x + at, upper, lower,
                     free_upper, free_lower, flow, net + at);
      if (w.speed.y)
        pass<crowded>(n, along_axis(s, at, y, b.ny, n), along_axis(occupied, at, y, b.ny, n), w.speed.y + at,
                      w.factor.y + at, in_y, y > 0 ? net + at - n : nowhere);
      if (w.speed.z)
        pass<crowded>(n, along_axis(s, at, z, b.nz, plane), along_axis(occupied, at, z, b.nz, plane), w.speed.z + at,
                      w.factor.z + at, from(in_z, y * n), z > first ? net + at - plane : nowhere);
    }
    if (w.speed.y)  // the upper faces of the last cells are closed
      for (int64_t x = 0; x < n; ++x) net[(z + 1) * plane - n + x] += in_y.flow[x];
  }
  if (!w.speed.z) return;
  if (last == b.nz) {
    for (int64_t i = 0; i < plane; ++i) net[(last - 1) * plane + i] += in_z.flow[i];
    return;
  }
  for (int64_t y = 0; y < b.ny; ++y) {
    const int64_t at = last * plane + y * n;
    pass<crowded>(n, along_axis(s, at, last, b.nz, plane), along_axis(occupied, at, last, b.nz, plane), w.speed.z + at,
                  w.factor.z + at, from(in_z, y * n), net + at - plane);
  }
}

template <typename T>
void advect(Box b, const T* s, Wind<T> w, T* net, const T* zeros, T* scratch, int64_t first, int64_t last) {
  if (w.occupied)
    advect_planes<true>(b, s, w.occupied, w, net, zeros, scratch, first, last);
  else
    advect_planes<false>(b, s, w.occupied, w, net, zeros, scratch, first, last);
}

template <typename T>
constexpr Loops<T> loops() {
  return {diffuse<T>, sweep<T>, weigh<T>, grow<T>, advect<T>};
}

}  // namespace

#define GLIOMA_NAME_(isa) loops_##isa
#define GLIOMA_NAME(isa) GLIOMA_NAME_(isa)
Table GLIOMA_NAME(GLIOMA_ISA)() { return {loops<float>(), loops<double>()}; }

}  // namespace glioma
