// Bindings of arena, captures and KernelZero. `_native.pyi` documents them.
#include <fcntl.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>

#include "bind/bind.h"
#include "deanon/deanon.h"
#include "deanon/kernelzero.h"
#include "memory/arena.h"
#include "memory/capture_arrow.h"
#include "memory/capture_numpy.h"

namespace py = pybind11;

namespace zerrow {
namespace {

Arena* RequireArena() {
  Arena* arena = Arena::Get();
  if (arena == nullptr) {
    PyErr_SetString(PyExc_MemoryError, Arena::Failure().c_str());
    throw py::error_already_set();
  }
  return arena;
}

using GroupFiles = std::tuple<std::string, std::string, std::string, std::string>;

void ConfigureArena(uint64_t capacity, uint64_t warm_limit, uint64_t decay_ms, const std::string& huge_pages,
                    bool sealable, const std::vector<GroupFiles>& groups) {
  HugePages choice;
  if (huge_pages == "auto")
    choice = HugePages::kAuto;
  else if (huge_pages == "on")
    choice = HugePages::kOn;
  else if (huge_pages == "off")
    choice = HugePages::kOff;
  else
    throw py::value_error("huge_pages is auto, on or off");
  std::vector<MemoryGroup> watched;
  for (auto& [limit, usage, stat, pressure] : groups) watched.push_back({limit, usage, stat, pressure});
  Arena::Configure(capacity, warm_limit, decay_ms, choice, sealable, std::move(watched));
}

std::tuple<py::bytes, int, uint64_t> ArenaSegment() {
  Arena* arena = RequireArena();
  return {py::bytes(arena->id()), arena->fd(), arena->capacity()};
}

py::dict GetArenaStats() {
  ArenaStats stats{};
  if (Arena* arena = Arena::Current()) {
    GilReleased released;
    stats = arena->Stats();
  }
  py::dict result;
  result["live"] = stats.live;
  result["pinned"] = stats.pinned;
  result["warm"] = stats.warm;
  result["quarantined"] = stats.quarantined;
  result["punched"] = stats.punched;
  result["peak"] = stats.peak;
  result["page"] = stats.page;
  return result;
}

uint64_t ArenaResetPeak() {
  Arena* arena = Arena::Current();
  return arena == nullptr ? 0 : arena->ResetPeak();
}

void BoundUnpublished(std::optional<uint64_t> limit) {
  GilReleased released;
  if (Arena* arena = Arena::Current()) arena->BoundUnpublished(limit.value_or(UINT64_MAX));
}

void HoldBack(double seconds) {
  if (Arena* arena = Arena::Current()) arena->HoldBack(seconds);
}

void Unpin(const std::string& offsets) {
  if (offsets.size() % 8 != 0)
    throw py::value_error("offsets are packed uint64: the length is no multiple of 8");
  GilReleased released;
  Arena* arena = Arena::Current();
  if (arena == nullptr) return;
  for (size_t i = 0; i < offsets.size(); i += 8) {
    uint64_t offset;
    memcpy(&offset, offsets.data() + i, 8);
    arena->Unpin(offset);
  }
}

uint32_t KernelZeroVersion() {
  kernelzero_query query;
  if (int error = QueryKernelZero(&query)) {
    errno = error;
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, "/dev/kernelzero");
    throw py::error_already_set();
  }
  return query.version;
}

py::dict GetDeanonStats() {
  DeanonStats stats = Deanon::Stats();
  py::dict result;
  result["tracked"] = stats.tracked;
  result["moved"] = stats.moved;
  result["files"] = stats.files;
  result["not_returned"] = stats.not_returned;
  return result;
}

py::list MovedFiles(const std::vector<std::string>& segments, size_t most) {
  py::list found;
  for (const std::string& segment : segments) {
    if (found.size() == most) break;
    std::shared_ptr<MovedFile> file = Deanon::File(ToSegmentId(segment));
    if (file == nullptr) continue;
    int fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
      int error = errno;
      for (py::handle entry : found) close(entry.cast<py::tuple>()[1].cast<int>());
      errno = error;
      PyErr_SetFromErrno(PyExc_OSError);
      throw py::error_already_set();
    }
    found.append(py::make_tuple(py::bytes(segment), fd, file->size));
  }
  return found;
}

// The arena's C++ interface by address, for tests.
struct ArenaProbe {
  static uint64_t Allocate(uint64_t size, bool numpy, bool zeroed) {
    GilReleased released;
    Arena* arena = Arena::Get();
    if (arena == nullptr) return 0;
    return reinterpret_cast<uint64_t>(arena->Allocate(size, numpy ? Origin::kNumpy : Origin::kArrow, zeroed));
  }
  static void Free(uint64_t address) {
    auto* pointer = reinterpret_cast<uint8_t*>(address);
    Arena* owner = Arena::Owner(pointer);
    if (owner == nullptr) throw py::value_error("no arena holds this address");
    GilReleased released;
    owner->Free(pointer);
  }
  static bool Resize(uint64_t address, uint64_t size) {
    return RequireArena()->Resize(reinterpret_cast<uint8_t*>(address), size);
  }
  static std::optional<std::tuple<uint64_t, uint64_t>> Find(uint64_t address, uint64_t size) {
    Allocation found;
    if (!RequireArena()->Find(reinterpret_cast<const void*>(address), size, &found)) return std::nullopt;
    return {{found.offset, found.size}};
  }
  static void Trim(uint64_t keep) {
    GilReleased released;
    if (Arena* arena = Arena::Current()) arena->Trim(keep);
  }
  static bool Contains(uint64_t address) {
    Arena* arena = Arena::Current();
    return arena != nullptr && arena->Contains(reinterpret_cast<const void*>(address));
  }
  static bool Pin(uint64_t offset) {
    Arena* arena = RequireArena();
    GilReleased released;
    return arena->Pin(offset);
  }
};

}  // namespace

void BindMemory(py::module_& m) {
  m.def("configure_arena", &ConfigureArena, py::kw_only(), py::arg("capacity"), py::arg("warm_limit"),
        py::arg("decay_ms"), py::arg("huge_pages") = "auto", py::arg("sealable") = false,
        py::arg("groups") = std::vector<GroupFiles>());
  m.def("find_huge_pages", [] {
    HugePagesFinding found = FindHugePages();
    return py::make_tuple(found.available, found.text);
  });
  m.def("arena_segment", &ArenaSegment);
  m.def("arena_stats", &GetArenaStats);
  m.def("arena_reset_peak", &ArenaResetPeak);
  m.def("bound_unpublished", &BoundUnpublished, py::arg("limit"));
  m.def("hold_back", &HoldBack, py::arg("seconds"));
  m.def("capture_arrow", &CaptureArrow, py::arg("on"));
  m.def("capture_numpy", &CaptureNumpy, py::arg("on"));
  m.def("captured", [] {
    py::dict result;
    result["arrow"] = ArrowCaptured();
    result["numpy"] = NumpyCaptured();
    return result;
  });
  m.def("unpin", &Unpin, py::arg("offsets"));
  m.def("kernelzero_version", &KernelZeroVersion);
  m.def("track_arrow", &TrackArrow);
  m.def("track_numpy", &TrackNumpy);
  m.def("track_allocations", &Deanon::Switch, py::arg("on"));
  m.def("deanon_stats", &GetDeanonStats);
  m.def("moved_files", &MovedFiles, py::arg("segments"), py::arg("most"));
  py::class_<ArenaProbe>(m, "ArenaProbe")
      .def_static("allocate", &ArenaProbe::Allocate, py::arg("size"), py::kw_only(), py::arg("numpy") = false,
                  py::arg("zeroed") = false)
      .def_static("free", &ArenaProbe::Free, py::arg("address"))
      .def_static("resize", &ArenaProbe::Resize, py::arg("address"), py::arg("size"))
      .def_static("find", &ArenaProbe::Find, py::arg("address"), py::arg("size"))
      .def_static("contains", &ArenaProbe::Contains, py::arg("address"))
      .def_static("pin", &ArenaProbe::Pin, py::arg("offset"))
      .def_static("trim", &ArenaProbe::Trim, py::arg("keep") = 0);
}

}  // namespace zerrow
