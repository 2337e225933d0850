// Links and other things under the names of objects, in a real directory: they are seen, and refused.
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "support/expect.h"
#include "support/temporary_directory.h"
#include "support/text.h"
#include "varve/objects/object_store.h"

namespace varve::test {
namespace {

TEST(ForeignObjects, AreSeenAndRefused) {
  TemporaryDirectory outside;
  TemporaryDirectory inside;
  const auto storage = os::open_directory(inside.path()).value();
  const auto objects = objects::make_directory_objects(*storage);
  ASSERT_OK(objects->put_if_absent("log/1.json", bytes_of("one")));
  std::ofstream(outside.path() + "/2.json") << "two";
  std::filesystem::create_symlink(outside.path() + "/2.json", inside.path() + "/log/2.json");
  std::filesystem::create_symlink(outside.path(), inside.path() + "/linked");
  EXPECT_EQ(objects->list("log").value().size(), 2U) << "a record that was replaced must not seem never to have been";
  EXPECT_EQ(objects->list_folders("").value().size(), 2U);
  std::vector<std::byte> out(3);
  const auto refused = objects->read("log/2.json", ByteOffset{0}, out);
  EXPECT_FAILS(refused, EIO);
  EXPECT_EQ(refused.error().kind, ErrorKind::damaged);
  EXPECT_NE(refused.error().message.find(inside.path() + "/log/2.json"), std::string::npos) << refused.error().message;
  EXPECT_EQ(objects->put_if_absent("log/2.json", bytes_of("new")).value(), objects::PutOutcome::exists);
  EXPECT_FAILS(objects->list("linked"), ELOOP);
  EXPECT_FAILS(objects->put_if_absent("linked/3.json", bytes_of("new")), ENOTDIR);
  EXPECT_EQ(std::filesystem::file_size(outside.path() + "/2.json"), 3U);
  EXPECT_FALSE(std::filesystem::exists(outside.path() + "/3.json"));
}

}  // namespace
}  // namespace varve::test
