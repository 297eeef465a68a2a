// NumPy's array data, served by the arena from 32 KiB on.
//
// NumPy calls its default data-memory handler (NEP 49) for every array that has no other; the
// functions in that handler are replaced in place, so that threads and contexts see them too.
// What the arena does not serve, NumPy's own allocator does, and Movable knows of it (movable.h).
// Free and realloc go by address, so arrays of either kind stay valid whatever is switched.
#pragma once

namespace zerrow {

// Called with the GIL held. Throws std::runtime_error, or Python's error, and changes nothing
// when NumPy's handler is not the expected one.
void CaptureNumpy(bool on);
bool NumpyCaptured();
// Lets Movable know what NumPy allocates outside the arena from now on; throws as CaptureNumpy does.
void FollowNumpy();

}  // namespace zerrow
