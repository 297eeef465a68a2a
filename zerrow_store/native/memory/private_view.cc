// Where buffers lie, and their private mappings.
#include "memory/private_view.h"

#include <sys/mman.h>
#include <unistd.h>

#include <utility>

#include "memory/arena.h"
#include "memory/segments.h"

namespace zerrow {
namespace {

class PrivateView final : public arrow::MutableBuffer {
 public:
  PrivateView(uint8_t* base, uint64_t before, std::shared_ptr<arrow::Buffer> original)
      : MutableBuffer(base + before, original->size()),
        base_(base),
        length_(before + static_cast<uint64_t>(original->size())),
        original_(std::move(original)) {}
  ~PrivateView() override { munmap(base_, length_); }

 private:
  uint8_t* base_;
  uint64_t length_;
  std::shared_ptr<arrow::Buffer> original_;
};

}  // namespace

std::optional<FilePlace> Locate(const arrow::Buffer& buffer) {
  const uint8_t* data = buffer.data();
  if (std::optional<BufferOrigin> origin = Segments::Find(buffer)) {
    const MappedAllocation& allocation = origin->view->allocations()[origin->allocation];
    return FilePlace{allocation.mapping->id,
                     allocation.offset + static_cast<uint64_t>(data - allocation.data())};
  }
  Arena* arena = Arena::Current();
  Allocation allocation;
  if (arena == nullptr || !arena->Find(data, static_cast<uint64_t>(buffer.size()), &allocation) ||
      allocation.origin != Origin::kArrow) {
    return std::nullopt;
  }
  SegmentId id;
  arena->id().copy(id.data(), id.size());
  return FilePlace{id, static_cast<uint64_t>(data - arena->base())};
}

std::shared_ptr<arrow::Buffer> MapPrivately(std::shared_ptr<arrow::Buffer> buffer, int fd, uint64_t offset) {
  static const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  uint64_t before = offset % page;
  uint64_t length = before + static_cast<uint64_t>(buffer->size());
  void* base = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd,
                    static_cast<off_t>(offset - before));
  if (base == MAP_FAILED) return nullptr;
  return std::make_shared<PrivateView>(static_cast<uint8_t*>(base), before, std::move(buffer));
}

}  // namespace zerrow
