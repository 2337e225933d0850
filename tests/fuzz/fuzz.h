// Fuzzing: one target for each decoder of bytes that are not trusted. A target must give a clean error or a value for any
// input: no crash, no undefined behaviour, no hang, no allocation that the input's size does not justify. Where a
// checksum guards what lies behind it, the target also puts the right one on, so that the fuzzer gets through.
//
//   fuzz_test                     a gtest-less runner for every build: each target with its seeds, with each of them cut
//                                 and flipped in many places, and with what once failed (corpus/TARGET/*)
//   varve_fuzz TARGET [libFuzzer's arguments]      with -Dfuzz=true (clang); tests/run.sh fuzz runs all of them,
//                                 VARVE_FUZZ_SECONDS each (5)
//
// To add a decoder: a function here, one line in targets.cpp. To add what failed: put the file into corpus/TARGET/.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

namespace varve::fuzz {

using Input = std::span<const std::byte>;
using Seeds = std::vector<std::vector<std::byte>>;

struct Target {
  std::string_view name;
  void (*run)(Input input);
  Seeds (*seeds)();  ///< a few valid inputs, small
};

[[nodiscard]] const std::vector<Target>& targets();

/// Ends the process: what a target calls when a promise is broken that no sanitizer knows.
void require(bool held, const char* promise);

// packs.cpp
void fuzz_pack(Input input);
Seeds pack_seeds();
void fuzz_pack_repair(Input input);
void fuzz_record(Input input);
Seeds record_seeds();
void fuzz_node(Input input);
Seeds node_seeds();
void fuzz_ref_text(Input input);
Seeds ref_text_seeds();
// joined.cpp
void fuzz_joined(Input input);
Seeds joined_seeds();
// logs.cpp
void fuzz_log_record(Input input);
Seeds log_record_seeds();
void fuzz_checkpoint(Input input);
Seeds checkpoint_seeds();
void fuzz_settings(Input input);
Seeds settings_seeds();
void fuzz_policies(Input input);
Seeds policies_seeds();
void fuzz_attributes(Input input);
Seeds attributes_seeds();
// journals.cpp
void fuzz_journal(Input input);
Seeds journal_seeds();
void fuzz_journal_records(Input input);
Seeds journal_records_seeds();
void fuzz_volatile(Input input);
Seeds volatile_seeds();
// streams.cpp
void fuzz_export_stream(Input input);
Seeds export_stream_seeds();
// words.cpp
void fuzz_mount_options(Input input);
Seeds mount_options_seeds();
void fuzz_request(Input input);
Seeds request_seeds();
void fuzz_names(Input input);
Seeds names_seeds();

}  // namespace varve::fuzz
