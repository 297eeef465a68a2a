// Moving allocations into files; see movable.h.
//
// While an allocation is on its way it stays in the books as it was: who publishes it holds its
// buffer, so nobody frees it, and nobody else moves, as `moving` is held.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <string>

#include "deanon/kernelzero.h"
#include "deanon/movable_books.h"
#include "memory/mapping.h"

namespace zerrow {
namespace {

// A file takes allocations until it has so much, so that what outlives the others keeps not much more
// than itself. But a frame of the store's protocol carries 200 descriptors: a message has no more than
// this number of files that are new, and of files from earlier publications.
constexpr uint64_t kFileBytes = 16u << 20;
constexpr uint64_t kMostFiles = 96;
// Each moved range may cost two of the vm.max_map_count mappings (65530 by default) of the process.
constexpr uint64_t kMostReplaced = 8000;

constexpr uint64_t kHuge = 2u << 20;
constexpr int kSeals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;

// Most of a process's descriptors are for its program. And a file beyond RLIMIT_FSIZE would raise SIGXFSZ.
bool MayMake(uint64_t size) {
  rlimit files, bytes;
  return getrlimit(RLIMIT_NOFILE, &files) == 0 && MovableBooks::Get().files < files.rlim_cur / 4 &&
         getrlimit(RLIMIT_FSIZE, &bytes) == 0 && size <= bytes.rlim_cur;
}

bool SameInFile(const MovedFile& file, uint64_t offset, const uint8_t* data, uint64_t size) {
  uint8_t bytes[4096];
  while (size > 0) {
    size_t part = std::min<uint64_t>(size, sizeof(bytes));
    if (pread(file.fd, bytes, part, static_cast<off_t>(offset)) != static_cast<ssize_t>(part)) return false;
    if (memcmp(bytes, data, part) != 0) return false;
    offset += part, data += part, size -= part;
  }
  return true;
}

// Whether the owner has written to a moved allocation: to its pages, or to the edges, which are its own.
bool WrittenSince(uint8_t* address, const MovableAllocation& allocation) {
  MovableRange pages = WholePages({address, allocation.room});
  auto head = static_cast<uint64_t>(pages.address - address);
  uint64_t tail = allocation.room - head - pages.size;
  const MovedFile& file = *allocation.file;
  return PrivatelyWritten(pages.address, pages.size) || !SameInFile(file, allocation.offset, address, head) ||
         !SameInFile(file, allocation.offset + head + pages.size, pages.address + pages.size, tail);
}

// What the owner did not ask for may hold what others have freed.
void ZeroRest(MovableRange range, uint64_t room) {
  uint8_t* end = range.address + range.size;
  uint64_t rest = room - range.size;
  uint64_t in_page = std::min(rest, -reinterpret_cast<uintptr_t>(end) % kPage);
  memset(end, 0, in_page);
  if (rest > in_page) ZeroPages(end + in_page, rest - in_page);
}

// An allocation that is to be moved.
struct Fresh {
  size_t index;  // among those that are published
  MovableRange range;
  uint64_t room;
};

// A file on its way. What comes of it is entered into the books by `Conclude`.
class Batch {
 public:
  void Add(const Fresh& fresh) {
    ZeroRest(fresh.range, fresh.room);
    indices_.push_back(fresh.index);
    ranges_.push_back({reinterpret_cast<uintptr_t>(fresh.range.address), fresh.room, 0, 0});
    bytes_ += fresh.room;
  }

  void Move() {
    refused_.assign(ranges_.size(), false);
    // A huge page's place may leave a gap.
    if (!MayMake(bytes_ + ranges_.size() * (kHuge + 2 * kPage))) return;
    int fd = memfd_create("zerrow-moved", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return;  // out of descriptors or memory: copied
    Append(fd);
    file_ = Sealed(fd);
    close(fd);
  }

  void Conclude(std::vector<Moved>* moved, uint64_t* bytes_copied) {
    MovableBooks& books = MovableBooks::Get();
    std::lock_guard<std::mutex> lock(books.mutex);
    for (size_t i = 0; i < ranges_.size(); ++i) {
      MovableAllocation& allocation =
          books.allocations.find(reinterpret_cast<uint8_t*>(ranges_[i].addr))->second;
      allocation.replaced = ranges_[i].done > 0;
      if (allocation.replaced) ++books.replaced;
      bool whole = ranges_[i].done == ranges_[i].len && file_ != nullptr;
      allocation.unmovable = refused_[i] || (allocation.replaced && !whole);
      if (!whole) continue;
      allocation.file = file_;
      allocation.offset = ranges_[i].offset;
      (*moved)[indices_[i]] = {file_, ranges_[i].offset};
    }
    if (file_ != nullptr) {
      books.by_id[file_->id] = file_;
      std::erase_if(books.by_id, [](const auto& entry) { return entry.second.expired(); });
      *bytes_copied += std::min(copied_pages_ * kPage, bytes_);
    }
  }

 private:
  // The kernel stops at the first range that will not go: the others are tried without it.
  void Append(int fd) {
    size_t at = 0;
    while (at < ranges_.size()) {
      uint32_t done = 0;
      kernelzero_counts counts{};
      int error = MoveIntoFile(fd, &ranges_[at], static_cast<uint32_t>(ranges_.size() - at), &done, &counts);
      copied_pages_ += counts.copied;
      at += done;
      if (error == 0) return;
      // Short of space or memory, or the module is gone: it is the same for the others, and may pass.
      if (error != EINVAL && error != EFAULT && error != EAGAIN) return;
      refused_[at++] = error == EINVAL;
    }
  }

  // Seals the file and opens it read-only: a writable descriptor of a sealed file cannot be mapped
  // before Linux 6.7. nullptr if there is nothing in it, or somebody (a device) could still write.
  static std::shared_ptr<MovedFile> Sealed(int fd) {
    struct stat status;
    if (fstat(fd, &status) != 0 || status.st_size == 0 || fcntl(fd, F_ADD_SEALS, kSeals) != 0) return nullptr;
    int reading = open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC);
    if (reading < 0) return nullptr;
    SegmentId id;
    if (getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size())) {
      close(reading);
      return nullptr;
    }
    return std::make_shared<MovedFile>(id, reading, static_cast<uint64_t>(status.st_size));
  }

  std::vector<size_t> indices_;
  std::vector<kernelzero_range> ranges_;
  std::vector<bool> refused_;
  uint64_t bytes_ = 0;
  uint64_t copied_pages_ = 0;
  std::shared_ptr<MovedFile> file_;
};

// How much of it is to be moved: all that there is, or nothing. If it has been, and is as it was then,
// `moved` says where; `files` are those that the message has by now.
uint64_t RoomToMove(MovableRange range, std::set<const MovedFile*>* files, Moved* moved) {
  MovableBooks& books = MovableBooks::Get();
  MovableAllocation allocation;
  {
    std::lock_guard<std::mutex> lock(books.mutex);
    allocation = books.allocations.find(range.address)->second;
    if (allocation.file == nullptr)
      return allocation.unmovable || books.replaced >= kMostReplaced ? 0 : allocation.room;
  }
  const MovedFile* file = allocation.file.get();
  if (files->size() == kMostFiles && files->count(file) == 0) return 0;
  if (WrittenSince(range.address, allocation)) return 0;
  files->insert(file);
  *moved = {std::move(allocation.file), allocation.offset};
  return 0;
}

}  // namespace

std::vector<Moved> Movable::Publish(const std::vector<MovableRange>& ranges, uint64_t* bytes_copied) {
  std::vector<Moved> moved(ranges.size());
  std::lock_guard<std::mutex> lock(MovableBooks::Get().moving);
  uint64_t total = 0;
  std::set<const MovedFile*> known;
  std::vector<Fresh> fresh;
  for (size_t i = 0; i < ranges.size(); ++i) {
    uint64_t room = RoomToMove(ranges[i], &known, &moved[i]);
    if (room == 0) continue;
    fresh.push_back({i, ranges[i], room});
    total += room;
  }
  uint64_t most = std::max(kFileBytes, total / kMostFiles);
  for (auto first = fresh.begin(); first != fresh.end();) {
    auto end = first;
    for (uint64_t bytes = 0; end != fresh.end() && bytes < most; ++end) bytes += end->room;
    // A file takes what is published together, so that a column is in few; but neighbours move as one.
    std::sort(first, end, [](const Fresh& a, const Fresh& b) { return a.range.address < b.range.address; });
    Batch batch;
    for (; first != end; ++first) batch.Add(*first);
    batch.Move();
    batch.Conclude(&moved, bytes_copied);
  }
  return moved;
}

}  // namespace zerrow
