// De-anonymization: allocations from outside the arena, which KernelZero can move into files.
//
// An allocation is tracked from when it is made (`Track`) until just before it is freed
// (`Untrack`). A publication moves its whole pages into a sealed memfd. From then on its range is a
// private mapping of that file: it reads the same, and later writes stay the owner's own. An
// allocator takes the memory that it recycles for anonymous, so `Untrack` first maps fresh
// anonymous memory over the range.
//
// An allocation may have more room than its owner asked for. The rest moves along, but may hold
// freed data of others, which must not become readable, so it is zeroed first.
//
// Descriptors are few, so a file takes several allocations; but not many bytes, as a file's memory
// is freed as a whole, with its last allocation. This process keeps a file as long as one of its
// allocations, or a message that refers to it, lives.
//
// All functions are thread-safe. Locks: `moving` (one publication at a time, also while the kernel
// moves), then `mutex` (the table of tracked allocations; for a short time). Both are taken across
// fork; a child has the same memory, and so the same table.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "sipc/format.h"

namespace zerrow {

// Below this size copying costs no more (docs/kernelzero-notes.md); each range takes a mapping.
inline constexpr uint64_t kMinTracked = 64u << 10;

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

struct MemoryRange {
  uint8_t* address;
  uint64_t size;
};

// A tracked allocation.
struct TrackedInfo {
  uint64_t size;
  uint64_t room;
  bool remapped;  // part of it maps a file: it cannot be resized in place
};

// Where an allocation was moved. Without a file, it has to be copied.
struct MovedTo {
  std::shared_ptr<MovedFile> file;
  uint64_t offset = 0;
};

struct DeanonStats {
  uint64_t tracked;       // bytes of tracked allocations
  uint64_t moved;         // of these, bytes in files
  uint64_t files;         // open in this process
  uint64_t not_returned;  // bytes that could not be made anonymous again, and are never freed
};

class Deanon {
 public:
  // Sets whether later allocations are tracked.
  static void Switch(bool on);

  // Whether an allocation of this size is to be tracked.
  static bool Tracks(uint64_t size);
  // room: the allocator's block, of which the owner asked for the first `size` bytes.
  static void Track(uint8_t* address, uint64_t size, uint64_t room);
  // To be called before any memory is freed, tracked or not. False: it must not be freed.
  static bool Untrack(uint8_t* address);
  // The allocation that covers [data, data + size).
  static std::optional<MemoryRange> Find(const uint8_t* data, uint64_t size);
  // The allocation that starts at `address`.
  static std::optional<TrackedInfo> At(uint8_t* address);

  // Moves allocations that `Find` returned, unless they are moved already. They must not be freed
  // meanwhile. Adds the bytes that the kernel had to copy (edges, pages that others hold) to
  // `bytes_copied`.
  static std::vector<MovedTo> Publish(const std::vector<MemoryRange>& ranges, uint64_t* bytes_copied);

  // nullptr if there is no such file.
  static std::shared_ptr<MovedFile> File(const SegmentId& id);
  static DeanonStats Stats();
};

}  // namespace zerrow
