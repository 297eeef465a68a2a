// See capture_numpy.h.
#include "memory/capture_numpy.h"

#include <pybind11/pybind11.h>

#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#define NPY_TARGET_VERSION NPY_1_22_API_VERSION
#include <numpy/arrayobject.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "deanon/deanon.h"
#include "memory/arena.h"

namespace zerrow {
namespace {

constexpr size_t kLeast = 32u << 10;  // smaller arrays would leave most of their pages empty

PyDataMem_Handler* g_handler = nullptr;  // set by the first capture, for good
PyDataMemAllocator g_original;
std::atomic<bool> g_on{false};

uint8_t* TryArena(size_t size, bool zeroed) {
  if (!g_on || size < kLeast) return nullptr;
  Arena* arena = Arena::Get();
  return arena == nullptr ? nullptr : arena->Allocate(size, Origin::kNumpy, zeroed);
}

// Whole pages would help little here: malloc's header in front of each block leaves a gap.
void* Tracked(void* address, size_t size) {
  if (address != nullptr && Deanon::Tracks(size)) Deanon::Track(static_cast<uint8_t*>(address), size, size);
  return address;
}

void* Malloc(void*, size_t size) {
  void* address = TryArena(size, false);
  return address != nullptr ? address : Tracked(g_original.malloc(g_original.ctx, size), size);
}

void* Calloc(void*, size_t count, size_t item) {
  size_t size;
  if (__builtin_mul_overflow(count, item, &size)) return nullptr;
  void* address = TryArena(size, true);
  return address != nullptr ? address : Tracked(g_original.calloc(g_original.ctx, count, item), size);
}

void Free(void*, void* address, size_t size) {
  if (Arena* owner = Arena::Owner(address))
    owner->Free(static_cast<uint8_t*>(address));
  else if (Deanon::Untrack(static_cast<uint8_t*>(address)))
    g_original.free(g_original.ctx, address, size);
}

// For memory of the original allocator. Its size is known only if Deanon tracks it.
void* ReallocOriginal(void* context, void* address, size_t size) {
  auto* old = static_cast<uint8_t*>(address);
  std::optional<TrackedInfo> known = Deanon::At(old);
  if (!known) return Tracked(g_original.realloc(g_original.ctx, address, size), size);
  if (!known->remapped) {
    Deanon::Untrack(old);
    void* moved = g_original.realloc(g_original.ctx, address, size);
    if (moved == nullptr) Deanon::Track(old, known->size, known->room);
    return Tracked(moved, size);
  }
  void* moved = Malloc(context, size);
  if (moved == nullptr) return nullptr;
  memcpy(moved, address, std::min<size_t>(known->size, size));
  Free(context, address, known->size);
  return moved;
}

void* Realloc(void* context, void* address, size_t size) {
  Arena* owner = Arena::Owner(address);
  if (owner == nullptr) return ReallocOriginal(context, address, size);
  if (g_on && size >= kLeast && owner->Resize(static_cast<uint8_t*>(address), size)) return address;
  Allocation old;
  if (!owner->Find(address, 0, &old)) return nullptr;
  void* moved = Malloc(context, size);
  if (moved == nullptr) return nullptr;
  memcpy(moved, address, std::min<size_t>(old.size, size));
  owner->Free(static_cast<uint8_t*>(address));
  return moved;
}

bool LandsInArena() {
  auto landed = [](bool zeroed) {
    npy_intp size = 1 << 20;
    pybind11::object array = pybind11::reinterpret_steal<pybind11::object>(
        zeroed ? PyArray_ZEROS(1, &size, NPY_UINT8, 0) : PyArray_SimpleNew(1, &size, NPY_UINT8));
    if (!array) throw pybind11::error_already_set();
    return Arena::Owner(PyArray_DATA(reinterpret_cast<PyArrayObject*>(array.ptr()))) != nullptr;
  };
  return landed(false) && landed(true);
}

PyDataMem_Handler* FindHandler() {
  if (_import_array() < 0) throw pybind11::error_already_set();
  auto* handler =
      static_cast<PyDataMem_Handler*>(PyCapsule_GetPointer(PyDataMem_DefaultHandler, "mem_handler"));
  if (handler == nullptr) throw pybind11::error_already_set();
  if (handler->version != 1 || std::string(handler->name) != "default_allocator")
    throw std::runtime_error("NumPy's default data-memory handler is not the expected one: " +
                             std::string(handler->name));
  return handler;
}

// Puts our functions in the place of NumPy's. They change nothing until they are switched on.
void Install() {
  if (g_handler != nullptr) return;
  PyDataMem_Handler* handler = FindHandler();
  g_original = handler->allocator;
  handler->allocator = {g_original.ctx, Malloc, Calloc, Realloc, Free};
  g_handler = handler;
}

}  // namespace

void CaptureNumpy(bool on) {
  if (on == g_on) return;
  if (!on) {
    g_on = false;
    return;
  }
  if (Arena::Get() == nullptr) throw std::runtime_error(Arena::Failure());
  Install();
  g_on = true;
  if (!LandsInArena()) {
    g_on = false;
    throw std::runtime_error(
        "NumPy's arrays do not lie in the arena: another handler is set in this context");
  }
}

void TrackNumpy() { Install(); }

bool NumpyCaptured() { return g_on; }

}  // namespace zerrow
