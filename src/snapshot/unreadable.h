// Which errors mean that stored bytes are lost, and not that the machine is short of something for the moment.
#pragma once

#include "varve/core/result.h"

namespace varve::snapshot {

/// What disks and filesystems answer for a bad sector or a checksum that fails (EIO; ENODATA, EILSEQ from the block
/// layer; EBADMSG, EUCLEAN from filesystems), and every record that fails its own check.
[[nodiscard]] inline bool bytes_are_lost(const Error& error) {
  return error.kind == ErrorKind::damaged || error.code == EIO || error.code == ENODATA || error.code == EILSEQ ||
         error.code == EBADMSG || error.code == EUCLEAN;
}

}  // namespace varve::snapshot
