// Runs a case of tools/write_case.py outside Python (for sanitizers), keeping and recomputing values.
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "evaluator.hpp"

template <class T> static std::vector<T> take(std::ifstream &in, size_t n) {
  std::vector<T> values(n);
  in.read(reinterpret_cast<char *>(values.data()), std::streamsize(n * sizeof(T)));
  return values;
}

struct Case {
  std::vector<int64_t> code, first;
  std::vector<double> data, vectors;
  std::vector<int32_t> species, neighbour;
  double energy;
};

template <class Real> static double run(const Case &c, int threads, size_t keep) {
  grace::Model<Real> model(c.code.data(), c.code.size(), c.data.data(), c.data.size());
  grace::Evaluator<Real> evaluator(model);
  const size_t n = c.species.size();
  std::vector<double> energies(n), forces(3 * n), virials(9 * n);
  grace::Neighbours nb;
  nb.first = c.first.data(), nb.other = c.neighbour.data(), nb.vector = c.vectors.data(), nb.species = c.species.data();
  evaluator.begin(int(n), int(n), nb, threads, keep);
  const grace::Outputs out{energies.data(), forces.data(), virials.data()};
  for (int p = 0; p + 1 < evaluator.phases(); ++p) evaluator.forward(p);
  evaluator.turn(out);
  for (int p = evaluator.phases() - 2; p >= 0; --p) evaluator.backward(p, out);
  evaluator.finish(out);
  double total = 0;
  for (double e : energies) total += e;
  return total;
}

int main(int argc, char **argv) {
  std::ifstream in(argc > 1 ? argv[1] : "", std::ios::binary);
  const auto sizes = take<int64_t>(in, 5);  // code, data, atoms, bonds, bytes of a number
  Case c;
  c.code = take<int64_t>(in, sizes[0]), c.data = take<double>(in, sizes[1]), c.species = take<int32_t>(in, sizes[2]);
  c.first = take<int64_t>(in, sizes[2] + 1), c.neighbour = take<int32_t>(in, sizes[3]), c.vectors = take<double>(in, 3 * sizes[3]);
  c.energy = take<double>(in, 1)[0];
  const int threads = argc > 2 ? std::atoi(argv[2]) : 1;
  for (size_t keep : {size_t(0), size_t(1) << 30}) {
    const bool single = sizes[4] == 4;
    const double energy = single ? run<float>(c, threads, keep) : run<double>(c, threads, keep);
    if (!(std::abs(energy - c.energy) < (single ? 1e-2 : 1e-6))) {
      std::printf("wrong energy: %.10f instead of %.10f\n", energy, c.energy);
      return 1;
    }
  }
  return 0;
}
