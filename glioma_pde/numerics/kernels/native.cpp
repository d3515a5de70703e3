// Native kernels for JAX on CPU: XLA custom calls, exposed to Python as capsules.
#include <Python.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "crew.h"
#include "loops.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace glioma {
namespace {

// Of the operands and results below; `__init__.py` has the same number.
constexpr int revision = 2;

const char* isa = "baseline";

Table choose() {
#if defined(GLIOMA_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    isa = "avx512";
    return loops_avx512();
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    isa = "avx2";
    return loops_avx2();
  }
#endif
  return loops_baseline();
}

const Table table = choose();

template <typename T>
const Loops<T>& loops() {
  if constexpr (std::is_same_v<T, float>)
    return table.f32;
  else
    return table.f64;
}

Box box_of(ffi::Span<const int64_t> shape) {
  if (shape.size() == 1) return {1, 1, shape[0]};
  if (shape.size() == 2) return {shape[0], 1, shape[1]};
  return {shape[0], shape[1], shape[2]};
}

// Slabs that a core's own cache holds, a few for every thread; one alone where sharing would cost more than it saves.
struct Slabs {
  int64_t planes, thick;
  int count;
  Slabs(Box b, int64_t bytes_per_cell, int64_t least_cells, int64_t threads) : planes(b.nz) {
    constexpr int64_t cache = 128 * 1024;
    const int64_t plane = b.ny * b.nx, share = planes / (4 * std::max<int64_t>(1, threads));
    thick = std::min(cache / (plane * bytes_per_cell), share);
    thick = std::max(thick, (least_cells + plane - 1) / plane);
    count = static_cast<int>((planes + thick - 1) / thick);
    if (threads < 2 || count < 4) {
      thick = planes;
      count = 1;
    }
  }
  int64_t first(int slab) const { return slab * thick; }
  int64_t last(int slab) const { return std::min(planes, (slab + 1) * thick); }
};

// Room of a thread's own, kept from call to call.
template <typename T>
T* spare(int64_t entries) {
  thread_local std::vector<T> room;
  if (static_cast<int64_t>(room.size()) < entries) room.resize(entries);
  return room.data();
}

// Three of the arguments, the axes last to first.
template <typename T, typename Get>
Conductances<T> axes(size_t ndim, Get get) {
  if (ndim == 1) return {nullptr, nullptr, get(0)};
  if (ndim == 2) return {get(0), nullptr, get(1)};
  return {get(0), get(1), get(2)};
}

ffi::Error refuse(const std::string& why) { return ffi::Error::InvalidArgument("glioma_pde: " + why); }

constexpr ffi::DataType F32 = ffi::F32, F64 = ffi::F64;

// The arrays that follow the first one, which all have its shape.
template <ffi::DataType D>
bool same_shape(ffi::RemainingArgs rest, ffi::Span<const int64_t> shape) {
  for (size_t k = 0; k < rest.size(); ++k) {
    auto a = rest.get<ffi::Buffer<D>>(k);
    if (a.has_error() || a->element_count() == 0) return false;
    auto d = a->dimensions();
    if (d.size() != shape.size() || !std::equal(d.begin(), d.end(), shape.begin())) return false;
  }
  return true;
}

template <ffi::DataType D, typename T = ffi::NativeType<D>>
ffi::Error diffuse(ffi::ThreadPool pool, ffi::Buffer<D> u, ffi::RemainingArgs g, ffi::ResultBuffer<D> net) {
  const auto shape = u.dimensions();
  if (shape.size() < 1 || shape.size() > 3 || g.size() != shape.size() || !same_shape<D>(g, shape))
    return refuse("diffusion takes one conductance per axis, each of the shape of the field.");
  const Box box = box_of(shape);
  const auto at = axes<T>(shape.size(), [&](size_t k) { return g.get<ffi::Buffer<D>>(k)->typed_data(); });
  const std::vector<T> zeros(box.nx, T(0));
  const T *none = zeros.data(), *field = u.typed_data();
  T* out = net->typed_data();
  const Slabs slabs(box, 5 * sizeof(T), 16 * 1024, pool.num_threads());
  Crew::run(pool, once(slabs.count), slabs.count,
            [=](Task t) { loops<T>().diffuse(box, field, at, out, none, slabs.first(t.slab), slabs.last(t.slab)); });
  return ffi::Error::Success();
}

// Where the cells inside begin and end in every row, rounded outwards to whole vectors.
std::vector<int32_t> reach_of(ffi::ThreadPool& pool, Box b, const bool* inside) {
  constexpr int64_t lanes = 16;
  std::vector<int32_t> reach(2 * b.nz * b.ny);
  int32_t* at = reach.data();
  const Slabs slabs(b, 1, 64 * 1024, pool.num_threads());
  Crew::run(pool, once(slabs.count), slabs.count, [=](Task t) {
    for (int64_t row = slabs.first(t.slab) * b.ny; row < slabs.last(t.slab) * b.ny; ++row) {
      auto any = [&](int64_t x) {
        return std::memchr(inside + row * b.nx + x, 1, std::min(lanes, b.nx - x)) != nullptr;
      };
      int64_t from = 0, to = (b.nx + lanes - 1) / lanes * lanes;
      while (from < to && !any(from)) from += lanes;
      while (to > from && !any(to - lanes)) to -= lanes;
      at[2 * row] = static_cast<int32_t>(std::min(from, b.nx));
      at[2 * row + 1] = static_cast<int32_t>(std::min(to, b.nx));
    }
  });
  return reach;
}

// `count` steps of one or two stages (Euler, SSP-RK2). `after` stands in the place of `u`.
template <ffi::DataType D, typename T = ffi::NativeType<D>>
ffi::Error grow(ffi::ThreadPool pool, ffi::Buffer<D> u, ffi::Buffer<ffi::PRED> inside, ffi::BufferR0<D> rate,
                ffi::BufferR0<D> dt, ffi::RemainingArgs rest, ffi::ResultBuffer<D> after, ffi::ResultBuffer<D> between,
                ffi::ResultBufferR0<D> grown, int64_t count, int64_t stages, bool limited) {
  const auto shape = u.dimensions();
  if (shape.size() < 1 || shape.size() > 3 || rest.size() != shape.size() || !same_shape<D>(rest, shape) ||
      inside.element_count() != u.element_count() || count < 1 || stages < 1 || stages > 2)
    return refuse("growth takes one conductance per axis and where the tissue is, each of the shape of the field.");
  if (u.typed_data() != after->typed_data()) return refuse("growth is computed in place.");
  const Box box = box_of(shape);
  const auto g = axes<T>(shape.size(), [&](size_t k) { return rest.get<ffi::Buffer<D>>(k)->typed_data(); });
  const std::vector<T> zeros(box.nx, T(0));
  const std::vector<int32_t> reach = reach_of(pool, box, inside.typed_data());
  const int rounds = static_cast<int>(count * stages);
  std::vector<double> gains(rounds * box.nz);
  const T *none = zeros.data(), step = *dt.typed_data(), speed = *rate.typed_data();
  const int32_t* rows = reach.data();
  double* of = gains.data();
  T *even = after->typed_data(), *odd = between->typed_data();
  const bool two = stages == 2;
  const Slabs slabs(box, 5 * sizeof(T), 8 * 1024, pool.num_threads());
  // an odd number of rounds has one more, which takes the result to its place
  constexpr int deep = 8;
  const int all = rounds + rounds % 2, abreast = std::min(all, deep), threads = static_cast<int>(pool.num_threads());
  const int skew = 1 + (2 * threads + abreast - 1) / abreast;
  Crew::run(pool, fronts(slabs.count, all, deep, std::max(skew, 2)), slabs.count, [=](Task t) {
    const int k = t.round;
    if (k == rounds) {
      for (int64_t row = slabs.first(t.slab) * box.ny; row < slabs.last(t.slab) * box.ny; ++row)
        std::copy(odd + row * box.nx + rows[2 * row], odd + row * box.nx + rows[2 * row + 1],
                  even + row * box.nx + rows[2 * row]);
      return;
    }
    const T* from = k % 2 ? odd : even;
    T* to = k % 2 ? even : odd;
    const Stage<T> one{from, even, to, g, rows, two && k % 2 ? T(0.5) : T(0), step, speed, limited, k == 0};
    loops<T>().grow(box, one, none, of + k * box.nz, slabs.first(t.slab), slabs.last(t.slab));
  });
  double sum = 0;
  for (double gain : gains) sum += gain;  // round by round and plane by plane: the same whatever the threads
  *grown->typed_data() = static_cast<T>(sum * static_cast<double>(step) / static_cast<double>(stages));
  return ffi::Error::Success();
}

// One number per axis.
template <ffi::DataType D, typename T>
bool uniform(ffi::RemainingArgs g, size_t ndim, Uniform<T>* out) {
  if (g.size() != ndim) return false;
  T value[3];
  for (size_t k = 0; k < ndim; ++k) {
    auto one = g.get<ffi::BufferR0<D>>(k);
    if (one.has_error()) return false;
    value[k] = *one->typed_data();
  }
  const auto by_axis = axes<T>(ndim, [&](size_t k) { return value + k; });
  *out = {by_axis.z ? *by_axis.z : T(0), by_axis.y ? *by_axis.y : T(0), *by_axis.x};
  return true;
}

// Smallest n with T_n(1/r) ≥ factor, r = 1 - gap; see `_count` of elliptic.py.
template <typename T>
int sweeps_needed(T gap, T factor) {
  factor = std::max(factor, T(1));
  const T excess = gap / std::max(T(1) - gap, std::numeric_limits<T>::epsilon());
  const T per_sweep = std::log1p(excess + std::sqrt(excess * (T(2) + excess)));
  const T needed = std::log(factor + std::sqrt((factor - T(1)) * (factor + T(1)))) / per_sweep;
  return std::isnan(needed) ? 0 : static_cast<int>(std::ceil(std::min(needed, T(1e6))));
}

template <typename T>
Halves<T> halves(T* both, Box b) {
  return {both, both + b.nz * b.ny * half_of(b)};
}

template <ffi::DataType D, typename T = ffi::NativeType<D>>
ffi::Error solve(ffi::ThreadPool pool, ffi::Buffer<D> source, ffi::Buffer<D> sink, ffi::Buffer<D> guess,
                 ffi::Buffer<D> rows, ffi::Buffer<D> inside, ffi::BufferR0<D> tolerance, ffi::BufferR0<D> negligible,
                 ffi::RemainingArgs rest, ffi::ResultBuffer<D> c, ffi::ResultBuffer<D> iterate,
                 ffi::ResultBuffer<D> scaled, ffi::ResultBuffer<D> weight, ffi::ResultBufferR0<ffi::S32> count) {
  const auto shape = source.dimensions();
  const size_t cells = source.element_count();
  const bool one_sink = sink.dimensions().size() == 0;
  Uniform<T> g;
  if (shape.size() < 1 || shape.size() > 3 || !uniform<D, T>(rest, shape.size(), &g) ||
      (!one_sink && sink.element_count() != cells) || guess.element_count() != cells || rows.element_count() != cells ||
      inside.element_count() != cells)
    return refuse("an elliptic solve takes one conductance per axis, and fields of one shape.");
  const Box box = box_of(shape);
  if (static_cast<int64_t>(iterate->element_count()) != 2 * box.nz * box.ny * half_of(box) ||
      scaled->element_count() != iterate->element_count() || weight->element_count() != iterate->element_count())
    return refuse("an elliptic solve needs room for two halves.");
  const std::vector<T> zeros(box.nx, T(0));
  std::vector<Sums<T>> sums(box.nz);
  const T* none = zeros.data();
  Sums<T>* of = sums.data();
  T* out = c->typed_data();
  const Halves<T> at = halves(iterate->typed_data(), box), by = halves(scaled->typed_data(), box),
                  of_weight = halves(weight->typed_data(), box);
  const Equation<T> equation{rows.typed_data(),
                             inside.typed_data(),
                             sink.typed_data(),
                             source.typed_data(),
                             guess.typed_data(),
                             one_sink,
                             g,
                             by,
                             of_weight,
                             at.black};
  auto weigh = [&] {
    const Slabs slabs(box, 8 * sizeof(T), 8 * 1024, pool.num_threads());
    Crew::run(pool, once(slabs.count), slabs.count, [=](Task t) {
      loops<T>().weigh(box, equation, none, spare<T>(sweep_scratch(box)), of, slabs.first(t.slab), slabs.last(t.slab));
    });
  };
  weigh();
  T gap = std::numeric_limits<T>::infinity(), highest = T(0), peak = T(0);
  double source_image = 0, image2 = 0, source2 = 0, residual2 = 0;
  for (const Sums<T>& s : sums) {  // plane by plane: the same whatever the threads
    gap = std::min(gap, s.gap);
    highest = std::max(highest, s.highest);
    source_image += s.source_image;
    image2 += s.image2;
    source2 += s.source2;
  }
  // A source of exactly zero has the solution zero, and what stays under `negligible` need not be known.
  if (!(highest > T(0) && highest > gap * *negligible.typed_data())) {
    std::fill(out, out + cells, T(0));
    *count->typed_data() = 0;
    return ffi::Error::Success();
  }
  const T r = T(1) - gap, r2 = r * r;
  // Sweeps `from` to `to`, not included, red and black in turn; `factors` are their ω.
  auto sweeps = [&](int from, int to, const T* factors, T multiple, bool weighs, bool ends) {
    const Slabs slabs(box, 2 * sizeof(T), 24 * 1024, pool.num_threads());
    constexpr int deep = 16;
    Crew::run(pool, fronts(slabs.count, to - from, deep), slabs.count, [=](Task t) {
      const int k = from + t.round;
      const bool red = k % 2 == 0;
      const Sweep<T> one{red ? by.red : by.black,
                         red ? of_weight.red : of_weight.black,
                         red ? at.black : at.red,
                         red ? at.red : at.black,
                         ends && k == to - 1 ? out : nullptr,
                         red,
                         k == 0,
                         g,
                         factors[k],
                         multiple};
      loops<T>().sweep(box, one, none, spare<T>(sweep_scratch(box)), weighs && k == 1 ? of : nullptr,
                       slabs.first(t.slab), slabs.last(t.slab));
    });
  };
  const double tiny = std::numeric_limits<T>::min();
  T multiple = static_cast<T>(source_image / std::max(image2, tiny));
  std::vector<T> omega{T(1), T(2) / (T(2) - r2)};
  sweeps(0, 2, omega.data(), multiple, true, false);
  for (const Sums<T>& s : sums) {
    residual2 += s.residual2;
    peak = std::max(peak, s.peak);
  }
  T lacking = static_cast<T>(std::sqrt(residual2 / std::max(source2, tiny)));
  lacking = std::max(lacking, peak / std::max(highest, std::numeric_limits<T>::min()));
  if (!(lacking < T(1)) && multiple != T(0)) {  // a guess worse than none
    multiple = T(0);
    sweeps(0, 2, omega.data(), multiple, true, false);
  }
  if (multiple == T(0)) lacking = T(2);  // see `_solution_in_xla` of elliptic.py
  const int needed = sweeps_needed(gap, lacking / *tolerance.typed_data()), n = 2 * ((needed + 1) / 2);
  if (n == 0) weigh();  // the black cells of the guess as they were
  for (int k = 2; k < n; ++k) omega.push_back(T(1) / (T(1) - T(0.25) * r2 * omega[k - 1]));
  omega.resize(n);
  omega.push_back(T(1));
  sweeps(std::min(n, 2), n + 1, omega.data(), n == 0 ? multiple : T(1), false, true);
  *count->typed_data() = n;
  return ffi::Error::Success();
}

template <ffi::DataType D, typename T = ffi::NativeType<D>>
ffi::Error advect(ffi::ThreadPool pool, ffi::Buffer<D> s, ffi::RemainingArgs rest, ffi::ResultBuffer<D> net) {
  const auto shape = s.dimensions();
  const size_t n = shape.size();
  if (n < 1 || n > 3 || (rest.size() != 2 * n && rest.size() != 2 * n + 1) || !same_shape<D>(rest, shape))
    return refuse("advection takes one speed and one factor per axis, each of the shape of the field.");
  const Box box = box_of(shape);
  auto get = [&](size_t k) -> const T* { return rest.get<ffi::Buffer<D>>(k)->typed_data(); };
  const Wind<T> wind{axes<T>(n, get), axes<T>(n, [&](size_t k) { return get(n + k); }),
                     rest.size() > 2 * n ? get(2 * n) : nullptr};
  const std::vector<T> zeros(box.nx + 1, T(0));
  const T *none = zeros.data(), *field = s.typed_data();
  T* out = net->typed_data();
  // faces between slabs are computed twice: thicker slabs waste less
  const Slabs slabs(box, sizeof(T), 4 * 1024, pool.num_threads());
  Crew::run(pool, once(slabs.count), slabs.count, [=](Task t) {
    loops<T>().advect(box, field, wind, out, none, spare<T>(advect_scratch(box)), slabs.first(t.slab),
                      slabs.last(t.slab));
  });
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(
    diffuse_f32, diffuse<F32>,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<F32>>().RemainingArgs().Ret<ffi::Buffer<F32>>());
XLA_FFI_DEFINE_HANDLER(
    diffuse_f64, diffuse<F64>,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<F64>>().RemainingArgs().Ret<ffi::Buffer<F64>>());
XLA_FFI_DEFINE_HANDLER(
    advect_f32, advect<F32>,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<F32>>().RemainingArgs().Ret<ffi::Buffer<F32>>());
XLA_FFI_DEFINE_HANDLER(
    advect_f64, advect<F64>,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<F64>>().RemainingArgs().Ret<ffi::Buffer<F64>>());

template <ffi::DataType D>
auto growth() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::Buffer<D>>()
      .template Arg<ffi::Buffer<ffi::PRED>>()
      .template Arg<ffi::BufferR0<D>>()
      .template Arg<ffi::BufferR0<D>>()
      .RemainingArgs()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::BufferR0<D>>()
      .template Attr<int64_t>("count")
      .template Attr<int64_t>("stages")
      .template Attr<bool>("limited");
}
XLA_FFI_DEFINE_HANDLER(grow_f32, grow<F32>, growth<F32>());
XLA_FFI_DEFINE_HANDLER(grow_f64, grow<F64>, growth<F64>());

template <ffi::DataType D>
auto elliptic() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::Buffer<D>>()
      .template Arg<ffi::Buffer<D>>()
      .template Arg<ffi::Buffer<D>>()
      .template Arg<ffi::Buffer<D>>()
      .template Arg<ffi::Buffer<D>>()
      .template Arg<ffi::BufferR0<D>>()
      .template Arg<ffi::BufferR0<D>>()
      .RemainingArgs()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::BufferR0<ffi::S32>>();
}
XLA_FFI_DEFINE_HANDLER(solve_f32, solve<F32>, elliptic<F32>());
XLA_FFI_DEFINE_HANDLER(solve_f64, solve<F64>, elliptic<F64>());

// --- Python ---------------------------------------------------------------------------------------------------------

struct Named {
  const char* name;
  XLA_FFI_Error* (*handler)(XLA_FFI_CallFrame*);
};

const Named handlers[] = {
    {"diffuse_float32", diffuse_f32}, {"diffuse_float64", diffuse_f64}, {"advect_float32", advect_f32},
    {"advect_float64", advect_f64},   {"solve_float32", solve_f32},     {"solve_float64", solve_f64},
    {"grow_float32", grow_f32},       {"grow_float64", grow_f64},
};

int fill(PyObject* module) {
  PyObject* targets = PyDict_New();
  if (!targets) return -1;
  for (const Named& h : handlers) {
    PyObject* capsule = PyCapsule_New(reinterpret_cast<void*>(h.handler), nullptr, nullptr);
    const int failed = !capsule || PyDict_SetItemString(targets, h.name, capsule);
    Py_XDECREF(capsule);
    if (failed) {
      Py_DECREF(targets);
      return -1;
    }
  }
  const int failed = PyModule_AddObjectRef(module, "targets", targets);
  Py_DECREF(targets);
  if (failed || PyModule_AddIntConstant(module, "revision", revision)) return -1;
  return PyModule_AddStringConstant(module, "instructions", isa);
}

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(fill)}, {0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_native",
                          "Compiled kernels as XLA custom calls.",
                          0,
                          nullptr,
                          slots,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace
}  // namespace glioma

PyMODINIT_FUNC PyInit__native() { return PyModuleDef_Init(&glioma::definition); }
