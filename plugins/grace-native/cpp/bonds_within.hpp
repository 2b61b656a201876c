// Bonds of a neighbour list with skin that are shorter than the cutoff now.
//
//   r_b = (r_j - r_i) + o_s,   kept where r_x^2 + r_y^2 + r_z^2 < c_b^2
//
// in this order and without fused multiply-adds (-ffp-contract=off): the numbers of gracecli.engine.bonds to the last bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "parallel.hpp"

namespace grace {

struct Candidates {  // ordered by centre
  const double *positions, *offsets;    // [atoms][3], [shifts][3] A
  const int32_t *centre, *neighbour;    // [bonds]
  const int64_t *shift_index;           // [bonds] -> row of offsets
  const double *squared_cutoff;         // [1] or [bonds]
  bool one_cutoff;
  int64_t bonds, atoms, shifts;
};

struct Kept {
  int32_t *centre, *neighbour;  // [bonds], filled from the front
  double *vectors;              // [bonds][3] A
  int64_t *first;               // [atoms + 1]
};

// One run of bonds, written from its own place on; how many, and the smallest squared length.
inline std::pair<int64_t, double> filter_run(const Candidates &list, const Kept &kept, int64_t from, int64_t to) {
  double shortest = std::numeric_limits<double>::infinity();
  int64_t at = from;
  for (int64_t b = from; b < to; ++b) {
    const int64_t i = list.centre[b], j = list.neighbour[b], s = list.shift_index[b];
    if (uint64_t(i) >= uint64_t(list.atoms) || uint64_t(j) >= uint64_t(list.atoms) || uint64_t(s) >= uint64_t(list.shifts))
      throw std::out_of_range("grace-native: bond out of range");
    const double *ri = list.positions + 3 * i, *rj = list.positions + 3 * j, *o = list.offsets + 3 * s;
    const double x = (rj[0] - ri[0]) + o[0], y = (rj[1] - ri[1]) + o[1], z = (rj[2] - ri[2]) + o[2];
    const double squared = (x * x + y * y) + z * z;
    // written always and overwritten by the next one where it is too long: no branch to mispredict
    kept.centre[at] = int32_t(i), kept.neighbour[at] = int32_t(j);
    double *v = kept.vectors + 3 * at;
    v[0] = x, v[1] = y, v[2] = z;
    const bool within = squared < list.squared_cutoff[list.one_cutoff ? 0 : b];
    at += within;
    shortest = within && squared < shortest ? squared : shortest;
  }
  return {at - from, shortest};
}

inline std::pair<int64_t, double> bonds_within(const Candidates &list, const Kept &kept, int threads) {
  constexpr int64_t few = 20000;  // bonds a thread is worth starting for
  const int count = int(std::max<int64_t>(1, std::min<int64_t>(threads, list.bonds / few)));
  std::vector<std::pair<int64_t, double>> runs(count);
  parallel(count, [&](int rank, int size) {
    runs[rank] = filter_run(list, kept, list.bonds * rank / size, list.bonds * (rank + 1) / size);
  });
  int64_t total = runs[0].first;
  double shortest = runs[0].second;
  for (int rank = 1; rank < count; ++rank) {
    const int64_t from = list.bonds * rank / count, n = runs[rank].first;
    std::memmove(kept.centre + total, kept.centre + from, n * sizeof(int32_t));
    std::memmove(kept.neighbour + total, kept.neighbour + from, n * sizeof(int32_t));
    std::memmove(kept.vectors + 3 * total, kept.vectors + 3 * from, 3 * n * sizeof(double));
    total += n, shortest = std::min(shortest, runs[rank].second);
  }
  int64_t b = 0;
  for (int64_t i = 0; i <= list.atoms; ++i) {
    while (b < total && kept.centre[b] < i) ++b;
    kept.first[i] = b;
  }
  return {total, shortest};
}

}  // namespace grace
