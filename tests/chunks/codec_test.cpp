#include "varve/chunks/codec.h"

#include <gtest/gtest.h>
#include <zstd.h>

#include <random>
#include <thread>

#include "support/seed.h"
#include "varve/core/units.h"

namespace varve::chunks {
namespace {

using Bytes = std::vector<std::byte>;

Bytes noise(std::size_t size, std::mt19937_64& random) {
  Bytes bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

Bytes decoded(const Encoded& encoded, std::size_t size) {
  Bytes out(size);
  EXPECT_TRUE(decode_payload(encoded.codec, encoded.bytes, out));
  return out;
}

TEST(Codec, GivesBackWhatItWasGiven) {
  std::mt19937_64 random(test::seed_for("codec round trip"));
  for (int i = 0; i < 200; ++i) {
    Bytes plain = noise(random() % 70000, random);
    const std::size_t noisy = plain.empty() ? 0 : random() % plain.size();
    std::fill(plain.begin() + static_cast<std::ptrdiff_t>(noisy), plain.end(), std::byte{7});
    for (const int level : {1, 3, 9}) {
      const auto encoded = encode_payload(plain, Compression{Codec::zstd, level});
      ASSERT_TRUE(encoded);
      EXPECT_EQ(decoded(*encoded, plain.size()), plain);
      if (encoded->codec == Codec::zstd) {
        EXPECT_LE(encoded->bytes.size(), plain.size() - plain.size() / 16);
      }
    }
  }
}

TEST(Codec, StoresRawWhatDoesNotSaveASixteenth) {
  std::mt19937_64 random(1);
  Bytes plain = noise(65536, random);
  EXPECT_EQ(encode_payload(plain, {})->codec, Codec::raw);
  std::fill(plain.begin(), plain.begin() + 3000, std::byte{0});  // saves less than 4096
  EXPECT_EQ(encode_payload(plain, {})->codec, Codec::raw);
  std::fill(plain.begin(), plain.begin() + 6000, std::byte{0});
  EXPECT_EQ(encode_payload(plain, {})->codec, Codec::zstd);
  EXPECT_EQ(encode_payload(plain, *Compression::parse("none"))->codec, Codec::raw);
}

/// A block in which every short match found costs more than its letters.
TEST(Codec, ShortInputsThatOnlyEntropyCodingShortensAreNotWorseOffForAHigherLevel) {
  std::mt19937_64 random(test::seed_for("letters"));
  Bytes plain(kBlockSize);
  for (std::byte& byte : plain) byte = static_cast<std::byte>("etaoinshrdlu"[random() % 12]);
  for (const int level : {1, 3, 9}) {
    const auto encoded = encode_payload(plain, Compression{Codec::zstd, level});
    ASSERT_TRUE(encoded);
    EXPECT_EQ(decoded(*encoded, plain.size()), plain);
    EXPECT_LT(encoded->bytes.size(), plain.size() * 47 / 100) << level << ": 3.6 bits a letter and a table";
  }
}

TEST(Codec, NeverWritesPastItsEndWhateverThePayload) {
  std::mt19937_64 random(test::seed_for("codec hostile"));
  const Bytes plain(8192, std::byte{1});
  const Encoded good = *encode_payload(plain, {});
  Bytes out(8192 + 64);
  const auto guard = std::span(out).last(64);
  for (int i = 0; i < 5000; ++i) {
    Bytes payload = i % 2 == 0 ? good.bytes : noise(random() % 200, random);
    if (i % 2 == 0 && !payload.empty())
      payload[random() % payload.size()] ^= static_cast<std::byte>(1 + random() % 255);
    std::ranges::fill(guard, std::byte{0x5A});
    const auto status = decode_payload(Codec::zstd, payload, std::span(out).first(8192));
    if (!status) {
      EXPECT_EQ(status.error().code, EIO);
    }
    for (const std::byte b : guard) ASSERT_EQ(b, std::byte{0x5A});
  }
}

TEST(Codec, RefusesAnotherLength) {
  const Bytes plain(8192, std::byte{1});
  const Encoded good = *encode_payload(plain, {});
  for (const std::size_t size : std::vector<std::size_t>{0, 1, 8191, 8193, 16384}) {
    Bytes out(size);
    EXPECT_FALSE(decode_payload(Codec::zstd, good.bytes, out)) << size;
    EXPECT_FALSE(decode_payload(Codec::raw, plain, out)) << size;
  }
}

// A frame whose header asks for a window of gigabytes must not get it.
TEST(Codec, IsNotMadeToAllocateByAFrameHeader) {
  Bytes huge(1 << 20, std::byte{3});
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 27);
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  Bytes frame(4096);
  const std::size_t size = ZSTD_compress2(context, frame.data(), frame.size(), huge.data(), huge.size());
  ZSTD_freeCCtx(context);
  ASSERT_FALSE(ZSTD_isError(size));
  frame.resize(size);
  Bytes out(16384);
  EXPECT_FALSE(decode_payload(Codec::zstd, frame, out));
}

TEST(Codec, WorksOnManyThreadsAtOnce) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 50; ++i) {
        const Bytes plain(30000, static_cast<std::byte>(t * 50 + i));
        EXPECT_EQ(decoded(*encode_payload(plain, {}), plain.size()), plain);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST(Compression, ReadsItsOwnText) {
  for (const char* text : {"none", "zstd:1", "zstd:9", "zstd:19"}) EXPECT_EQ(Compression::parse(text)->to_text(), text);
  for (const char* text : {"", "zstd", "zstd:", "zstd:0", "zstd:01", "zstd:20", "zstd:-1", "zstd:1 ", "lz4", "None"}) {
    ASSERT_FALSE(Compression::parse(text)) << text;
    EXPECT_EQ(Compression::parse(text).error().code, EINVAL);
  }
}

}  // namespace
}  // namespace varve::chunks
