// Faults for the sanitizers to find before anything else is looked at: a race, an overflow, and a read
// beyond an end, which is last as it ends the process.
#include <climits>
#include <thread>

static int shared = 0;

extern "C" int planted_faults(int one) {
  std::thread other([one] { shared += one; });
  shared += one;
  other.join();
  volatile int overflown = INT_MAX;
  overflown = overflown + one;
  int* volatile number = new int(overflown);
  int read = number[one];
  delete number;
  return read;
}
