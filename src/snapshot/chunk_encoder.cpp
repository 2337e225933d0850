#include "chunk_encoder.h"

#include <algorithm>
#include <cstring>

#include "unreadable.h"
#include "varve/core/same_bytes.h"

namespace varve::snapshot {

/// All bytes, and their digest. An outcome when there is nothing left to do.
Result<std::optional<Outcome>> EncoderTask::complete(const chunks::BytesPointer& parent_bytes) {
  if (!changed) return std::nullopt;
  if (parent_bytes != nullptr) {
    for (std::size_t at = 0; at < bytes.size(); at += kBlockSize) {
      if (changed->test(at / kBlockSize)) continue;
      std::memcpy(bytes.data() + at, parent_bytes->data() + at, kBlockSize);
    }
    std::ranges::fill(bytes.subspan(inside), std::byte{0});
  } else if (const Status got = read_whole(bytes); !got) {
    if (!bytes_are_lost(got.error())) return tl::unexpected(got.error());
    return Outcome{Outcome::Kind::unreadable, {}, {}, {}, got.error()};
  }
  if (all_zero(bytes)) return Outcome{Outcome::Kind::zeros, {}, {}, {}, {}};
  digest = chunks.digest(bytes);
  return std::nullopt;
}

Result<std::optional<Outcome>> EncoderTask::try_delta(const chunks::DeltaParent& loaded) const {
  if (!loaded.supports.empty()) {
    // A forged base may be a delta itself, which reads well only as long as it is in the cache.
    const auto further = chunks.is_chunk_delta(loaded.supports.front());
    if (!further || *further) return std::nullopt;
  }
  VARVE_TRY_ASSIGN(auto delta, chunks::encode_chunk_delta(loaded, bytes, chunks.options().compression));
  if (!delta) return std::nullopt;
  return Outcome{Outcome::Kind::delta, digest, {}, std::move(*delta), {}};
}

Result<Outcome> EncoderTask::run() {
  chunks::DeltaParent in_parent;
  const bool same_digest = parent && !changed && parent->digest == digest;
  if (parent && (changed || same_digest || maybe_delta)) {
    // One that does not load is merely of no help.
    if (auto loaded = chunks.load_delta_parent(*parent)) in_parent = std::move(*loaded);
  }
  const chunks::BytesPointer& parent_bytes = in_parent.bytes;
  VARVE_TRY_ASSIGN(auto done, complete(parent_bytes));
  if (done) return std::move(*done);
  if (parent_bytes != nullptr && parent->digest == digest && same_bytes(*parent_bytes, bytes)) {
    return Outcome{Outcome::Kind::parent, {}, {}, {}, {}};
  }
  if (parent_bytes != nullptr && (changed || maybe_delta)) {
    VARVE_TRY_ASSIGN(auto delta, try_delta(in_parent));
    if (delta) return std::move(*delta);
  }
  VARVE_TRY_ASSIGN(chunks::Encoded encoded, chunks::encode_payload(bytes, chunks.options().compression));
  return Outcome{Outcome::Kind::full, digest, std::move(encoded), {}, {}};
}

}  // namespace varve::snapshot
