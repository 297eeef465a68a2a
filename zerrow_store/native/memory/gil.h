// Guards for Python's lock (the GIL), in threads that may outlive the interpreter.
//
// When the interpreter finalizes, Python ends each daemon thread that takes the lock, by unwinding
// the thread's stack. In C++ that ends the process at the first function that must not throw, such
// as a destructor: "terminate called without an active exception". Such threads sleep here instead,
// until the process exits. Python's functions throw nothing else, and glibc unwinds without an
// exception object that could be named.
#pragma once
#include <Python.h>
#include <unistd.h>

namespace zerrow {

[[noreturn]] inline void SleepForever() {
  for (;;) pause();
}

class GilReleased {
 public:
  GilReleased() : state_(PyEval_SaveThread()) {}
  ~GilReleased() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
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
  GilHeld() noexcept {
    try {
      state_ = PyGILState_Ensure();
    } catch (...) {
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
