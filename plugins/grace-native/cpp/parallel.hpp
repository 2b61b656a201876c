// One function on several threads.
#pragma once

#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace grace {

// Calls work(rank, count) once per thread; rethrows the first exception.
template <class F> void parallel(int threads, F work) {
  if (threads == 1) return work(0, 1);
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
  std::vector<std::thread> others;
  int started = 1;
  try {
    for (; started < threads; ++started) others.emplace_back(safely, started, threads);
  } catch (const std::system_error &) {  // no more threads to be had: their share is done here
  }
  safely(0, threads);
  for (int rank = started; rank < threads; ++rank) safely(rank, threads);
  for (auto &t : others) t.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace grace
