#include "host.hpp"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <vector>

namespace grace {
namespace {

std::string folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void *>(&open_kernels), &info) || !info.dli_fname) return ".";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

std::vector<std::string> usable() {
  std::vector<std::string> sets;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    sets.push_back("avx512");
  if (avx2) sets.push_back("avx2");
#endif
  sets.push_back("generic");
  return sets;
}

std::string &chosen() {
  static std::string name;
  return name;
}

std::string quoted(const std::string &word) {
  std::string result = "'";
  for (char c : word) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

std::string interpreter() {
  if (const char *asked = std::getenv("GRACE_PYTHON")) return asked;
  std::ifstream in(folder() + "/python.txt");  // the one that built this plugin
  std::string path;
  if (std::getline(in, path) && access(path.c_str(), X_OK) == 0) return path;
  return "python3";
}

}  // namespace

const std::string &instruction_set() { return chosen(); }

KernelsFactory open_kernels() {
  std::vector<std::string> sets = usable();
  if (const char *asked = std::getenv("GRACE_NATIVE_ISA")) {
    bool known = false;
    for (const auto &s : sets) known = known || s == asked;
    if (!known) throw std::runtime_error(std::string("GRACE_NATIVE_ISA=") + asked + " cannot be used on this processor");
    sets = {asked};
  }
  std::string problem;
  for (const auto &set : sets) {
    const std::string path = folder() + "/libgracekernels_" + set + ".so";
    if (access(path.c_str(), R_OK) != 0) continue;
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error(dlerror());
    if (void *symbol = dlsym(library, "grace_kernels")) {
      chosen() = set;
      return reinterpret_cast<KernelsFactory>(symbol);
    }
    throw std::runtime_error(path + " is not a library of GRACE kernels");
  }
  throw std::runtime_error("no libgracekernels_" + sets.back() + ".so in " + folder() + "; keep the folder of the plugin together");
}

std::string lower_with_python(const std::string &model, const std::string &elements, const std::string &precision) {
  const char *place = std::getenv("TMPDIR");
  std::string target = std::string(place && *place ? place : "/tmp") + "/graceXXXXXX";
  const int file = mkstemp(&target[0]);
  if (file < 0) throw std::runtime_error("cannot write a temporary file " + target);
  close(file);
  const std::string python = interpreter();
  const std::string command = quoted(python) + " -m grace_native.lammps write " + quoted(model) + " -o " + quoted(target) + " -e " +
                              quoted(elements) + " --precision " + precision + " --force 2>&1";
  std::string said;
  int status = -1;
  if (FILE *pipe = popen(command.c_str(), "r")) {
    char buffer[512];
    while (std::fgets(buffer, sizeof(buffer), pipe)) said += buffer;
    status = pclose(pipe);
  }
  std::ifstream in(target, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  unlink(target.c_str());
  if (status == 0 && !bytes.empty()) return bytes;
  while (!said.empty() && said.back() == '\n') said.pop_back();
  said = said.substr(said.rfind('\n') == std::string::npos ? 0 : said.rfind('\n') + 1);  // the last line says what is wrong
  if (WIFEXITED(status) && (WEXITSTATUS(status) == 127 || said.find("No module named") != std::string::npos))
    throw std::runtime_error(python + " cannot lower " + model + " (" + said + "); set GRACE_PYTHON to a Python with grace-native, " +
                             "or write a .gracelmp file there: python -m grace_native.lammps write " + model + " -o model.gracelmp");
  throw std::runtime_error(said.empty() ? python + " failed on " + model : said);
}

}  // namespace grace
