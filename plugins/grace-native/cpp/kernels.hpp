// What the hosts of the kernels (the Python module, the LAMMPS pair style) see of them. The kernels are one library per
// instruction set, opened at run time; a host holds no code for a processor newer than the oldest.
//
// An atom here has the number the evaluator gives it: centres first, then everything that only passes messages on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace grace {

constexpr int kKernelsVersion = 4;  // of this interface

struct Bonds {                       // of all centres, CSR
  const int64_t *first = nullptr;    // [centres + 1]
  const int32_t *other = nullptr;    // [bonds]
  const double *vector = nullptr;    // [bonds][3] A, from the centre to the neighbour
  const int32_t *species = nullptr;  // [atoms]
};

struct Sums {
  double *energies = nullptr;        // [centres] eV
  double *forces = nullptr;          // [atoms][3] eV/A
  double *virials = nullptr;         // [centres][9] eV, sum over the bonds of a centre of r_x dE/dr_y
  double *bond_gradients = nullptr;  // [bonds][3] eV/A, added to; null: not wanted
};

class Kernels {
 public:
  virtual ~Kernels() = default;
  virtual int elements() const = 0;
  virtual int phases() const = 0;
  // Numbers (of 8 bytes) per atom that leave phase p: messages forward, their gradients backward.
  virtual int message_numbers(int p) const = 0;
  virtual void begin(int centres, int atoms, const Bonds &bonds, int threads, size_t keep_bytes) = 0;
  virtual void forward(int p) = 0;
  virtual void turn(const Sums &sums) = 0;
  virtual void backward(int p, const Sums &sums) = 0;
  virtual void finish(const Sums &sums) = 0;
  virtual void pack_messages(int p, int count, const int *atoms, double *to) const = 0;
  virtual void set_messages(int p, int count, const int *atoms, const double *from) = 0;
  virtual void pack_gradients(int p, int count, const int *atoms, double *to) const = 0;
  virtual void add_gradients(int p, int count, const int *atoms, const double *from) = 0;
  virtual double bytes() const = 0;
  // Radial functions of every bond from outside, [bonds][functions]; null: the tables again. The arrays must stay.
  virtual int radial_tables() const = 0;
  virtual int radial_functions(int table) const = 0;
  virtual void set_radial(int table, const double *values, const double *slopes) = 0;
  // Numbers of every centre from which extrapolation grades are made, [centres][columns] (0 columns where the program makes
  // none), filled by the evaluations that follow; null: not wanted.
  virtual int feature_columns() const = 0;
  virtual void set_features(double *features) = 0;
  // Programs for training: evaluations that follow add the gradient of sum_i seeds[i] E_i by the weights, in place of forces and
  // virials; null: forces and virials. Seeds are [centres], equal within what messages connect.
  virtual int64_t gradient_size() const = 0;
  virtual void set_gradient(const double *seeds, double *gradient) = 0;
  // Shares of the work, whatever the number of threads, so that sums do not depend on it; 0: one per thread.
  virtual void set_parts(int parts) = 0;
  // The same program with other numbers.
  virtual void update(const int64_t *code, size_t size, const double *data, size_t data_size) = 0;

  // All of it, for a host that has no other ranks to talk to.
  void evaluate(int atoms, const Bonds &bonds, int threads, size_t keep_bytes, const Sums &sums) {
    begin(atoms, atoms, bonds, threads, keep_bytes);
    for (int p = 0; p + 1 < phases(); ++p) forward(p);
    turn(sums);
    for (int p = phases() - 2; p >= 0; --p) backward(p, sums);
    finish(sums);
  }
};

// Symbols of every library. "grace_kernels" makes kernels for a program, throws std::exception; "grace_couplings" tells which
// couplings have straight-line code (l1, l2, bit mask of target degrees; up to `capacity` of them, returns their number).
using KernelsFactory = Kernels *(*)(int version, bool single, const int64_t *code, size_t size, const double *data, size_t data_size);
using CouplingsFunction = int (*)(int *triples, int capacity);

}  // namespace grace
