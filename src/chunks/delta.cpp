#include "delta.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "format.h"
#include "varve/core/same_bytes.h"

namespace varve::chunks {
namespace {

void set_bit(std::span<std::byte> bitmap, std::size_t i) {
  bitmap[i / 8] |= static_cast<std::byte>(1u << (i % 8));
}

tl::unexpected<Error> not_of_its_base() {
  return fail_damaged("a delta does not fit what it stands on");
}

tl::unexpected<Error> not_decoded_again() {
  return fail_damaged("a delta that was just encoded does not decode to the same bytes: suspect this machine's memory or "
                      "processor");
}

// --- chunks: bitmaps, then its own blocks, encoded together

std::size_t blocks_in(std::size_t chunk_bytes) {
  return chunk_bytes / kBlockSize;
}

std::size_t bitmap_bytes(std::size_t chunk_bytes) {
  return (blocks_in(chunk_bytes) + 7) / 8;
}

/// Of a chunk that is to become a delta: where each block shall come from (as DeltaParent::sources), and the records
/// behind the numbers from kOwnBlock + 1 on.
struct Plan {
  std::vector<std::uint8_t> sources;
  std::vector<Ref> lenders;
};

/// Nothing when more than half would not be the base's, or nothing.
std::optional<Plan> plan_delta(const DeltaParent& parent, std::span<const std::byte> plain) {
  const std::size_t count = blocks_in(plain.size());
  const auto block = [](std::span<const std::byte> chunk, std::size_t i) {
    return chunk.subspan(i * kBlockSize, kBlockSize);
  };
  Plan plan{std::vector<std::uint8_t>(count, DeltaParent::kBaseBlock), {}};
  std::array<std::uint8_t, 256> number_of{};  // the parent's sources -> the plan's
  std::size_t different = 0;
  std::size_t own = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (same_bytes(block(*parent.base_bytes, i), block(plain, i))) continue;
    if (++different > count / 2) return std::nullopt;
    const std::uint8_t source = parent.sources.empty() ? DeltaParent::kBaseBlock : parent.sources[i];
    if (source == DeltaParent::kBaseBlock || !same_bytes(block(*parent.bytes, i), block(plain, i))) {
      plan.sources[i] = DeltaParent::kOwnBlock;
      ++own;
      continue;
    }
    if (number_of[source] == 0) {
      // The parent itself where the block is its own.
      plan.lenders.push_back(source == DeltaParent::kOwnBlock ? parent.ref : parent.supports[source - 1]);
      number_of[source] = static_cast<std::uint8_t>(DeltaParent::kOwnBlock + plan.lenders.size());
    }
    plan.sources[i] = number_of[source];
  }
  if (different == 0) return std::nullopt;
  if (own > 0 && plan.lenders.size() <= format::kMostLenders) return plan;
  // All of them once more, so that the next ones need one lender.
  plan.lenders.clear();
  for (auto& source : plan.sources) source = std::min(source, DeltaParent::kOwnBlock);
  return plan;
}

/// The payload up to the encoded blocks, and these as they are.
struct Laid {
  Bytes bitmaps;
  Bytes blocks;
};

Laid lay(const Plan& plan, std::span<const std::byte> plain) {
  const std::size_t size = bitmap_bytes(plain.size());
  Laid laid{Bytes((1 + plan.lenders.size()) * size), {}};
  for (std::size_t i = 0; i < plan.sources.size(); ++i) {
    if (plan.sources[i] == DeltaParent::kBaseBlock) continue;
    set_bit(std::span(laid.bitmaps).subspan((plan.sources[i] - DeltaParent::kOwnBlock) * size, size), i);
    if (plan.sources[i] != DeltaParent::kOwnBlock) continue;
    const auto block = plain.subspan(i * kBlockSize, kBlockSize);
    laid.blocks.insert(laid.blocks.end(), block.begin(), block.end());
  }
  return laid;
}

/// Whether payload and parent make `plain` again.
bool decodes_to(const Plan& plan, const Encoded& encoded, const DeltaParent& parent, std::span<const std::byte> plain) {
  const auto delta = ChunkDelta::parse(encoded.bytes, plain.size(), plan.lenders.size());
  if (!delta) return false;
  Bytes again(*parent.base_bytes);
  if (!delta->copy_own_blocks(encoded.codec, delta->own, again)) return false;
  for (const BlockBits& lent : delta->lent) {
    for (std::size_t i = 0; i < blocks_in(plain.size()); ++i) {
      if (!lent.test(i)) continue;
      std::memcpy(again.data() + i * kBlockSize, parent.bytes->data() + i * kBlockSize, kBlockSize);
    }
  }
  return same_bytes(again, plain);
}

// --- nodes: a bitmap, then a ref for each slot that differs ("nothing" where it is empty now), encoded together

constexpr std::size_t kNodeBitmap = format::kNodeSlots / 8;

int level_of(std::span<const std::byte> node) {
  return node.empty() ? -1 : std::to_integer<int>(node.front());
}

/// Not compared yet.
Result<std::optional<Encoded>> encode_node(std::span<const std::byte> base, std::span<const std::byte> plain,
                                           Compression compression) {
  const auto before = format::NodeView::parse(base, level_of(base));
  const auto after = format::NodeView::parse(plain, level_of(base));
  if (!before || !after) return std::nullopt;
  Bytes changes(kNodeBitmap);
  for (std::size_t slot = 0; slot < format::kNodeSlots; ++slot) {
    const MaybeRef ref = after->get(slot);
    if (ref == before->get(slot)) continue;
    set_bit(changes, slot);
    std::array<std::byte, Ref::kEncodedSize> encoded{};
    if (ref) encode(*ref, encoded);
    changes.insert(changes.end(), encoded.begin(), encoded.end());
  }
  if (changes.size() > plain.size() / 2 || changes.size() == kNodeBitmap) return std::nullopt;
  VARVE_TRY_ASSIGN(Encoded encoded, encode_payload(changes, compression));
  // How long the changes are is not in the table, where the node's own length is.
  const auto length = static_cast<std::uint16_t>(changes.size());
  encoded.bytes.insert(encoded.bytes.begin(), {static_cast<std::byte>(length), static_cast<std::byte>(length >> 8)});
  return encoded;
}

/// The node that results.
Result<Bytes> changed_node(Codec codec, std::span<const std::byte> payload, std::span<const std::byte> base) {
  VARVE_TRY_ASSIGN(const auto before, format::NodeView::parse(base, level_of(base)));
  ByteReader in(payload);
  const std::size_t length = in.get<std::uint16_t>();
  if (in.failed() || length <= kNodeBitmap || length > kNodeBitmap + format::kNodeSlots * Ref::kEncodedSize) {
    return not_of_its_base();
  }
  Bytes changes(length);
  VARVE_TRY(decode_payload(codec, payload.subspan(sizeof(std::uint16_t)), changes));
  const auto bitmap = std::span<const std::byte>(changes).first(kNodeBitmap);
  if (BlockBits(bitmap).count() * Ref::kEncodedSize != length - kNodeBitmap) return not_of_its_base();
  format::NodeSlots slots;
  std::size_t at = kNodeBitmap;
  bool any = false;
  for (std::size_t slot = 0; slot < format::kNodeSlots; ++slot) {
    if (BlockBits(bitmap).test(slot)) {
      slots[slot] = decode(std::span<const std::byte>(changes).subspan(at).first<Ref::kEncodedSize>());
      at += Ref::kEncodedSize;
    } else {
      slots[slot] = before.get(slot);
    }
    any = any || slots[slot];
  }
  Bytes node;
  if (any) format::put_node(node, level_of(base), slots);
  return node;
}

}  // namespace

std::size_t BlockBits::count() const {
  std::size_t count = 0;
  for (const std::byte byte : bytes_) count += static_cast<std::size_t>(std::popcount(std::to_integer<unsigned>(byte)));
  return count;
}

Result<ChunkDelta> ChunkDelta::parse(std::span<const std::byte> payload, std::size_t chunk_bytes, std::size_t lenders) {
  const std::size_t size = bitmap_bytes(chunk_bytes);
  if (payload.size() < (1 + lenders) * size) return not_of_its_base();
  Bytes taken(size);
  ChunkDelta delta;
  for (std::size_t i = 0; i <= lenders; ++i) {
    const BlockBits bits(payload.subspan(i * size, size));
    if (bits.count() == 0) return not_of_its_base();
    for (std::size_t at = 0; at < size; ++at) {
      if ((taken[at] & bits.bytes()[at]) != std::byte{0}) return not_of_its_base();
      taken[at] |= bits.bytes()[at];
    }
    if (i == 0) {
      delta.own = bits;
    } else {
      delta.lent.push_back(bits);
    }
  }
  const std::size_t in_last = blocks_in(chunk_bytes) % 8;
  if (in_last != 0 && std::to_integer<unsigned>(taken.back()) >> in_last != 0) return not_of_its_base();
  delta.encoded = payload.subspan((1 + lenders) * size);
  return delta;
}

Status ChunkDelta::copy_own_blocks(Codec codec, BlockBits wanted, std::span<std::byte> chunk) const {
  for (std::size_t at = 0; at < own.bytes().size(); ++at) {
    if ((wanted.bytes()[at] & ~own.bytes()[at]) != std::byte{0}) return not_of_its_base();
  }
  Bytes decoded;
  std::span<const std::byte> blocks = encoded;
  if (codec != Codec::raw || encoded.size() != own.count() * kBlockSize) {
    decoded.resize(own.count() * kBlockSize);
    VARVE_TRY(decode_payload(codec, encoded, decoded));
    blocks = decoded;
  }
  std::size_t next = 0;
  for (std::size_t i = 0; i < blocks_in(chunk.size()); ++i) {
    if (!own.test(i)) continue;
    if (wanted.test(i)) std::memcpy(chunk.data() + i * kBlockSize, blocks.data() + next * kBlockSize, kBlockSize);
    ++next;
  }
  return {};
}

Result<std::optional<EncodedDelta>> encode_chunk_delta(const DeltaParent& parent, std::span<const std::byte> plain,
                                                       Compression compression) {
  const bool whole = parent.base_bytes != nullptr && parent.base_bytes->size() == plain.size() &&
                     parent.bytes->size() == plain.size() && plain.size() % kBlockSize == 0;
  if (!whole) return std::nullopt;
  auto plan = plan_delta(parent, plain);
  if (!plan) return std::nullopt;
  Laid laid = lay(*plan, plain);
  VARVE_TRY_ASSIGN(const Encoded blocks, encode_payload(laid.blocks, compression));
  Encoded encoded{blocks.codec, std::move(laid.bitmaps)};
  encoded.bytes.insert(encoded.bytes.end(), blocks.bytes.begin(), blocks.bytes.end());
  if (encoded.bytes.size() >= plain.size()) return std::nullopt;
  if (!decodes_to(*plan, encoded, parent, plain)) return not_decoded_again();
  EncodedDelta delta{std::move(encoded), {parent.supports.empty() ? parent.ref : parent.supports.front()}};
  delta.supports.insert(delta.supports.end(), plan->lenders.begin(), plan->lenders.end());
  return delta;
}

Status apply_node_delta(Codec codec, std::span<const std::byte> payload, std::span<const std::byte> base,
                        std::span<std::byte> out) {
  VARVE_TRY_ASSIGN(const Bytes node, changed_node(codec, payload, base));
  if (node.size() != out.size()) return not_of_its_base();
  std::memcpy(out.data(), node.data(), out.size());
  return {};
}

std::size_t node_delta_size(Codec codec, std::span<const std::byte> payload, std::span<const std::byte> base) {
  const auto node = changed_node(codec, payload, base);
  return node ? node->size() : 0;
}

Result<std::optional<Encoded>> encode_node_delta(std::span<const std::byte> base, std::span<const std::byte> plain,
                                                 Compression compression) {
  VARVE_TRY_ASSIGN(auto encoded, encode_node(base, plain, compression));
  if (!encoded || encoded->bytes.size() >= plain.size()) return std::nullopt;
  Bytes again(plain.size());
  if (!apply_node_delta(encoded->codec, encoded->bytes, base, again) || !same_bytes(again, plain)) {
    return not_decoded_again();
  }
  return encoded;
}

}  // namespace varve::chunks
