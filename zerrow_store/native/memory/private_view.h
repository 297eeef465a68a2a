// Buffers that can be written to, over bytes of segments: private mappings of the segments' files.
//
// A page is copied when it is first written to. Writes are this process's own: they reach neither the
// file nor the buffer that the view was made of.
#pragma once
#include <arrow/buffer.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "sipc/format.h"

namespace zerrow {

// Where bytes lie in a segment's file.
struct FilePlace {
  SegmentId segment;
  uint64_t offset;
};

// The place of a buffer's bytes, if a segment's file has them as the buffer does: of decoded data, and of
// what Arrow has allocated in this process's arena. Not of NumPy's memory, which its owner may write to.
std::optional<FilePlace> Locate(const arrow::Buffer& buffer);

// Maps a buffer's bytes again, from `offset` of its file on. The view keeps `buffer`, and so the bytes.
// nullptr on failure, with errno set.
std::shared_ptr<arrow::Buffer> MapPrivately(std::shared_ptr<arrow::Buffer> buffer, int fd, uint64_t offset);

}  // namespace zerrow
