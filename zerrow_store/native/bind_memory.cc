// The memory part of the Python module. `_native.pyi` documents it.
#include <pybind11/stl.h>

#include <cstring>
#include <optional>
#include <string>
#include <tuple>

#include "arena.h"
#include "bind.h"
#include "capture_arrow.h"
#include "capture_numpy.h"

namespace py = pybind11;

namespace zerrow {
namespace {

Arena* RequireArena() {
  Arena* arena = Arena::Get();
  if (arena == nullptr) {
    PyErr_SetString(PyExc_MemoryError,
                    "the arena cannot be made: out of address space or file descriptors "
                    "(ulimit -v, -n, -f), or ZERROW_ARENA_CAPACITY is below 64 MiB");
    throw py::error_already_set();
  }
  return arena;
}

std::tuple<py::bytes, int, uint64_t> ArenaSegment() {
  Arena* arena = RequireArena();
  return {py::bytes(arena->id()), arena->fd(), arena->capacity()};
}

py::dict GetArenaStats() {
  ArenaStats stats{};
  if (Arena* arena = Arena::Current()) {
    py::gil_scoped_release release;
    stats = arena->Stats();
  }
  py::dict result;
  result["live"] = stats.live;
  result["pinned"] = stats.pinned;
  result["warm"] = stats.warm;
  result["quarantined"] = stats.quarantined;
  result["punched"] = stats.punched;
  return result;
}

void ArenaTrim(uint64_t keep) {
  py::gil_scoped_release release;
  if (Arena* arena = Arena::Current()) arena->Trim(keep);
}

void BoundWarm(std::optional<uint64_t> limit) {
  py::gil_scoped_release release;
  if (Arena* arena = Arena::Current()) arena->BoundWarm(limit.value_or(UINT64_MAX));
}

bool ArenaContains(uint64_t address) {
  Arena* arena = Arena::Current();
  return arena != nullptr && arena->Contains(reinterpret_cast<const void*>(address));
}

void Unpin(const std::string& offsets) {
  if (offsets.size() % 8 != 0)
    throw py::value_error("offsets are packed uint64: the length is no multiple of 8");
  py::gil_scoped_release release;
  Arena* arena = Arena::Current();
  if (arena == nullptr) return;
  for (size_t i = 0; i < offsets.size(); i += 8) {
    uint64_t offset;
    memcpy(&offset, offsets.data() + i, 8);
    arena->Unpin(offset);
  }
}

// Arena's C++ interface for tests, by address.
struct ArenaProbe {
  static uint64_t Allocate(uint64_t size, bool numpy, bool zeroed) {
    py::gil_scoped_release release;
    Arena* arena = Arena::Get();
    if (arena == nullptr) return 0;
    return reinterpret_cast<uint64_t>(arena->Allocate(size, numpy ? Origin::kNumpy : Origin::kArrow, zeroed));
  }
  static void Free(uint64_t address) {
    auto* pointer = reinterpret_cast<uint8_t*>(address);
    Arena* owner = Arena::Owner(pointer);
    if (owner == nullptr) throw py::value_error("no arena holds this address");
    py::gil_scoped_release release;
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
  static bool Pin(uint64_t offset) { return RequireArena()->Pin(offset); }
};

}  // namespace

void BindMemory(py::module_& m) {
  m.def("configure_arena", &Arena::Configure, py::kw_only(), py::arg("capacity"), py::arg("warm_limit"),
        py::arg("decay_ms"), py::arg("sealable") = false);
  m.def("arena_segment", &ArenaSegment);
  m.def("arena_stats", &GetArenaStats);
  m.def("arena_trim", &ArenaTrim, py::arg("keep") = 0);
  m.def("bound_warm", &BoundWarm, py::arg("limit"));
  m.def("arena_contains", &ArenaContains, py::arg("address"));
  m.def("memory_pool_name", &DefaultPoolName);
  m.def("capture_arrow", &CaptureArrow, py::arg("on"));
  m.def("capture_numpy", &CaptureNumpy, py::arg("on"));
  m.def("captured", [] {
    py::dict result;
    result["arrow"] = ArrowCaptured();
    result["numpy"] = NumpyCaptured();
    return result;
  });
  m.def("unpin", &Unpin, py::arg("offsets"));
  py::class_<ArenaProbe>(m, "ArenaProbe")
      .def_static("allocate", &ArenaProbe::Allocate, py::arg("size"), py::kw_only(), py::arg("numpy") = false,
                  py::arg("zeroed") = false)
      .def_static("free", &ArenaProbe::Free, py::arg("address"))
      .def_static("resize", &ArenaProbe::Resize, py::arg("address"), py::arg("size"))
      .def_static("find", &ArenaProbe::Find, py::arg("address"), py::arg("size"))
      .def_static("pin", &ArenaProbe::Pin, py::arg("offset"));
}

}  // namespace zerrow
