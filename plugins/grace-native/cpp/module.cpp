// Python module: one per instruction set, named by GRACE_MODULE.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include "evaluator.hpp"

namespace nb = nanobind;

template <class T, int N> using Array = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, int N> using Output = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

namespace {

// A model with its work space. Not for two Python threads at once: the caller holds a lock.
template <class Real> class Engine {
 public:
  Engine(Array<int64_t, 1> code, Array<double, 1> data)
      : model_(code.data(), code.size(), data.data(), data.size()), evaluator_(model_) {}

  void evaluate(Array<int32_t, 1> species, Array<int64_t, 1> first, Array<int32_t, 1> neighbour, Array<double, 2> vectors,
                Output<double, 1> energies, Output<double, 2> forces, Output<double, 2> virials, int threads,
                size_t keep_bytes) {
    const size_t n = species.size(), bonds = neighbour.size();
    if (first.size() != n + 1 || vectors.shape(0) != bonds || vectors.shape(1) != 3 || energies.size() != n ||
        forces.shape(0) != n || forces.shape(1) != 3 || virials.shape(0) != n || virials.shape(1) != 9)
      throw std::invalid_argument("grace-native: arrays of different lengths");
    check(species, first, neighbour, n, bonds);
    nb::gil_scoped_release release;
    grace::Neighbours nbs;
    nbs.first = first.data(), nbs.other = neighbour.data(), nbs.vector = vectors.data(), nbs.species = species.data();
    if (n == 0) return;
    evaluator_.begin(int(n), int(n), nbs, threads, keep_bytes);
    evaluator_.evaluate({energies.data(), forces.data(), virials.data()});
  }
  // Radial functions of every bond from outside, [bonds, functions]; pass empty arrays to go back to the tables.
  void set_radial(int index, Array<double, 2> values, Array<double, 2> slopes) {
    auto &radial = model_.radials.at(index);
    if (values.size() && values.shape(1) != size_t(radial.functions)) throw std::invalid_argument("grace-native: wrong number of functions");
    radial.values = values.size() ? values.data() : nullptr, radial.slopes = slopes.size() ? slopes.data() : nullptr;
  }
  size_t bytes() const { return evaluator_.bytes(); }

 private:
  void check(const Array<int32_t, 1> &species, const Array<int64_t, 1> &first, const Array<int32_t, 1> &neighbour, size_t n,
             size_t bonds) const {
    if (first.data()[0] != 0 || first.data()[n] != int64_t(bonds)) throw std::invalid_argument("grace-native: bonds do not add up");
    for (size_t i = 0; i < n; ++i)
      if (species.data()[i] < 0 || species.data()[i] >= model_.elements || first.data()[i + 1] < first.data()[i])
        throw std::invalid_argument("grace-native: element or bond offset out of range");
    for (size_t b = 0; b < bonds; ++b)
      if (neighbour.data()[b] < 0 || size_t(neighbour.data()[b]) >= n) throw std::invalid_argument("grace-native: neighbour out of range");
  }
  grace::Model<Real> model_;
  grace::Evaluator<Real> evaluator_;
};

template <class Real> void bind(nb::module_ &m, const char *name) {
  nb::class_<Engine<Real>>(m, name)
      .def(nb::init<Array<int64_t, 1>, Array<double, 1>>(), nb::arg("code"), nb::arg("data"))
      .def("evaluate", &Engine<Real>::evaluate, nb::arg("species"), nb::arg("first"), nb::arg("neighbour"), nb::arg("vectors"),
           nb::arg("energies"), nb::arg("forces"), nb::arg("virials"), nb::arg("threads"), nb::arg("keep_bytes"))
      .def("set_radial", &Engine<Real>::set_radial, nb::arg("index"), nb::arg("values"), nb::arg("slopes"))
      .def("bytes", &Engine<Real>::bytes);
}

template <class Real> nb::list kernels() {
  int count = 0;
  const auto *table = grace::product_kernels<Real>(count);
  nb::list result;
  for (int i = 0; i < count; ++i) result.append(nb::make_tuple(table[i].l1, table[i].l2, table[i].mask));
  return result;
}

}  // namespace

NB_MODULE(GRACE_MODULE, m) {
  m.doc() = "Compiled kernels of grace-native.";
  m.attr("vector_bytes") = GRACE_VECTOR_BYTES;
  m.def("product_kernels", &kernels<double>, "Couplings with a kernel of their own: (l1, l2, bit mask of target degrees).");
  bind<double>(m, "Engine64");
  bind<float>(m, "Engine32");
}
