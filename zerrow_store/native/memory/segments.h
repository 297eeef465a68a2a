// Segments: files of Arrow buffers, mapped read-only, and who still reads them.
//
// Data that was decoded lies in mapped segments. Each decoded message has one `Hold`, shared
// by all its buffers; it keeps the message's owner (a Python object, which stands for the
// store's promise not to recycle the memory) and the segments' mappings alive. When encoding, a buffer is
// traced back to its hold: through its parents, or by its address when it went through
// numpy, polars or another library on the way. The index by address is built
// only when it is asked for: a hold that dies before costs a list insertion.
//
// Locking: one mutex guards the registry of segments, the list of holds and the index. The
// GIL is never asked for, and no hold destroyed, while it is held.
#pragma once
#include <arrow/buffer.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sipc/format.h"

struct _object;  // PyObject: this header does without Python's

namespace zerrow {

// A file mapped read-only; unmapped with its last reference. on_disk: its pages are the page cache's,
// which a cgroup is charged for; what is not read any more is let go of, for the store to drop.
struct SegmentView {
  SegmentView(const SegmentId& id, const uint8_t* base, uint64_t size, bool on_disk)
      : id(id), base(base), size(size), on_disk(on_disk) {}
  ~SegmentView();
  SegmentView(const SegmentView&) = delete;
  SegmentView& operator=(const SegmentView&) = delete;

  const SegmentId id;
  const uint8_t* const base;
  const uint64_t size;
  const bool on_disk;
};

// An allocation of a mapped segment; its range is inside the mapping.
struct HeldAllocation {
  std::shared_ptr<SegmentView> mapping;
  uint64_t offset;
  uint64_t size;

  const uint8_t* data() const { return mapping->base + offset; }
};

// Checks the range; throws SipcError.
HeldAllocation Within(std::shared_ptr<SegmentView> mapping, uint64_t offset, uint64_t size);

class Hold;

// Held allocations by the address of their first byte.
struct IndexEntry {
  Hold* hold;
  uint32_t allocation;
};
using HoldIndex = std::multimap<const uint8_t*, IndexEntry>;

class Hold : public std::enable_shared_from_this<Hold> {
 public:
  // Steals a reference to `owner`.
  static std::shared_ptr<Hold> Make(_object* owner, std::vector<HeldAllocation> allocations);
  // Releases the owner under the GIL, or leaks it when the interpreter is going away.
  ~Hold();
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

  const std::vector<HeldAllocation>& allocations() const { return allocations_; }

 private:
  friend class Segments;
  Hold(_object* owner, std::vector<HeldAllocation> allocations)
      : owner_(owner), allocations_(std::move(allocations)) {}

  _object* owner_;
  std::vector<HeldAllocation> allocations_;
  // Guarded by the registry's mutex: the list of holds that are not indexed yet, or the index.
  Hold* previous_ = nullptr;
  Hold* next_ = nullptr;
  bool indexed_ = false;
  std::vector<HoldIndex::iterator> entries_;
};

// A buffer of decoded data.
class RefBuffer final : public arrow::Buffer {
 public:
  RefBuffer(const uint8_t* data, int64_t size, std::shared_ptr<Hold> hold, uint32_t allocation)
      : Buffer(data, size), hold_(std::move(hold)), allocation_(allocation) {}

  const std::shared_ptr<Hold>& hold() const { return hold_; }
  uint32_t allocation() const { return allocation_; }

 private:
  std::shared_ptr<Hold> hold_;
  uint32_t allocation_;
};

// Where a buffer's bytes lie: in allocation number `allocation` of a hold.
struct Held {
  std::shared_ptr<Hold> hold;
  uint32_t allocation;
};

// The process's registry of mapped segments; all members are static and safe from any thread.
class Segments {
 public:
  // Idempotent. Throws SipcError for a file that is shorter than `size` or that its readers could truncate.
  static void Map(const SegmentId& id, int fd, uint64_t size, bool sealed);
  // False if there are holds on it, or it is not mapped.
  static bool Unmap(const SegmentId& id);
  static std::vector<SegmentId> Mapped();
  // Maps this process's own arena and moved files at their first use. nullptr for a segment that is not
  // mapped.
  static std::shared_ptr<SegmentView> Get(const SegmentId& id);
  // Checks the range and that the segment is mapped; throws SipcError.
  static HeldAllocation Resolve(const SegmentId& id, uint64_t offset, uint64_t size);

  // The allocation that covers [data, data + size), if a hold has one.
  static std::optional<Held> Find(const arrow::Buffer& buffer);
  static std::optional<Held> Find(const uint8_t* data, uint64_t size);

 private:
  friend class Hold;
  static void Add(Hold* hold);
  static void Remove(Hold* hold);
  static void IndexAll();
};

}  // namespace zerrow
