// See memory_file.h.
//
// A child creates the file: where system calls are filtered, the one that creates a mount may kill
// its process. The child is no copy of this process: like posix_spawn's it shares the memory, while
// the calling thread waits, and makes nothing but system calls. It has its own descriptors and
// sends the file's, so wherever it is killed, nothing is left of it. No pthread_atfork handler
// runs, and the program's wait() does not see the child, which ends without a signal.
#include "memory/memory_file.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "memory/extents.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(address, size)
#endif
#ifdef __SANITIZE_THREAD__
// The thread sanitizer takes every clone() for a fork, and the child's changes to the sanitizer's
// state for those of a copy: afterwards it misses locks of the calling thread. It does not
// intercept glibc's own name.
extern "C" int __clone(int (*)(void*), void*, int, void*, ...) noexcept;
#define clone __clone
#endif

namespace zerrow {
namespace {

const std::string kSettings = "/sys/kernel/mm/transparent_hugepage/";

// A file, or the step that failed and its errno.
struct Made {
  int fd = -1;
  const char* step = "";
  int error = 0;
  int mapped = -1;
};

Made Failed(const char* step) { return {-1, step, errno}; }

std::string Words(const Made& made) { return made.error == 0 ? made.step : Failure(made.step, made.error); }

// --- in the child: system calls only ---

int Configured() {
  auto fs = static_cast<int>(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC));
  if (fs < 0) return fs;
  // No size limit, like a memfd. One of the inodes is the root's.
  const char* const options[][2] = {{"huge", "always"}, {"size", "0"}, {"nr_inodes", "2"}, {"mode", "0700"}};
  bool done = true;
  for (auto [name, value] : options)
    done = done && syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, name, value, 0) == 0;
  if (done && syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0) return fs;
  int error = errno;
  close(fs);
  errno = error;
  return -1;
}

Made OnOwnTmpfs() {
  int fs = Configured();
  if (fs < 0) return Failed("a tmpfs with huge pages");
  constexpr unsigned kAttributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  auto mounted = static_cast<int>(syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, kAttributes));
  Made made = mounted < 0 ? Failed("mounting a tmpfs") : Made{};
  close(fs);
  if (mounted < 0) return made;
  made.fd = openat(mounted, "zerrow", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  // Not by the mode alone, of which the umask would take its part.
  if (made.fd >= 0 && fchmod(made.fd, 0600) == 0) made.mapped = openat(mounted, "zerrow", O_RDWR | O_CLOEXEC);
  if (made.mapped < 0 || fchmod(made.fd, 0400) != 0) {
    if (made.fd >= 0) close(made.fd);
    made = Failed("a file on a tmpfs");
  } else {
    unlinkat(mounted, "zerrow", 0);
  }
  close(mounted);
  return made;
}

// Two descriptors as the ancillary data of a message of one byte.
struct Passed {
  alignas(cmsghdr) uint8_t control[CMSG_SPACE(2 * sizeof(int))] = {};
  uint8_t byte = 0;
  iovec data{&byte, 1};
  msghdr message{};

  Passed() {
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
  }
};

bool Send(int channel, const Made& made) {
  Passed passed;
  cmsghdr* header = CMSG_FIRSTHDR(&passed.message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  const int fds[] = {made.fd, made.mapped};
  header->cmsg_len = CMSG_LEN(sizeof(fds));
  memcpy(CMSG_DATA(header), fds, sizeof(fds));
  return sendmsg(channel, &passed.message, MSG_NOSIGNAL) == 1;
}

// Without a descriptor if nothing was sent. The other end of the channel is closed by now.
MemoryFile Receive(int channel) {
  Passed passed;
  if (recvmsg(channel, &passed.message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) != 1) return {};
  cmsghdr* header = CMSG_FIRSTHDR(&passed.message);
  int fds[] = {-1, -1};
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS)
    memcpy(fds, CMSG_DATA(header),
           std::min(sizeof(fds), static_cast<size_t>(header->cmsg_len) - CMSG_LEN(0)));
  if (fds[1] >= 0) return {fds[0], fds[1], kHugePage, false};
  if (fds[0] >= 0) close(fds[0]);  // there was room for one alone
  return {};
}

constexpr const char* kKilled = "the process that creates the file was killed";

struct Child {
  std::string user, group;  // maps of ids
  int channel;
  Made direct{-1, kKilled};      // with this process's own privileges
  Made namespaced{-1, kKilled};  // in a user namespace
};

bool WriteTo(const char* path, const std::string& text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  int error = errno;
  close(fd);
  errno = error;
  return written;
}

Made InUserNamespace(const Child& child) {
  if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return Failed("a user namespace");
  bool mapped = WriteTo("/proc/self/setgroups", "deny") && WriteTo("/proc/self/uid_map", child.user) &&
                WriteTo("/proc/self/gid_map", child.group);
  return mapped ? OnOwnTmpfs() : Failed("ids in a user namespace");
}

int RunChild(void* argument) {
  auto* child = static_cast<Child*>(argument);
  Made* said = &child->direct;
  Made made = OnOwnTmpfs();
  if (made.fd < 0) {
    *said = made;
    said = &child->namespaced;
    made = InUserNamespace(*child);
  }
  if (made.fd >= 0 && !Send(child->channel, made)) made = Failed("passing a file");
  *said = made;
  return 0;
}

// --- in this process ---

// Runs the child to its end. Returns 0, or the errno of its start.
int Run(Child* child) {
  constexpr size_t kStack = 64u << 10;
  void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return errno;
  // No signal handler of the program may run in the child.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int pid = clone(RunChild, static_cast<uint8_t*>(stack) + kStack, CLONE_VM | CLONE_VFORK, child);
  int error = pid < 0 ? errno : 0;
  while (pid > 0 && waitpid(pid, nullptr, __WCLONE) < 0 && errno == EINTR) continue;
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  // The functions of a killed child have not returned. Whatever is mapped here next would have the
  // address sanitizer's marks around their variables.
  ASAN_UNPOISON_MEMORY_REGION(stack, kStack);
  munmap(stack, kStack);
  return error;
}

// Whether system calls are filtered for this process.
bool IsFiltered() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("Seccomp:", 0) == 0) return line.back() == '2';
  return false;
}

// Whether a signal that dumps core kills all processes that share the memory.
bool DumpsAllThatShare() {
  utsname system{};
  int major = 0, minor = 0;
  uname(&system);
  return sscanf(system.release, "%d.%d", &major, &minor) == 2 && (major < 5 || (major == 5 && minor < 16));
}

// A file in huge pages, or the reason why there is none.
struct Tried {
  MemoryFile file;
  bool in_namespace;
  std::string why;
};

Tried OnTmpfs() {
  if (DumpsAllThatShare() && IsFiltered())
    return {{},
            false,
            "system calls are filtered, and before Linux 5.16 a child killed by the filter takes this "
            "process with it"};
  auto map = [](auto id) { return std::to_string(id) + " " + std::to_string(id) + " 1"; };
  int channel[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) != 0)
    return {{}, false, Words(Failed("a channel"))};
  Child child{map(geteuid()), map(getegid()), channel[1]};
  int error = Run(&child);
  close(channel[1]);
  MemoryFile file = Receive(channel[0]);
  close(channel[0]);
  if (error != 0) return {{}, false, Words({-1, "a process that creates the file", error})};
  bool in_namespace = child.direct.error != 0;
  std::string why = Words(child.direct) + (in_namespace ? "; " + Words(child.namespaced) : "");
  if (file.fd < 0 && why.empty()) why = "its file did not arrive (ulimit -n)";
  return {file, in_namespace, why};
}

std::string Setting(const char* name) {
  std::string text;
  std::getline(std::ifstream(kSettings + name), text);
  return text;
}

// The chosen one of "always [never] deny".
std::string Chosen(const std::string& text) {
  size_t begin = text.find('['), end = text.find(']');
  return begin == std::string::npos || end < begin ? "" : text.substr(begin + 1, end - begin - 1);
}

// Why no file can be in huge pages on this machine; empty if none of the known reasons holds.
std::string Obstacle() {
  std::string size = Setting("hpage_pmd_size");
  if (size.empty()) return "this kernel has no huge pages, or /sys is not mounted";
  if (size != std::to_string(kHugePage)) return "huge pages of " + size + " bytes are not supported";
  if (Chosen(Setting("shmem_enabled")) == "deny")
    return "shared memory may have no huge pages: " + kSettings + "shmem_enabled is deny";
  return FileSizeObstacle();
}

bool Lent() {
  std::string chosen = Chosen(Setting("shmem_enabled"));
  return chosen == "always" || chosen == "within_size" || chosen == "advise" || chosen == "force";
}

// Whether the file really gets a huge page.
bool GetsHugePage(int fd) {
  void* reserved = mmap(nullptr, 2 * kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (reserved == MAP_FAILED) return false;
  auto* page = reinterpret_cast<uint8_t*>(RoundUp(reinterpret_cast<uintptr_t>(reserved), kHugePage));
  bool mapped = ftruncate(fd, kHugePage) == 0 &&
                mmap(page, kHugePage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED;
  if (mapped) {
    madvise(page, kHugePage, MADV_HUGEPAGE);
    *static_cast<volatile uint8_t*>(page) = 1;
  }
  struct stat status;
  bool huge = mapped && fstat(fd, &status) == 0 && static_cast<uint64_t>(status.st_blocks) * 512 == kHugePage;
  munmap(reserved, 2 * kHugePage);
  return huge;
}

}  // namespace

int CreateMemfd(const char* name) {
  constexpr unsigned kNoExecSeal = 0x0008;  // MFD_NOEXEC_SEAL, since Linux 6.3
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  int fd = memfd_create(name, kFlags | kNoExecSeal);
  return fd >= 0 || errno != EINVAL ? fd : memfd_create(name, kFlags);
}

std::string Failure(const char* step, int error) {
  const char* limit = error == EMFILE   ? " (ulimit -n)"
                      : error == ENOMEM ? " (ulimit -v)"
                      : error == ENOSPC ? " (user.max_user_namespaces)"
                                        : "";
  return std::string(step) + ": " + strerror(error) + limit;
}

std::string FileSizeObstacle() {
  rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur >= kLeastArena) return "";
  return "a file may have " + std::to_string(limit.rlim_cur) + " bytes at most (ulimit -f), an arena needs " +
         std::to_string(kLeastArena);
}

MemoryFile MakeMemoryFile(HugePages choice, bool sealable) {
  bool possible = choice != HugePages::kOff && Obstacle().empty();
  if (possible && !sealable) {
    if (MemoryFile file = OnTmpfs().file; file.fd >= 0) return file;
  }
  bool lent = possible && Lent();
  if (choice == HugePages::kOn && !lent && !sealable) return {};
  int fd = CreateMemfd("zerrow");
  if (fd < 0) return {};
  std::string path = "/proc/self/fd/" + std::to_string(fd);
  return {fd, open(path.c_str(), O_RDWR | O_CLOEXEC), lent ? kHugePage : kPage, true};
}

HugePagesFinding FindHugePages() {
  if (std::string obstacle = Obstacle(); !obstacle.empty()) return {false, obstacle};
  auto [file, in_namespace, why] = OnTmpfs();
  int fd = file.fd;
  if (file.mapped >= 0) close(file.mapped);
  std::string text =
      in_namespace ? "2 MiB, on a tmpfs mounted in a user namespace" : "2 MiB, on a tmpfs of this process";
  if (fd < 0) {
    if (Lent()) fd = CreateMemfd("zerrow");
    if (fd < 0) return {false, why};
    text = "2 MiB, by the machine's setting for shared memory (no tmpfs: " + why + ")";
  }
  if (!GetsHugePage(fd)) text += "; none is free at the moment";
  close(fd);
  return {true, text};
}

}  // namespace zerrow
