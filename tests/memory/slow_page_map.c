/* Preloaded: a thread that reads or scans the page map stays there until ZERROW_TEST_GO exists; that it
 * is there, ZERROW_TEST_THERE says. With ZERROW_TEST_NO_SCAN the kernel has no PAGEMAP_SCAN. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_page_map(int fd) {
  char link[64], target[64] = "";
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  return readlink(link, target, sizeof target - 1) > 0 && strstr(target, "/pagemap") != NULL;
}

static void wait_if_page_map(int fd) {
  if (!is_page_map(fd)) return;
  close(open(getenv("ZERROW_TEST_THERE"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  while (access(getenv("ZERROW_TEST_GO"), F_OK) != 0) usleep(1000);
}

ssize_t pread64(int fd, void *out, size_t size, off64_t offset) {
  static ssize_t (*real)(int, void *, size_t, off64_t);
  if (real == NULL) real = dlsym(RTLD_NEXT, "pread64");
  wait_if_page_map(fd);
  return real(fd, out, size, offset);
}

ssize_t pread(int fd, void *out, size_t size, off_t offset) { return pread64(fd, out, size, offset); }

int ioctl(int fd, unsigned long request, ...) {
  static int (*real)(int, unsigned long, void *);
  if (real == NULL) real = dlsym(RTLD_NEXT, "ioctl");
  va_list arguments;
  va_start(arguments, request);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  if (is_page_map(fd) && getenv("ZERROW_TEST_NO_SCAN") != NULL) {
    errno = ENOTTY;
    return -1;
  }
  wait_if_page_map(fd);
  return real(fd, request, argument);
}
