// Capture of NumPy's array data: the arena serves arrays of 32 KiB and more.
//
// NumPy calls its default data-memory handler (NEP 49) for every array that has no other. The
// functions in that handler are replaced in place, so that all threads and contexts see them.
// Allocations that the arena does not serve come from NumPy's own allocator, and Deanon tracks them
// (deanon.h). Free and realloc go by address, so arrays of either kind stay valid whatever is
// switched.
#pragma once

namespace zerrow {

// The caller has the GIL. If NumPy's handler is not the expected one, throws std::runtime_error or
// Python's error, and changes nothing.
void CaptureNumpy(bool on);
bool NumpyCaptured();
// Has Deanon track what NumPy allocates outside of the arena from now on. Throws as CaptureNumpy
// does.
void TrackNumpy();

}  // namespace zerrow
