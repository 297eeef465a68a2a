// The envelope of a SIPC message, as docs/sipc.md defines it.
//
// A reader parses the envelope before anything else. `Envelope` points into the message's bytes,
// which must outlive it; all sections lie inside them.
#pragma once
#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace zerrow {

// A message that is malformed, of another version, or refers outside its segments.
struct SipcError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr char kMagic[4] = {'S', 'I', 'P', 'C'};
constexpr uint16_t kVersion = 1;

enum class Kind : uint16_t { kTable = 1, kRecordBatch = 2, kChunkedArray = 3, kArray = 4, kBuffers = 5 };

// All numbers of a message are little endian.
struct Header {
  char magic[4];
  uint16_t version;
  uint16_t kind;
  uint64_t checksum;  // XXH64 of the bytes after this field, seeded with the eight bytes before it
  uint64_t segments;
  uint64_t allocations;
  uint64_t schema_bytes;
  uint64_t inline_bytes;
  uint64_t words;  // of the stream, eight bytes each
};
static_assert(sizeof(Header) == 56);

using SegmentId = std::array<char, 16>;

struct AllocationRef {
  uint64_t segment;  // index into the segment table
  uint64_t offset;
  uint64_t size;
};
static_assert(sizeof(AllocationRef) == 24);

// How the stream gives a buffer. A tag that is not negative is an index into the allocation table;
// the offset in the allocation and the length follow.
enum BufferTag : int64_t {
  kNull = -1,
  kEmpty = -2,
  kInline = -3,  // the offset in the inline section and the length follow
};
// The dictionary follows. Else the number is the index of a dictionary that did.
constexpr int64_t kNewDictionary = -1;

constexpr uint64_t kSectionAlignment = 8;
// Buffers up to this size that lie in no segment go into the message itself.
constexpr uint64_t kInlineLimit = 256;
constexpr int kMaxDepth = 64;

inline uint64_t Padded(uint64_t size) { return (size + kSectionAlignment - 1) & ~(kSectionAlignment - 1); }

struct Envelope {
  Kind kind;
  std::vector<SegmentId> segments;
  std::vector<AllocationRef> allocations;  // segment indices are valid
  std::string_view schema;
  std::string_view inlined;
  std::string_view stream;
};

// Checks magic, version, kind, checksum, section lengths and segment indices.
Envelope ParseEnvelope(std::string_view message);

uint64_t Checksum(std::string_view message);

std::string Hex(const SegmentId& id);

// Throws SipcError unless it has the length of a segment id.
SegmentId ToSegmentId(std::string_view bytes);

}  // namespace zerrow
