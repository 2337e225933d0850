#include "wire.h"

#include <gtest/gtest.h>
#include <linux/fuse.h>

#include <array>
#include <cstring>
#include <vector>

namespace varve::fuse {
namespace {

template <class Body>
std::vector<std::byte> request(std::uint32_t opcode, const Body& body) {
  std::vector<std::byte> bytes(sizeof(fuse_in_header) + sizeof(Body));
  fuse_in_header header{};
  header.len = static_cast<std::uint32_t>(bytes.size());
  header.opcode = opcode;
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + sizeof header, &body, sizeof body);
  return bytes;
}

TEST(Wire, SaysWhatAKernelOffersAtInit) {
  fuse_init_in init{};
  init.major = 7;
  init.minor = 31;
  EXPECT_EQ(inspect_request(request(FUSE_INIT, init)).sort, RequestSort::init);
  EXPECT_FALSE(inspect_request(request(FUSE_INIT, init)).offers_killpriv_v2);
  EXPECT_FALSE(inspect_request(request(FUSE_INIT, init)).has_parallel_direct_writes);
  init.minor = 45;
  init.flags = FUSE_HANDLE_KILLPRIV_V2;
  EXPECT_TRUE(inspect_request(request(FUSE_INIT, init)).offers_killpriv_v2);
  EXPECT_TRUE(inspect_request(request(FUSE_INIT, init)).has_parallel_direct_writes);
}

TEST(Wire, SaysWhichRequestsTakePrivileges) {
  fuse_write_in write{};
  EXPECT_FALSE(inspect_request(request(FUSE_WRITE, write)).kills_privileges);
  write.write_flags = FUSE_WRITE_KILL_SUIDGID;
  EXPECT_TRUE(inspect_request(request(FUSE_WRITE, write)).kills_privileges);
  fuse_setattr_in change{};
  EXPECT_FALSE(inspect_request(request(FUSE_SETATTR, change)).kills_privileges);
  change.valid = FATTR_SIZE | FATTR_KILL_SUIDGID;
  EXPECT_TRUE(inspect_request(request(FUSE_SETATTR, change)).kills_privileges);
  fuse_open_in open{};
  open.open_flags = FUSE_OPEN_KILL_SUIDGID;
  EXPECT_TRUE(inspect_request(request(FUSE_OPEN, open)).kills_privileges);
  EXPECT_FALSE(inspect_request(request(FUSE_READ, open)).kills_privileges);
}

TEST(Wire, TruncatedRequestsAreHarmless) {
  fuse_write_in write{};
  write.write_flags = FUSE_WRITE_KILL_SUIDGID;
  auto bytes = request(FUSE_WRITE, write);
  while (!bytes.empty()) {
    bytes.pop_back();
    static_cast<void>(inspect_request(bytes));
  }
  EXPECT_EQ(inspect_request(bytes).sort, RequestSort::other);
}

TEST(Wire, DataOfAWriteFollowsTheHeader) {
  EXPECT_EQ(kWriteHeaderSize, 80);
}

struct Reply {
  fuse_out_header header{};
  std::array<std::byte, 256> body{};
  std::array<iovec, 2> parts{};

  explicit Reply(std::size_t body_size) {
    header.unique = 1;
    parts = {iovec{&header, sizeof header}, iovec{body.data(), body_size}};
  }
  std::uint32_t word(std::size_t at) const {
    std::uint32_t value = 0;
    std::memcpy(&value, body.data() + at, sizeof value);
    return value;
  }
};

TEST(Wire, InitReplyAcceptsKillpriv) {
  Reply reply(64);
  EXPECT_TRUE(patch_init_reply(reply.parts));
  EXPECT_EQ(reply.word(offsetof(fuse_init_out, flags)), FUSE_HANDLE_KILLPRIV_V2);
}

TEST(Wire, OpenAndCreateRepliesAllowParallelWrites) {
  Reply open(sizeof(fuse_open_out));
  EXPECT_TRUE(patch_open_reply(open.parts));
  EXPECT_EQ(open.word(offsetof(fuse_open_out, open_flags)), FOPEN_PARALLEL_DIRECT_WRITES);
  Reply create(sizeof(fuse_entry_out) + sizeof(fuse_open_out));
  EXPECT_TRUE(patch_open_reply(create.parts));
  EXPECT_EQ(create.word(sizeof(fuse_entry_out) + offsetof(fuse_open_out, open_flags)), FOPEN_PARALLEL_DIRECT_WRITES);
}

TEST(Wire, OtherRepliesStayAsTheyAre) {
  Reply attributes(sizeof(fuse_attr_out));
  EXPECT_FALSE(patch_open_reply(attributes.parts));
  Reply failed(sizeof(fuse_open_out));
  failed.header.error = -EROFS;
  EXPECT_FALSE(patch_open_reply(failed.parts));
  EXPECT_FALSE(patch_init_reply(failed.parts));
  Reply bodiless(0);
  EXPECT_FALSE(patch_open_reply({bodiless.parts.data(), 1}));
}

}  // namespace
}  // namespace varve::fuse
