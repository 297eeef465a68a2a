// Arrow's default memory pool, served by the arena.
//
// Acero and others ask arrow::default_memory_pool() whatever pool is set, so the object it
// returns is changed: its virtual table is replaced by one that leads to an ArenaPool. When
// libarrow's layout is not the expected one, nothing is changed and std::runtime_error thrown.
//
// What the arena does not serve, the original pool does, and Movable knows of it (movable.h).
//
// After the first call the new table stays, switched on or off: memory of the arena
// may live on, and has to be told from the original pool's by address.
#pragma once
#include <string>

namespace zerrow {

// Called with the GIL held, which is the lock.
void CaptureArrow(bool on);
bool ArrowCaptured();
// Lets Movable know what Arrow allocates outside the arena from now on.
void FollowArrow();
std::string DefaultPoolName();

}  // namespace zerrow
