// One function on several threads.
#pragma once

#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace grace {

// Calls work(rank, count) for every rank, on at most `limit` threads (0: as many as ranks); rethrows the first exception.
template <class F> void parallel(int ranks, int limit, F work) {
  const int threads = limit > 0 && limit < ranks ? limit : ranks;
  if (threads == 1) {
    for (int rank = 0; rank < ranks; ++rank) work(rank, ranks);
    return;
  }
  std::exception_ptr error;
  std::mutex guard;
  const auto safely = [&](int thread) {
    try {
      for (int rank = thread; rank < ranks; rank += threads) work(rank, ranks);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  int started = 1;
  try {
    for (; started < threads; ++started) others.emplace_back(safely, started);
  } catch (const std::system_error &) {  // no more threads to be had: their share is done here
  }
  safely(0);
  for (int thread = started; thread < threads; ++thread) safely(thread);
  for (auto &t : others) t.join();
  if (error) std::rethrow_exception(error);
}

template <class F> void parallel(int threads, F work) { parallel(threads, 0, work); }

}  // namespace grace
