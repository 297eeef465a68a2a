// See deanon.h. This file tracks allocations; publish.cc moves them.
#include "deanon/deanon.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>

#include "deanon/tracked_table.h"
#include "memory/extents.h"

namespace zerrow {

MovedFile::MovedFile(const SegmentId& id, int fd, uint64_t size) : id(id), fd(fd), size(size) {
  ++TrackedTable::Get().files;
}

MovedFile::~MovedFile() {
  close(fd);
  --TrackedTable::Get().files;
}

TrackedTable& TrackedTable::Get() {
  // Never destroyed: memory may be freed after static destructors have run.
  static TrackedTable* table = [] {
    auto* made = new TrackedTable;
    pthread_atfork([] { Get().moving.lock(), Get().mutex.lock(); },
                   [] { Get().mutex.unlock(), Get().moving.unlock(); },
                   [] { Get().mutex.unlock(), Get().moving.unlock(); });
    return made;
  }();
  return *table;
}

MemoryRange WholePages(MemoryRange range) {
  auto start = RoundUp(reinterpret_cast<uintptr_t>(range.address), kPage);
  auto end = (reinterpret_cast<uintptr_t>(range.address) + range.size) / kPage * kPage;
  return {reinterpret_cast<uint8_t*>(start), end > start ? end - start : 0};
}

void Deanon::Switch(bool on) { TrackedTable::Get().on = on; }

bool Deanon::Tracks(uint64_t size) { return TrackedTable::Get().on && size >= kMinTracked; }

void Deanon::Track(uint8_t* address, uint64_t size, uint64_t room) {
  TrackedTable& table = TrackedTable::Get();
  TrackedAllocation added;
  added.size = size;
  added.room = room;
  std::lock_guard<std::mutex> lock(table.mutex);
  table.allocations.insert_or_assign(address, std::move(added));
  table.tracked = table.allocations.size();
}

bool Deanon::Untrack(uint8_t* address) {
  TrackedTable& table = TrackedTable::Get();
  if (table.tracked == 0) return true;
  TrackedAllocation removed;
  {
    std::lock_guard<std::mutex> lock(table.mutex);
    auto found = table.allocations.find(address);
    if (found == table.allocations.end()) return true;
    removed = std::move(found->second);
    table.allocations.erase(found);
    table.tracked = table.allocations.size();
    if (removed.remapped) --table.remapped;
  }
  if (!removed.remapped) return true;
  MemoryRange pages = WholePages({address, removed.room});
  void* fresh =
      mmap(pages.address, pages.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (fresh != MAP_FAILED) return true;
  // Out of mappings, or of memory to commit. Leaked, the range does no harm. Freed, its allocator
  // would sooner or later hand it out as zeros.
  if (table.not_returned == 0) perror("zerrow: memory that was moved into a file cannot be freed");
  table.not_returned += removed.room;
  return false;
}

std::optional<MemoryRange> Deanon::Find(const uint8_t* data, uint64_t size) {
  TrackedTable& table = TrackedTable::Get();
  if (table.tracked == 0) return std::nullopt;
  std::lock_guard<std::mutex> lock(table.mutex);
  auto after = table.allocations.upper_bound(const_cast<uint8_t*>(data));
  if (after == table.allocations.begin()) return std::nullopt;
  const auto& [address, allocation] = *std::prev(after);
  auto offset = static_cast<uint64_t>(data - address);
  if (offset > allocation.size || size > allocation.size - offset) return std::nullopt;
  return MemoryRange{address, allocation.size};
}

std::optional<TrackedInfo> Deanon::At(uint8_t* address) {
  TrackedTable& table = TrackedTable::Get();
  if (table.tracked == 0) return std::nullopt;
  std::lock_guard<std::mutex> lock(table.mutex);
  auto found = table.allocations.find(address);
  if (found == table.allocations.end()) return std::nullopt;
  const TrackedAllocation& allocation = found->second;
  return TrackedInfo{allocation.size, allocation.room, allocation.remapped};
}

std::shared_ptr<MovedFile> Deanon::File(const SegmentId& id) {
  TrackedTable& table = TrackedTable::Get();
  if (table.files == 0) return nullptr;
  std::lock_guard<std::mutex> lock(table.mutex);
  auto found = table.by_id.find(id);
  return found == table.by_id.end() ? nullptr : found->second.lock();
}

DeanonStats Deanon::Stats() {
  TrackedTable& table = TrackedTable::Get();
  DeanonStats stats{0, 0, table.files, table.not_returned};
  std::lock_guard<std::mutex> lock(table.mutex);
  for (const auto& [address, allocation] : table.allocations) {
    stats.tracked += allocation.size;
    if (allocation.file != nullptr) stats.moved += allocation.size;
  }
  return stats;
}

}  // namespace zerrow
