// The client of /dev/kernelzero (kmod/), which moves anonymous memory of this process into a memfd.
//
// Each call opens the device: it has no state, and a module that no process has open can be
// replaced. No locks.
#pragma once
#include <cstdint>

#include "kernelzero_uapi.h"

namespace zerrow {

// Returns 0 or an errno; ENOSYS for a module that is older than this client.
int QueryKernelZero(kernelzero_query* query);

// Appends the ranges to a memfd. Returns 0 or an errno. `done` ranges went in as a whole, and the
// next one as far as its own `done`.
int MoveIntoFile(int fd, kernelzero_range* ranges, uint32_t count, uint32_t* done, kernelzero_counts* counts);

}  // namespace zerrow
