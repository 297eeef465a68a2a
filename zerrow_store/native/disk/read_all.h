// Reading of a range of a file, which returns an error where a mapping would raise SIGBUS.
#pragma once
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace zerrow {

// Returns 0 or an errno; EIO if the file ends before `size` bytes.
inline int ReadAll(int fd, char* out, size_t size, uint64_t offset) {
  while (size > 0) {
    ssize_t got = pread(fd, out, size, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) return EIO;
    out += got, offset += got, size -= got;
  }
  return 0;
}

}  // namespace zerrow
