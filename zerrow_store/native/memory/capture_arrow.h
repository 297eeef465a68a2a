// Capture of Arrow's default memory pool: the arena serves it.
//
// Acero and others call arrow::default_memory_pool() whatever pool is set. So the object that it
// returns is changed: its virtual table is replaced by one that leads to an ArenaPool. If
// libarrow's layout is not the expected one, nothing changes, and std::runtime_error is thrown.
//
// Allocations that the arena does not serve come from the original pool, and Deanon tracks them
// (deanon.h).
//
// After the first call the new table stays, on or off: memory of the arena may live on, and must be
// told from the original pool's by address.
#pragma once
namespace zerrow {

// The caller has the GIL, which serves as the lock.
void CaptureArrow(bool on);
bool ArrowCaptured();
// Has Deanon track what Arrow allocates outside of the arena from now on.
void TrackArrow();

}  // namespace zerrow
