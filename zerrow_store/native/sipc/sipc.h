// Arrow data as a SIPC message, and back.
//
// Encoding copies no buffer that lies in this process's arena or in a mapped segment; the
// arrays go into the message in the shape of Arrow's C data interface, offsets included, so
// a slice of any type refers to its parent's bytes as they are. Memory that KernelZero can move into a
// file is moved, if asked for. Nothing here needs the GIL.
#pragma once
#include <arrow/type_fwd.h>

#include <map>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "deanon/movable.h"
#include "memory/segments.h"
#include "sipc/format.h"

namespace zerrow {

// Bytes have to be copied into the arena, and do not fit.
class ArenaFull : public std::bad_alloc {
 public:
  explicit ArenaFull(uint64_t size);
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

using Decoded = std::variant<std::shared_ptr<arrow::Table>, std::shared_ptr<arrow::RecordBatch>,
                             std::shared_ptr<arrow::ChunkedArray>, std::shared_ptr<arrow::Array>,
                             std::pair<std::string, std::vector<std::shared_ptr<arrow::Buffer>>>>;

using OffsetSize = std::pair<uint64_t, uint64_t>;  // offset and size of an allocation

// An encoded message. `own` is pinned; whoever takes this unpins it. `holds` keep the
// foreign allocations from being recycled until the message is published, `files` those that were
// moved: they are `foreign` too, in segments that the store may not have yet.
struct Encoded {
  std::string message;
  std::vector<OffsetSize> own;
  std::map<SegmentId, std::vector<OffsetSize>> foreign;
  std::vector<std::shared_ptr<Hold>> holds;
  std::vector<std::shared_ptr<MovedFile>> files;
  uint64_t bytes_shared = 0;    // of this arena's allocations, each whole and once
  uint64_t bytes_reshared = 0;  // of allocations that were published before, likewise
  uint64_t bytes_copied = 0;    // into the arena, or into the message
};

// move: for a publication. Throw ArenaFull, std::invalid_argument (the data cannot be encoded).
Encoded EncodeTable(const arrow::Table& table, bool move);
Encoded EncodeRecordBatch(const arrow::RecordBatch& batch, bool move);
Encoded EncodeChunkedArray(const arrow::ChunkedArray& array, bool move);
Encoded EncodeArray(const arrow::Array& array, bool move);
Encoded EncodeBuffers(std::string_view header, const std::vector<std::shared_ptr<arrow::Buffer>>& buffers,
                      bool move);

// An allocation's place on this machine, instead of the one a message gives.
using Relocated = std::vector<std::pair<SegmentId, uint64_t>>;

// Takes over the reference to `owner`, also when it throws SipcError.
Decoded Decode(std::string_view message, _object* owner, const Relocated* relocated);

}  // namespace zerrow
