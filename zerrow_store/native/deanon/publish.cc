// Moving of allocations into files; see deanon.h.
//
// While an allocation is on its way, its entry in the table stays as it was: the publication holds
// its buffer, so it is not freed, and `moving` is taken, so no other publication moves it.
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
#include "deanon/tracked_table.h"
#include "memory/mapping.h"
#include "memory/memory_file.h"

namespace zerrow {
namespace {

// A file takes allocations up to this size, so that an allocation that outlives the others keeps
// little more than itself. But a frame of the store's protocol carries 200 descriptors, so a
// message has at most kMostFiles new files, and as many of earlier publications.
constexpr uint64_t kFileBytes = 16u << 20;
constexpr uint64_t kMostFiles = 96;
// Each moved range may take two of the process's mappings (vm.max_map_count, 65530 by default).
constexpr uint64_t kMostRemapped = 8000;

constexpr uint64_t kHuge = 2u << 20;
constexpr int kSeals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;

// Most descriptors of a process are for its program; and a file beyond RLIMIT_FSIZE would raise
// SIGXFSZ.
bool MayMake(uint64_t size) {
  rlimit files, bytes;
  return getrlimit(RLIMIT_NOFILE, &files) == 0 && TrackedTable::Get().files < files.rlim_cur / 4 &&
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

// Whether the owner has written to a moved allocation since: to its pages, or to the edges, which
// were copied.
bool WrittenSince(uint8_t* address, const TrackedAllocation& allocation) {
  MemoryRange pages = WholePages({address, allocation.room});
  auto head = static_cast<uint64_t>(pages.address - address);
  uint64_t tail = allocation.room - head - pages.size;
  const MovedFile& file = *allocation.file;
  return PrivatelyWritten(pages.address, pages.size) || !SameInFile(file, allocation.offset, address, head) ||
         !SameInFile(file, allocation.offset + head + pages.size, pages.address + pages.size, tail);
}

// The room beyond the owner's size may hold freed data of others.
void ZeroRest(MemoryRange range, uint64_t room) {
  uint8_t* end = range.address + range.size;
  uint64_t rest = room - range.size;
  uint64_t in_page = std::min(rest, -reinterpret_cast<uintptr_t>(end) % kPage);
  memset(end, 0, in_page);
  if (rest > in_page) ZeroPages(end + in_page, rest - in_page);
}

// An allocation that is to be moved.
struct Candidate {
  size_t index;  // into the published ranges
  MemoryRange range;
  uint64_t room;
};

// Fills one file. `Conclude` enters the outcome into the table.
class FileBuilder {
 public:
  void Add(const Candidate& added) {
    ZeroRest(added.range, added.room);
    indices_.push_back(added.index);
    ranges_.push_back({reinterpret_cast<uintptr_t>(added.range.address), added.room, 0, 0});
    bytes_ += added.room;
  }

  void Move() {
    refused_.assign(ranges_.size(), false);
    // Aligning a huge page may leave a gap.
    if (!MayMake(bytes_ + ranges_.size() * (kHuge + 2 * kPage))) return;
    int fd = CreateMemfd("zerrow-moved");
    if (fd < 0) return;  // out of descriptors or memory: copied
    Append(fd);
    file_ = Sealed(fd);
    close(fd);
  }

  void Conclude(std::vector<MovedTo>* moved, uint64_t* bytes_copied) {
    TrackedTable& table = TrackedTable::Get();
    std::lock_guard<std::mutex> lock(table.mutex);
    for (size_t i = 0; i < ranges_.size(); ++i) {
      TrackedAllocation& allocation =
          table.allocations.find(reinterpret_cast<uint8_t*>(ranges_[i].addr))->second;
      allocation.remapped = ranges_[i].done > 0;
      if (allocation.remapped) ++table.remapped;
      bool whole = ranges_[i].done == ranges_[i].len && file_ != nullptr;
      allocation.unmovable = refused_[i] || (allocation.remapped && !whole);
      if (!whole) continue;
      allocation.file = file_;
      allocation.offset = ranges_[i].offset;
      (*moved)[indices_[i]] = {file_, ranges_[i].offset};
    }
    if (file_ != nullptr) {
      table.by_id[file_->id] = file_;
      std::erase_if(table.by_id, [](const auto& entry) { return entry.second.expired(); });
      *bytes_copied += std::min(copied_pages_ * kPage, bytes_);
    }
  }

 private:
  // The kernel stops at the first range that it refuses. Skips that and goes on with the others.
  void Append(int fd) {
    size_t at = 0;
    while (at < ranges_.size()) {
      uint32_t done = 0;
      kernelzero_counts counts{};
      int error = MoveIntoFile(fd, &ranges_[at], static_cast<uint32_t>(ranges_.size() - at), &done, &counts);
      copied_pages_ += counts.copied;
      at += done;
      if (error == 0) return;
      // No space, no memory, or no module: the other ranges would fail, too. It may be temporary.
      if (error != EINVAL && error != EFAULT && error != EAGAIN) return;
      refused_[at++] = error == EINVAL;
    }
  }

  // Seals the file and opens it read-only: before Linux 6.7 a writable descriptor of a sealed file
  // cannot be mapped. nullptr if the file is empty, or something (a device) could still write to
  // it.
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

// The bytes of an allocation that are to be moved: all or none. If it was moved earlier and is
// unchanged, `moved` says where. `files`: the earlier files that the message refers to by now.
uint64_t RoomToMove(MemoryRange range, std::set<const MovedFile*>* files, MovedTo* moved) {
  TrackedTable& table = TrackedTable::Get();
  TrackedAllocation allocation;
  {
    std::lock_guard<std::mutex> lock(table.mutex);
    allocation = table.allocations.find(range.address)->second;
    if (allocation.file == nullptr)
      return allocation.unmovable || table.remapped >= kMostRemapped ? 0 : allocation.room;
  }
  const MovedFile* file = allocation.file.get();
  if (files->size() == kMostFiles && files->count(file) == 0) return 0;
  if (WrittenSince(range.address, allocation)) return 0;
  files->insert(file);
  *moved = {std::move(allocation.file), allocation.offset};
  return 0;
}

}  // namespace

std::vector<MovedTo> Deanon::Publish(const std::vector<MemoryRange>& ranges, uint64_t* bytes_copied) {
  std::vector<MovedTo> moved(ranges.size());
  std::lock_guard<std::mutex> lock(TrackedTable::Get().moving);
  uint64_t total = 0;
  std::set<const MovedFile*> known;
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < ranges.size(); ++i) {
    uint64_t room = RoomToMove(ranges[i], &known, &moved[i]);
    if (room == 0) continue;
    candidates.push_back({i, ranges[i], room});
    total += room;
  }
  uint64_t most = std::max(kFileBytes, total / kMostFiles);
  for (auto first = candidates.begin(); first != candidates.end();) {
    auto end = first;
    for (uint64_t bytes = 0; end != candidates.end() && bytes < most; ++end) bytes += end->room;
    // Ranges go into files in the order of publication, so that a column lies in few files; within
    // one file by address, so that adjacent ranges move as one.
    std::sort(first, end,
              [](const Candidate& a, const Candidate& b) { return a.range.address < b.range.address; });
    FileBuilder file;
    for (; first != end; ++first) file.Add(*first);
    file.Move();
    file.Conclude(&moved, bytes_copied);
  }
  return moved;
}

}  // namespace zerrow
