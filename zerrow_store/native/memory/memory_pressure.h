// Memory pressure on the machine, and in the cgroups of this process.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace zerrow {

// The paths of a memory cgroup's files (see cgroups.py). A file that cannot be read counts as no
// pressure.
struct MemoryGroup {
  std::string limit, usage, stat, pressure;
};

// Not thread-safe.
class MemoryPressure {
 public:
  MemoryPressure() = default;
  explicit MemoryPressure(std::vector<MemoryGroup> groups);

  // Whether less than an eighth is available, or a process waited for memory for a tenth of the
  // time since the last call.
  bool IsShort();

 private:
  using Clock = std::chrono::steady_clock;

  // A file of the kernel's pressure stall information, and its last value.
  struct Pressure {
    std::string file;
    uint64_t stalled_us = 0;
    Clock::time_point at{};
  };

  static bool IsFull(const MemoryGroup& group, uint64_t machine);
  static bool Stalls(Pressure* pressure);

  std::vector<MemoryGroup> groups_;
  std::vector<Pressure> pressures_;
};

}  // namespace zerrow
