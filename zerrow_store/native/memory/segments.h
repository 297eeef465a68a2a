// The registry of mapped segments, and the views of decoded messages on them.
//
// Decoded data lies in segments, which are files mapped read-only. Each decoded message has one
// `MessageView`, which all its buffers share. It keeps the mappings alive, and the message's owner:
// a Python object that stands for the store's promise not to recycle the memory. The encoder traces
// a buffer back to its view: through its parents, or by its address if it went through numpy,
// polars or another library. The index by address is built at the first search, so a view that dies
// before that costs one list insertion.
//
// Locking: one mutex guards the registry, the list of views and the index. The thread that has it
// never takes the GIL and never destroys a view.
#pragma once
#include <arrow/buffer.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sipc/format.h"

struct _object;  // PyObject, without Python's header

namespace zerrow {

// A file mapped read-only; unmapped with its last reference. on_disk: its pages belong to the page
// cache, which a cgroup is charged for. A view releases them when it goes, so that the store can
// drop them.
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

// An allocation in a mapped segment; its range is inside the mapping.
struct MappedAllocation {
  std::shared_ptr<SegmentView> mapping;
  uint64_t offset;
  uint64_t size;

  const uint8_t* data() const { return mapping->base + offset; }
};

// Checks the range; throws SipcError.
MappedAllocation Within(std::shared_ptr<SegmentView> mapping, uint64_t offset, uint64_t size);

class MessageView;

// Viewed allocations by the address of their first byte.
struct IndexEntry {
  MessageView* view;
  uint32_t allocation;
};
using ViewIndex = std::multimap<const uint8_t*, IndexEntry>;

// What one decoded message refers to, and its owner.
class MessageView : public std::enable_shared_from_this<MessageView> {
 public:
  // Steals a reference to `owner`.
  static std::shared_ptr<MessageView> Make(_object* owner, std::vector<MappedAllocation> allocations);
  // Releases the owner under the GIL, or leaks it when the interpreter is finalizing.
  ~MessageView();
  MessageView(const MessageView&) = delete;
  MessageView& operator=(const MessageView&) = delete;

  const std::vector<MappedAllocation>& allocations() const { return allocations_; }

 private:
  friend class Segments;
  MessageView(_object* owner, std::vector<MappedAllocation> allocations)
      : owner_(owner), allocations_(std::move(allocations)) {}

  _object* owner_;
  std::vector<MappedAllocation> allocations_;
  // Guarded by the registry's mutex: the list of views that are not indexed yet, or the index.
  MessageView* previous_ = nullptr;
  MessageView* next_ = nullptr;
  bool indexed_ = false;
  std::vector<ViewIndex::iterator> entries_;
};

// A buffer of decoded data.
class RefBuffer final : public arrow::Buffer {
 public:
  RefBuffer(const uint8_t* data, int64_t size, std::shared_ptr<MessageView> view, uint32_t allocation)
      : Buffer(data, size), view_(std::move(view)), allocation_(allocation) {}

  const std::shared_ptr<MessageView>& view() const { return view_; }
  uint32_t allocation() const { return allocation_; }

 private:
  std::shared_ptr<MessageView> view_;
  uint32_t allocation_;
};

// Where a buffer's bytes lie: allocation number `allocation` of a view.
struct BufferOrigin {
  std::shared_ptr<MessageView> view;
  uint32_t allocation;
};

// The process's registry of mapped segments; all members are static and safe from any thread.
class Segments {
 public:
  // Idempotent. Throws SipcError for a file that is shorter than `size`, or that a reader could
  // truncate.
  static void Map(const SegmentId& id, int fd, uint64_t size, bool sealed);
  // False if a view refers to it, or it is not mapped.
  static bool Unmap(const SegmentId& id);
  static std::vector<SegmentId> Mapped();
  // Maps this process's own arena and moved files at their first use. nullptr for a segment that is
  // not mapped.
  static std::shared_ptr<SegmentView> Get(const SegmentId& id);
  // Throws SipcError if the segment is not mapped, or the range lies outside of it.
  static MappedAllocation Resolve(const SegmentId& id, uint64_t offset, uint64_t size);

  // The viewed allocation that covers [data, data + size), if there is one.
  static std::optional<BufferOrigin> Find(const arrow::Buffer& buffer);
  static std::optional<BufferOrigin> Find(const uint8_t* data, uint64_t size);

 private:
  friend class MessageView;
  static void Add(MessageView* view);
  static void Remove(MessageView* view);
  static void IndexAll();
};

}  // namespace zerrow
