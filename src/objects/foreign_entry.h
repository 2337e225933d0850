// What somebody else put where our files are.
#pragma once

#include <cerrno>
#include <utility>

#include "varve/core/result.h"

namespace varve::objects {

/// What lies under a file's name and cannot be ours (a link, a pipe, another user's file, a directory that is none)
/// is damage to whoever wants to read it, not a mistake of his.
[[nodiscard]] inline Error as_read_error(Error error) {
  switch (error.code) {
    case ELOOP:
    case ENOTDIR:
    case EINVAL:
    case EPERM:
      return Error{EIO, ErrorKind::damaged, std::move(error.message)};
    default:
      return error;
  }
}

}  // namespace varve::objects
