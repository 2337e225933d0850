#include <nlohmann/json.hpp>

#include "../../src/catalog/format.h"
#include "../../src/catalog/replay.h"
#include "../../src/catalog/sealed_json.h"
#include "../../src/store/policies.h"
#include "../../src/store/settings.h"
#include "fuzz.h"
#include "support/memory_storage.h"

namespace varve::fuzz {
namespace {

using catalog::Json;

constexpr DiskId kDisk{7};

std::string_view text_of(Input input) { return {reinterpret_cast<const char*>(input.data()), input.size()}; }

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

/// The object with a checksum that fits, if it is one that the decoder would look at.
std::string sealed_again(Input input) {
  if (!catalog::within_bounds(text_of(input))) return {};
  Json object = Json::parse(text_of(input), nullptr, false);
  if (!object.is_object()) return {};
  object.erase("checksum");
  return catalog::seal(std::move(object));
}

void decode_record_of(std::string_view text) {
  for (const std::uint64_t number : {std::uint64_t{1}, std::uint64_t{2}}) {
    const auto record = catalog::decode_record(std::as_bytes(std::span(text)), kDisk, number);
    if (!record) {
      require(record.error().code == EIO, "a record that is refused is damaged");
      continue;
    }
    const std::string again = catalog::encode_record(kDisk, *record);
    require(catalog::decode_record(std::as_bytes(std::span(again)), kDisk, number).has_value(), "a record comes back");
    catalog::Replay replay(kDisk);
    if (number == 2) {
      const catalog::Record first{1, std::string(32, '0'), Time{1}, catalog::Created{"disk", {}}};
      require(replay.check(first.event).has_value(), "a log begins");
      replay.apply(first);
    }
    if (replay.check(record->event)) replay.apply(*record);
    (void)catalog::encode_checkpoint(replay.state(), number);
  }
}

catalog::SnapshotEntry some_snapshot() {
  catalog::SnapshotEntry entry;
  entry.id = SnapshotId{3};
  entry.parent = SnapshotId{1};
  entry.name = "before \xC3\xA9";
  entry.time = Time{1'700'000'000'000'000'000};
  entry.size = ByteCount{1 * kMiB};
  entry.incarnation = Incarnation{1};
  entry.root = chunks::Ref{PackId{0xAB00}, 4, Digest{5, 6}};
  entry.care.deadline = Time{7};
  entry.directory.xattrs["user.note"] = std::string("\0\xFF%", 3);
  return entry;
}

}  // namespace

void fuzz_log_record(Input input) {
  decode_record_of(text_of(input));
  decode_record_of(sealed_again(input));
}

Seeds log_record_seeds() {
  using namespace catalog;
  Seeds seeds;
  const Attributes attributes{1, 2, 0640, {{"user.a", "b"}}};
  const auto add = [&](std::uint64_t number, Event event) {
    seeds.push_back(bytes_of(encode_record(kDisk, {number, std::string(32, 'a'), Time{5}, std::move(event)})));
  };
  add(1, Created{"web01", attributes});
  add(2, SnapshotLogged{std::make_shared<SnapshotEntry>(some_snapshot())});
  add(2, SnapshotDeleted{SnapshotId{3}});
  add(2, SnapshotRenamed{SnapshotId{3}, "other"});
  add(2, SnapshotAttributes{SnapshotId{3}, attributes, attributes});
  add(2, DiskRenamed{"web02"});
  add(2, DiskAttributes{attributes, attributes});
  add(2, SnapshotCare{SnapshotId{3}, "back", {.hold = "audit", .deadline = Time{5}, .policy = "nightly", .trashed = {}}});
  add(2, SnapshotCare{SnapshotId{3}, "gone", {.hold = {}, .deadline = {}, .policy = {}, .trashed = Trashed{Time{1}, Time{2}}}});
  add(2, DiskLimits{{.snapshots = 3, .snapshot_bytes = UINT64_MAX, .live_bytes = 0}});
  add(2, DiskHidden{true});
  add(2, DiskRemoved{});
  return seeds;
}

void fuzz_checkpoint(Input input) {
  const std::string sealed = sealed_again(input);
  for (const std::string_view text : {text_of(input), std::string_view(sealed)}) {
    auto state = catalog::decode_checkpoint(std::as_bytes(std::span(text)), kDisk, 5);
    if (!state) continue;
    const std::string again = catalog::encode_checkpoint(*state, 5);
    require(catalog::decode_checkpoint(std::as_bytes(std::span(again)), kDisk, 5).has_value(), "a checkpoint comes back");
    (void)catalog::Replay::from_checkpoint(std::move(*state), 5);
  }
}

Seeds checkpoint_seeds() {
  catalog::DiskState state;
  state.id = kDisk;
  state.name = "web01";
  state.created = Time{4};
  state.high_water = SnapshotId{4};
  state.snapshots.set(SnapshotId{3}, std::make_shared<catalog::SnapshotEntry>(some_snapshot()));
  Seeds seeds{bytes_of(catalog::encode_checkpoint(state, 5))};
  state.snapshots = {};
  seeds.push_back(bytes_of(catalog::encode_checkpoint(state, 5)));
  return seeds;
}

namespace {

/// As checked_json.cpp does it: within its depth, a digest of the text with sorted keys.
std::string checked_again(Input input) {
  if (!catalog::within_bounds(text_of(input))) return {};
  Json object = Json::parse(text_of(input), nullptr, false);
  if (!object.is_object()) return {};
  object.erase("checksum");
  const std::string text = object.dump();
  object["checksum"] = to_hex(digest_of(std::as_bytes(std::span(text))));
  return object.dump();
}

}  // namespace

void fuzz_settings(Input input) {
  const std::string sealed = checked_again(input);
  for (const std::string_view text : {text_of(input), std::string_view(sealed)}) {
    test::MemoryStorage storage({.power_loss = false});
    require(os::replace_file_durably(storage, store::kSettingsFile, std::as_bytes(std::span(text))).has_value(), "a file");
    const auto stored = store::read_settings(storage);
    if (!stored) continue;
    require(store::write_settings(storage, *stored) && store::read_settings(storage), "settings come back");
  }
}

Seeds settings_seeds() {
  test::MemoryStorage storage({.power_loss = false});
  store::StoredSettings stored;
  stored.settings.id = std::string(32, '7');
  stored.root = {1, 2, 0755, {{"user.a", "b"}}};
  stored.limits.snapshots = 10;
  stored.trash_keep = std::chrono::seconds{60};
  (void)store::write_settings(storage, stored);
  return {os::read_file(storage, store::kSettingsFile, ByteCount{kMiB}).value()};
}

void fuzz_policies(Input input) {
  const std::string sealed = checked_again(input);
  for (const std::string_view text : {text_of(input), std::string_view(sealed)}) {
    test::MemoryStorage storage({.power_loss = false});
    require(os::replace_file_durably(storage, store::kPoliciesFile, std::as_bytes(std::span(text))).has_value(), "a file");
    store::Reserve reserve(storage);
    store::Policies policies(storage, reserve);
    if (const auto problem = policies.problem()) {
      require(!problem->message.empty() && policies.all().empty(), "policies that cannot be read are none, and say why");
      continue;
    }
    for (const store::Policy& policy : policies.all()) {
      for (const Time time : {Time{0}, Time{1'800'000'000'123'456'789}}) {
        (void)store::next_run(policy, time);
        (void)store::name_at(policy, time);
        require(store::next_time(policy.times, time) > time, "what comes next is later");
      }
      (void)store::covers(policy, "web01");
      require(policies.note_run(policy.name, {Time{5}, 1, {"disk"}}).has_value(), "a run is noted");
    }
    const auto before = policies.all();
    require(store::Policies(storage, reserve).all() == before || before.empty(), "policies come back");
  }
}

Seeds policies_seeds() {
  test::MemoryStorage storage({.power_loss = false});
  store::Reserve reserve(storage);
  store::Policies policies(storage, reserve);
  store::Policy often;
  often.name = "often";
  often.disks = {"web*", "db0[1-3]"};
  often.times.every = 900;
  often.pattern = "auto-%Y-%m-%d-%H%M";
  often.keep.last = 4;
  often.keep.daily = store::kKeepAll;
  often.keep.within = {1, 2, 3, 4};
  often.last = store::PolicyRun{Time{6}, 2, {"disk \"a\": it has no live image"}};
  store::Policy nightly;
  nightly.name = "nightly";
  nightly.disks = {"*"};
  nightly.times.at = {150, 870};
  nightly.times.days = {0, 6};
  nightly.pattern = "night-%j";
  nightly.paused = true;
  (void)policies.add(often);
  (void)policies.add(nightly);
  return {os::read_file(storage, store::kPoliciesFile, ByteCount{kMiB}).value()};
}

void fuzz_attributes(Input input) {
  if (const auto attributes = store::decode_pending_attributes(text_of(input))) {
    const auto again = store::decode_pending_attributes(store::encode(*attributes));
    require(again && again->directory == attributes->directory && again->image == attributes->image &&
                again->care == attributes->care,
            "attributes come back");
  }
}

Seeds attributes_seeds() {
  return {bytes_of(store::encode(store::PendingAttributes{{1, 2, 0755, {{"user.a", std::string("\0\xFF", 2)}}}, {}, {}})),
          bytes_of(store::encode(store::PendingAttributes{
              {}, {}, {.hold = "audit", .deadline = Time{5}, .policy = "nightly", .trashed = {}}})),
          bytes_of(store::encode(store::PendingAttributes{
              {}, {}, {.hold = {}, .deadline = {}, .policy = {}, .trashed = catalog::Trashed{Time{1}, Time{2}}}}))};
}

}  // namespace varve::fuzz
