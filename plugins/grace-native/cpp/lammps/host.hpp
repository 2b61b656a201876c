// What the pair style needs of its surroundings: the kernels for this processor, and a Python that can lower a model.
#pragma once

#include <string>

#include "../kernels.hpp"

namespace grace {

// Opens libgracekernels_*.so beside this library, the best one that the processor can run (GRACE_NATIVE_ISA asks for a
// lesser one). Throws std::runtime_error.
KernelsFactory open_kernels();
const std::string &instruction_set();

// Runs `python -m grace_native.lammps write` and returns the bytes of the file. Throws std::runtime_error.
std::string lower_with_python(const std::string &model, const std::string &elements, const std::string &precision);

}  // namespace grace
