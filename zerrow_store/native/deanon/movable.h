// Memory that KernelZero may move: what allocators outside the arena gave, and whose freeing we see.
//
// An allocation becomes known when it is made (`Add`) and is forgotten before it is freed
// (`Remove`). At publication its whole pages are moved into a sealed memfd, and its range
// is from then on a private mapping of that: it reads the same, later writes are the owner's own.
// An allocator takes memory that it recycles for anonymous: so `Remove` puts fresh anonymous
// memory over the range first.
//
// An allocation may have more room than its owner asked for. The rest is its own, so it moves along, but
// it holds whatever was there before: it is zeroed first, as nobody else's byte may become readable.
//
// One file takes several allocations, as descriptors are few, but not many bytes: a file's memory is
// freed as a whole, when its last allocation is. A file lives, here, as long as one of its
// allocations or a message that refers to it.
//
// All functions are safe from any thread. Locks: `moving` (publications, one after the other, also
// while the kernel moves), then `books` (the table of allocations; short). Both are held across fork;
// a child has the same memory, and so the same books.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "sipc/format.h"

namespace zerrow {

// Below this, copying is not dearer: see kmod/README.md, and each range is a mapping of its own.
inline constexpr uint64_t kLeastMovable = 64u << 10;

// A sealed memfd of moved memory, open read-only.
struct MovedFile {
  MovedFile(const SegmentId& id, int fd, uint64_t size);
  ~MovedFile();
  MovedFile(const MovedFile&) = delete;
  MovedFile& operator=(const MovedFile&) = delete;

  const SegmentId id;
  const int fd;
  const uint64_t size;
};

struct MovableRange {
  uint8_t* address;
  uint64_t size;
};

// An allocation as the books have it.
struct MovableInfo {
  uint64_t size;
  uint64_t room;
  bool replaced;  // part of it is a file's mapping: it cannot be resized in place
};

// Where an allocation went; without a file it has to be copied.
struct Moved {
  std::shared_ptr<MovedFile> file;
  uint64_t offset = 0;
};

struct MovableStats {
  uint64_t known;         // bytes of allocations that are known
  uint64_t moved;         // of these, bytes that lie in files
  uint64_t files;         // open here
  uint64_t not_returned;  // bytes whose range could not be made anonymous again: kept from their allocator
};

class Movable {
 public:
  // Whether what is allocated from now on becomes known.
  static void Switch(bool on);
  static bool on();

  // Whether an allocation of this size is to become known.
  static bool Wants(uint64_t size) { return on() && size >= kLeastMovable; }
  // room: what its allocator gave, of which its owner has asked for the first `size` bytes.
  static void Add(uint8_t* address, uint64_t size, uint64_t room);
  // To be called before memory is freed, known or not. False: it must not be freed.
  static bool Remove(uint8_t* address);
  // The allocation that covers [data, data + size).
  static std::optional<MovableRange> Find(const uint8_t* data, uint64_t size);
  // The allocation that starts at `address`.
  static std::optional<MovableInfo> At(uint8_t* address);

  // Moves allocations, which `Find` gave and nobody frees meanwhile, unless they are moved already.
  // Adds what had to be copied on the way (edges, pages that others hold) to `bytes_copied`.
  static std::vector<Moved> Publish(const std::vector<MovableRange>& ranges, uint64_t* bytes_copied);

  // nullptr if there is no such file (any more).
  static std::shared_ptr<MovedFile> File(const SegmentId& id);
  static MovableStats Stats();
};

}  // namespace zerrow
