// Creation of the files that arenas lie in, in huge pages where the machine has them.
//
// The first choice is a file on a tmpfs with huge=always, which has huge pages whatever the default
// for shared memory is. A child mounts it, if need be in a user namespace of its own. The mount has
// no path: it is in no process's mountinfo, no other file can be created on it, and it ends with
// the file. Such a file takes no seals. Its mode 0400 keeps all users but root from opening it for
// writing, so only its producer can change its size.
//
// The second choice is a memfd, with the huge pages that shmem_enabled
// (/sys/kernel/mm/transparent_hugepage) allows, if any.
#pragma once
#include <cstdint>
#include <string>

namespace zerrow {

constexpr uint64_t kHugePage = 2u << 20;
constexpr uint64_t kLeastArena = 64u << 20;  // a smaller one is of no use

enum class HugePages : uint8_t { kAuto, kOn, kOff };

struct MemoryFile {
  int fd = -1;
  // The same file opened once more, for mappings; -1 if it cannot be. It has a lock (flock), which
  // ends with the last mapping: the store sees by it whether a forked child still has one.
  int mapped = -1;
  uint64_t page = 0;  // size of the pages that the kernel provides, if it has them free
  bool sealable = false;
};

// memfd_create of a file that is closed on exec and, as vm.memfd_noexec=2 asks of all, cannot be executed.
// It takes seals. Returns -1 and sets errno, as that does.
int CreateMemfd(const char* name);

// A failed step and its errno, in words, with the limit that may be the reason.
std::string Failure(const char* step, int error);

// Why no file can have the size of the smallest arena; empty if one can. Beyond RLIMIT_FSIZE
// ftruncate would raise SIGXFSZ.
std::string FileSizeObstacle();

// Returns an empty file; without a descriptor if none can be created, with kOn: none in huge pages.
// sealable: the file must take seals.
MemoryFile MakeMemoryFile(HugePages choice, bool sealable);

// Whether files can be in huge pages here, and how, or why not, in words.
struct HugePagesFinding {
  bool available;
  std::string text;
};
// Finds out by trying.
HugePagesFinding FindHugePages();

}  // namespace zerrow
