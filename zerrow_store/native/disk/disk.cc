// Copies between segments and files, with a checksum of the bytes (64 bits of XXH3).
//
// A file that may be short or broken is read, not mapped: that gives an error here, and SIGBUS in a
// mapping. Free of Arrow's library, as the server does not import pyarrow. Documented in _disk.pyi.
#include <pybind11/pybind11.h>

#define XXH_INLINE_ALL
#include <arrow/vendored/xxhash/xxhash.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>

#include "disk/read_all.h"
#include "memory/gil.h"

namespace py = pybind11;

namespace zerrow {
namespace {

// Fits the second-level cache: a piece is hashed and written while it is there.
constexpr size_t kPiece = 256 << 10;
// The part of a file that is written back at a time.
constexpr uint64_t kWindow = 8 << 20;
static_assert(kWindow % kPiece == 0);

[[noreturn]] void Raise(int error) {
  errno = error;
  PyErr_SetFromErrno(PyExc_OSError);
  throw py::error_already_set();
}

int WriteAll(int fd, const char* bytes, size_t size, uint64_t offset) {
  while (size > 0) {
    ssize_t put = pwrite(fd, bytes, size, static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return errno;
    bytes += put, offset += put, size -= put;
  }
  return 0;
}

// Starts to write back the window that ends at `end`. Waits for the one before and drops it from
// the page cache: a cgroup is charged for the cache, which would otherwise take the memory that
// spilling frees. Returns 0 or an errno: fdatasync does not report an error again that was reported
// here.
int WriteBack(int fd, uint64_t end) {
  if (sync_file_range(fd, end - kWindow, kWindow, SYNC_FILE_RANGE_WRITE) != 0) return errno;
  if (end < 2 * kWindow) return 0;
  unsigned wait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  if (sync_file_range(fd, end - 2 * kWindow, kWindow, wait) != 0) return errno;
  posix_fadvise(fd, end - 2 * kWindow, kWindow, POSIX_FADV_DONTNEED);
  return 0;
}

// Reads, and writes to `target` unless it is negative. Returns the checksum.
uint64_t Pass(int source, uint64_t offset, uint64_t size, int target, uint64_t at) {
  uint64_t digest = 0;
  int error = 0;
  {
    zerrow::GilReleased released;
    std::unique_ptr<char[]> piece(new char[std::min<uint64_t>(size, kPiece)]);
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (uint64_t done = 0; done < size && error == 0;) {
      size_t length = std::min<uint64_t>(size - done, kPiece);
      error = ReadAll(source, piece.get(), length, offset + done);
      if (error == 0) XXH3_64bits_update(&state, piece.get(), length);
      if (error == 0 && target >= 0) error = WriteAll(target, piece.get(), length, at + done);
      done += length;
      uint64_t window = (at + done) / kWindow * kWindow;
      bool filled = target >= 0 && window > at + done - length;
      if (error == 0 && filled) error = WriteBack(target, window);
    }
    digest = XXH3_64bits_digest(&state);
  }
  if (error != 0) Raise(error);
  return digest;
}

uint64_t Copy(int source, uint64_t offset, uint64_t size, int target, uint64_t at) {
  return Pass(source, offset, size, target, at);
}

uint64_t Checksum(int fd, uint64_t offset, uint64_t size) { return Pass(fd, offset, size, -1, 0); }

}  // namespace

PYBIND11_MODULE(_disk, m) {
  m.def("copy", &Copy, py::arg("source"), py::arg("offset"), py::arg("size"), py::arg("target"),
        py::arg("at"));
  m.def("checksum", &Checksum, py::arg("fd"), py::arg("offset"), py::arg("size"));
}

}  // namespace zerrow
