// What happens in a store, as short plays: each is ended at every call by a kill and a power loss (crash_enumeration_test),
// and met at every call by a failing medium (fault_sweep_test).
#pragma once

#include <string>
#include <vector>

#include "modeled_store.h"

namespace varve::test {

struct Scene {
  const char* name;
  void (*before)(ModeledStore&);  ///< undisturbed
  void (*play)(ModeledStore&);
  /// Also for a medium that fails. Not where a log record of unknown outcome may come into force several operations later,
  /// when it is settled: the model knows one operation that is in doubt.
  bool with_faults = true;
};

[[nodiscard]] const std::vector<Scene>& scenes();
/// Those that the environment names (VARVE_SCENE=NAME), else all.
[[nodiscard]] std::vector<Scene> chosen_scenes();

}  // namespace varve::test
