// Encoding of Arrow data as SIPC messages, and decoding.
//
// The encoder copies no buffer that lies in this process's arena or in a mapped segment. A message
// has the arrays in the shape of Arrow's C data interface, offsets included, so a slice of any type
// refers to its parent's bytes. On request, memory is moved into files where KernelZero can.
// Nothing here needs the GIL.
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

#include "deanon/deanon.h"
#include "memory/segments.h"
#include "sipc/format.h"

namespace zerrow {

// Bytes that have to be copied do not fit into the arena.
class ArenaFull : public std::bad_alloc {
 public:
  explicit ArenaFull(uint64_t size);
  explicit ArenaFull(std::string why) : message_(std::move(why)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

using Decoded = std::variant<std::shared_ptr<arrow::Table>, std::shared_ptr<arrow::RecordBatch>,
                             std::shared_ptr<arrow::ChunkedArray>, std::shared_ptr<arrow::Array>,
                             std::pair<std::string, std::vector<std::shared_ptr<arrow::Buffer>>>>;

using OffsetSize = std::pair<uint64_t, uint64_t>;  // offset and size of an allocation

// An encoded message. `own` is pinned; the caller unpins it. Until the message is published,
// `views` keep the foreign allocations from being recycled, and `files` keep the moved ones, which
// are `foreign` too: in segments that the store may not have yet.
struct Encoded {
  std::string message;
  std::vector<OffsetSize> own;
  std::map<SegmentId, std::vector<OffsetSize>> foreign;
  std::vector<std::shared_ptr<MessageView>> views;
  std::vector<std::shared_ptr<MovedFile>> files;
  uint64_t bytes_shared = 0;    // of this arena's allocations, each counted once and whole
  uint64_t bytes_reshared = 0;  // of allocations published earlier, likewise
  uint64_t bytes_copied = 0;    // into the arena, or into the message
};

// move: move memory into files where that is possible; for publications. Throw ArenaFull, and
// std::invalid_argument if the data cannot be encoded.
Encoded EncodeTable(const arrow::Table& table, bool move);
Encoded EncodeRecordBatch(const arrow::RecordBatch& batch, bool move);
Encoded EncodeChunkedArray(const arrow::ChunkedArray& array, bool move);
Encoded EncodeArray(const arrow::Array& array, bool move);
Encoded EncodeBuffers(std::string_view header, const std::vector<std::shared_ptr<arrow::Buffer>>& buffers,
                      bool move);

// The places of a message's allocations on this machine, in place of the message's own.
using Relocated = std::vector<std::pair<SegmentId, uint64_t>>;

// Takes over the reference to `owner`, even if it throws SipcError.
Decoded Decode(std::string_view message, _object* owner, const Relocated* relocated);

}  // namespace zerrow
