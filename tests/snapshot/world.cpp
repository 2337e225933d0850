#include "world.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "varve/core/bytes.h"

namespace varve::snapshot::test {

Bytes content(std::uint64_t number, Geometry geometry) {
  Bytes bytes(geometry.chunk_bytes());
  if (number == 0) return bytes;
  std::mt19937_64 random(number);
  for (std::size_t at = 0; at < bytes.size(); at += 16) {
    const std::uint64_t word = random();
    std::memcpy(bytes.data() + at, &word, sizeof(word));
    std::memcpy(bytes.data() + at + 8, &number, sizeof(number));
  }
  return bytes;
}

World::World(Geometry store_geometry, chunks::ChunkStoreOptions store_options)
    : geometry(store_geometry),
      options(std::move(store_options)),
      objects(objects::make_directory_objects(storage)),
      locator(chunks::make_memory_locator()) {
  reopen();
}

void World::reopen() {
  prefetchers.drain();
  store.reset();
  store = std::make_unique<chunks::ChunkStore>(*objects, *locator, registry, geometry, options);
}

Result<MaybeRef> World::build(chunks::RootRegistry::Hold& hold, const MaybeRef& base, const Model& changes) {
  if (!hold.try_hold_root(base)) return fail(EAGAIN, ErrorKind::system, "the base is being collected");
  chunks::RecordWriter writer(*store, hold);
  chunks::MapBuilder builder(*store, writer, base);
  for (const auto& [chunk, number] : changes) {
    MaybeRef ref;
    if (number != 0) {
      VARVE_TRY_ASSIGN(ref, writer.put_chunk(content(number, geometry)));
    }
    VARVE_TRY(builder.set(ChunkIndex{chunk}, ref));
  }
  VARVE_TRY_ASSIGN(const MaybeRef root, builder.finish());
  VARVE_TRY(writer.finish());
  if (!hold.try_hold_root(root)) return fail(EAGAIN, ErrorKind::system, "what was just built is being collected");
  return root;
}

MaybeRef World::build(const MaybeRef& base, const Model& changes) {
  chunks::RootRegistry::Hold hold(registry);
  const auto root = build(hold, base, changes);
  EXPECT_TRUE(root) << root.error().message;
  if (!root) return {};
  roots.add(*root);
  return *root;
}

void World::expect_content(const MaybeRef& root, const Model& model, std::uint64_t chunks) {
  const chunks::ChunkMap map(*store, root);
  std::uint64_t found = 0;
  const Status visited =
      map.for_each(ChunkIndex{0}, ChunkCount{kMaxChunksPerImage}, [&](ChunkIndex chunk, const Ref& ref) -> Status {
        ++found;
        EXPECT_LT(chunk.value(), chunks);
        const auto expected = model.find(chunk.value());
        EXPECT_TRUE(expected != model.end() && expected->second != 0)
            << "chunk " << chunk.value() << " should be zeros";
        VARVE_TRY_ASSIGN(const auto bytes, store->load_chunk(ref));
        EXPECT_TRUE(expected != model.end() && *bytes == content(expected->second, geometry))
            << "chunk " << chunk.value();
        return {};
      });
  EXPECT_TRUE(visited) << visited.error().message;
  const auto expected = std::ranges::count_if(model, [&](const auto& entry) { return entry.second != 0; });
  EXPECT_EQ(found, static_cast<std::uint64_t>(expected));
}

std::vector<std::string> World::pack_files() {
  std::vector<std::string> files;
  const auto folders = storage.list("packs");
  if (!folders) return files;
  for (const auto& folder : *folders) {
    const auto names = storage.list("packs/" + folder.name);
    EXPECT_TRUE(names);
    for (const auto& name : *names) files.push_back("packs/" + folder.name + "/" + name.name);
  }
  std::ranges::sort(files);
  return files;
}

std::uint64_t World::payload_offset(const std::string& path, std::uint32_t ordinal) {
  const auto bytes = os::read_file(storage, path, ByteCount{chunks::kMaxPackSize});
  EXPECT_TRUE(bytes);
  const std::span<const std::byte> file(*bytes);
  ByteReader trailer(file.last(64));
  const auto table = trailer.get<std::uint64_t>();
  ByteReader entry(file.subspan(table + std::uint64_t{40} * ordinal + 16));
  return entry.get<std::uint64_t>();
}

void World::flip_byte(const std::string& path, std::uint64_t at) {
  auto file = storage.open(path, {});
  ASSERT_TRUE(file) << file.error().message;
  std::byte byte{};
  ASSERT_TRUE((*file)->read(ByteOffset{at}, {&byte, 1}));
  byte ^= std::byte{0x55};
  storage.corrupt(path, ByteOffset{at}, {&byte, 1});
}

}  // namespace varve::snapshot::test
