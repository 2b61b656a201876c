// Python module: opens the library of kernels of an instruction set, and finds bonds. Compiled for the oldest processor.
#include <dlfcn.h>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <stdexcept>
#include <vector>

#include "bonds_within.hpp"
#include "kernels.hpp"

namespace nb = nanobind;

template <class T, int N> using Array = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, int N> using Output = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

namespace {

// The best instruction set we build for that this processor can run.
std::string best() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    return "avx512";
  if (avx2) return "avx2";
#endif
  return "generic";
}

template <class Function> Function symbol(void *library, const char *name) {
  void *found = dlsym(library, name);
  if (!found) throw std::runtime_error(std::string("grace-native: no ") + name + " in the kernels; install grace-native again");
  return reinterpret_cast<Function>(found);
}

// A model with its work space. Not for two Python threads at once: the caller holds a lock.
class Engine {
 public:
  explicit Engine(grace::Kernels *kernels) : kernels_(kernels) {}

  void evaluate(Array<int32_t, 1> species, Array<int64_t, 1> first, Array<int32_t, 1> neighbour, Array<double, 2> vectors,
                Output<double, 1> energies, Output<double, 2> forces, Output<double, 2> virials, Output<double, 2> features,
                int threads, size_t keep_bytes) {
    const size_t n = species.size();
    const grace::Bonds b = checked(species, first, neighbour, vectors);
    if (energies.size() != n || forces.shape(0) != n || forces.shape(1) != 3 || virials.shape(0) != n || virials.shape(1) != 9)
      throw std::invalid_argument("grace-native: arrays of different lengths");
    if (features.size() && (features.shape(0) != n || features.shape(1) != size_t(kernels_->feature_columns())))
      throw std::invalid_argument("grace-native: features of another shape");
    nb::gil_scoped_release release;
    if (n == 0) return;
    grace::Sums sums;
    sums.energies = energies.data(), sums.forces = forces.data(), sums.virials = virials.data();
    kernels_->set_features(features.size() ? features.data() : nullptr);
    kernels_->evaluate(int(n), b, threads, keep_bytes, sums);
    kernels_->set_features(nullptr);
  }
  // Adds the gradient of sum_i seeds[i] E_i by the weights; energies are those of the atoms.
  void gradient(Array<int32_t, 1> species, Array<int64_t, 1> first, Array<int32_t, 1> neighbour, Array<double, 2> vectors,
                Array<double, 1> seeds, Output<double, 1> energies, Output<double, 1> gradient, int threads, size_t keep_bytes) {
    const size_t n = species.size();
    const grace::Bonds b = checked(species, first, neighbour, vectors);
    if (energies.size() != n || seeds.size() != n || int64_t(gradient.size()) < kernels_->gradient_size())
      throw std::invalid_argument("grace-native: arrays of different lengths");
    nb::gil_scoped_release release;
    if (n == 0) return;
    grace::Sums sums;
    sums.energies = energies.data();
    kernels_->set_gradient(seeds.data(), gradient.data());
    kernels_->evaluate(int(n), b, threads, keep_bytes, sums);
    kernels_->set_gradient(nullptr, nullptr);
  }
  int64_t gradient_size() const { return kernels_->gradient_size(); }
  void set_parts(int parts) { kernels_->set_parts(parts); }
  // The same program with other numbers.
  void update(Array<int64_t, 1> code, Array<double, 1> data) { kernels_->update(code.data(), code.size(), data.data(), data.size()); }
  // Radial functions of every bond from outside, [bonds, functions]; pass empty arrays to go back to the tables.
  void set_radial(int index, Array<double, 2> values, Array<double, 2> slopes) {
    if (index < 0 || index >= kernels_->radial_tables()) throw std::out_of_range("grace-native: no such radial table");
    if (values.size() && values.shape(1) != size_t(kernels_->radial_functions(index)))
      throw std::invalid_argument("grace-native: wrong number of functions");
    kernels_->set_radial(index, values.size() ? values.data() : nullptr, slopes.size() ? slopes.data() : nullptr);
  }
  size_t bytes() const { return size_t(kernels_->bytes()); }
  int feature_columns() const { return kernels_->feature_columns(); }

 private:
  // The bonds as the kernels take them, if their numbers are in range.
  grace::Bonds checked(const Array<int32_t, 1> &species, const Array<int64_t, 1> &first, const Array<int32_t, 1> &neighbour,
                       const Array<double, 2> &vectors) const {
    const size_t n = species.size(), bonds = neighbour.size();
    if (first.size() != n + 1 || vectors.shape(0) != bonds || vectors.shape(1) != 3)
      throw std::invalid_argument("grace-native: arrays of different lengths");
    const int elements = kernels_->elements();
    if (first.data()[0] != 0 || first.data()[n] != int64_t(bonds)) throw std::invalid_argument("grace-native: bonds do not add up");
    for (size_t i = 0; i < n; ++i)
      if (species.data()[i] < 0 || species.data()[i] >= elements || first.data()[i + 1] < first.data()[i])
        throw std::invalid_argument("grace-native: element or bond offset out of range");
    for (size_t b = 0; b < bonds; ++b)
      if (neighbour.data()[b] < 0 || size_t(neighbour.data()[b]) >= n) throw std::invalid_argument("grace-native: neighbour out of range");
    grace::Bonds b;
    b.first = first.data(), b.other = neighbour.data(), b.vector = vectors.data(), b.species = species.data();
    return b;
  }
  std::unique_ptr<grace::Kernels> kernels_;
};

// The library of one instruction set; it stays open until the process ends.
class Library {
 public:
  explicit Library(const std::string &path) : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (!handle_) throw std::runtime_error(dlerror());
    make_ = symbol<grace::KernelsFactory>(handle_, "grace_kernels");
    couplings_ = symbol<grace::CouplingsFunction>(handle_, "grace_couplings");
  }
  Engine *engine(Array<int64_t, 1> code, Array<double, 1> data, bool single) const {
    return new Engine(make_(grace::kKernelsVersion, single, code.data(), code.size(), data.data(), data.size()));
  }
  nb::list couplings() const {
    std::vector<int> triples(size_t(3) * couplings_(nullptr, 0));
    couplings_(triples.data(), int(triples.size() / 3));
    nb::list result;
    for (size_t i = 0; i + 2 < triples.size(); i += 3) result.append(nb::make_tuple(triples[i], triples[i + 1], triples[i + 2]));
    return result;
  }

 private:
  void *handle_;
  grace::KernelsFactory make_;
  grace::CouplingsFunction couplings_;
};

std::pair<int64_t, double> bonds_within(Array<double, 2> positions, Array<double, 2> offsets, Array<int32_t, 1> centre,
                                        Array<int32_t, 1> neighbour, Array<int64_t, 1> shift_index, Array<double, 1> squared_cutoff,
                                        Output<int32_t, 1> kept_centre, Output<int32_t, 1> kept_neighbour, Output<double, 2> vectors,
                                        Output<int64_t, 1> first, int threads) {
  const size_t bonds = centre.size(), atoms = positions.shape(0);
  if (positions.shape(1) != 3 || offsets.shape(1) != 3 || neighbour.size() != bonds || shift_index.size() != bonds ||
      (squared_cutoff.size() != 1 && squared_cutoff.size() != bonds) || kept_centre.size() != bonds || kept_neighbour.size() != bonds ||
      vectors.shape(0) != bonds || vectors.shape(1) != 3 || first.size() != atoms + 1)
    throw std::invalid_argument("grace-native: arrays of different lengths");
  nb::gil_scoped_release release;
  const grace::Candidates list{positions.data(), offsets.data(), centre.data(), neighbour.data(), shift_index.data(), squared_cutoff.data(),
                               squared_cutoff.size() == 1, int64_t(bonds), int64_t(atoms), int64_t(offsets.shape(0))};
  const grace::Kept kept{kept_centre.data(), kept_neighbour.data(), vectors.data(), first.data()};
  return grace::bonds_within(list, kept, threads);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "The compiled part of grace-native.";
  m.def("best", &best, "The best instruction set that this processor can run.");
  m.def("bonds_within", &bonds_within, nb::arg("positions"), nb::arg("offsets"), nb::arg("centre"), nb::arg("neighbour"),
        nb::arg("shift_index"), nb::arg("squared_cutoff"), nb::arg("kept_centre"), nb::arg("kept_neighbour"), nb::arg("vectors"),
        nb::arg("first"), nb::arg("threads"), "Bonds of a list that are shorter than their cutoff; their number, the shortest squared.");
  nb::class_<Engine>(m, "Engine")
      .def("evaluate", &Engine::evaluate, nb::arg("species"), nb::arg("first"), nb::arg("neighbour"), nb::arg("vectors"),
           nb::arg("energies"), nb::arg("forces"), nb::arg("virials"), nb::arg("features"), nb::arg("threads"),
           nb::arg("keep_bytes"), "Energies, forces, virials; features of the extrapolation grade unless their array is empty.")
      .def("gradient", &Engine::gradient, nb::arg("species"), nb::arg("first"), nb::arg("neighbour"), nb::arg("vectors"), nb::arg("seeds"),
           nb::arg("energies"), nb::arg("gradient"), nb::arg("threads"), nb::arg("keep_bytes"),
           "Adds the gradient of sum_i seeds[i] E_i by the weights (programs for training).")
      .def("gradient_size", &Engine::gradient_size)
      .def("set_parts", &Engine::set_parts, nb::arg("parts"), "Shares of the work, whatever the number of threads; 0: one per thread.")
      .def("update", &Engine::update, nb::arg("code"), nb::arg("data"), "The same program with other numbers.")
      .def("feature_columns", &Engine::feature_columns)
      .def("set_radial", &Engine::set_radial, nb::arg("index"), nb::arg("values"), nb::arg("slopes"))
      .def("bytes", &Engine::bytes);
  nb::class_<Library>(m, "Library")
      .def(nb::init<const std::string &>(), nb::arg("path"))
      .def("engine", &Library::engine, nb::arg("code"), nb::arg("data"), nb::arg("single"), nb::rv_policy::take_ownership)
      .def("couplings", &Library::couplings, "Couplings with straight-line code: (l1, l2, bit mask of target degrees).");
}
