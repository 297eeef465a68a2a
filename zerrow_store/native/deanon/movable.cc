// See movable.h. Here: the books, and giving memory back; movable_publish.cc has the moving.
#include "deanon/movable.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>

#include "deanon/movable_books.h"
#include "memory/extents.h"

namespace zerrow {

MovedFile::MovedFile(const SegmentId& id, int fd, uint64_t size) : id(id), fd(fd), size(size) {
  ++MovableBooks::Get().files;
}

MovedFile::~MovedFile() {
  close(fd);
  --MovableBooks::Get().files;
}

MovableBooks& MovableBooks::Get() {
  // Never destroyed: buffers may be freed after static destructors have run.
  static MovableBooks* books = [] {
    auto* made = new MovableBooks;
    pthread_atfork([] { Get().moving.lock(), Get().mutex.lock(); },
                   [] { Get().mutex.unlock(), Get().moving.unlock(); },
                   [] { Get().mutex.unlock(), Get().moving.unlock(); });
    return made;
  }();
  return *books;
}

MovableRange WholePages(MovableRange range) {
  auto start = RoundUp(reinterpret_cast<uintptr_t>(range.address), kPage);
  auto end = (reinterpret_cast<uintptr_t>(range.address) + range.size) / kPage * kPage;
  return {reinterpret_cast<uint8_t*>(start), end > start ? end - start : 0};
}

void Movable::Switch(bool on) { MovableBooks::Get().on = on; }

bool Movable::on() { return MovableBooks::Get().on; }

void Movable::Add(uint8_t* address, uint64_t size, uint64_t room) {
  MovableBooks& books = MovableBooks::Get();
  MovableAllocation added;
  added.size = size;
  added.room = room;
  std::lock_guard<std::mutex> lock(books.mutex);
  books.allocations.insert_or_assign(address, std::move(added));
  books.known = books.allocations.size();
}

bool Movable::Remove(uint8_t* address) {
  MovableBooks& books = MovableBooks::Get();
  if (books.known == 0) return true;
  MovableAllocation removed;
  {
    std::lock_guard<std::mutex> lock(books.mutex);
    auto found = books.allocations.find(address);
    if (found == books.allocations.end()) return true;
    removed = std::move(found->second);
    books.allocations.erase(found);
    books.known = books.allocations.size();
    if (removed.replaced) --books.replaced;
  }
  if (!removed.replaced) return true;
  MovableRange pages = WholePages({address, removed.room});
  void* fresh =
      mmap(pages.address, pages.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (fresh != MAP_FAILED) return true;
  // Out of mappings, or of memory to promise. Kept, it does no harm; freed, it would sooner or later be
  // handed out as zeros that are none.
  if (books.not_returned == 0) perror("zerrow: memory that was moved into a file cannot be freed");
  books.not_returned += removed.room;
  return false;
}

std::optional<MovableRange> Movable::Find(const uint8_t* data, uint64_t size) {
  MovableBooks& books = MovableBooks::Get();
  if (books.known == 0) return std::nullopt;
  std::lock_guard<std::mutex> lock(books.mutex);
  auto after = books.allocations.upper_bound(const_cast<uint8_t*>(data));
  if (after == books.allocations.begin()) return std::nullopt;
  const auto& [address, allocation] = *std::prev(after);
  auto offset = static_cast<uint64_t>(data - address);
  if (offset > allocation.size || size > allocation.size - offset) return std::nullopt;
  return MovableRange{address, allocation.size};
}

std::optional<MovableInfo> Movable::At(uint8_t* address) {
  MovableBooks& books = MovableBooks::Get();
  if (books.known == 0) return std::nullopt;
  std::lock_guard<std::mutex> lock(books.mutex);
  auto found = books.allocations.find(address);
  if (found == books.allocations.end()) return std::nullopt;
  const MovableAllocation& allocation = found->second;
  return MovableInfo{allocation.size, allocation.room, allocation.replaced};
}

std::shared_ptr<MovedFile> Movable::File(const SegmentId& id) {
  MovableBooks& books = MovableBooks::Get();
  if (books.files == 0) return nullptr;
  std::lock_guard<std::mutex> lock(books.mutex);
  auto found = books.by_id.find(id);
  return found == books.by_id.end() ? nullptr : found->second.lock();
}

MovableStats Movable::Stats() {
  MovableBooks& books = MovableBooks::Get();
  MovableStats stats{0, 0, books.files, books.not_returned};
  std::lock_guard<std::mutex> lock(books.mutex);
  for (const auto& [address, allocation] : books.allocations) {
    stats.known += allocation.size;
    if (allocation.file != nullptr) stats.moved += allocation.size;
  }
  return stats;
}

}  // namespace zerrow
