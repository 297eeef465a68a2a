// See memory_pressure.h. No file is kept open: they are few, and read only while memory is warm.
#include "memory/memory_pressure.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <optional>
#include <string_view>

namespace zerrow {
namespace {

constexpr uint64_t kPart = 8;
constexpr uint64_t kStalledPart = 10;

// The beginning of a file; empty if it cannot be read.
std::string Read(const std::string& path) {
  char text[16384];
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  ssize_t size = read(fd, text, sizeof text);
  close(fd);
  return {text, static_cast<size_t>(std::max<ssize_t>(size, 0))};
}

// The number behind `key` at the start of a line.
std::optional<uint64_t> Number(const std::string& text, std::string_view key) {
  for (size_t start = 0; start < text.size();) {
    size_t end = std::min(text.find('\n', start), text.size());
    if (text.compare(start, key.size(), key) == 0) {
      size_t digit = start + key.size();
      while (digit < end && text[digit] == ' ') ++digit;
      if (digit < end && std::isdigit(static_cast<unsigned char>(text[digit])))
        return strtoull(text.c_str() + digit, nullptr, 10);
    }
    start = end + 1;
  }
  return std::nullopt;
}

}  // namespace

MemoryPressure::MemoryPressure(std::vector<MemoryGroup> groups) : groups_(std::move(groups)) {
  pressures_.push_back({"/proc/pressure/memory"});
  for (const MemoryGroup& group : groups_) pressures_.push_back({group.pressure});
}

bool MemoryPressure::IsShort() {
  std::string machine = Read("/proc/meminfo");
  uint64_t total = Number(machine, "MemTotal:").value_or(UINT64_MAX / 2048) * 1024;
  uint64_t available = Number(machine, "MemAvailable:").value_or(UINT64_MAX / 2048) * 1024;
  bool is_short = available < total / kPart;
  for (const MemoryGroup& group : groups_) is_short = is_short || IsFull(group, total);
  // Reads all of them each time, as each is compared with its previous value.
  for (Pressure& pressure : pressures_) is_short = Stalls(&pressure) || is_short;
  return is_short;
}

bool MemoryPressure::IsFull(const MemoryGroup& group, uint64_t machine) {
  auto limit = Number(Read(group.limit), "");  // no limit: "max" in version 2, a huge number in version 1
  if (!limit || *limit >= machine) return false;
  uint64_t used = Number(Read(group.usage), "").value_or(0);
  uint64_t room = *limit - *limit / kPart;
  if (used <= room) return false;
  // The kernel reclaims inactive file pages first.
  std::string stat = Read(group.stat);
  auto files = Number(stat, "total_inactive_file ");
  if (!files) files = Number(stat, "inactive_file ");
  return used - std::min(used, files.value_or(0)) > room;
}

bool MemoryPressure::Stalls(Pressure* pressure) {
  std::string text = Read(pressure->file);
  size_t total = text.find("total=");
  if (total == std::string::npos) return false;
  uint64_t stalled = strtoull(text.c_str() + total + 6, nullptr, 10);
  Clock::time_point now = Clock::now();
  bool is_first = pressure->at == Clock::time_point{};
  auto passed = std::chrono::duration_cast<std::chrono::microseconds>(now - pressure->at).count();
  uint64_t grown = stalled - std::min(stalled, pressure->stalled_us);
  pressure->stalled_us = stalled;
  pressure->at = now;
  return !is_first && grown * kStalledPart > static_cast<uint64_t>(passed);
}

}  // namespace zerrow
