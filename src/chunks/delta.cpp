#include "delta.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "format.h"
#include "varve/core/same_bytes.h"

namespace varve::chunks {
namespace {

bool bit_of(std::span<const std::byte> bitmap, std::size_t i) {
  return (std::to_integer<unsigned>(bitmap[i / 8]) >> (i % 8) & 1) != 0;
}

void set_bit(std::span<std::byte> bitmap, std::size_t i) {
  bitmap[i / 8] |= static_cast<std::byte>(1u << (i % 8));
}

std::size_t count_bits(std::span<const std::byte> bitmap) {
  std::size_t count = 0;
  for (const std::byte byte : bitmap) count += static_cast<std::size_t>(std::popcount(std::to_integer<unsigned>(byte)));
  return count;
}

tl::unexpected<Error> not_of_its_base() {
  return fail_damaged("a delta does not fit its base");
}

// --- chunks: a bitmap, then the blocks that differ, encoded together

std::size_t blocks_in(std::size_t chunk_bytes) {
  return chunk_bytes / kBlockSize;
}

std::size_t bitmap_bytes(std::size_t chunk_bytes) {
  return (blocks_in(chunk_bytes) + 7) / 8;
}

std::optional<Bytes> differing_blocks(std::span<const std::byte> base, std::span<const std::byte> plain,
                                      std::span<std::byte> bitmap) {
  Bytes blocks;
  const std::size_t most = plain.size() / 2;
  for (std::size_t i = 0; i < blocks_in(plain.size()); ++i) {
    const auto block = plain.subspan(i * kBlockSize, kBlockSize);
    if (same_bytes(base.subspan(i * kBlockSize, kBlockSize), block)) continue;
    if (blocks.size() + block.size() > most) return std::nullopt;
    set_bit(bitmap, i);
    blocks.insert(blocks.end(), block.begin(), block.end());
  }
  if (blocks.empty()) return std::nullopt;  // equal chunks are one record
  return blocks;
}

Result<std::optional<Encoded>> encode_chunk(std::span<const std::byte> base, std::span<const std::byte> plain,
                                            Compression compression) {
  Bytes payload(bitmap_bytes(plain.size()));
  const auto blocks = differing_blocks(base, plain, payload);
  if (!blocks) return std::nullopt;
  VARVE_TRY_ASSIGN(const Encoded encoded, encode_payload(*blocks, compression));
  payload.insert(payload.end(), encoded.bytes.begin(), encoded.bytes.end());
  return Encoded{encoded.codec, std::move(payload)};
}

Status apply_chunk(Codec codec, std::span<const std::byte> payload, std::span<const std::byte> base,
                   std::span<std::byte> out) {
  if (base.size() != out.size() || payload.size() < bitmap_bytes(out.size())) return not_of_its_base();
  const auto bitmap = payload.first(bitmap_bytes(out.size()));
  const std::size_t count = count_bits(bitmap);
  const bool beyond = blocks_in(out.size()) % 8 != 0 &&
                      std::to_integer<unsigned>(bitmap.back()) >> (blocks_in(out.size()) % 8) != 0;
  if (count == 0 || beyond) return not_of_its_base();
  Bytes blocks(count * kBlockSize);
  VARVE_TRY(decode_payload(codec, payload.subspan(bitmap.size()), blocks));
  std::memcpy(out.data(), base.data(), out.size());
  std::size_t next = 0;
  for (std::size_t i = 0; i < blocks_in(out.size()); ++i) {
    if (bit_of(bitmap, i)) std::memcpy(out.data() + i * kBlockSize, blocks.data() + kBlockSize * next++, kBlockSize);
  }
  return {};
}

// --- nodes: a bitmap, then a ref for each slot that differs ("nothing" where it is empty now), encoded together

constexpr std::size_t kNodeBitmap = format::kNodeSlots / 8;

int level_of(std::span<const std::byte> node) {
  return node.empty() ? -1 : std::to_integer<int>(node.front());
}

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
  if (count_bits(bitmap) * Ref::kEncodedSize != length - kNodeBitmap) return not_of_its_base();
  format::NodeSlots slots;
  std::size_t at = kNodeBitmap;
  bool any = false;
  for (std::size_t slot = 0; slot < format::kNodeSlots; ++slot) {
    if (bit_of(bitmap, slot)) {
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

Status apply_node(Codec codec, std::span<const std::byte> payload, std::span<const std::byte> base,
                  std::span<std::byte> out) {
  VARVE_TRY_ASSIGN(const Bytes node, changed_node(codec, payload, base));
  if (node.size() != out.size()) return not_of_its_base();
  std::memcpy(out.data(), node.data(), out.size());
  return {};
}

}  // namespace

Result<std::optional<Encoded>> encode_delta(RecordKind kind, std::span<const std::byte> base,
                                            std::span<const std::byte> plain, Compression compression) {
  const bool node = kind == RecordKind::node_delta;
  if (!node && (base.size() != plain.size() || plain.size() % kBlockSize != 0)) return std::nullopt;
  VARVE_TRY_ASSIGN(auto encoded, node ? encode_node(base, plain, compression) : encode_chunk(base, plain, compression));
  if (!encoded || encoded->bytes.size() >= plain.size()) return std::nullopt;
  Bytes again(plain.size());
  if (!apply_delta(kind, encoded->codec, encoded->bytes, base, again) || !same_bytes(again, plain)) {
    return fail_damaged("a delta that was just encoded does not decode to the same bytes: suspect this machine's "
                        "memory or processor");
  }
  return encoded;
}

Result<std::optional<Encoded>> encode_chunk_delta(std::span<const std::byte> base, std::span<const std::byte> plain,
                                                  Compression compression) {
  return encode_delta(RecordKind::delta, base, plain, compression);
}

Status apply_delta(RecordKind kind, Codec codec, std::span<const std::byte> payload, std::span<const std::byte> base,
                   std::span<std::byte> out) {
  return kind == RecordKind::node_delta ? apply_node(codec, payload, base, out)
                                        : apply_chunk(codec, payload, base, out);
}

std::size_t node_delta_size(Codec codec, std::span<const std::byte> payload, std::span<const std::byte> base) {
  const auto node = changed_node(codec, payload, base);
  return node ? node->size() : 0;
}

}  // namespace varve::chunks
