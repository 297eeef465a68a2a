// The process's arenas, and their fork handlers.
//
// Before a fork, live memory becomes private in the parent, so that the child does not see the
// parent's later writes: NumPy's, and Arrow's, over which `to_pandas` and `to_numpy` make writable
// arrays. Slabs stay shared, as later allocations lie beside those of now; they are copied for the
// child. In the child all memory that is still shared becomes private. All locks are taken across
// the fork, so that the child finds consistent state.
#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "memory/arena.h"

namespace zerrow {
namespace {

std::mutex g_mutex;  // creation of an arena, the options, fork
std::atomic<Arena*> g_current{nullptr};
std::atomic<Arena*> g_arenas{nullptr};  // the current one and the inherited
std::atomic<bool> g_failed{false};      // not tried again until Configure or a fork
std::string g_failure;                  // the reason, in words
bool g_handlers = false;
constexpr uint64_t kForkPrivateMax = 8000;  // of the 65530 mappings that a process may have by default

struct Options {
  uint64_t capacity;
  uint64_t warm_limit;
  uint64_t decay_ms;
  HugePages huge_pages;
  bool sealable;
  std::vector<MemoryGroup> groups;
};

Options DefaultOptions() {
  uint64_t memory = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * kPage;
  return {2 * memory, std::min<uint64_t>(4ull << 30, memory / 8), 5000, HugePages::kAuto, false, {}};
}

Options& GetOptions() {
  static Options options = DefaultOptions();
  return options;
}

}  // namespace

struct ForkHandlers {
  static void Prepare() {
    g_mutex.lock();
    for (Arena* arena = g_arenas; arena != nullptr; arena = arena->next_) arena->PrepareFork();
  }
  static void Parent() {
    for (Arena* arena = g_arenas; arena != nullptr; arena = arena->next_) arena->AfterForkInParent();
    g_mutex.unlock();
  }
  static void Child() {
    for (Arena* arena = g_arenas; arena != nullptr; arena = arena->next_) arena->AfterForkInChild();
    g_current = nullptr;
    g_failed = false;
    g_mutex.unlock();
  }
};

Arena* Arena::Get() {
  Arena* current = g_current.load(std::memory_order_acquire);
  if (current != nullptr || g_failed) return current;
  std::lock_guard<std::mutex> lock(g_mutex);
  if (g_current != nullptr) return g_current;
  if (!g_handlers) {
    pthread_atfork(&ForkHandlers::Prepare, &ForkHandlers::Parent, &ForkHandlers::Child);
    g_handlers = true;
  }
  const Options& options = GetOptions();
  auto* arena = new Arena();
  g_failure = arena->Init(options.capacity, options.huge_pages, options.sealable);
  if (!g_failure.empty()) {
    delete arena;
    g_failed = true;
    return nullptr;
  }
  arena->warm_limit_ = options.warm_limit;
  arena->decay_ms_ = options.decay_ms;
  arena->memory_pressure_ = MemoryPressure(options.groups);
  arena->next_ = g_arenas;
  g_arenas.store(arena, std::memory_order_release);
  g_current.store(arena, std::memory_order_release);
  return arena;
}

std::string Arena::Failure() {
  std::lock_guard<std::mutex> lock(g_mutex);
  return "the arena cannot be created: " + g_failure;
}

Arena* Arena::Current() { return g_current.load(std::memory_order_acquire); }

Arena* Arena::Owner(const void* address) {
  for (Arena* arena = g_arenas.load(std::memory_order_acquire); arena != nullptr; arena = arena->next_)
    if (arena->Contains(address)) return arena;
  return nullptr;
}

void Arena::Configure(uint64_t capacity, uint64_t warm_limit, uint64_t decay_ms, HugePages huge_pages,
                      bool sealable, std::vector<MemoryGroup> groups) {
  std::lock_guard<std::mutex> lock(g_mutex);
  GetOptions() = {capacity, warm_limit, decay_ms, huge_pages, sealable, std::move(groups)};
  g_failed = false;
}

void Arena::PrepareFork() {
  slabs_.LockAll();
  mutex_.lock();
  if (inherited_) return;
  fork_guard_.Reap();  // of a server that forks for each request, nobody else may
  fork_guard_.Prepare();
  // Adjacent extents become private in one mapping. What would take too many mappings is copied.
  std::vector<Run> runs;
  uint64_t mappings = 0, end = UINT64_MAX;  // of private extents; and where the last one ends
  for (auto it = extents_.begin(); it != extents_.end(); ++it) {
    if (it->second.is_private) {
      mappings += it->first != end;
      end = RangeOf(it).end();
    } else if (it->second.origin != Origin::kCopy && !it->second.freed) {
      if (runs.empty() || runs.back().range.end() != it->first) runs.push_back({{it->first, 0}, it});
      runs.back().range.length += it->second.length;
    }
  }
  std::sort(runs.begin(), runs.end(),
            [](const Run& a, const Run& b) { return a.range.length > b.range.length; });
  for (const Run& run : runs) {
    if (++mappings > kForkPrivateMax || !mapping_.Privatise(run.range)) {
      Save(run.range);
      continue;
    }
    for (auto it = run.first; it != extents_.end() && it->first < run.range.end(); ++it)
      it->second.is_private = it->second.by_fork = true;
  }
  slabs_.EachInUse([&](uint64_t offset) { Save({offset, kSlabBytes}); });
}

void Arena::Save(Range range) {
  auto* copy = new (std::nothrow) uint8_t[range.length];
  // Without memory for it, the child sees what its parent writes there.
  if (copy == nullptr) return;
  memcpy(copy, base() + range.offset, range.length);
  saved_.emplace_back(range, std::unique_ptr<uint8_t[]>(copy));
}

void Arena::AfterForkInParent() {
  if (!inherited_) fork_guard_.AfterInParent();
  saved_.clear();
  mutex_.unlock();
  slabs_.UnlockAll();
}

void Arena::AfterForkInChild() {
  if (!inherited_) {
    inherited_ = true;
    fork_guard_.AfterInChild();
    std::vector<Range> shared;
    uint64_t start = 0;
    for (auto it = extents_.begin(); it != extents_.end(); ++it) {
      if (!it->second.is_private) continue;
      if (it->first > start) shared.push_back({start, it->first - start});
      start = RangeOf(it).end();
    }
    // The child never writes to unused memory, but a mistake must not reach the parent.
    if (start < capacity()) shared.push_back({start, capacity() - start});
    if (mapping_.Detach(shared)) {
      for (const auto& [range, copy] : saved_) memcpy(base() + range.offset, copy.get(), range.length);
    }
    saved_.clear();
  }
  mutex_.unlock();
  slabs_.UnlockAll();
}

}  // namespace zerrow
