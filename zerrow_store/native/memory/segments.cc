// See segments.h.
#include "memory/segments.h"

#include <Python.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <mutex>
#include <typeinfo>
#include <unordered_map>

#include "deanon/deanon.h"
#include "memory/arena.h"
#include "memory/extents.h"
#include "memory/gil.h"

namespace zerrow {
namespace {

struct IdHash {
  size_t operator()(const SegmentId& id) const {  // ids are random
    size_t hash;
    std::memcpy(&hash, id.data(), sizeof(hash));
    return hash;
  }
};

struct Registry {
  std::mutex mutex;
  std::unordered_map<SegmentId, std::shared_ptr<SegmentView>, IdHash> segments;
  MessageView* unindexed = nullptr;
  ViewIndex index;
};

// Never destroyed: buffers may be freed after static destructors have run. A fork takes the mutex,
// so that the child finds it free and the tables whole.
Registry& TheRegistry() {
  static Registry* registry = [] {
    pthread_atfork([] { TheRegistry().mutex.lock(); }, [] { TheRegistry().mutex.unlock(); },
                   [] { TheRegistry().mutex.unlock(); });
    return new Registry;
  }();
  return *registry;
}

bool Covers(const uint8_t* base, uint64_t base_size, const uint8_t* data, uint64_t size) {
  uintptr_t start = reinterpret_cast<uintptr_t>(base);
  uintptr_t address = reinterpret_cast<uintptr_t>(data);
  return address >= start && address - start <= base_size && size <= base_size - (address - start);
}

SipcError MapError(const SegmentId& id, const std::string& why) {
  return SipcError("cannot map segment " + Hex(id) + ": " + why);
}

// Where a file comes from: another process, this process, or a disk.
enum class Source : uint8_t { kForeign, kOwn, kDisk };

// A file that can shrink could kill every reader with SIGBUS. A file in huge pages takes no seals.
// Only its producer has it open for writing, and its mode keeps other processes from opening it so.
bool CannotShrink(int fd, const struct stat& status) {
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0) return false;
  if ((seals & F_SEAL_SHRINK) != 0) return true;
  bool cannot_be_opened = status.st_nlink == 0 && (status.st_mode & 0222) == 0;
  return cannot_be_opened && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
}

void CheckFile(const SegmentId& id, int fd, uint64_t size, Source source) {
  struct stat status;
  if (fstat(fd, &status) != 0) throw MapError(id, std::strerror(errno));
  if (size == 0 || static_cast<uint64_t>(status.st_size) < size) {
    throw MapError(id, "it has " + std::to_string(status.st_size) + " bytes, not " + std::to_string(size));
  }
  if (source == Source::kForeign && !CannotShrink(fd, status)) {
    throw MapError(id, "it is not sealed against shrinking (F_SEAL_SHRINK)");
  }
}

std::shared_ptr<SegmentView> MakeMapping(const SegmentId& id, int fd, uint64_t size, Source source) {
  CheckFile(id, fd, size, source);
  void* base = mmap(nullptr, size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (base == MAP_FAILED) throw MapError(id, std::strerror(errno));
  madvise(base, size, MADV_DONTDUMP);  // as an arena's own mapping
  return std::make_shared<SegmentView>(id, static_cast<const uint8_t*>(base), size, source == Source::kDisk);
}

// Another view of the same bytes reads them again when it touches them.
void ReleasePages(const MappedAllocation& allocation) {
  uintptr_t data = reinterpret_cast<uintptr_t>(allocation.data());
  uintptr_t start = RoundDown(data, kPage);
  madvise(reinterpret_cast<void*>(start), data + allocation.size - start, MADV_DONTNEED);
}

// The caller holds the registry's mutex.
std::shared_ptr<SegmentView> MapLocked(const SegmentId& id, int fd, uint64_t size, Source source) {
  std::shared_ptr<SegmentView>& mapping = TheRegistry().segments[id];
  if (mapping == nullptr) {
    try {
      mapping = MakeMapping(id, fd, size, source);
    } catch (...) {
      TheRegistry().segments.erase(id);
      throw;
    }
  }
  if (mapping->size < size) {
    throw MapError(
        id, "it is mapped with " + std::to_string(mapping->size) + " bytes, not " + std::to_string(size));
  }
  return mapping;
}

bool InterpreterIsGone() {
#if PY_VERSION_HEX >= 0x030D0000
  return !Py_IsInitialized() || Py_IsFinalizing();
#else
  return !Py_IsInitialized() || _Py_IsFinalizing();
#endif
}

}  // namespace

SegmentView::~SegmentView() { munmap(const_cast<uint8_t*>(base), size); }

MappedAllocation Within(std::shared_ptr<SegmentView> mapping, uint64_t offset, uint64_t size) {
  if (offset > mapping->size || size > mapping->size - offset) {
    throw SipcError("bytes " + std::to_string(offset) + " + " + std::to_string(size) +
                    " are outside segment " + Hex(mapping->id) + " of " + std::to_string(mapping->size) +
                    " bytes");
  }
  return {std::move(mapping), offset, size};
}

std::shared_ptr<MessageView> MessageView::Make(PyObject* owner, std::vector<MappedAllocation> allocations) {
  std::shared_ptr<MessageView> view(new MessageView(owner, std::move(allocations)));
  Segments::Add(view.get());
  return view;
}

MessageView::~MessageView() {
  Segments::Remove(this);
  // Before the owner tells the store, which cannot drop a page that is mapped.
  for (const MappedAllocation& allocation : allocations_) {
    if (allocation.mapping->on_disk) ReleasePages(allocation);
  }
  // Leaked at exit: the owner's destructor cannot run without an interpreter.
  if (owner_ == nullptr || InterpreterIsGone()) return;
  GilHeld held;
  Py_DECREF(owner_);
}

void Segments::Map(const SegmentId& id, int fd, uint64_t size, bool sealed) {
  std::lock_guard<std::mutex> lock(TheRegistry().mutex);
  MapLocked(id, fd, size, sealed ? Source::kForeign : Source::kDisk);
}

bool Segments::Unmap(const SegmentId& id) {
  Registry& registry = TheRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  auto found = registry.segments.find(id);
  // Only this registry makes the first reference to a mapping, under this mutex, so a count of one
  // cannot grow meanwhile.
  if (found == registry.segments.end() || found->second.use_count() > 1) return false;
  registry.segments.erase(found);
  return true;
}

std::vector<SegmentId> Segments::Mapped() {
  Registry& registry = TheRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  std::vector<SegmentId> ids;
  for (const auto& [id, mapping] : registry.segments) ids.push_back(id);
  return ids;
}

std::shared_ptr<SegmentView> Segments::Get(const SegmentId& id) {
  Registry& registry = TheRegistry();
  {
    std::lock_guard<std::mutex> lock(registry.mutex);
    auto found = registry.segments.find(id);
    if (found != registry.segments.end()) return found->second;
  }
  if (std::shared_ptr<MovedFile> file = Deanon::File(id)) {
    std::lock_guard<std::mutex> lock(registry.mutex);
    return MapLocked(id, file->fd, file->size, Source::kOwn);
  }
  Arena* arena = Arena::Get();  // not under the mutex: it may create the arena
  if (arena == nullptr || arena->id() != std::string_view(id.data(), id.size())) return nullptr;
  std::lock_guard<std::mutex> lock(registry.mutex);
  return MapLocked(id, arena->fd(), arena->capacity(), Source::kOwn);
}

MappedAllocation Segments::Resolve(const SegmentId& id, uint64_t offset, uint64_t size) {
  std::shared_ptr<SegmentView> mapping = Get(id);
  if (mapping == nullptr) throw SipcError("segment " + Hex(id) + " is not mapped");
  return Within(std::move(mapping), offset, size);
}

std::optional<BufferOrigin> Segments::Find(const arrow::Buffer& buffer) {
  std::shared_ptr<arrow::Buffer> keep;
  const arrow::Buffer* ancestor = &buffer;
  while (ancestor != nullptr) {
    if (typeid(*ancestor) == typeid(RefBuffer)) {
      const auto& ref = static_cast<const RefBuffer&>(*ancestor);
      const MappedAllocation& allocation = ref.view()->allocations()[ref.allocation()];
      if (Covers(allocation.data(), allocation.size, buffer.data(), buffer.size())) {
        return BufferOrigin{ref.view(), ref.allocation()};
      }
      break;
    }
    keep = ancestor->parent();
    ancestor = keep.get();
  }
  return Find(buffer.data(), buffer.size());
}

std::optional<BufferOrigin> Segments::Find(const uint8_t* data, uint64_t size) {
  Registry& registry = TheRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  bool in_segment = false;
  for (const auto& [id, mapping] : registry.segments) {
    in_segment = in_segment || Covers(mapping->base, mapping->size, data, size);
  }
  if (!in_segment) return std::nullopt;
  IndexAll();
  auto entry = registry.index.upper_bound(data);
  if (entry == registry.index.begin()) return std::nullopt;
  const uint8_t* start = std::prev(entry)->first;
  // Several messages may view one allocation, and some of the views may be dying.
  for (auto [at, end] = registry.index.equal_range(start); at != end; ++at) {
    const MappedAllocation& allocation = at->second.view->allocations()[at->second.allocation];
    if (!Covers(allocation.data(), allocation.size, data, size)) continue;
    if (std::shared_ptr<MessageView> view = at->second.view->weak_from_this().lock()) {
      return BufferOrigin{std::move(view), at->second.allocation};
    }
  }
  return std::nullopt;
}

void Segments::Add(MessageView* view) {
  Registry& registry = TheRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  view->next_ = registry.unindexed;
  if (view->next_ != nullptr) view->next_->previous_ = view;
  registry.unindexed = view;
}

void Segments::Remove(MessageView* view) {
  Registry& registry = TheRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  if (view->indexed_) {
    for (ViewIndex::iterator entry : view->entries_) registry.index.erase(entry);
    return;
  }
  (view->previous_ != nullptr ? view->previous_->next_ : registry.unindexed) = view->next_;
  if (view->next_ != nullptr) view->next_->previous_ = view->previous_;
}

// The caller holds the registry's mutex.
void Segments::IndexAll() {
  Registry& registry = TheRegistry();
  while (MessageView* view = registry.unindexed) {
    registry.unindexed = view->next_;
    if (view->next_ != nullptr) view->next_->previous_ = nullptr;
    view->indexed_ = true;
    for (uint32_t i = 0; i < view->allocations_.size(); ++i) {
      view->entries_.push_back(registry.index.emplace(view->allocations_[i].data(), IndexEntry{view, i}));
    }
  }
}

}  // namespace zerrow
