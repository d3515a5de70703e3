// Slabs of planes shared out among the threads of XLA's pool.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace glioma {

struct Task {
  int round, slab;
};

// Tasks in an order in which each stands after those it waits for: round r of a slab waits for round r - 1 of itself
// and of its neighbours.
//
// The calling thread takes tasks like every other and waits only for tasks that a running thread has taken, so nothing
// hangs when the pool is busy elsewhere. Tasks are taken in order, which keeps what a slab reads in the cache from one
// round to the next.
class Crew {
 public:
  Crew(std::vector<Task> tasks, int slabs) : tasks_(std::move(tasks)), done_(slabs) {
    for (auto& d : done_) d.store(0, std::memory_order_relaxed);
  }

  template <typename Work>
  static void run(xla::ffi::ThreadPool& pool, std::vector<Task> tasks, int slabs, Work work) {
    auto crew = std::make_shared<Crew>(std::move(tasks), slabs);
    const int64_t size = static_cast<int64_t>(crew->tasks_.size());
    const int64_t helpers = std::min<int64_t>(pool.num_threads(), slabs) - 1;
    for (int64_t k = 0; k < helpers; ++k) pool.Schedule([crew, work] { crew->take(work); });
    crew->take(work);
    wait_until([&] { return crew->finished_.load(std::memory_order_acquire) >= size; });
  }

 private:
  template <typename Work>
  void take(const Work& work) {
    const int64_t size = static_cast<int64_t>(tasks_.size());
    for (;;) {
      const int64_t k = next_.fetch_add(1, std::memory_order_relaxed);
      if (k >= size) return;  // a late helper touches nothing but the crew
      const Task task = tasks_[k];
      const int last = static_cast<int>(done_.size()) - 1;
      for (int s = std::max(task.slab - 1, 0); s <= std::min(task.slab + 1, last); ++s)
        wait_until([&] { return done_[s].load(std::memory_order_acquire) >= task.round; });
      work(task);
      done_[task.slab].store(task.round + 1, std::memory_order_release);
      finished_.fetch_add(1, std::memory_order_acq_rel);
    }
  }

  // Waits are short, and a core that is given away may be gone for milliseconds: only a long wait yields it.
  template <typename Ready>
  static void wait_until(Ready ready) {
    for (int turns = 0; !ready(); ++turns) {
      if (turns > 4000) std::this_thread::yield();
#if defined(__x86_64__) || defined(_M_X64)
      __builtin_ia32_pause();
#endif
    }
  }

  std::vector<Task> tasks_;
  std::vector<std::atomic<int>> done_;
  std::atomic<int64_t> next_{0}, finished_{0};
};

// One round over all slabs.
inline std::vector<Task> once(int slabs) {
  std::vector<Task> tasks;
  for (int s = 0; s < slabs; ++s) tasks.push_back({0, s});
  return tasks;
}

// Many rounds along skewed fronts, `deep` rounds at a time: each is `skew` slabs behind the one before. From 2 on the
// tasks of a front do not wait for each other; more lets more threads than there are rounds find work.
inline std::vector<Task> fronts(int slabs, int rounds, int deep, int skew = 2) {
  std::vector<Task> tasks;
  for (int from = 0; from < rounds; from += deep) {
    const int count = std::min(deep, rounds - from);
    for (int front = 0; front < slabs + skew * (count - 1); ++front)
      for (int r = count - 1; r >= 0; --r) {
        const int slab = front - skew * r;
        if (slab >= 0 && slab < slabs) tasks.push_back({from + r, slab});
      }
  }
  return tasks;
}

}  // namespace glioma
