// Native kernels for JAX on CPU: XLA custom calls, exposed to Python as capsules.
#include <Python.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "crew.h"
#include "loops.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace glioma {
namespace {

const char *isa = "baseline";

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
const Loops<T> &loops() {
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

// Slabs that a core's own cache holds, at least a few for every thread.
struct Slabs {
  int64_t planes, thick;
  int count;
  Slabs(Box b, int64_t bytes_per_cell, int64_t threads) : planes(b.nz) {
    constexpr int64_t cache = 128 * 1024;
    const int64_t plane = b.ny * b.nx * bytes_per_cell;
    thick = std::max<int64_t>(1, cache / std::max<int64_t>(1, plane));
    thick = std::min(thick, std::max<int64_t>(1, planes / (4 * std::max<int64_t>(1, threads))));
    count = static_cast<int>((planes + thick - 1) / thick);
  }
  int64_t first(int slab) const { return slab * thick; }
  int64_t last(int slab) const { return std::min(planes, (slab + 1) * thick); }
};

// Three of the arguments, the axes last to first.
template <typename T, typename Get>
Conductances<T> axes(size_t ndim, Get get) {
  if (ndim == 1) return {nullptr, nullptr, get(0)};
  if (ndim == 2) return {get(0), nullptr, get(1)};
  return {get(0), get(1), get(2)};
}

ffi::Error refuse(const std::string &why) { return ffi::Error::InvalidArgument("glioma_pde: " + why); }

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
  T *out = net->typed_data();
  const Slabs slabs(box, 5 * sizeof(T), pool.num_threads());
  Crew::run(pool, once(slabs.count), slabs.count, [=](Task t) {
    loops<T>().diffuse(box, field, at, out, none, slabs.first(t.slab), slabs.last(t.slab));
  });
  return ffi::Error::Success();
}

template <ffi::DataType D, typename T = ffi::NativeType<D>>
ffi::Error chebyshev(ffi::ThreadPool pool, ffi::Buffer<D> source, ffi::Buffer<D> weight, ffi::Buffer<D> guess,
                     ffi::BufferR0<D> r2, ffi::BufferR0<ffi::S32> count, ffi::RemainingArgs g,
                     ffi::ResultBuffer<D> even, ffi::ResultBuffer<D> odd) {
  const auto shape = source.dimensions();
  if (shape.size() < 1 || shape.size() > 3 || g.size() != shape.size() ||
      weight.element_count() != source.element_count() || guess.element_count() != source.element_count())
    return refuse("an elliptic solve takes one conductance per axis, and fields of one shape.");
  const Box box = box_of(shape);
  T value[3];
  for (size_t k = 0; k < g.size(); ++k) {
    auto one = g.get<ffi::BufferR0<D>>(k);
    if (one.has_error()) return refuse("conductances of an elliptic solve are numbers.");
    value[k] = *one->typed_data();
  }
  const auto by_axis = axes<T>(shape.size(), [&](size_t k) { return value + k; });
  const T gz = by_axis.z ? *by_axis.z : T(0), gy = by_axis.y ? *by_axis.y : T(0), gx = *by_axis.x;
  const int rounds = 2 * ((std::max(*count.typed_data(), 0) + 1) / 2);  // in pairs: both iterates stay in place
  const T *start = guess.typed_data();
  T *to[2] = {odd->typed_data(), even->typed_data()};
  if (rounds == 0) {
    std::copy(start, start + guess.element_count(), to[1]);
    return ffi::Error::Success();
  }
  std::vector<T> omega(rounds, T(1));
  const T spectral2 = *r2.typed_data();
  for (int k = 1; k < rounds; ++k)
    omega[k] = k == 1 ? T(2) / (T(2) - spectral2) : T(1) / (T(1) - T(0.25) * spectral2 * omega[k - 1]);
  const std::vector<T> zeros(box.nx, T(0));
  const T *none = zeros.data(), *factors = omega.data(), *b = source.typed_data(), *w = weight.typed_data();
  T *first = to[0], *second = to[1];
  const Slabs slabs(box, 4 * sizeof(T), pool.num_threads());
  constexpr int deep = 16;
  Crew::run(pool, fronts(slabs.count, rounds, deep), slabs.count, [=](Task t) {
    const int k = t.round;
    const T *other = k == 0 ? start : (k % 2 ? first : second);
    const T *own = k == 0 ? nullptr : k == 1 ? start : (k % 2 ? second : first);
    const Sweep<T> sweep{b, w, other, own, k % 2 ? second : first, gz, gy, gx, factors[k]};
    loops<T>().sweep(box, sweep, none, slabs.first(t.slab), slabs.last(t.slab));
  });
  return ffi::Error::Success();
}

template <ffi::DataType D, typename T = ffi::NativeType<D>>
ffi::Error advect(ffi::ThreadPool pool, ffi::Buffer<D> s, ffi::RemainingArgs rest, ffi::ResultBuffer<D> net) {
  const auto shape = s.dimensions();
  const size_t n = shape.size();
  if (n < 1 || n > 3 || (rest.size() != 2 * n && rest.size() != 2 * n + 1) || !same_shape<D>(rest, shape))
    return refuse("advection takes one speed and one factor per axis, each of the shape of the field.");
  const Box box = box_of(shape);
  auto get = [&](size_t k) -> const T * { return rest.get<ffi::Buffer<D>>(k)->typed_data(); };
  const Wind<T> wind{axes<T>(n, get), axes<T>(n, [&](size_t k) { return get(n + k); }),
                     rest.size() > 2 * n ? get(2 * n) : nullptr};
  const std::vector<T> zeros(box.nx + 1, T(0));
  const T *none = zeros.data(), *field = s.typed_data();
  T *out = net->typed_data();
  // faces between slabs are computed twice: thicker slabs waste less
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  Slabs slabs(box, sizeof(T), threads);
  Crew::run(pool, once(slabs.count), slabs.count, [=](Task t) {
    thread_local std::vector<T> scratch;
    scratch.resize(advect_scratch(box));
    loops<T>().advect(box, field, wind, out, none, scratch.data(), slabs.first(t.slab), slabs.last(t.slab));
  });
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(diffuse_f32, diffuse<F32>,
                       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<F32>>().RemainingArgs().Ret<ffi::Buffer<F32>>());
XLA_FFI_DEFINE_HANDLER(diffuse_f64, diffuse<F64>,
                       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<F64>>().RemainingArgs().Ret<ffi::Buffer<F64>>());
XLA_FFI_DEFINE_HANDLER(advect_f32, advect<F32>,
                       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<F32>>().RemainingArgs().Ret<ffi::Buffer<F32>>());
XLA_FFI_DEFINE_HANDLER(advect_f64, advect<F64>,
                       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<F64>>().RemainingArgs().Ret<ffi::Buffer<F64>>());

template <ffi::DataType D>
auto elliptic() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::Buffer<D>>()
      .template Arg<ffi::Buffer<D>>()
      .template Arg<ffi::Buffer<D>>()
      .template Arg<ffi::BufferR0<D>>()
      .template Arg<ffi::BufferR0<ffi::S32>>()
      .RemainingArgs()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>();
}
XLA_FFI_DEFINE_HANDLER(chebyshev_f32, chebyshev<F32>, elliptic<F32>());
XLA_FFI_DEFINE_HANDLER(chebyshev_f64, chebyshev<F64>, elliptic<F64>());

// --- Python ---------------------------------------------------------------------------------------------------------

struct Named {
  const char *name;
  XLA_FFI_Error *(*handler)(XLA_FFI_CallFrame *);
};

const Named handlers[] = {
    {"diffuse_float32", diffuse_f32},     {"diffuse_float64", diffuse_f64}, {"advect_float32", advect_f32},
    {"advect_float64", advect_f64},       {"chebyshev_float32", chebyshev_f32},
    {"chebyshev_float64", chebyshev_f64},
};

int fill(PyObject *module) {
  PyObject *targets = PyDict_New();
  if (!targets) return -1;
  for (const Named &h : handlers) {
    PyObject *capsule = PyCapsule_New(reinterpret_cast<void *>(h.handler), nullptr, nullptr);
    const int failed = !capsule || PyDict_SetItemString(targets, h.name, capsule);
    Py_XDECREF(capsule);
    if (failed) {
      Py_DECREF(targets);
      return -1;
    }
  }
  const int failed = PyModule_AddObjectRef(module, "targets", targets);
  Py_DECREF(targets);
  return failed ? -1 : PyModule_AddStringConstant(module, "instructions", isa);
}

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void *>(fill)}, {0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "Compiled kernels as XLA custom calls.", 0, nullptr, slots,
                          nullptr, nullptr, nullptr};

}  // namespace
}  // namespace glioma

PyMODINIT_FUNC PyInit__native() { return PyModuleDef_Init(&glioma::definition); }
