// See mapping.h.
#include "memory/mapping.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <optional>

namespace zerrow {
namespace {

// Bits of an entry of /proc/self/pagemap.
constexpr uint64_t kPresent = 1ull << 63, kSwapped = 1ull << 62, kFileOrShared = 1ull << 61;

// Calls visit(entry) for each page until it returns false. False if the page map cannot be read to
// the end.
template <typename Visit>
bool EachPage(const uint8_t* address, uint64_t length, Visit visit) {
  int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  uint64_t entries[4096];
  uint64_t page = reinterpret_cast<uintptr_t>(address) / kPage;
  uint64_t left = RoundUp(length, kPage) / kPage;
  bool more = true;
  while (left > 0 && more) {
    size_t want = std::min<uint64_t>(left, std::size(entries)) * 8;
    ssize_t got = pread(fd, entries, want, static_cast<off_t>(page * 8));
    if (got <= 0 || got % 8 != 0) break;
    uint64_t count = static_cast<uint64_t>(got) / 8;
    for (uint64_t i = 0; i < count && more; ++i) more = visit(entries[i]);
    page += count;
    left -= count;
  }
  close(fd);
  return left == 0 || !more;
}

// PAGEMAP_SCAN of linux/fs.h, since 6.7.
struct PageRegion {
  uint64_t start, end, categories;
};
struct PageScan {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
constexpr unsigned long kPageScan = _IOWR('f', 16, PageScan);
constexpr uint64_t kIsFile = 1 << 2, kIsPresent = 1 << 3, kIsSwapped = 1 << 4;

// Whether a page of the range is anonymous, by the kernel's own search, which takes a huge page in
// one step. Empty if the kernel has no such call.
std::optional<bool> ScanForAnonymous(const uint8_t* address, uint64_t length) {
  int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  PageRegion region;
  PageScan scan{};
  scan.size = sizeof(scan);
  scan.start = reinterpret_cast<uintptr_t>(address);
  scan.end = scan.start + RoundUp(length, kPage);
  scan.vec = reinterpret_cast<uintptr_t>(&region);
  scan.vec_len = scan.max_pages = 1;
  scan.category_inverted = scan.category_mask = kIsFile;
  scan.category_anyof_mask = kIsPresent | kIsSwapped;
  scan.return_mask = kIsFile;
  int found = ioctl(fd, kPageScan, &scan);
  close(fd);
  if (found < 0) return std::nullopt;
  return found > 0;
}

// A part of what a limit allows, but not less than the smallest arena.
uint64_t Limit(__rlimit_resource resource, uint64_t part) {
  rlimit limit;
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
  return std::max<uint64_t>(limit.rlim_cur / part, kLeastArena);
}

}  // namespace

bool PrivatelyWritten(const uint8_t* address, uint64_t length) {
  // A page of a private file mapping becomes anonymous when it is written.
  if (std::optional<bool> found = ScanForAnonymous(address, length)) return *found;
  bool written = false;
  bool known = EachPage(address, length, [&](uint64_t entry) {
    written = (entry & (kPresent | kSwapped)) != 0 && (entry & kFileOrShared) == 0;
    return !written;
  });
  return written || !known;
}

void ZeroPages(uint8_t* address, uint64_t length) {
  uint64_t zeroed = 0;
  EachPage(address, length, [&](uint64_t entry) {
    if ((entry & (kPresent | kSwapped)) != 0) memset(address + zeroed, 0, kPage);
    zeroed += kPage;
    return true;
  });
  memset(address + zeroed, 0, length - zeroed);  // the rest, if the page map could not be read
}

// Readers map whole arenas, and their own once more. A forked child has its parent's as data.
std::string Mapping::Create(uint64_t capacity, HugePages huge_pages, bool sealable) {
  if (std::string obstacle = FileSizeObstacle(); !obstacle.empty()) return obstacle;
  file_ = MakeMemoryFile(huge_pages, sealable);
  if (file_.fd < 0)
    return huge_pages == HugePages::kOn ? "there are no huge pages" : Failure("a memory file", errno);
  if (file_.mapped < 0) file_.mapped = fcntl(file_.fd, F_DUPFD_CLOEXEC, 0);
  struct stat status;
  if (file_.mapped < 0 || fstat(file_.fd, &status) != 0) {
    std::string why = Failure("a second descriptor", errno);
    close(file_.fd);
    return why;
  }
  device_ = status.st_dev, inode_ = status.st_ino;
  flock(file_.mapped, LOCK_SH | LOCK_NB);
  capacity = std::min({capacity, Limit(RLIMIT_FSIZE, 1), Limit(RLIMIT_AS, 8), Limit(RLIMIT_DATA, 2)});
  capacity = capacity / kHugePage * kHugePage;
  while (capacity >= kLeastArena && !TryMap(capacity)) capacity = capacity / 2 / kHugePage * kHugePage;
  if (base_ != nullptr && FixSize(sealable)) return "";
  std::string why = Failure(base_ == nullptr ? "a mapping of 64 MiB" : "seals of a memory file", errno);
  if (base_ != nullptr) munmap(base_, capacity_);
  close(file_.fd);
  close(file_.mapped);
  return why;
}

bool Mapping::FixSize(bool sealable) {
  if (!file_.sealable) return true;
  int seals = F_SEAL_SHRINK | F_SEAL_GROW | (sealable ? 0 : F_SEAL_SEAL);
  return fcntl(file_.fd, F_ADD_SEALS, seals) == 0;
}

bool Mapping::TryMap(uint64_t capacity) {
  if (ftruncate(file_.fd, static_cast<off_t>(capacity)) != 0) return false;
  // Reserve more and cut: for huge pages, offset and address must agree modulo 2 MiB.
  void* reserved =
      mmap(nullptr, capacity + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return false;
  auto start = reinterpret_cast<uintptr_t>(reserved);
  uintptr_t aligned = RoundUp(start, kHugePage);
  auto* base = reinterpret_cast<uint8_t*>(aligned);
  if (aligned > start) munmap(reserved, aligned - start);
  munmap(base + capacity, start + kHugePage - aligned);
  base_ = base;
  capacity_ = capacity;
  if (Map({0, capacity}, MAP_SHARED)) return true;
  munmap(base, capacity);
  base_ = nullptr;
  return false;
}

bool Mapping::IsOwn() const {
  struct stat status;
  return fstat(file_.mapped, &status) == 0 && status.st_dev == device_ && status.st_ino == inode_;
}

bool Mapping::Map(Range range, int flags) {
  if (!IsOwn()) return false;
  uint8_t* address = base_ + range.offset;
  if (mmap(address, range.length, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE | MAP_FIXED, file_.mapped,
           static_cast<off_t>(range.offset)) == MAP_FAILED) {
    return false;
  }
  if (flags == MAP_SHARED) {
    HideFromCores(range);
    PreferHugePages(range);
  }
  return true;
}

// A core would have all of it, and the kernel give a page to each hole. What is private to the
// process is live data, and as much as a core has without arenas.
void Mapping::HideFromCores(Range range) { madvise(base_ + range.offset, range.length, MADV_DONTDUMP); }

void Mapping::PreferHugePages(Range range) {
  if (page() == kHugePage) madvise(base_ + range.offset, range.length, MADV_HUGEPAGE);
}

bool Mapping::Privatise(Range range) { return Map(range, MAP_PRIVATE); }

bool Mapping::Share(Range range) { return Map(range, MAP_SHARED); }

bool Mapping::Punch(Range range) {
  return IsOwn() && fallocate(file_.mapped, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              static_cast<off_t>(range.offset), static_cast<off_t>(range.length)) == 0;
}

uint64_t Mapping::Resident() const {
  struct stat status;
  return fstat(file_.mapped, &status) == 0 ? static_cast<uint64_t>(status.st_blocks) * 512 : 0;
}

bool Mapping::Written(Range range) const { return PrivatelyWritten(base_ + range.offset, range.length); }

bool Mapping::Detach(const std::vector<Range>& shared) {
  bool writable = true;
  for (Range range : shared) {
    if (Privatise(range)) {
      HideFromCores(range);
      continue;
    }
    writable = false;
    // Refused (strict overcommit). At least no write may reach the parent.
    if (mprotect(base_ + range.offset, range.length, PROT_READ) != 0) abort();
  }
  return writable;
}

void Mapping::Forget(Range range) { madvise(base_ + range.offset, range.length, MADV_DONTNEED); }

}  // namespace zerrow
