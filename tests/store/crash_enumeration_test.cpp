// Every scene is ended before every single call that changes something, and in the middle of every write, by a kill and by
// power losses that decide differently what of the unsynced becomes durable; then the store is opened, and what is there is
// judged by promises 1 to 4 and 8 of DESIGN.md, section 3: what was acknowledged is there, exact; what was not is exact or
// absent; nothing else appeared; a second end and recovery change nothing; and the store goes on. So are recoveries
// themselves.
//
//   VARVE_CRASH_VARIANTS=N   power losses at each point (3)
//   VARVE_TEST_STRIDE=N      looks at each Nth point only; for slow builds
//   VARVE_CRASH_RECOVERIES=N the recovery after each Nth state is itself ended at every call (401)
//   VARVE_SCENE=NAME         one scene
//   VARVE_SEED=N             repeats a run
// A disk that lies about its syncs is the negative control: then violations must be found.
#include <gtest/gtest.h>

#include <iostream>

#include "scenes.h"
#include "support/seed.h"

namespace varve::store {
namespace {

using test::ModeledStore;
using test::Scene;
using Moment = ModeledStore::Moment;

constexpr std::uint64_t kDefaultVariants = 3;
/// Prime to the number of variants.
constexpr std::uint64_t kDefaultRecoveries = 401;
constexpr std::uint64_t kPromisedStates = 10'000;

class Enumeration {
 public:
  explicit Enumeration(std::uint64_t seed) : seed_(seed) {}

  void run(const Scene& scene) {
    scene_ = scene.name;
    ModeledStore store;
    scene.before(store);
    if (liar_) store.machine().storage.calls().set_liar(liar_);
    store.watch([this](Moment&& moment) {
      ++points_;
      if ((points_ + seed_) % every_ != 0 || given_up()) return;
      for (std::uint64_t variant = 0; variant <= variants_; ++variant) examine(moment, variant);
    });
    scene.play(store);
    store.watch({});
    store.verify();
    note(store);
  }

  /// Plays on a disk that lies, until that shows.
  void expect_violations(std::function<bool(std::string_view, std::string_view)> liar) {
    liar_ = std::move(liar);
    enough_ = 1;
    recoveries_ = UINT64_MAX;
  }
  [[nodiscard]] std::uint64_t points() const { return points_; }
  [[nodiscard]] std::uint64_t states() const { return states_; }
  [[nodiscard]] std::uint64_t in_recovery() const { return in_recovery_; }
  [[nodiscard]] std::uint64_t promised() const {
    const std::uint64_t all = kPromisedStates * (1 + variants_) / (1 + kDefaultVariants);
    return every_ == 1 ? all : all / every_ / 2;
  }
  [[nodiscard]] const std::vector<std::string>& problems() const { return problems_; }

 private:
  /// Variant 0 is a kill, the others are power losses.
  void examine(const Moment& moment, std::uint64_t variant) {
    const bool power_loss = variant != 0;
    const std::uint64_t seed = seed_ + moment.call * 100 + variant;
    const std::string label = std::string(scene_) + ", call " + std::to_string(moment.call) + ", " + moment.text +
                              (power_loss ? ", power loss " + std::to_string(seed) : ", kill") + ": ";
    ModeledStore store(moment.machine->copy(), moment.knowledge);
    store.set_label(label);
    store.end(power_loss, seed);
    if (++states_ % recoveries_ == 0) examine_recovery(store, label, seed);
    open_twice_and_work(store, label, power_loss, seed);
  }

  void open_twice_and_work(ModeledStore& store, const std::string& label, bool power_loss, std::uint64_t seed) {
    store.open();
    if (note(store)) return;
    const auto found = store.stored();
    ModeledStore again(store.leave(), store.knowledge());
    again.set_label(label + "again: ");
    again.end(power_loss, seed + 50);
    again.open();
    again.verify();
    const auto left = again.stored();
    if (left != found) problems_.push_back(label + "a second recovery changes something:" + difference(found, left));
    if (note(again)) return;
    again.work();
    note(again);
  }

  /// The same, ended at every call of the recovery; what is found then is judged by what was known at the first end.
  void examine_recovery(ModeledStore& ended, const std::string& label, std::uint64_t seed) {
    ModeledStore dying(ended.machine().copy(), ended.knowledge());
    dying.set_label(label);
    dying.open_watched([&](Moment&& moment) {
      for (const bool power_loss : {false, true}) {
        if (given_up()) return;
        ++states_;
        ++in_recovery_;
        ModeledStore store(moment.machine->copy(), moment.knowledge);
        const std::string where = label + "and again in its recovery, " + moment.text +
                                  (power_loss ? ", power loss: " : ", kill: ");
        store.set_label(where);
        store.end(power_loss, seed + moment.call);
        open_twice_and_work(store, where, power_loss, seed + moment.call);
      }
    });
    note(dying);
  }

  bool note(const ModeledStore& store) {
    problems_.insert(problems_.end(), store.problems().begin(), store.problems().end());
    return !store.problems().empty();
  }
  bool given_up() const { return problems_.size() >= enough_; }

  static std::string difference(const std::map<std::string, std::string>& a, const std::map<std::string, std::string>& b) {
    std::string out;
    for (const auto& [path, bytes] : a) {
      const auto it = b.find(path);
      if (it == b.end() || it->second != bytes) out += " " + path + (it == b.end() ? " went" : " changed");
    }
    for (const auto& [path, bytes] : b) {
      if (!a.contains(path)) out += " " + path + " came";
    }
    return out;
  }

  const std::uint64_t seed_;
  const std::uint64_t variants_ = test::number_from("VARVE_CRASH_VARIANTS", kDefaultVariants);
  const std::uint64_t every_ = test::stride();
  std::uint64_t recoveries_ = test::number_from("VARVE_CRASH_RECOVERIES", kDefaultRecoveries);
  std::function<bool(std::string_view, std::string_view)> liar_;
  std::size_t enough_ = 5;
  const char* scene_ = "";
  std::uint64_t points_ = 0;
  std::uint64_t states_ = 0;
  std::uint64_t in_recovery_ = 0;
  std::vector<std::string> problems_;
};

TEST(StoreCrashes, AtEveryCallLoseNothingThatWasAcknowledged) {
  const std::uint64_t seed = test::seed_for("the crash enumeration");
  Enumeration enumeration(seed);
  const auto scenes = test::chosen_scenes();
  for (const Scene& scene : scenes) {
    const std::uint64_t before = enumeration.states();
    enumeration.run(scene);
    std::cerr << scene.name << ": " << enumeration.states() - before << " crash states\n";
    for (const std::string& problem : enumeration.problems()) ADD_FAILURE() << problem;
    if (!enumeration.problems().empty()) return;
  }
  std::cerr << enumeration.points() << " points, " << enumeration.states() << " crash states, "
            << enumeration.in_recovery() << " of them in a recovery, 0 violations\n";
  const bool all = scenes.size() == test::scenes().size();
  EXPECT_GE(enumeration.states(), all ? enumeration.promised() : 1);
}

// --- negative controls: each kind of sync is needed, and that it is missing shows ---

struct Lie {
  const char* name;
  bool (*lies)(std::string_view action, std::string_view path);
};
std::ostream& operator<<(std::ostream& out, const Lie& lie) { return out << lie.name; }

constexpr Lie kLies[] = {
    {"Home", [](std::string_view, std::string_view path) { return path.ends_with("/home.img"); }},
    {"Detours", [](std::string_view, std::string_view path) { return path.ends_with("/detour.img"); }},
    {"Journals", [](std::string_view, std::string_view path) { return path.find("/journal") != std::string_view::npos; }},
    {"Packs", [](std::string_view action, std::string_view path) { return action == "sync" && path.starts_with("packs"); }},
    {"Logs", [](std::string_view action, std::string_view path) { return action == "sync" && path.starts_with("disks"); }},
    {"Directories", [](std::string_view action, std::string_view) { return action == "sync directory"; }},
};

class StoreCrashControl : public ::testing::TestWithParam<Lie> {};

TEST_P(StoreCrashControl, SyncsThatAreALieAreFoundOut) {
  const std::uint64_t seed = test::seed_for("the negative control");
  Enumeration enumeration(seed);
  enumeration.expect_violations(GetParam().lies);
  for (const Scene& scene : test::scenes()) {
    if (enumeration.problems().empty()) enumeration.run(scene);
  }
  EXPECT_FALSE(enumeration.problems().empty()) << enumeration.states() << " crash states, and nothing was noticed";
  if (!enumeration.problems().empty()) std::cerr << enumeration.problems().front() << "\n";
}

INSTANTIATE_TEST_SUITE_P(Lies, StoreCrashControl, ::testing::ValuesIn(kLies),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace varve::store
