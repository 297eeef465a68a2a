// Guards for Python's lock (the GIL), in threads that may outlive the interpreter.
//
// When the interpreter finalizes, Python ends each daemon thread that takes the lock, by unwinding
// the thread's stack. In C++ that ends the process at the first function that must not throw, such
// as a destructor: "terminate called without an active exception". Such threads sleep here instead,
// until the process exits.
#pragma once
#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

namespace zerrow {

[[noreturn]] inline void SleepForever() {
  for (;;) pause();
}

// glibc unwinds with no exception object: the handler catches a reference to nothing.
#define ZERROW_CATCHES_NO_OBJECT __attribute__((no_sanitize("null")))

class GilReleased {
 public:
  GilReleased() : state_(PyEval_SaveThread()) {}
  ZERROW_CATCHES_NO_OBJECT ~GilReleased() {
    try {
      PyEval_RestoreThread(state_);
    } catch (abi::__forced_unwind&) {
      SleepForever();
    }
  }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* state_;
};

class GilHeld {
 public:
  ZERROW_CATCHES_NO_OBJECT GilHeld() noexcept {
    try {
      state_ = PyGILState_Ensure();
    } catch (abi::__forced_unwind&) {
      SleepForever();
    }
  }
  ~GilHeld() { PyGILState_Release(state_); }
  GilHeld(const GilHeld&) = delete;
  GilHeld& operator=(const GilHeld&) = delete;

 private:
  PyGILState_STATE state_;
};

}  // namespace zerrow
