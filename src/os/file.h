// A regular file behind a descriptor.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <string>

#include "varve/os/descriptor.h"
#include "varve/os/storage.h"

namespace varve::os {

[[nodiscard]] FileStatus to_file_status(const struct stat& status);

/// Takes over a descriptor opened without O_DIRECT on what was found to be a regular file. With `direct`, switches to
/// O_DIRECT where the filesystem can do it with blocks of 4 KiB. `name` is for messages.
[[nodiscard]] Result<std::unique_ptr<File>> make_file(Descriptor descriptor, std::string name, bool direct);

}  // namespace varve::os
