// Does operations on a disk of a mount until one fails, and says each.
#pragma once

#include <string>

#include "chooser.h"
#include "world.h"

namespace exerciser {

struct Target {
  std::string disk;   ///< its directory in the mount
  std::string store;  ///< for `varve restore`, with the program:
  std::string varve;
};

/// Ends the program with 3 when an operation fails, as each does when the daemon is gone; with 4 when wrong bytes were
/// read. Returns after so many operations of each thread (0: never).
void work(const Exercise& exercise, const Target& target, World world, std::uint64_t operations);

}  // namespace exerciser
