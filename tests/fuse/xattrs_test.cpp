#include "xattrs.h"

#include <gtest/gtest.h>
#include <sys/xattr.h>

#include "filesystem.h"

namespace varve::fuse {
namespace {

int code_of(const Status& status) {
  return status ? 0 : status.error().code;
}

TEST(Xattrs, SpacesAreToldApart) {
  EXPECT_EQ(space_of("user.comment"), XattrSpace::user);
  EXPECT_EQ(space_of("user.varve.state"), XattrSpace::varve);
  EXPECT_EQ(space_of("user.varved"), XattrSpace::user);
  for (const char* name : {"security.capability", "system.posix_acl_access", "trusted.x", "user", ""}) {
    EXPECT_EQ(space_of(name), XattrSpace::other) << name;
  }
}

TEST(Xattrs, FlagsDecideWhetherAnOldValueMayBeReplaced) {
  store::Attributes attributes;
  EXPECT_EQ(code_of(set_user_xattr(attributes, "user.a", "1", XATTR_REPLACE)), ENODATA);
  EXPECT_EQ(code_of(set_user_xattr(attributes, "user.a", "1", XATTR_CREATE)), 0);
  EXPECT_EQ(code_of(set_user_xattr(attributes, "user.a", "2", XATTR_CREATE)), EEXIST);
  EXPECT_EQ(attributes.xattrs.at("user.a"), "1");
  EXPECT_EQ(code_of(set_user_xattr(attributes, "user.a", "2", 0)), 0);
  EXPECT_EQ(attributes.xattrs.at("user.a"), "2");
}

TEST(Xattrs, ValuesAreAnyBytes) {
  store::Attributes attributes;
  const std::string value("\0\xff\n", 3);
  ASSERT_TRUE(set_user_xattr(attributes, "user.b", value, 0));
  EXPECT_EQ(attributes.xattrs.at("user.b"), value);
}

TEST(Xattrs, RemovingSaysWhenThereIsNone) {
  store::Attributes attributes;
  EXPECT_EQ(code_of(remove_user_xattr(attributes, "user.a")), ENODATA);
  ASSERT_TRUE(set_user_xattr(attributes, "user.a", "1", 0));
  EXPECT_EQ(code_of(remove_user_xattr(attributes, "user.a")), 0);
  EXPECT_TRUE(attributes.xattrs.empty());
}

TEST(Xattrs, TheirSizeIsBounded) {
  store::Attributes attributes;
  const std::string value(64 * kKiB, 'x');
  int last = 0;
  for (int i = 0; i < 8 && last == 0; ++i) {
    last = code_of(set_user_xattr(attributes, "user." + std::to_string(i), value, 0));
  }
  EXPECT_EQ(last, ENOSPC);
  store::Attributes many;
  last = 0;
  for (int i = 0; i < 1000 && last == 0; ++i) {
    last = code_of(set_user_xattr(many, "user." + std::to_string(i) + std::string(200, 'n'), "", 0));
  }
  EXPECT_EQ(last, ENOSPC);
}

TEST(Xattrs, TheListIsOfTheUsersOwn) {
  store::Attributes attributes;
  ASSERT_TRUE(set_user_xattr(attributes, "user.b", "1", 0));
  ASSERT_TRUE(set_user_xattr(attributes, "user.a", "1", 0));
  EXPECT_EQ(list_xattrs(attributes), std::string("user.a\0user.b\0", 14));
}

TEST(Xattrs, WhatCannotBeSetSaysWhy) {
  EXPECT_EQ(why_not_settable(NodeKind::snapshot, "user.varve.state").code, EPERM);
  EXPECT_EQ(why_not_settable(NodeKind::snapshot, "user.varve.colour").code, EINVAL);
  EXPECT_EQ(why_not_settable(NodeKind::live_image, "user.varve.percent").code, EINVAL);
  EXPECT_EQ(why_not_settable(NodeKind::disk, "security.capability").code, EOPNOTSUPP);
}

// As file_remove_privs() of the kernel: without execution by the group, set-group-ID means mandatory locking.
TEST(Privileges, GoAsInTheKernel) {
  EXPECT_EQ(without_privileges(04755), 0755U);
  EXPECT_EQ(without_privileges(06755), 0755U);
  EXPECT_EQ(without_privileges(02744), 02744U);
  EXPECT_EQ(without_privileges(0600), 0600U);
}

}  // namespace
}  // namespace varve::fuse
