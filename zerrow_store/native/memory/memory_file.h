// The files that arenas lie in, in huge pages where the machine has them.
//
// Best is a file on a tmpfs with huge=always: it has huge pages whatever shared memory gets by
// default. A child mounts it, in a user namespace of its own where only there it may.
// The mount has no path: no process's mountinfo shows it, and it ends with the file. Nothing else
// can be made on it. Such a file takes no seals; its mode of 0400 keeps everybody from opening it
// for writing again, root excepted, so that only its producer can change its size.
//
// Else it is a memfd, with the huge pages that the machine lends to shared memory
// (/sys/kernel/mm/transparent_hugepage/shmem_enabled), if any.
#pragma once
#include <cstdint>
#include <string>

namespace zerrow {

constexpr uint64_t kHugePage = 2u << 20;

enum class HugePages : uint8_t { kAuto, kOn, kOff };

struct MemoryFile {
  int fd = -1;
  uint64_t page = 0;  // size of the pages that the kernel gives it, if it has them free
  bool sealable = false;
};

// An empty file. Has no descriptor if none can be made: with kOn, none in huge pages.
// sealable: it has to take seals.
MemoryFile MakeMemoryFile(HugePages choice, bool sealable);

// Whether files can be in huge pages here, and how, or why not: for people. Tries it.
struct HugePagesFinding {
  bool available;
  std::string text;
};
HugePagesFinding FindHugePages();

}  // namespace zerrow
