// Client of /dev/kernelzero (kmod/): moves anonymous memory of this process into a memfd.
//
// The device is opened for each call: it keeps no state, and a module that no process has open can
// be replaced. No locks.
#pragma once
#include <cstdint>

#include "kernelzero_uapi.h"

namespace zerrow {

// 0, or the errno of what failed; ENOSYS for a module that is older than this client.
int QueryKernelZero(kernelzero_query* query);

// Appends the ranges to the end of a memfd. 0 or an errno; `done` of them went in whole, and the
// one after these as far as its `done` says.
int MoveIntoFile(int fd, kernelzero_range* ranges, uint32_t count, uint32_t* done, kernelzero_counts* counts);

}  // namespace zerrow
