// One function on several threads: OpenMP, or std::thread where there is none (and under the thread sanitizer, which
// cannot see the barriers of an OpenMP library that is not instrumented).
#pragma once

#include <exception>
#include <mutex>

#if defined(_OPENMP) && !defined(GRACE_STD_THREADS)
#include <omp.h>
#else
#include <thread>
#include <vector>
#endif

namespace grace {

// Calls work(rank, count) once per thread; rethrows the first exception.
template <class F> void parallel(int threads, F work) {
  std::exception_ptr error;
  std::mutex guard;
  const auto safely = [&](int rank, int count) {
    try {
      work(rank, count);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!error) error = std::current_exception();
    }
  };
#if defined(_OPENMP) && !defined(GRACE_STD_THREADS)
#pragma omp parallel num_threads(threads)
  safely(omp_get_thread_num(), omp_get_num_threads());
#else
  std::vector<std::thread> others;
  for (int rank = 1; rank < threads; ++rank) others.emplace_back(safely, rank, threads);
  safely(0, threads);
  for (auto &t : others) t.join();
#endif
  if (error) std::rethrow_exception(error);
}

}  // namespace grace
