#include <algorithm>
#include <cstring>

#include "../../src/objects/joined_format.h"
#include "fuzz.h"
#include "support/memory_storage.h"
#include "varve/core/digest_bytes.h"
#include "varve/objects/object_store.h"

namespace varve::fuzz {
namespace {

namespace format = objects::joined_format;
using Bytes = std::vector<std::byte>;

/// With the length that it has, and the checksum that fits what its head says is the table.
Bytes resealed(Bytes file) {
  if (file.size() < format::kHeadSize) return file;
  Bytes length;
  ByteWriter(length).put(std::uint64_t{file.size()});
  std::ranges::copy(length, file.begin() + 32);
  ByteReader in(std::span<const std::byte>(file).subspan(20));
  const std::size_t table = std::min<std::size_t>(in.get<std::uint32_t>(), file.size() - format::kHeadSize);
  Bytes checked(file.begin(), file.begin() + 48);
  const auto begin = file.begin() + format::kHeadSize;
  checked.insert(checked.end(), begin, begin + static_cast<std::ptrdiff_t>(table));
  Bytes digest;
  ByteWriter out(digest);
  put_digest(out, digest_of(checked));
  std::ranges::copy(digest, file.begin() + 48);
  return file;
}

void use(const Bytes& file) {
  test::MemoryStorage storage({.power_loss = false});
  require(storage.make_directory("joined").has_value(), "a folder is made");
  {
    auto opened = storage.open(format::file_name(7), {.write = true, .create = true});
    require(opened && (*opened)->write(ByteOffset{0}, file), "a file is written");
  }
  auto objects = objects::make_directory_objects(storage);
  const auto folders = objects->list_folders("packs");
  require(folders.has_value(), "damage keeps nobody from what is whole");
  std::size_t budget = 32;
  for (const std::string& folder : *folders) {
    const auto names = objects->list("packs/" + folder);
    require(names.has_value(), "nor here");
    for (const std::string& name : *names) {
      if (budget-- == 0) return;
      const std::string path = "packs/" + folder + "/" + name;
      const auto size = objects->size(path);
      require(size && size->value() <= file.size(), "an object lies within its file");
      Bytes bytes(size->value() + 1);
      require(objects->read(path, ByteOffset{0}, bytes).value() == size->value(), "and is read whole");
      if (budget % 2 == 0) {
        require(objects->remove(path).has_value(), "it can be removed");
        require(!objects->size(path), "and is gone then");
      }
    }
  }
  require(objects->check().has_value(), "damage is told");
  (void)objects->join({.folder = "packs", .small = ByteCount{kMiB}, .enough = 1, .file_bytes = 0, .stop = {}, .pace = {}});
}

}  // namespace

void fuzz_joined(Input input) {
  Bytes bytes(input.begin(), input.end());
  use(bytes);
  use(resealed(std::move(bytes)));
}

Seeds joined_seeds() {
  Seeds seeds;
  for (const std::size_t count : {1U, 5U}) {
    std::vector<format::Section> sections;
    for (std::size_t i = 0; i < count; ++i) {
      sections.push_back({"packs/a" + std::to_string(i / 2) + "/" + std::to_string(i) + ".0.pack",
                          static_cast<std::uint32_t>(20 + 30 * i), 0});
    }
    const format::Head head = format::lay_out(sections);
    Bytes file = format::put_head_and_table(head, sections, true);
    file.resize(head.marks_at, std::byte{0x5A});
    ByteWriter out(file);
    for (std::size_t i = 0; i < count; ++i) out.put(i == 3 ? format::mark_of(sections[i].name) : std::uint64_t{0});
    out.put_bytes(format::put_head_and_table(head, sections, false));
    require(file.size() == head.file_bytes, "it is as long as it says");
    seeds.push_back(std::move(file));
  }
  return seeds;
}

}  // namespace varve::fuzz
