#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "../../src/chunks/delta.h"
#include "../../src/chunks/format.h"
#include "fuzz.h"
#include "varve/chunks/chunk_map.h"
#include "varve/chunks/pack_repair.h"

namespace varve::fuzz {
namespace {

using namespace chunks;

constexpr Geometry kGeometry{ByteCount{kMinChunkSize}};
constexpr PackId kPack{0xAB00};

/// One pack under its name, and what is written beside it.
class OnePack final : public objects::ObjectStore {
 public:
  explicit OnePack(Bytes bytes) { objects_[format::pack_name(kPack, 0)] = std::move(bytes); }
  Result<objects::PutOutcome> put_if_absent(std::string_view name, std::span<const std::byte> bytes) override {
    const bool made = objects_.emplace(name, Bytes(bytes.begin(), bytes.end())).second;
    return made ? objects::PutOutcome::created : objects::PutOutcome::exists;
  }
  Result<std::size_t> read(std::string_view name, ByteOffset at, std::span<std::byte> out) override {
    const auto found = objects_.find(name);
    if (found == objects_.end()) return fail(ENOENT, ErrorKind::absent, "absent");
    const std::size_t begin = std::min<std::uint64_t>(at.value(), found->second.size());
    const std::size_t count = std::min(out.size(), found->second.size() - begin);
    std::copy_n(found->second.begin() + static_cast<std::ptrdiff_t>(begin), count, out.begin());
    return count;
  }
  Result<ByteCount> size(std::string_view name) override {
    const auto found = objects_.find(name);
    if (found == objects_.end()) return fail(ENOENT, ErrorKind::absent, "absent");
    return ByteCount{found->second.size()};
  }
  Result<std::vector<std::string>> list(std::string_view folder) override {
    std::vector<std::string> names;
    for (const auto& [name, bytes] : objects_) {
      if (os::parent_of(name) == folder) names.emplace_back(os::leaf_of(name));
    }
    return names;
  }
  Result<std::vector<std::string>> list_folders(std::string_view) override { return std::vector<std::string>{"00"}; }
  Status remove(std::string_view name) override {
    if (const auto found = objects_.find(name); found != objects_.end()) objects_.erase(found);
    return {};
  }

 private:
  std::map<std::string, Bytes, std::less<>> objects_;
};

struct World {
  explicit World(Bytes pack) : objects(std::move(pack)) {}
  OnePack objects;
  std::unique_ptr<Locator> locator = make_memory_locator();
  RootRegistry registry;
  ChunkStore store{objects, *locator, registry, kGeometry,
                   {.compression = {}, .chunk_cache_bytes = kMiB, .node_cache_bytes = kMiB, .new_pack_id = {}}};
};

Bytes chunk_of(unsigned number) {
  Bytes bytes(kGeometry.chunk_bytes());
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i / 64 * number);
  return bytes;
}

Bytes some_node(unsigned number) {
  format::NodeSlots slots;
  slots[number] = Ref{kPack, number, Digest{number, 7}};
  slots[200] = Ref::make_damaged();
  Bytes bytes;
  format::put_node(bytes, static_cast<int>(number % 4), slots);
  return bytes;
}

/// Two of them differ in one slot.
Bytes large_node(unsigned number) {
  format::NodeSlots slots;
  for (std::size_t i = 0; i < 8; ++i) slots[i] = Ref{kPack, 3, Digest{9, i}};
  slots[9] = Ref{kPack, number, Digest{number, 7}};
  Bytes bytes;
  format::put_node(bytes, 0, slots);
  return bytes;
}

/// With the digest that fits what the trailer says is the table.
Bytes resealed(Bytes file) {
  if (file.size() < format::kTrailerSize) return file;
  const std::size_t end = file.size() - format::kTrailerSize;
  ByteReader trailer(std::span<const std::byte>(file).subspan(end));
  const auto table = trailer.get<std::uint64_t>();
  if (table > end) return file;
  Bytes digest;
  ByteWriter out(digest);
  format::put_digest(out, digest_of(std::span(file).subspan(table, end + 40 - table)));
  std::ranges::copy(digest, file.begin() + static_cast<std::ptrdiff_t>(end + 40));
  return file;
}

void read_all(ChunkStore& store) {
  const auto records = store.pack_table(kPack);
  if (!records) return;
  std::size_t budget = 64;
  for (const RecordInfo& info : *records) {
    if (budget-- == 0) break;
    const Ref ref{kPack, info.ordinal, info.digest};
    if (const auto chunk = store.load_chunk(ref)) require(store.digest(**chunk) == ref.digest, "a chunk has its digest");
    if (const auto node = store.load_node(ref)) {
      require(store.digest(**node) == ref.digest, "a node has its digest");
      for (int level = 0; level < kMapHeight; ++level) {
        (void)for_each_slot(store, ref, level, [](std::size_t, const Ref&) -> Status { return {}; });
      }
    }
  }
}

}  // namespace

void fuzz_pack(Input input) {
  Bytes bytes(input.begin(), input.end());
  World as_it_is(bytes);
  read_all(as_it_is.store);
  World sealed(resealed(std::move(bytes)));
  read_all(sealed.store);
}

/// Repair of whatever it is, for records that are and are not there: nothing readable may be lost by it.
void fuzz_pack_repair(Input input) {
  for (const bool seal : {false, true}) {
    Bytes bytes(input.begin(), input.end());
    World world(seal ? resealed(std::move(bytes)) : std::move(bytes));
    std::vector<LostRecord> readable;
    if (const auto records = world.store.pack_table(kPack)) {
      for (const RecordInfo& info : std::span(*records).first(std::min<std::size_t>(records->size(), 16))) {
        const LostRecord record{{kPack, info.ordinal, info.digest}, content_of(info.kind)};
        if (world.store.verify_record(record.ref, record.kind)) readable.push_back(record);
      }
    }
    std::vector<LostRecord> lost;
    const Bytes chunk = chunk_of(2);
    for (std::uint32_t i = 0; i < 4; ++i) lost.push_back({{kPack, i, world.store.digest(i % 2 == 0 ? chunk : chunk_of(i))}, RecordKind::full});
    std::erase_if(lost, [&](const LostRecord& record) {
      return std::ranges::any_of(readable, [&](const LostRecord& r) { return r.ref.ordinal == record.ref.ordinal; });
    });
    const auto repaired = repair_pack(world.store, kPack, lost, [&](const LostRecord& record) -> BytesPointer {
      if (record.ref.ordinal != 2) return nullptr;
      return std::make_shared<const Bytes>(chunk);
    });
    const auto settled = repair_pack(
        world.store, kPack, lost, [](const LostRecord&) { return BytesPointer{}; }, Settle::yes);
    require(settled.has_value() && world.store.pack_table(kPack).has_value(), "a pack that was settled has a table");
    world.store.drop_caches();
    for (const LostRecord& record : readable) {
      require(world.store.verify_record(record.ref, record.kind).has_value(), "a repair loses nothing that is readable");
    }
    if (!repaired) continue;
    for (const auto* records : {&repaired->from_pack, &repaired->elsewhere}) {
      for (const LostRecord& record : *records) {
        require(world.store.verify_record(record.ref, record.kind).has_value(), "what is said to be repaired is readable");
      }
    }
  }
}

Seeds pack_seeds() {
  Seeds seeds;
  for (const bool compressed : {true, false}) {
    Bytes pack;
    format::Table table;
    auto& entries = table.entries;
    format::put_header(pack);
    const Compression compression{compressed ? Codec::zstd : Codec::raw, 1};
    const auto append = [&](RecordKind kind, const Bytes& plain, const Encoded& encoded) {
      entries.push_back({digest_of(plain), static_cast<std::uint32_t>(pack.size()),
                         static_cast<std::uint32_t>(encoded.bytes.size()), static_cast<std::uint32_t>(plain.size()), kind,
                         encoded.codec, 0});
      pack.insert(pack.end(), encoded.bytes.begin(), encoded.bytes.end());
    };
    const auto add = [&](RecordKind kind, const Bytes& plain) {
      append(kind, plain, encode_payload(plain, compression).value());
    };
    const auto add_node_delta = [&](const Bytes& plain, std::uint32_t base_ordinal, const Bytes& base) {
      const auto encoded = encode_node_delta(base, plain, compression).value();
      require(encoded.has_value(), "there is a delta");
      table.supports.push_back({static_cast<std::uint32_t>(entries.size()), {kPack, base_ordinal, digest_of(base)}});
      append(RecordKind::node_delta, plain, *encoded);
    };
    const auto add_delta = [&](const Bytes& plain, const DeltaParent& parent) {
      const auto delta = encode_chunk_delta(parent, plain, compression).value();
      require(delta.has_value(), "there is a delta");
      for (const Ref& ref : delta->supports) table.supports.push_back({static_cast<std::uint32_t>(entries.size()), ref});
      append(RecordKind::delta, plain, delta->encoded);
      entries.back().lenders = static_cast<std::uint8_t>(delta->supports.size() - 1);
    };
    add(RecordKind::node, some_node(1));
    if (compressed) {
      add(RecordKind::full, chunk_of(1));
      add(RecordKind::full, chunk_of(2));
      const auto base = std::make_shared<const Bytes>(chunk_of(1));
      const Ref base_ref{kPack, 1, digest_of(*base)};
      Bytes changed = *base;
      changed[5000] = std::byte{0xA5};
      add_delta(changed, {base_ref, base, base, {}, {}});
      // The next takes that block from this one.
      std::vector<std::uint8_t> sources(changed.size() / kBlockSize, DeltaParent::kBaseBlock);
      sources[1] = DeltaParent::kOwnBlock;
      const Ref delta_ref{kPack, 3, digest_of(changed)};
      const DeltaParent parent{delta_ref, std::make_shared<const Bytes>(changed), base, {base_ref}, sources};
      changed[9] = std::byte{0xA5};
      add_delta(changed, parent);
    }
    entries.push_back({});
    add(RecordKind::node, some_node(4));
    const auto last = static_cast<std::uint32_t>(entries.size() - 1);
    add(RecordKind::node, large_node(5));
    add_node_delta(large_node(6), last + 1, large_node(5));
    format::put_table_and_trailer(pack, kPack, 0, table);
    seeds.push_back(std::move(pack));
  }
  return seeds;
}

/// The first two bytes choose codec and length.
void fuzz_record(Input input) {
  ByteReader in(input);
  const auto codec = static_cast<Codec>(in.get<std::uint8_t>() % 3);
  const std::size_t size = in.get<std::uint16_t>();
  const auto payload = in.get_bytes(in.remaining());
  Bytes out(size);
  (void)decode_payload(codec, payload, out);
  (void)claimed_size(codec, payload);
  if (payload.empty()) return;
  const auto encoded = encode_payload(payload, Compression{Codec::zstd, 1});
  require(encoded.has_value(), "everything can be encoded");
  Bytes back(payload.size());
  require(decode_payload(encoded->codec, encoded->bytes, back) && std::ranges::equal(back, payload), "and comes back");
}

Seeds record_seeds() {
  Seeds seeds;
  for (const Codec codec : {Codec::raw, Codec::zstd}) {
    const Bytes plain(1000, std::byte{9});
    const Encoded encoded = encode_payload(plain, Compression{codec, 1}).value();
    Bytes seed;
    ByteWriter out(seed);
    out.put(static_cast<std::uint8_t>(codec));
    out.put(std::uint16_t{1000});
    out.put_bytes(encoded.bytes);
    seeds.push_back(std::move(seed));
  }
  return seeds;
}

void fuzz_node(Input input) {
  for (int level = 0; level < kMapHeight; ++level) {
    const auto view = format::NodeView::parse(input, level);
    if (!view) continue;
    format::NodeSlots slots;
    std::size_t count = 0;
    bool canonical = true;
    for (std::size_t slot = view->next_set(0); slot < format::kNodeSlots; slot = view->next_set(slot + 1)) {
      require(view->has(slot), "a slot that is found is set");
      slots[slot] = view->get(slot);
      require(slots[slot].has_value(), "a slot that is set is never zeros");
      canonical = canonical && !slots[slot]->damaged();
      ++count;
    }
    (void)view->next_clear(0);
    require(count > 0, "no node is empty");
    Bytes again;
    format::put_node(again, level, slots);
    if (canonical) require(std::ranges::equal(again, input), "equal slots have equal bytes");
  }
}

Seeds node_seeds() { return {some_node(0), some_node(3), some_node(17)}; }

void fuzz_ref_text(Input input) {
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  if (const auto ref = parse_log_text(text)) require(to_log_text(*ref) == text, "a ref's text comes back");
  (void)Compression::parse(text);
  (void)format::parse_pack_name(text.substr(0, std::min<std::size_t>(2, text.size())), text);
}

Seeds ref_text_seeds() {
  Seeds seeds;
  for (const std::string& text : {to_log_text(Ref{kPack, 17, Digest{1, 2}}), to_log_text(Ref::make_damaged()),
                                  std::string("zstd:19"), std::string("ab00000000000100.12.pack")}) {
    const auto bytes = std::as_bytes(std::span(text));
    seeds.emplace_back(bytes.begin(), bytes.end());
  }
  return seeds;
}

}  // namespace varve::fuzz
