#include "support/memory_storage.h"

#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <stdexcept>
#include <utility>

namespace varve::test {
namespace {

constexpr std::uint64_t kLargestOffset = INT64_MAX;
constexpr std::size_t kMostPendingChanges = 256;

tl::unexpected<Error> fail_here(int code, std::string_view action, std::string_view path) {
  auto failure = fail_system(code, std::string(action) + " memory:" + std::string(path));
  if (code == ENOENT) failure.value().kind = ErrorKind::absent;
  return failure;
}

}  // namespace

/// One open of a file. Keeps the content alive, as an open descriptor does.
class MemoryFile final : public os::File {
 public:
  MemoryFile(std::shared_ptr<CallGate> gate, std::shared_ptr<FileContent> content, std::string path, bool writes,
             std::size_t alignment)
      : gate_(std::move(gate)),
        content_(std::move(content)),
        path_(std::move(path)),
        writes_(writes),
        alignment_(alignment),
        epoch_(gate_->epoch()) {}
  ~MemoryFile() override {
    ExclusiveLock lock(content_->mutex);
    if (content_->locker == this) content_->locker = nullptr;
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  Result<std::size_t> read(ByteOffset at, std::span<std::byte> out) const override {
    VARVE_TRY(enter(Calls::reads, "read"));
    VARVE_TRY(check(at, out.data(), out.size(), "read"));
    SharedLock lock(content_->mutex);
    VARVE_TRY(alive("read"));
    return content_->read(at.value(), out);
  }

  void expect(ByteOffset at, ByteCount count) const override {
    ExclusiveLock lock(content_->mutex);
    if (content_->announced.size() == FileContent::kMostAnnounced) content_->announced.pop_front();
    content_->announced.push_back({at, count});
  }

  Status write(ByteOffset at, std::span<const std::byte> bytes) override {
    const auto answer = gate_->enter(Calls::changes, "write", path_);
    if (answer.code != 0 && !answer.with_effect) return fail_here(answer.code, "write", path_);
    VARVE_TRY(check(at, bytes.data(), bytes.size(), "write"));
    VARVE_TRY(writable("write"));
    // A write that fails may have got half-way.
    if (answer.code != 0) {
      VARVE_TRY(put(at, bytes.first(bytes.size() / 2 / 512 * 512)));
      return fail_here(answer.code, "write", path_);
    }
    const std::size_t until = gate_->looks_into_writes() ? page_border_in(at, bytes.size()) : 0;
    if (until == 0) return put(at, bytes);
    VARVE_TRY(put(at, bytes.first(until)));
    gate_->half_way("half of write", path_);
    if (gate_->is_cut_off()) return fail_here(EIO, "write", path_);
    return put(at + ByteCount{until}, bytes.subspan(until));
  }

  Status sync_data() override {
    const auto answer = gate_->enter(Calls::changes, "sync", path_);
    if (answer.code != 0 && !answer.with_effect) return fail_here(answer.code, "sync", path_);
    if (answer.lie) return {};
    ExclusiveLock lock(content_->mutex);
    VARVE_TRY(alive("sync"));
    if (answer.code == 0) {
      content_->sync();
      return {};
    }
    content_->fail_sync();
    return fail_here(answer.code, "sync", path_);
  }

  Status resize(ByteCount size) override {
    VARVE_TRY(enter(Calls::changes, "resize"));
    VARVE_TRY(writable("resize"));
    if (size.value() > kLargestOffset) return fail_here(EFBIG, "resize", path_);
    ExclusiveLock lock(content_->mutex);
    VARVE_TRY(alive("resize"));
    content_->resize(size.value());
    return {};
  }

  Status punch(ByteOffset at, ByteCount count) override {
    VARVE_TRY(enter(Calls::changes, "punch"));
    VARVE_TRY(writable("punch"));
    VARVE_TRY(addressable(at, count.value(), "punch"));
    ExclusiveLock lock(content_->mutex);
    VARVE_TRY(alive("punch"));
    content_->punch(at.value(), count.value());
    return {};
  }

  Result<ByteOffset> next_data(ByteOffset at) const override {
    VARVE_TRY(enter(Calls::reads, "seek"));
    SharedLock lock(content_->mutex);
    VARVE_TRY(alive("seek"));
    return ByteOffset{content_->next_data(at.value())};
  }

  Status preallocate(ByteOffset at, ByteCount count) override {
    VARVE_TRY(enter(Calls::changes, "preallocate"));
    VARVE_TRY(writable("preallocate"));
    VARVE_TRY(addressable(at, count.value(), "preallocate"));
    if (count.value() == 0) return {};
    ExclusiveLock lock(content_->mutex);
    VARVE_TRY(alive("preallocate"));
    const int code = content_->preallocate(at.value(), count.value());
    if (code != 0) return fail_here(code, "preallocate", path_);
    return {};
  }

  Result<os::FileStatus> status() const override {
    VARVE_TRY(enter(Calls::reads, "stat"));
    SharedLock lock(content_->mutex);
    VARVE_TRY(alive("stat"));
    return status_of(*content_);
  }

  std::size_t alignment() const override { return alignment_; }

  Status set_modified(Time time) override {
    VARVE_TRY(enter(Calls::changes, "set time"));
    ExclusiveLock lock(content_->mutex);
    VARVE_TRY(alive("set time"));
    content_->modified = time;
    return {};
  }

  Result<bool> try_lock() override {
    VARVE_TRY(enter(Calls::reads, "lock"));
    ExclusiveLock lock(content_->mutex);
    VARVE_TRY(alive("lock"));
    const bool held = content_->locker != nullptr && content_->locker_epoch == epoch_;
    if (held && content_->locker != this) return false;
    content_->locker = this;
    content_->locker_epoch = epoch_;
    return true;
  }

  static os::FileStatus status_of(const FileContent& content) {
    os::FileStatus status;
    status.size = ByteCount{content.size()};
    status.allocated = ByteCount{content.allocated()};
    status.owner = ::geteuid();
    status.mode = 0600;
    status.modified = content.modified;
    return status;
  }

 private:
  /// A kernel copies page by page; a kill comes between two. 0: there is but one.
  static std::size_t page_border_in(ByteOffset at, std::size_t count) {
    const std::uint64_t border = (at.value() + count / 2) / FileContent::kPageSize * FileContent::kPageSize;
    return border > at.value() ? static_cast<std::size_t>(border - at.value()) : 0;
  }
  Status put(ByteOffset at, std::span<const std::byte> bytes) {
    ExclusiveLock lock(content_->mutex);
    VARVE_TRY(alive("write"));
    if (const int code = content_->write(at.value(), bytes); code != 0) return fail_here(code, "write", path_);
    return {};
  }
  Status enter(Calls kind, std::string_view action) const {
    const auto answer = gate_->enter(kind, action, path_);
    if (answer.code != 0) return fail_here(answer.code, action, path_);
    return {};
  }
  /// Asked under the content's lock: a power loss that comes after it finds the change in the books.
  Status alive(std::string_view action) const {
    if (gate_->epoch() != epoch_) return fail_here(EIO, action, path_);
    return {};
  }
  Status writable(std::string_view action) const {
    if (!writes_) return fail_here(EBADF, action, path_);
    return {};
  }
  Status addressable(ByteOffset at, std::uint64_t count, std::string_view action) const {
    const bool fits = at.value() <= kLargestOffset && count <= kLargestOffset - at.value();
    if (!fits) return fail_here(EFBIG, action, path_);
    return {};
  }
  Status check(ByteOffset at, const std::byte* memory, std::size_t count, std::string_view action) const {
    VARVE_TRY(addressable(at, count, action));
    const auto aligned = [&](std::uint64_t value) { return value % alignment_ == 0; };
    if (!aligned(at.value()) || !aligned(count) || !aligned(reinterpret_cast<std::uintptr_t>(memory))) {
      return fail_here(EINVAL, action, path_);
    }
    return {};
  }

  std::shared_ptr<CallGate> gate_;
  std::shared_ptr<FileContent> content_;
  std::string path_;
  bool writes_;
  std::size_t alignment_;
  std::uint64_t epoch_;
};

MemoryStorage::MemoryStorage(MemoryStorageOptions options) : options_(options) {
  set_capacity(ByteCount{options.capacity});
}

MemoryStorage::~MemoryStorage() = default;

Status MemoryStorage::enter(Calls kind, std::string_view action, std::string_view path) {
  const auto answer = gate_->enter(kind, action, path);
  if (answer.code != 0) return fail_here(answer.code, action, path);
  return {};
}

Result<MemoryStorage::Node> MemoryStorage::walk(std::string_view path, std::string_view action) {
  Node node{nullptr, root_};
  if (path.empty()) return node;
  if (!os::valid_path(path)) return fail_here(EINVAL, action, path);
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    if (node.directory == nullptr) return fail_here(ENOTDIR, action, path);
    const auto it = node.directory->entries.find(path.substr(begin, end - begin));
    if (it == node.directory->entries.end()) return fail_here(ENOENT, action, path);
    node = Node(it->second);
    begin = end + 1;
  }
  return node;
}

Result<MemoryStorage::Place> MemoryStorage::find(std::string_view path, std::string_view action) {
  if (!os::valid_path(path)) return fail_here(EINVAL, action, path);
  VARVE_TRY_ASSIGN(Node parent, walk(os::parent_of(path), action));
  if (parent.directory == nullptr) return fail_here(ENOTDIR, action, path);
  Place place{parent.directory, std::string(os::leaf_of(path)), {}};
  if (place.leaf.size() > 255) return fail_here(ENAMETOOLONG, action, path);
  if (const auto it = place.parent->entries.find(place.leaf); it != place.parent->entries.end()) {
    place.node = it->second;
  }
  return place;
}

Result<std::unique_ptr<os::File>> MemoryStorage::open(std::string_view path, os::OpenMode mode) {
  VARVE_TRY(enter(mode.create || mode.truncate ? Calls::changes : Calls::reads, "open", path));
  MutexLock lock(tree_);
  VARVE_TRY_ASSIGN(Place place, find(path, "open"));
  if (place.node && mode.create && mode.exclusive) return fail_here(EEXIST, "open", path);
  if (place.node.directory != nullptr) return fail_here(EINVAL, "open (not a regular file)", path);
  if (!place.node) {
    if (!mode.create) return fail_here(ENOENT, "open", path);
    place.node.file = std::make_shared<FileContent>(space_, options_.power_loss);
    place.node.file->modified = now();
    change({{place.parent, place.leaf, place.node}});
  } else if (mode.truncate) {
    ExclusiveLock content_lock(place.node.file->mutex);
    if (place.node.file->size() != 0) place.node.file->resize(0);
  }
  const bool writes = mode.write || mode.create || mode.truncate;
  return std::make_unique<MemoryFile>(gate_, place.node.file, std::string(path), writes,
                                      mode.direct ? options_.direct_alignment : 1);
}

Result<bool> MemoryStorage::make_directory(std::string_view path) {
  VARVE_TRY(enter(Calls::changes, "make directory", path));
  MutexLock lock(tree_);
  VARVE_TRY_ASSIGN(const Place place, find(path, "make directory"));
  if (place.node.directory != nullptr) return false;
  if (place.node.file != nullptr) return fail_here(ENOTDIR, "make directory", path);
  change({{place.parent, place.leaf, Node{nullptr, std::make_shared<Directory>()}}});
  return true;
}

Status MemoryStorage::remove(std::string_view path) {
  VARVE_TRY(enter(Calls::changes, "remove", path));
  MutexLock lock(tree_);
  VARVE_TRY_ASSIGN(const Place place, find(path, "remove"));
  if (!place.node) return fail_here(ENOENT, "remove", path);
  if (place.node.directory != nullptr) return fail_here(EISDIR, "remove", path);
  change({{place.parent, place.leaf, {}}});
  return {};
}

Status MemoryStorage::remove_directory(std::string_view path) {
  VARVE_TRY(enter(Calls::changes, "remove directory", path));
  MutexLock lock(tree_);
  VARVE_TRY_ASSIGN(const Place place, find(path, "remove directory"));
  if (!place.node) return fail_here(ENOENT, "remove directory", path);
  if (place.node.directory == nullptr) return fail_here(ENOTDIR, "remove directory", path);
  if (!place.node.directory->entries.empty()) return fail_here(ENOTEMPTY, "remove directory", path);
  change({{place.parent, place.leaf, {}}});
  return {};
}

Status MemoryStorage::rename(std::string_view from, std::string_view to) {
  VARVE_TRY(enter(Calls::changes, "rename", from));
  MutexLock lock(tree_);
  VARVE_TRY_ASSIGN(const Place source, find(from, "rename"));
  VARVE_TRY_ASSIGN(const Place target, find(to, "rename"));
  if (!source.node) return fail_here(ENOENT, "rename", from);
  if (source.node == target.node) return {};  // two names of one file: rename(2) leaves both
  if (target.node) {
    if (source.node.directory == nullptr && target.node.directory != nullptr) return fail_here(EISDIR, "rename", to);
    if (source.node.directory != nullptr && target.node.directory == nullptr) return fail_here(ENOTDIR, "rename", to);
    if (target.node.directory != nullptr && !target.node.directory->entries.empty()) {
      return fail_here(ENOTEMPTY, "rename", to);
    }
  }
  if (source.node.directory != nullptr && to.starts_with(std::string(from) + "/")) {
    return fail_here(EINVAL, "rename", to);
  }
  change({{source.parent, source.leaf, {}}, {target.parent, target.leaf, source.node}});
  return {};
}

Status MemoryStorage::link(std::string_view from, std::string_view to) {
  VARVE_TRY(enter(Calls::changes, "link", to));
  MutexLock lock(tree_);
  VARVE_TRY_ASSIGN(const Place source, find(from, "link"));
  VARVE_TRY_ASSIGN(const Place target, find(to, "link"));
  if (!source.node) return fail_here(ENOENT, "link", from);
  if (target.node) return fail_here(EEXIST, "link", to);
  if (source.node.directory != nullptr) return fail_here(EPERM, "link", from);
  change({{target.parent, target.leaf, source.node}});
  return {};
}

Result<std::vector<os::DirectoryEntry>> MemoryStorage::list(std::string_view path) {
  VARVE_TRY(enter(Calls::reads, "list", path));
  MutexLock lock(tree_);
  VARVE_TRY_ASSIGN(const Node node, walk(path, "list"));
  if (node.directory == nullptr) return fail_here(ENOTDIR, "list", path);
  std::vector<os::DirectoryEntry> entries;
  for (const auto& [name, entry] : node.directory->entries) {
    entries.push_back({name, entry.directory != nullptr ? os::FileType::directory : os::FileType::regular});
  }
  return entries;
}

Result<os::FileStatus> MemoryStorage::status(std::string_view path) {
  VARVE_TRY(enter(Calls::reads, "stat", path));
  MutexLock lock(tree_);
  VARVE_TRY_ASSIGN(const Node node, walk(path, "stat"));
  return status_of(node);
}

os::FileStatus MemoryStorage::status_of(const Node& node) {
  if (node.file != nullptr) {
    SharedLock lock(node.file->mutex);
    return MemoryFile::status_of(*node.file);
  }
  os::FileStatus status;
  status.type = os::FileType::directory;
  status.owner = ::geteuid();
  status.mode = 0700;
  return status;
}

Status MemoryStorage::sync_directory(std::string_view path) {
  const auto answer = gate_->enter(Calls::changes, "sync directory", path);
  if (answer.code != 0) return fail_here(answer.code, "sync directory", path);
  if (answer.lie) return {};
  MutexLock lock(tree_);
  VARVE_TRY_ASSIGN(const Node node, walk(path, "sync directory"));
  if (node.directory == nullptr) return fail_here(ENOTDIR, "sync directory", path);
  Directory& directory = *node.directory;
  for (const std::uint64_t number : std::set<std::uint64_t>(directory.pending)) {
    TreeChange& pending = pending_.at(number);
    pending.unsynced.erase(&directory);
    if (pending.unsynced.empty()) settle_change(number, true);
  }
  // Without older changes under way nobody asks when an absent name became so.
  if (directory.pending.empty()) std::erase_if(directory.durable, [](const auto& item) { return !item.second.node; });
  return {};
}

Result<os::Capacity> MemoryStorage::capacity() {
  VARVE_TRY(enter(Calls::reads, "capacity", ""));
  const std::uint64_t limit = space_->limit;
  const std::uint64_t used = std::min<std::uint64_t>(space_->used, limit);
  const ByteCount free{(limit - used) * FileContent::kPageSize};
  return os::Capacity{ByteCount{limit * FileContent::kPageSize}, free, free};
}

Result<os::Identity> MemoryStorage::identity() {
  VARVE_TRY(enter(Calls::reads, "identity", ""));
  MutexLock lock(tree_);
  return os::Identity{"memory-boot-" + std::to_string(boot_), 1, 2, 3};
}

void MemoryStorage::change(std::vector<EntryChange> entries) {
  for (const EntryChange& entry : entries) {
    if (entry.node) {
      entry.directory->entries.insert_or_assign(entry.name, entry.node);
    } else {
      entry.directory->entries.erase(entry.name);
    }
  }
  if (!options_.power_loss) return;
  const std::uint64_t number = next_change_++;
  TreeChange& pending = pending_[number];
  pending.entries = std::move(entries);
  for (const EntryChange& entry : pending.entries) {
    pending.unsynced.insert(entry.directory.get());
    entry.directory->pending.insert(number);
  }
  // A kernel writes back what nobody syncs; without a bound the books of a long test would keep every removed file.
  if (pending_.size() > kMostPendingChanges) settle_change(pending_.begin()->first, true);
}

void MemoryStorage::settle_change(std::uint64_t number, bool happened) {
  const auto node = pending_.extract(number);
  for (const EntryChange& entry : node.mapped().entries) {
    entry.directory->pending.erase(number);
    if (!happened) continue;
    DurableEntry& durable = entry.directory->durable[entry.name];
    if (durable.number < number) durable = DurableEntry{entry.node, number};
  }
}

/// Files with two names, and directories that only the books still know, are copied once.
class MemoryStorage::Copier {
 public:
  explicit Copier(std::shared_ptr<Space> space) : space_(std::move(space)) {}

  std::shared_ptr<Directory> directory(const std::shared_ptr<Directory>& from) {
    auto& to = directories_[from.get()];
    if (to != nullptr) return to;
    to = std::make_shared<Directory>();
    Directory& copy = *to;
    for (const auto& [name, entry] : from->entries) copy.entries.emplace(name, node(entry));
    for (const auto& [name, entry] : from->durable) copy.durable.emplace(name, DurableEntry{node(entry.node), entry.number});
    copy.pending = from->pending;
    return directories_[from.get()];
  }
  TreeChange change(const TreeChange& from) {
    TreeChange to;
    for (const EntryChange& entry : from.entries) {
      to.entries.push_back({directory(entry.directory), entry.name, node(entry.node)});
    }
    for (const Directory* unsynced : from.unsynced) to.unsynced.insert(directories_.at(unsynced).get());
    return to;
  }

 private:
  Node node(const Node& from) {
    if (from.directory != nullptr) return {nullptr, directory(from.directory)};
    if (from.file == nullptr) return {};
    auto& to = files_[from.file.get()];
    if (to == nullptr) {
      SharedLock lock(from.file->mutex);
      to = from.file->copy(space_);
    }
    return {to, nullptr};
  }

  std::shared_ptr<Space> space_;
  std::map<const Directory*, std::shared_ptr<Directory>> directories_;
  std::map<const FileContent*, std::shared_ptr<FileContent>> files_;
};

void MemoryStorage::copy_to(MemoryStorage& other) {
  MutexLock lock(tree_);
  MutexLock other_lock(other.tree_);
  other.root_.reset();
  other.pending_.clear();
  other.space_ = std::make_shared<Space>();
  other.space_->limit = space_->limit.load();
  Copier copier(other.space_);
  other.root_ = copier.directory(root_);
  for (const auto& [number, change] : pending_) other.pending_.emplace(number, copier.change(change));
  other.next_change_ = next_change_;
  other.boot_ = boot_;
  other.gate_->next_epoch();
  other.gate_->clear();
}

void MemoryStorage::kill() {
  MutexLock lock(tree_);
  restart(false);
}

void MemoryStorage::lose_power(std::uint64_t seed, const LossModel& model) {
  if (!options_.power_loss) throw std::logic_error("this MemoryStorage keeps no books for a power loss");
  MutexLock lock(tree_);
  restart(true);
  Random random(seed);
  enum : std::uint64_t { all_reached_the_disk, none_did, each_by_chance, kMoods = 4 };
  const std::uint64_t mood = random() % kMoods;
  while (!pending_.empty()) {
    const bool by_chance = mood >= each_by_chance && random() % 2 == 0;
    settle_change(pending_.begin()->first, mood == all_reached_the_disk || by_chance);
  }
  std::set<const void*> seen;
  settle("", *root_, random, model, seen);
}

void MemoryStorage::restart(bool new_boot) {
  gate_->next_epoch();
  gate_->clear();
  if (new_boot) ++boot_;
}

/// Makes what is durable current, from here down. A file with two names is settled once.
void MemoryStorage::settle(const std::string& path, Directory& directory, Random& random, const LossModel& model,
                           std::set<const void*>& seen) {
  std::erase_if(directory.durable, [](const auto& item) { return !item.second.node; });
  directory.entries.clear();
  for (const auto& [name, durable] : directory.durable) {
    directory.entries.emplace(name, durable.node);
    const std::string child = path.empty() ? name : path + "/" + name;
    if (durable.node.directory != nullptr) {
      if (seen.insert(durable.node.directory.get()).second) {
        settle(child, *durable.node.directory, random, model, seen);
      }
      continue;
    }
    if (!seen.insert(durable.node.file.get()).second) continue;
    bool blocks = false;
    for (const std::string& ending : model.block_atomic) blocks = blocks || child.ends_with(ending);
    ExclusiveLock lock(durable.node.file->mutex);
    durable.node.file->lose_power(random, blocks ? Tearing::blocks : Tearing::sectors);
  }
}

std::vector<os::Extent> MemoryStorage::announced(std::string_view path) {
  MutexLock lock(tree_);
  auto node = walk(path, "look at");
  if (!node || node->file == nullptr) throw std::logic_error("no file at " + std::string(path));
  SharedLock content_lock(node->file->mutex);
  return {node->file->announced.begin(), node->file->announced.end()};
}

void MemoryStorage::corrupt(std::string_view path, ByteOffset at, std::span<const std::byte> bytes) {
  MutexLock lock(tree_);
  auto node = walk(path, "corrupt");
  if (!node || node->file == nullptr) throw std::logic_error("nothing to corrupt at " + std::string(path));
  ExclusiveLock content_lock(node->file->mutex);
  node->file->corrupt(at.value(), bytes);
}

}  // namespace varve::test
