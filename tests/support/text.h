// Bytes from and to text, for tests that store sentences.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "varve/os/storage.h"

namespace varve::test {

[[nodiscard]] inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

[[nodiscard]] inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The whole file, or "absent", or "error: …".
[[nodiscard]] inline std::string content_of(os::Storage& storage, std::string_view path) {
  const auto bytes = os::read_file(storage, path, ByteCount{64 * kMiB});
  if (bytes) return text_of(*bytes);
  return bytes.error().code == ENOENT ? "absent" : "error: " + bytes.error().message;
}

}  // namespace varve::test
