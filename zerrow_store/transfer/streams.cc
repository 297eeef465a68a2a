// Bytes of files to a socket, and from a socket to memory, with their checksum on the way: XXH3, 64
// bits. The kernel copies them once, at the receiver. Documented in _streams.pyi.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#define XXH_INLINE_ALL
#include <arrow/vendored/xxhash/xxhash.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <tuple>
#include <vector>

#include "disk/read_all.h"
#include "memory/gil.h"

namespace py = pybind11;

namespace zerrow {
namespace {

// In the second-level cache: what was hashed is sent, and what has come is hashed, while it is there.
constexpr size_t kPiece = 256 << 10;

class Digest {
 public:
  Digest() { XXH3_64bits_reset(&state_); }
  void Add(const void* bytes, size_t size) { XXH3_64bits_update(&state_, bytes, size); }
  py::bytes Result() const {
    XXH64_canonical_t canonical;
    XXH64_canonicalFromHash(&canonical, XXH3_64bits_digest(&state_));
    return py::bytes(reinterpret_cast<const char*>(canonical.digest), sizeof(canonical.digest));
  }

 private:
  XXH3_state_t state_;
};

[[noreturn]] void Raise(int error) {
  errno = error == EAGAIN ? ETIMEDOUT : error;
  PyErr_SetFromErrno(PyExc_OSError);
  throw py::error_already_set();
}

int SendFile(int socket, int file, uint64_t offset, size_t size) {
  auto at = static_cast<off_t>(offset);
  while (size > 0) {
    ssize_t sent = sendfile(socket, file, &at, size);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return errno;
    if (sent == 0) return EIO;
    size -= sent;
  }
  return 0;
}

int Receive(int socket, char* out, size_t size) {
  while (size > 0) {
    ssize_t got = recv(socket, out, size, MSG_WAITALL);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) return ECONNRESET;
    out += got, size -= got;
  }
  return 0;
}

using Range = std::tuple<int, uint64_t, uint64_t>;

py::bytes Send(int socket, const std::vector<Range>& ranges) {
  Digest digest;
  int error = 0;
  {
    zerrow::GilReleased released;
    std::unique_ptr<char[]> piece(new char[kPiece]);
    for (auto [file, offset, size] : ranges) {
      while (size > 0 && error == 0) {
        size_t length = std::min<uint64_t>(size, kPiece);
        // Read, not mapped: a file that is short or broken is an error here.
        error = ReadAll(file, piece.get(), length, offset);
        if (error == 0) digest.Add(piece.get(), length);
        if (error == 0) error = SendFile(socket, file, offset, length);
        offset += length, size -= length;
      }
      if (error != 0) break;
    }
  }
  if (error != 0) Raise(error);
  return digest.Result();
}

py::bytes ReceiveInto(int socket, const py::list& targets) {
  std::vector<py::buffer_info> views;
  views.reserve(targets.size());
  for (py::handle target : targets) views.push_back(target.cast<py::buffer>().request(true));
  Digest digest;
  int error = 0;
  {
    zerrow::GilReleased released;
    for (const py::buffer_info& view : views) {
      auto* out = static_cast<char*>(view.ptr);
      for (size_t left = view.size * view.itemsize; left > 0 && error == 0;) {
        size_t length = std::min(left, kPiece);
        error = Receive(socket, out, length);
        if (error == 0) digest.Add(out, length);
        out += length, left -= length;
      }
      if (error != 0) break;
    }
  }
  if (error != 0) Raise(error);
  return digest.Result();
}

}  // namespace

PYBIND11_MODULE(_streams, m) {
  m.def("send", &Send, py::arg("socket"), py::arg("ranges"));
  m.def("receive_into", &ReceiveInto, py::arg("socket"), py::arg("targets"));
}

}  // namespace zerrow
