// What a daemon of root may still do: little, and of that the most dangerous only for the moment in which it is needed.
//
//   CAP_SYS_ADMIN         to mount, and to unmount at the end: raised for just that
//   CAP_SYS_PTRACE        to name who keeps a mount busy: raised for just that
//   CAP_DAC_READ_SEARCH   to reach a store or a mountpoint below directories of another user: always
//
// All others are gone for good, also for programs that are started, which get no new ones either. An ordinary user has
// none to begin with, and needs fusermount3, which is setuid, to unmount: nothing changes for such a daemon.
#pragma once

#include <cstdint>

namespace varve::fuse {

/// To be called by a process with one thread: others keep what they have. Best effort; what could not be dropped is
/// logged.
void drop_privileges();

/// Raises what the calling thread still has at hand, and puts it back when it goes. Start no thread meanwhile.
class RaisedPrivileges {
 public:
  RaisedPrivileges();
  ~RaisedPrivileges();
  RaisedPrivileges(const RaisedPrivileges&) = delete;
  RaisedPrivileges& operator=(const RaisedPrivileges&) = delete;

 private:
  std::uint64_t before_ = 0;
  bool raised_ = false;
};

}  // namespace varve::fuse
