// Directories: finding, making, removing, renaming and listing what is in them.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "filesystem.h"
#include "varve/catalog/names.h"

namespace varve::fuse {
namespace {

constexpr std::uint32_t kPermissionBits = 07777;
constexpr unsigned kNoReplace = 1;  ///< RENAME_NOREPLACE of <linux/fs.h>
constexpr off_t kDots = 2;          ///< "." and ".." come first

tl::unexpected<Error> read_only(const Node& node) {
  return fail_refused(EROFS, describe(node) + " can't be changed: restore or clone it to get an image that can");
}

tl::unexpected<Error> control_is_ours() {
  return fail_refused(EPERM, ".varve belongs to the store");
}

/// Whether any node but a disk may have a name in it; the errors of those that may not.
Status refuse_unless_directory_of_names(const Node& parent) {
  if (parent.id.kind == NodeKind::snapshot) return read_only(parent);
  if (parent.id.kind == NodeKind::control_directory) return control_is_ours();
  return {};
}

tl::unexpected<Error> only_disk_img(const Node& parent, std::string_view name) {
  if (parent.id.kind == NodeKind::root) {
    return fail_refused(EPERM,
                        fmt::format("{} can't be made: there are only disks here (mkdir NAME)", catalog::quoted(name)));
  }
  return fail_refused(EPERM, fmt::format("{} can't be made: a disk has an image, disk.img, and snapshots (mkdir NAME); "
                                         "rsync needs --inplace",
                                         catalog::quoted(name)));
}

}  // namespace

store::Attributes Filesystem::attributes_of_new(const Request& request, const Node& parent, mode_t mode) const {
  const fuse_ctx& caller = request.caller();
  store::Attributes attributes;
  attributes.owner = caller.uid;
  attributes.group = caller.gid;
  attributes.mode = mode & kPermissionBits;  // the kernel has applied the umask
  const store::Attributes directory = attributes_of(store_, parent);
  if ((directory.mode & S_ISGID) != 0) {
    attributes.group = directory.group;
    if (S_ISDIR(mode)) attributes.mode |= S_ISGID;
  }
  return attributes;
}

void Filesystem::answer_entry(Request& request, const Node& node) {
  request.entry(entry_of(node));
}

void Filesystem::lookup(Request request, Ino parent, const std::string& name) {
  const auto directory = find_node(store_, parent);
  if (!directory) return fail(request, directory.error());
  auto node = find_child(store_, *directory, name);
  if (!node) return fail(request, node.error());
  if (!is_slow_to_stat(*node)) return answer_entry(request, *node);
  later(snapshots_, std::move(request), [this, node = *node](Request& held) { answer_entry(held, node); });
}

// --- making ---

Result<Node> Filesystem::make_in(const Node& parent, const std::string& name, const store::Attributes& attributes) {
  VARVE_TRY(refuse_unless_directory_of_names(parent));
  if (parent.id.kind == NodeKind::root) {
    VARVE_TRY_ASSIGN(auto disk, store_.create_disk(name, attributes));
    return disk_node(std::move(disk));
  }
  VARVE_TRY_ASSIGN(auto snapshot, parent.disk->take_snapshot(name, attributes));
  return snapshot_node(parent.disk, std::move(snapshot), NodeKind::snapshot);
}

void Filesystem::make_directory(Request request, Ino parent, const std::string& name, mode_t mode) {
  auto directory = find_node(store_, parent);
  if (!directory) return fail(request, directory.error());
  const auto attributes = attributes_of_new(request, *directory, mode | S_IFDIR);
  later(control_, std::move(request), [this, directory = *directory, parent, name, attributes](Request& held) {
    auto made = make_in(directory, name, attributes);
    if (!made) return fail(held, made.error(), parent);
    answer_entry(held, *made);
  });
}

Status Filesystem::create_image_in(const Node& parent, const std::string& name, const store::Attributes& attributes,
                                   bool exclusive) {
  VARVE_TRY(refuse_unless_directory_of_names(parent));
  if (parent.id.kind != NodeKind::disk || name != catalog::kImageName) return only_disk_img(parent, name);
  auto created = parent.disk->create_image(attributes);
  // Somebody else made it between the kernel's look-up and this.
  if (!created && created.error().code == EEXIST && !exclusive) return {};
  return created;
}

void Filesystem::make_node(Request request, Ino parent, const std::string& name, mode_t mode) {
  auto directory = find_node(store_, parent);
  if (!directory) return fail(request, directory.error());
  if (!S_ISREG(mode)) return fail(request, only_disk_img(*directory, name).value(), parent);
  const auto attributes = attributes_of_new(request, *directory, mode);
  later(control_, std::move(request), [this, directory = *directory, parent, name, attributes](Request& held) {
    auto created = create_image_in(directory, name, attributes, true);
    if (!created) return fail(held, created.error(), parent);
    auto node = live_image_node(directory.disk);
    if (!node) return fail(held, node.error(), parent);
    answer_entry(held, *node);
  });
}

void Filesystem::create(Request request, Ino parent, const std::string& name, mode_t mode, const fuse_file_info& info) {
  auto directory = find_node(store_, parent);
  if (!directory) return fail(request, directory.error());
  const auto attributes = attributes_of_new(request, *directory, mode | S_IFREG);
  // With O_TRUNC on an image that came into being meanwhile it may wait for a RELEASE.
  later(control_, std::move(request), [this, directory = *directory, parent, name, attributes, info](Request& held) {
    auto created = create_image_in(directory, name, attributes, (info.flags & O_EXCL) != 0);
    if (!created) return fail(held, created.error(), parent);
    auto node = live_image_node(directory.disk);
    if (!node) return fail(held, node.error(), parent);
    auto file = use_live(*node, info.flags, held.kills_privileges());
    if (!file) return fail(held, file.error(), parent);
    auto answer = info;
    answer.keep_cache = 1;
    const bool parallel = opens_parallel(**file, info.flags);
    answer.direct_io = parallel ? 1 : 0;
    answer.fh = files_.add(std::move(*file));
    if (!held.created(entry_of(*node), answer, parallel)) files_.remove(answer.fh);
  });
}

void Filesystem::refuse_link(Request request, Ino parent) {
  const auto directory = find_node(store_, parent);
  if (!directory) return fail(request, directory.error());
  fail(request, {EPERM, ErrorKind::refused, "there are no links in a store: a clone shares data as a link would"},
       parent);
}

// --- removing and renaming ---

Status Filesystem::remove_in(const Node& parent, const std::string& name, bool directory) {
  VARVE_TRY(refuse_unless_directory_of_names(parent));
  VARVE_TRY_ASSIGN(const auto child, find_child(store_, parent, name));
  if (child.id.kind == NodeKind::control_directory) return control_is_ours();
  if (is_directory(child.id.kind) != directory) {
    return fail_refused(directory ? ENOTDIR : EISDIR,
                        describe(child) + (directory ? " is no" : " is a") + " directory");
  }
  if (child.id.kind == NodeKind::disk) return store_.remove_disk(child.id.disk);
  if (child.id.kind == NodeKind::snapshot) return parent.disk->remove_snapshot(child.id.snapshot);
  return parent.disk->remove_image();
}

void Filesystem::remove(Request request, Ino parent, const std::string& name, bool directory) {
  later(vacate_, std::move(request), [this, parent, name, directory](Request& held) {
    const auto node = find_node(store_, parent);
    if (!node) return fail(held, node.error());
    finish(held, remove_in(*node, name, directory), parent);
  });
}

Status Filesystem::rename_in(const Node& parent, const std::string& name, const Node& new_parent,
                             const std::string& new_name) {
  VARVE_TRY(refuse_unless_directory_of_names(parent));
  VARVE_TRY(refuse_unless_directory_of_names(new_parent));
  VARVE_TRY_ASSIGN(const auto child, find_child(store_, parent, name));
  if (child.id.kind == NodeKind::control_directory) return control_is_ours();
  if (parent.id != new_parent.id) {
    // Not EXDEV: mv would fall back to mkdir, which takes a snapshot of the wrong disk.
    return fail_refused(EPERM,
                        describe(child) + " stays where it is: disks and snapshots can only be renamed in place");
  }
  if (child.id.kind == NodeKind::disk) return store_.rename_disk(child.id.disk, new_name);
  if (child.id.kind == NodeKind::snapshot) return parent.disk->rename_snapshot(child.id.snapshot, new_name);
  return fail_refused(EPERM, "the image of a disk is always called disk.img");
}

void Filesystem::rename(Request request, Ino parent, const std::string& name, Ino new_parent,
                        const std::string& new_name, unsigned flags) {
  // What exists is never replaced, with or without RENAME_NOREPLACE.
  if ((flags & ~kNoReplace) != 0) return request.fail(EINVAL);
  later(control_, std::move(request), [this, parent, name, new_parent, new_name](Request& held) {
    const auto from = find_node(store_, parent);
    if (!from) return fail(held, from.error());
    const auto to = find_node(store_, new_parent);
    if (!to) return fail(held, to.error());
    finish(held, rename_in(*from, name, *to, new_name), parent);
  });
}

// --- listing ---

std::vector<DirectoryEntry> Filesystem::list(const Node& directory) const {
  std::vector<DirectoryEntry> entries;
  const auto add = [&](const std::string_view name, const Result<Node>& node) {
    if (node) entries.push_back({std::string(name), node->ino(), is_directory(node->id.kind)});
  };
  switch (directory.id.kind) {
    case NodeKind::root:
      for (auto& disk : store_.disks()) add(disk->name(), disk_node(disk));
      std::ranges::sort(entries, {}, &DirectoryEntry::name);
      break;
    case NodeKind::control_directory:
      add(kStatusName, find_child(store_, directory, kStatusName));
      add(kMetricsName, find_child(store_, directory, kMetricsName));
      break;
    case NodeKind::disk: {
      add(catalog::kImageName, live_image_node(directory.disk));
      NodeId id{.kind = NodeKind::snapshot, .disk = directory.id.disk, .snapshot = {}, .incarnation = {}};
      for (auto& snapshot : directory.disk->snapshots()) {
        id.snapshot = snapshot.id;
        if (const auto ino = to_ino(id)) entries.push_back({std::move(snapshot.name), *ino, true});
      }
      break;
    }
    default:
      add(catalog::kImageName, find_child(store_, directory, catalog::kImageName));
      break;
  }
  return entries;
}

void Filesystem::open_directory(Request request, Ino ino, fuse_file_info info) {
  const auto node = find_node(store_, ino);
  if (!node) return fail(request, node.error());
  auto directory = std::make_unique<OpenDirectory>();
  directory->ino = ino;
  info.fh = directories_.add(std::move(directory));
  if (!request.opened(info, false)) directories_.remove(info.fh);
}

bool Filesystem::add_entry(Request& request, std::vector<char>& out, const DirectoryEntry& entry, const Node& directory,
                           off_t next, std::size_t limit, bool plus) {
  fuse_entry_param parameters{};
  parameters.attr.st_ino = entry.ino;
  parameters.attr.st_mode = entry.directory ? S_IFDIR : S_IFREG;
  if (plus && next > kDots) {
    // Looked up again: a name that has gone since the listing began must not get into the kernel's cache. Without an
    // inode number the kernel takes the entry for one of a plain readdir.
    const auto node = find_child(store_, directory, entry.name);
    if (node && node->ino() == entry.ino && !is_slow_to_stat(*node)) parameters = entry_of(*node);
  }
  const std::size_t at = out.size();
  out.resize(limit);
  const std::size_t room = limit - at;
  const std::size_t size =
      plus ? fuse_add_direntry_plus(request.raw(), out.data() + at, room, entry.name.c_str(), &parameters, next)
           : fuse_add_direntry(request.raw(), out.data() + at, room, entry.name.c_str(), &parameters.attr, next);
  out.resize(size > room ? at : at + size);
  return size <= room;
}

Result<std::vector<char>> Filesystem::entries_from(Request& request, OpenDirectory& open, std::size_t size, off_t at,
                                                   bool plus) {
  VARVE_TRY_ASSIGN(const auto node, find_node(store_, open.ino));
  std::vector<char> out;
  MutexLock lock(open.mutex);
  if (!open.begun || at == 0) {  // rewinddir(3) sees what is new
    open.entries = list(node);
    open.entries.insert(open.entries.begin(), {{".", open.ino, true}, {"..", kRootIno, true}});
    open.begun = true;
  }
  for (auto next = static_cast<std::size_t>(at); next < open.entries.size(); ++next) {
    if (!add_entry(request, out, open.entries[next], node, static_cast<off_t>(next) + 1, size, plus)) break;
  }
  return out;
}

void Filesystem::read_directory(Request request, const fuse_file_info& info, std::size_t size, off_t at, bool plus) {
  const auto out = entries_from(request, HandleSet<OpenDirectory>::get(info.fh), size, at, plus);
  if (!out) return fail(request, out.error());
  request.text({out->data(), out->size()});
}

void Filesystem::release_directory(Request request, const fuse_file_info& info) {
  directories_.remove(info.fh);
  request.done();
}

}  // namespace varve::fuse
