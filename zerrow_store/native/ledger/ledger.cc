// The reference counts of a node store, which are native as a wide table has thousands of
// allocations. Free of Arrow, as the server does not import pyarrow. Documented in _ledger.pyi.
#include <pybind11/operators.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace py = pybind11;

namespace zerrow {
namespace {

struct Range {
  uint64_t offset;
  uint64_t size;
};

// Unpacks little-endian records. Copies them, as they may be unaligned.
template <typename Record>
std::vector<Record> Unpack(const py::bytes& packed) {
  std::string_view bytes(packed);
  if (bytes.size() % sizeof(Record) != 0) throw py::value_error("packed numbers of a wrong length");
  std::vector<Record> records(bytes.size() / sizeof(Record));
  if (!records.empty()) std::memcpy(records.data(), bytes.data(), bytes.size());
  return records;
}

py::bytes Pack(const std::vector<uint64_t>& numbers) {
  return py::bytes(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(uint64_t));
}

class Ledger {
 public:
  uint64_t Missing(const py::bytes& ranges, uint64_t segment_size) const {
    uint64_t bytes = 0;
    for (const Range& range : Unpack<Range>(ranges)) {
      if (range.size == 0 || range.size > segment_size || range.offset > segment_size - range.size) {
        throw py::value_error("an allocation outside of its segment");
      }
      auto known = entries_.find(range.offset);
      if (known == entries_.end()) {
        bytes += range.size;
        if (bytes >> 62 != 0) throw py::value_error("more bytes than there can be");
      } else if (known->second.size != range.size) {
        throw py::value_error("an allocation changed its size while published");
      }
    }
    return bytes;
  }

  bool Contains(const py::bytes& ranges) const {
    auto unpacked = Unpack<Range>(ranges);
    return std::all_of(unpacked.begin(), unpacked.end(), [&](const Range& range) {
      auto known = entries_.find(range.offset);
      return known != entries_.end() && known->second.size == range.size;
    });
  }

  py::list Counts(const py::bytes& ranges) const {
    py::list counts;
    for (const Range& range : Unpack<Range>(ranges)) {
      auto entry = entries_.find(range.offset);
      counts.append(entry == entries_.end() ? 0 : entry->second.count);
    }
    return counts;
  }

  py::tuple Add(const py::bytes& ranges) {
    uint64_t added_bytes = 0, bytes = 0;
    for (const Range& range : Unpack<Range>(ranges)) {
      auto [entry, added] = entries_.try_emplace(range.offset, Entry{range.size, 0});
      ++entry->second.count;
      if (added) added_bytes += range.size;
      bytes += range.size;
    }
    return py::make_tuple(added_bytes, bytes);
  }

  py::tuple Remove(const py::bytes& ranges) {
    uint64_t bytes = 0;
    std::vector<uint64_t> freed;
    for (const Range& range : Unpack<Range>(ranges)) {
      auto entry = entries_.find(range.offset);
      if (entry == entries_.end()) throw py::key_error("an allocation that nothing refers to");
      if (--entry->second.count == 0) {
        bytes += entry->second.size;
        freed.push_back(range.offset);
        entries_.erase(entry);
      }
    }
    return py::make_tuple(Pack(freed), bytes);
  }

  py::bytes Offsets() const {
    std::vector<uint64_t> offsets;
    for (const auto& [offset, _] : entries_) offsets.push_back(offset);
    return Pack(offsets);
  }

  py::list Gaps(uint64_t segment_size) const {
    std::vector<Range> ranges;
    for (const auto& [offset, entry] : entries_) ranges.push_back({offset, entry.size});
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return a.offset < b.offset; });
    py::list gaps;
    uint64_t start = 0;
    for (const Range& range : ranges) {
      if (range.offset > start) gaps.append(py::make_tuple(start, range.offset));
      start = std::max(start, range.offset + range.size);
    }
    if (start < segment_size) gaps.append(py::make_tuple(start, segment_size));
    return gaps;
  }

  size_t size() const { return entries_.size(); }
  bool operator==(const Ledger& other) const { return entries_ == other.entries_; }

 private:
  struct Entry {
    uint64_t size;
    uint64_t count;
    bool operator==(const Entry&) const = default;
  };
  std::unordered_map<uint64_t, Entry> entries_;
};

class OffsetSet {
 public:
  py::bytes Add(const py::bytes& ranges) {
    std::vector<uint64_t> known;
    for (const Range& range : Unpack<Range>(ranges)) {
      if (!offsets_.insert(range.offset).second) known.push_back(range.offset);
    }
    return Pack(known);
  }

  py::bytes Remove(const py::bytes& offsets) {
    std::vector<uint64_t> removed;
    for (uint64_t offset : Unpack<uint64_t>(offsets)) {
      if (offsets_.erase(offset) != 0) removed.push_back(offset);
    }
    return Pack(removed);
  }

  py::bytes Retain(const py::bytes& offsets) {
    auto unpacked = Unpack<uint64_t>(offsets);
    std::unordered_set<uint64_t> kept(unpacked.begin(), unpacked.end());
    std::vector<uint64_t> removed;
    for (uint64_t offset : offsets_) {
      if (kept.count(offset) == 0) removed.push_back(offset);
    }
    for (uint64_t offset : removed) offsets_.erase(offset);
    return Pack(removed);
  }

 private:
  std::unordered_set<uint64_t> offsets_;
};

}  // namespace
}  // namespace zerrow

PYBIND11_MODULE(_ledger, m) {
  using zerrow::Ledger;
  using zerrow::OffsetSet;

  py::class_<Ledger>(m, "Ledger")
      .def(py::init<>())
      .def("missing", &Ledger::Missing, py::arg("ranges"), py::arg("segment_size"))
      .def("contains", &Ledger::Contains, py::arg("ranges"))
      .def("counts", &Ledger::Counts, py::arg("ranges"))
      .def("add", &Ledger::Add, py::arg("ranges"))
      .def("remove", &Ledger::Remove, py::arg("ranges"))
      .def("offsets", &Ledger::Offsets)
      .def("gaps", &Ledger::Gaps, py::arg("segment_size"))
      .def("__len__", &Ledger::size)
      .def(py::self == py::self);

  py::class_<OffsetSet>(m, "OffsetSet")
      .def(py::init<>())
      .def("add", &OffsetSet::Add, py::arg("ranges"))
      .def("remove", &OffsetSet::Remove, py::arg("offsets"))
      .def("retain", &OffsetSet::Retain, py::arg("offsets"));
}
