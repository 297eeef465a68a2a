// Parsing of a message's envelope. The message may be hostile.
#include "sipc/format.h"

#define XXH_INLINE_ALL
#include <arrow/vendored/xxhash/xxhash.h>

#include <cinttypes>
#include <cstdio>

namespace zerrow {
namespace {

constexpr size_t kChecksummed = offsetof(Header, checksum) + sizeof(Header::checksum);

// Takes `count` items of `size` bytes from the front of `rest`.
std::string_view Take(std::string_view* rest, uint64_t count, uint64_t size, const char* what) {
  uint64_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes) || Padded(bytes) < bytes || Padded(bytes) > rest->size()) {
    throw SipcError("SIPC message is too short for its " + std::string(what) + " (" + std::to_string(count) +
                    " items)");
  }
  std::string_view taken = rest->substr(0, bytes);
  rest->remove_prefix(Padded(bytes));
  return taken;
}

template <typename T>
std::vector<T> Copied(std::string_view bytes) {
  std::vector<T> items(bytes.size() / sizeof(T));
  if (!items.empty()) std::memcpy(items.data(), bytes.data(), bytes.size());
  return items;
}

Header ReadHeader(std::string_view message) {
  Header header;
  if (message.size() < sizeof(Header)) {
    throw SipcError("not a SIPC message: " + std::to_string(message.size()) +
                    " bytes are shorter than its header");
  }
  std::memcpy(&header, message.data(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    throw SipcError("not a SIPC message: it does not begin with \"SIPC\"");
  }
  if (header.version != kVersion) {
    throw SipcError("SIPC message of version " + std::to_string(header.version) + "; this reads version " +
                    std::to_string(kVersion) + ": use the same zerrow-store on both sides");
  }
  if (header.kind < static_cast<uint16_t>(Kind::kTable) ||
      header.kind > static_cast<uint16_t>(Kind::kBuffers)) {
    throw SipcError("SIPC message of unknown kind " + std::to_string(header.kind));
  }
  if (header.checksum != Checksum(message)) {
    throw SipcError("SIPC message is damaged: its checksum is wrong");
  }
  return header;
}

}  // namespace

uint64_t Checksum(std::string_view message) {
  uint64_t seed;
  std::memcpy(&seed, message.data(), sizeof(seed));
  return XXH64(message.data() + kChecksummed, message.size() - kChecksummed, seed);
}

Envelope ParseEnvelope(std::string_view message) {
  Header header = ReadHeader(message);
  std::string_view rest = message.substr(sizeof(Header));
  Envelope envelope;
  envelope.kind = static_cast<Kind>(header.kind);
  envelope.segments = Copied<SegmentId>(Take(&rest, header.segments, sizeof(SegmentId), "segment table"));
  envelope.allocations =
      Copied<AllocationRef>(Take(&rest, header.allocations, sizeof(AllocationRef), "allocation table"));
  envelope.schema = Take(&rest, header.schema_bytes, 1, "schema");
  envelope.inlined = Take(&rest, header.inline_bytes, 1, "inline section");
  envelope.stream = Take(&rest, header.words, sizeof(int64_t), "stream");
  if (!rest.empty()) {
    throw SipcError("SIPC message has " + std::to_string(rest.size()) + " bytes after its end");
  }
  for (const AllocationRef& allocation : envelope.allocations) {
    if (allocation.segment >= envelope.segments.size()) {
      throw SipcError("SIPC allocation is in segment " + std::to_string(allocation.segment) +
                      " of a message with " + std::to_string(envelope.segments.size()));
    }
  }
  return envelope;
}

std::string Hex(const SegmentId& id) {
  std::string text;
  for (char byte : id) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", static_cast<unsigned char>(byte));
    text += digits;
  }
  return text;
}

SegmentId ToSegmentId(std::string_view bytes) {
  SegmentId id;
  if (bytes.size() != id.size()) {
    throw SipcError("a segment id has 16 bytes, not " + std::to_string(bytes.size()));
  }
  std::memcpy(id.data(), bytes.data(), id.size());
  return id;
}

}  // namespace zerrow
