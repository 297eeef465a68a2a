// See kernelzero.h.
#include "deanon/kernelzero.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>

namespace zerrow {
namespace {

int Call(unsigned long request, void* argument) {
  int device = open("/dev/kernelzero", O_RDWR | O_CLOEXEC);
  if (device < 0) return errno;
  int error = ioctl(device, request, argument) == 0 ? 0 : errno;
  close(device);
  return error;
}

}  // namespace

int QueryKernelZero(kernelzero_query* query) {
  *query = {};
  query->size = sizeof(*query);
  int error = Call(KERNELZERO_QUERY, query);
  return error == 0 && query->version < KERNELZERO_VERSION ? ENOSYS : error;
}

int MoveIntoFile(int fd, kernelzero_range* ranges, uint32_t count, uint32_t* done,
                 kernelzero_counts* counts) {
  kernelzero_deanon call{};
  call.size = sizeof(call);
  call.fd = fd;
  call.flags = KERNELZERO_HUGE;
  call.nr_ranges = count;
  call.ranges = reinterpret_cast<uintptr_t>(ranges);
  int error = Call(KERNELZERO_DEANON, &call);
  *done = call.ranges_done;
  *counts = call.counts;
  return error;
}

}  // namespace zerrow
