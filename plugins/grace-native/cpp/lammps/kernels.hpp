// What the LAMMPS pair style sees of the kernels. The pair style is compiled on the user's machine against the headers of
// their LAMMPS; the kernels come with the package, one library per instruction set, and are opened at run time.
//
// An atom here has the number the evaluator gives it: centres first, then everything that only passes messages on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace grace {

constexpr int kKernelsVersion = 1;  // of this interface

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
};

// Symbol "grace_kernels" of every library: makes kernels for a program, throws std::exception.
using KernelsFactory = Kernels *(*)(int version, bool single, const int64_t *code, size_t size, const double *data, size_t data_size);

}  // namespace grace
