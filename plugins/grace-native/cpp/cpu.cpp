// Which of the instruction sets we build for can this processor run? Compiled for the oldest one.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

NB_MODULE(_cpu, m) {
  m.doc() = "Choice of the instruction set at run time.";
  m.def("best", [] {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
      return std::string("avx512");
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return std::string("avx2");
#endif
    return std::string("generic");
  });
}
