// The allocation table of a message that is being encoded.
//
// It finds where a buffer lies: in this process's arena (the allocation is pinned, once per
// message), in a mapped segment (its view is kept), in memory that KernelZero can move into a file
// (`Move` does so for the whole message), or elsewhere (its bytes are copied). Until `Release` the
// table owns the pins, and its destructor unpins.
#pragma once
#include <cstdint>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "deanon/deanon.h"
#include "memory/arena.h"
#include "sipc/sipc.h"

namespace zerrow {

// A buffer's place as the stream gives it: an index into the table, or kInline.
struct Place {
  int64_t tag;
  int64_t offset;
};

// Has one method per kind of place, and accessors for the encoder.
class AllocationTable {
 public:
  // move: move memory into files, where KernelZero can, instead of copying it.
  explicit AllocationTable(bool move) : arena_(Arena::Get()), move_(move) {}
  ~AllocationTable();
  AllocationTable(const AllocationTable&) = delete;
  AllocationTable& operator=(const AllocationTable&) = delete;

  // The buffer must not be empty and must outlive this table. Throws ArenaFull.
  Place Add(const arrow::Buffer& buffer);

  // Whether the buffer would be copied. Cheap; may be wrong about a buffer that went through
  // another library.
  bool IsOutside(const arrow::Buffer& buffer) const;

  // While set, memory of the arena counts as copied: it was allocated for this message.
  void set_compacting(bool compacting) { compacting_ = compacting; }

  // Moves the memory that is to be moved, which completes the table. Throws ArenaFull.
  void Move();

  const std::vector<SegmentId>& segments() const { return segments_; }
  const std::vector<AllocationRef>& allocations() const { return allocations_; }
  const std::string& inlined() const { return inlined_; }

  // Transfers pins, views and counts.
  void Release(Encoded* encoded);

 private:
  struct PairHash {
    size_t operator()(const std::pair<uint64_t, uint64_t>& key) const {
      return (key.first * 0x9E3779B97F4A7C15u) ^ (key.second * 0xC2B2AE3D27D4EB4Fu);
    }
  };
  template <typename Value>
  using PairMap = std::unordered_map<std::pair<uint64_t, uint64_t>, Value, PairHash>;

  // Whether the program may write to a buffer's memory in the arena later.
  static bool MayChange(const arrow::Buffer& buffer, const Allocation& allocation);
  bool AddOwn(const arrow::Buffer& buffer, Place* place);
  bool AddMapped(const arrow::Buffer& buffer, Place* place);
  bool AddTracked(const arrow::Buffer& buffer, Place* place);
  Place AddCopy(const arrow::Buffer& buffer);
  Place AddInline(const arrow::Buffer& buffer);
  // Copies into the arena and pins the copy. Returns its offset.
  uint64_t Copy(const uint8_t* data, uint64_t size);
  // Index of an allocation in the table; -1 if it is not there.
  int64_t Lookup(uint64_t segment, uint64_t offset) const;
  int64_t Append(uint64_t segment, uint64_t offset, uint64_t size);
  uint64_t Segment(const SegmentId& id);
  uint64_t OwnSegment();

  Arena* const arena_;
  const bool move_;
  bool compacting_ = false;
  std::vector<SegmentId> segments_;
  std::vector<AllocationRef> allocations_;
  PairMap<int64_t> indices_;  // by segment and offset
  std::string inlined_;

  std::vector<OffsetSize> own_;
  Allocation last_own_{0, 0, Origin::kArrow};
  int64_t last_own_index_ = -1;
  std::unordered_set<uint64_t> written_;  // offsets of NumPy allocations that cannot be pinned
  PairMap<int64_t> copies_;               // by address and size

  // Memory to be moved. Move() fills in its entries of the table.
  std::vector<MemoryRange> tracked_;
  std::vector<int64_t> tracked_index_;
  std::vector<bool> tracked_is_copy_;  // allocated for this message
  std::unordered_map<const uint8_t*, int64_t> tracked_index_of_;
  std::vector<std::shared_ptr<MovedFile>> files_;

  std::unordered_map<const MessageView*, std::vector<int64_t>> views_;  // table index by viewed allocation
  std::vector<std::shared_ptr<MessageView>> kept_;
  std::vector<std::pair<uint64_t, OffsetSize>> foreign_;  // with the segment's index
  uint64_t bytes_shared_ = 0;
  uint64_t bytes_reshared_ = 0;
  uint64_t bytes_copied_ = 0;
};

}  // namespace zerrow
