// See capture_arrow.h.
#include "memory/capture_arrow.h"

#include <arrow/memory_pool.h>
#include <dlfcn.h>

#include <stdexcept>
#include <string>

#include "deanon/deanon.h"
#include "deanon/tracking_pool.h"
#include "memory/arena.h"
#include "memory/pool.h"

namespace zerrow {
namespace {

// The virtual table of arrow::MemoryPool by the Itanium ABI: two destructors, then the virtual
// functions in the order of declaration.
enum Slot { kAllocate = 2, kReallocate, kFree, kReleaseUnused };
using Table = void* const*;

Table TableOf(const arrow::MemoryPool* pool) { return *reinterpret_cast<const Table*>(pool); }
void SetTable(arrow::MemoryPool* pool, Table table) { *reinterpret_cast<Table*>(pool) = table; }

// The original functions, called on the original object past its replaced table.
class OriginalPool final : public arrow::MemoryPool {
 public:
  OriginalPool(arrow::MemoryPool* pool, std::string name)
      : pool_(pool), table_(TableOf(pool)), allocated_(pool->bytes_allocated()), name_(std::move(name)) {}
  using MemoryPool::Allocate;
  using MemoryPool::Free;
  using MemoryPool::Reallocate;
  arrow::Status Allocate(int64_t size, int64_t alignment, uint8_t** out) override {
    using F = arrow::Status (*)(arrow::MemoryPool*, int64_t, int64_t, uint8_t**);
    return Function<F>(kAllocate)(pool_, size, alignment, out);
  }
  arrow::Status Reallocate(int64_t old_size, int64_t new_size, int64_t alignment, uint8_t** ptr) override {
    using F = arrow::Status (*)(arrow::MemoryPool*, int64_t, int64_t, int64_t, uint8_t**);
    return Function<F>(kReallocate)(pool_, old_size, new_size, alignment, ptr);
  }
  void Free(uint8_t* buffer, int64_t size, int64_t alignment) override {
    using F = void (*)(arrow::MemoryPool*, uint8_t*, int64_t, int64_t);
    Function<F>(kFree)(pool_, buffer, size, alignment);
  }
  void ReleaseUnused() override {
    using F = void (*)(arrow::MemoryPool*);
    Function<F>(kReleaseUnused)(pool_);
  }
  // ArenaPool has the statistics; it starts with the bytes allocated before it was installed.
  int64_t bytes_allocated() const override { return allocated_; }
  int64_t total_bytes_allocated() const override { return allocated_; }
  int64_t num_allocations() const override { return 0; }
  std::string backend_name() const override { return name_; }
  Table table() const { return table_; }

 private:
  template <class F>
  F Function(Slot slot) const {
    return reinterpret_cast<F>(table_[slot]);
  }
  arrow::MemoryPool* pool_;
  Table table_;
  int64_t allocated_;
  std::string name_;
};

ArenaPool* g_pool = nullptr;  // set by the first capture, for good
bool g_on = false;

// Only this class's table is used: `this` is Arrow's object, which is never accessed.
class Redirect final : public arrow::MemoryPool {
 public:
  using MemoryPool::Allocate;
  using MemoryPool::Free;
  using MemoryPool::Reallocate;
  arrow::Status Allocate(int64_t size, int64_t alignment, uint8_t** out) override {
    return g_pool->Allocate(size, alignment, out);
  }
  arrow::Status Reallocate(int64_t old_size, int64_t new_size, int64_t alignment, uint8_t** ptr) override {
    return g_pool->Reallocate(old_size, new_size, alignment, ptr);
  }
  void Free(uint8_t* buffer, int64_t size, int64_t alignment) override {
    g_pool->Free(buffer, size, alignment);
  }
  void ReleaseUnused() override { g_pool->ReleaseUnused(); }
  int64_t bytes_allocated() const override { return g_pool->bytes_allocated(); }
  int64_t max_memory() const override { return g_pool->max_memory(); }
  int64_t total_bytes_allocated() const override { return g_pool->total_bytes_allocated(); }
  int64_t num_allocations() const override { return g_pool->num_allocations(); }
  std::string backend_name() const override { return g_pool->backend_name(); }
};

// Arrow exports ProxyMemoryPool's functions by name. Every pool has its functions in the same
// slots.
void CheckLayout(arrow::MemoryPool* pool) {
  arrow::ProxyMemoryPool proxy(pool);
  struct {
    Slot slot;
    const char* symbol;
  } const expected[] = {
      {kAllocate, "_ZN5arrow15ProxyMemoryPool8AllocateEllPPh"},
      {kReallocate, "_ZN5arrow15ProxyMemoryPool10ReallocateElllPPh"},
      {kFree, "_ZN5arrow15ProxyMemoryPool4FreeEPhll"},
  };
  for (const auto& entry : expected) {
    void* function = dlsym(RTLD_DEFAULT, entry.symbol);
    // Python may have loaded libarrow outside of the global scope: find it by a pointer into it.
    Dl_info info;
    if (function == nullptr && dladdr(reinterpret_cast<void*>(&arrow::default_memory_pool), &info) != 0) {
      if (void* library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD)) {
        function = dlsym(library, entry.symbol);
        dlclose(library);
      }
    }
    if (function == nullptr || TableOf(&proxy)[entry.slot] != function)
      throw std::runtime_error("libarrow's MemoryPool is not laid out as expected: slot " +
                               std::to_string(entry.slot) + " is not " + entry.symbol);
  }
}

bool LandsInArena(arrow::MemoryPool* pool) {
  uint8_t* address = nullptr;
  if (!pool->Allocate(1 << 20, &address).ok()) return false;
  bool inside = Arena::Owner(address) != nullptr;
  pool->Free(address, 1 << 20);
  return inside && pool->backend_name() == "zerrow";
}

// Puts our pool in front of Arrow's default one. It changes nothing until it is switched on.
void Install() {
  if (g_pool != nullptr) return;
  arrow::MemoryPool* pool = arrow::default_memory_pool();
  CheckLayout(pool);
  // Never destroyed: memory may be freed after static destructors have run.
  g_pool = new ArenaPool(new TrackingPool(new OriginalPool(pool, pool->backend_name())));
  SetTable(pool, TableOf(new Redirect()));
}

}  // namespace

void CaptureArrow(bool on) {
  if (on == g_on) return;
  if (!on) {
    g_pool->Switch(false);
    g_on = false;
    return;
  }
  if (Arena::Get() == nullptr) throw std::runtime_error(Arena::Failure());
  Install();
  g_pool->Switch(true);
  // Checks through the function that Arrow itself calls.
  if (!LandsInArena(arrow::default_memory_pool())) {
    g_pool->Switch(false);
    throw std::runtime_error("Arrow's default memory pool does not allocate in the arena");
  }
  g_on = true;
}

void TrackArrow() { Install(); }

bool ArrowCaptured() { return g_on; }

}  // namespace zerrow
