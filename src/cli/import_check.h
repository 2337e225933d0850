// Whether a snapshot is what a stream says, all of it, in time that follows the stream.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "stream.h"
#include "target.h"
#include "varve/store/commands.h"

namespace varve::cli {

struct ImportedSnapshot {
  const StreamHeader& header;
  const std::vector<Piece>& pieces;  ///< of the whole stream
  std::string path;                  ///< its image in the mount
  Target target;                     ///< the same for the store
  std::optional<Target> base;        ///< what the stream was applied to; nothing: zeros
};

/// Its size, that it differs from the base nowhere but in pieces, and the digest of each piece, read back. EIO (damaged)
/// where it is not so, with the place; other errors mean that it is not known.
[[nodiscard]] Status check_imported(const ImportedSnapshot& snapshot, const store::CommandContext& context);

}  // namespace varve::cli
