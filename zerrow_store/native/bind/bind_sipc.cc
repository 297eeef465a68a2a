// Bindings of segments and SIPC. `_native.pyi` documents them.
#include <arrow/api.h>
#include <arrow/python/common.h>
#include <arrow/python/pyarrow.h>
#include <arrow/type_traits.h>
#include <arrow/util/byte_size.h>
#include <pybind11/stl.h>

#include "bind/bind.h"
#include "memory/arena.h"
#include "memory/private_view.h"
#include "memory/segments.h"
#include "sipc/sipc.h"

namespace py = pybind11;

namespace zerrow {
namespace {

template <typename T>
T Unwrapped(arrow::Result<T> result) {
  if (!result.ok()) {
    arrow::py::internal::check_status(result.status());
    throw py::error_already_set();
  }
  return std::move(result).ValueUnsafe();
}

py::object Stolen(PyObject* object) {
  if (object == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

py::bytes ToBytes(const SegmentId& id) { return py::bytes(id.data(), id.size()); }

py::bytes Packed(const std::vector<OffsetSize>& ranges) {
  static_assert(sizeof(OffsetSize) == 16);
  return py::bytes(reinterpret_cast<const char*>(ranges.data()), ranges.size() * sizeof(OffsetSize));
}

// An encoded message for Python; its parts are converted once.
struct PyEncoded {
  explicit PyEncoded(Encoded encoded)
      : message(encoded.message),
        own(Packed(encoded.own)),
        bytes_shared(encoded.bytes_shared),
        bytes_reshared(encoded.bytes_reshared),
        bytes_copied(encoded.bytes_copied),
        views(std::move(encoded.views)),
        files(std::move(encoded.files)) {
    for (const auto& [segment, ranges] : encoded.foreign) {
      foreign.append(py::make_tuple(ToBytes(segment), Packed(ranges)));
    }
  }

  // Unpins `own`.
  void Unpin() const {
    std::string_view pairs(own);
    GilReleased released;
    Arena* arena = Arena::Current();
    for (size_t i = 0; arena != nullptr && i < pairs.size(); i += sizeof(OffsetSize)) {
      uint64_t offset;
      memcpy(&offset, pairs.data() + i, sizeof(offset));
      arena->Unpin(offset);
    }
  }

  py::bytes message;
  py::bytes own;
  py::list foreign;
  uint64_t bytes_shared;
  uint64_t bytes_reshared;
  uint64_t bytes_copied;
  std::vector<std::shared_ptr<MessageView>> views;
  std::vector<std::shared_ptr<MovedFile>> files;
};

template <typename Function>
PyEncoded WithoutGil(Function encode) {
  return PyEncoded([&] {
    GilReleased released;
    return encode();
  }());
}

PyEncoded PyEncode(py::handle object, bool move) {
  PyObject* data = object.ptr();
  if (arrow::py::is_table(data)) {
    auto table = Unwrapped(arrow::py::unwrap_table(data));
    return WithoutGil([&] { return EncodeTable(*table, move); });
  }
  if (arrow::py::is_batch(data)) {
    auto batch = Unwrapped(arrow::py::unwrap_batch(data));
    return WithoutGil([&] { return EncodeRecordBatch(*batch, move); });
  }
  if (arrow::py::is_chunked_array(data)) {
    auto array = Unwrapped(arrow::py::unwrap_chunked_array(data));
    return WithoutGil([&] { return EncodeChunkedArray(*array, move); });
  }
  if (arrow::py::is_array(data)) {
    auto array = Unwrapped(arrow::py::unwrap_array(data));
    return WithoutGil([&] { return EncodeArray(*array, move); });
  }
  throw py::type_error("a Table, RecordBatch, ChunkedArray or Array of pyarrow is needed, not " +
                       std::string(py::str(py::type::of(object))));
}

PyEncoded PyEncodeBuffers(const py::bytes& header, const py::list& objects, bool move) {
  std::vector<std::shared_ptr<arrow::Buffer>> buffers;
  for (py::handle object : objects) {
    buffers.push_back(arrow::py::is_buffer(object.ptr())
                          ? Unwrapped(arrow::py::unwrap_buffer(object.ptr()))
                          : Unwrapped(arrow::py::PyBuffer::FromPyObject(object.ptr())));
  }
  return WithoutGil([&] { return EncodeBuffers(std::string_view(header), buffers, move); });
}

struct ToPython {
  py::object operator()(const std::shared_ptr<arrow::Table>& table) const {
    return Stolen(arrow::py::wrap_table(table));
  }
  py::object operator()(const std::shared_ptr<arrow::RecordBatch>& batch) const {
    return Stolen(arrow::py::wrap_batch(batch));
  }
  py::object operator()(const std::shared_ptr<arrow::ChunkedArray>& array) const {
    return Stolen(arrow::py::wrap_chunked_array(array));
  }
  py::object operator()(const std::shared_ptr<arrow::Array>& array) const {
    return Stolen(arrow::py::wrap_array(array));
  }
  py::object operator()(
      const std::pair<std::string, std::vector<std::shared_ptr<arrow::Buffer>>>& decoded) const {
    py::list buffers;
    for (const auto& buffer : decoded.second) buffers.append(Stolen(arrow::py::wrap_buffer(buffer)));
    return py::make_tuple(py::bytes(decoded.first), buffers);
  }
};

// The bytes that an array refers to, computed from its length if its type allows that.
int64_t ArrayBytes(const arrow::Array& array) {
  const arrow::DataType& type = *array.type();
  if (array.length() == 0) return 0;  // Arrow's own count crashes on empty arrays without offsets
  if (arrow::is_primitive(type.id()) || arrow::is_fixed_size_binary(type.id())) {
    int64_t before = array.offset() * type.bit_width() % 8;  // bits before it in its first byte
    return (before + array.length() * type.bit_width() + 7) / 8;
  }
  // Up to Arrow 23 this does not know views, nor what contains them: their buffers count whole then.
  arrow::Result<int64_t> bytes = arrow::util::ReferencedBufferSize(array);
  return bytes.ok() ? *bytes : arrow::util::TotalBufferSize(array);
}

bool ReachesChunked(const arrow::ChunkedArray& array, int64_t limit, int64_t& bytes) {
  for (const auto& chunk : array.chunks()) {
    if ((bytes += ArrayBytes(*chunk)) >= limit) return true;
  }
  return bytes >= limit;
}

bool Reaches(py::handle object, int64_t limit) {
  PyObject* data = object.ptr();
  int64_t bytes = 0;
  if (arrow::py::is_table(data)) {
    auto table = Unwrapped(arrow::py::unwrap_table(data));
    for (const auto& column : table->columns()) {
      if (ReachesChunked(*column, limit, bytes)) return true;
    }
  } else if (arrow::py::is_batch(data)) {
    auto batch = Unwrapped(arrow::py::unwrap_batch(data));
    for (int i = 0; i < batch->num_columns(); ++i) {
      if ((bytes += ArrayBytes(*batch->column(i))) >= limit) return true;
    }
  } else if (arrow::py::is_chunked_array(data)) {
    return ReachesChunked(*Unwrapped(arrow::py::unwrap_chunked_array(data)), limit, bytes);
  } else {
    bytes = ArrayBytes(*Unwrapped(arrow::py::unwrap_array(data)));
  }
  return bytes >= limit;
}

using PyRelocated = std::vector<std::pair<py::bytes, uint64_t>>;

py::object PyDecode(const py::bytes& message, const py::object& owner,
                    const std::optional<PyRelocated>& relocated) {
  Relocated places;
  if (relocated) {
    for (const auto& [segment, offset] : *relocated) {
      places.emplace_back(ToSegmentId(std::string_view(segment)), offset);
    }
  }
  std::string_view bytes(message);
  PyObject* reference = owner.inc_ref().ptr();
  Decoded decoded = [&] {
    GilReleased released;
    return Decode(bytes, reference, relocated ? &places : nullptr);
  }();
  return std::visit(ToPython(), decoded);
}

py::object PyView(const py::bytes& segment, uint64_t offset, uint64_t size, const py::object& owner) {
  MappedAllocation allocation = Segments::Resolve(ToSegmentId(std::string_view(segment)), offset, size);
  const uint8_t* data = allocation.data();
  std::vector<MappedAllocation> allocations;
  allocations.push_back(std::move(allocation));
  auto view = MessageView::Make(owner.inc_ref().ptr(), std::move(allocations));
  return Stolen(arrow::py::wrap_buffer(
      std::make_shared<RefBuffer>(data, static_cast<int64_t>(size), std::move(view), 0)));
}

py::object PyLocate(py::handle buffer) {
  std::optional<FilePlace> place = Locate(*Unwrapped(arrow::py::unwrap_buffer(buffer.ptr())));
  if (!place) return py::none();
  return py::make_tuple(ToBytes(place->segment), place->offset);
}

py::object PyMapPrivately(py::handle buffer, int fd, uint64_t offset) {
  auto view = MapPrivately(Unwrapped(arrow::py::unwrap_buffer(buffer.ptr())), fd, offset);
  if (view == nullptr) {
    PyErr_SetFromErrno(PyExc_OSError);
    throw py::error_already_set();
  }
  return Stolen(arrow::py::wrap_buffer(view));
}

py::list PyMessageSegments(const py::bytes& message) {
  py::list ids;
  for (const SegmentId& id : ParseEnvelope(std::string_view(message)).segments) ids.append(ToBytes(id));
  return ids;
}

py::list PyMessageAllocations(const py::bytes& message) {
  Envelope envelope = ParseEnvelope(std::string_view(message));
  py::list allocations;
  for (const AllocationRef& allocation : envelope.allocations) {
    allocations.append(
        py::make_tuple(ToBytes(envelope.segments[allocation.segment]), allocation.offset, allocation.size));
  }
  return allocations;
}

py::list PyMappedSegments() {
  py::list ids;
  for (const SegmentId& id : Segments::Mapped()) ids.append(ToBytes(id));
  return ids;
}

}  // namespace

void BindSipc(py::module_& m) {
  py::register_exception<SipcError>(m, "SipcError", PyExc_ValueError);

  py::class_<PyEncoded>(m, "Encoded")
      .def_readonly("message", &PyEncoded::message)
      .def_readonly("own", &PyEncoded::own)
      .def_readonly("foreign", &PyEncoded::foreign)
      .def_readonly("bytes_shared", &PyEncoded::bytes_shared)
      .def_readonly("bytes_reshared", &PyEncoded::bytes_reshared)
      .def_readonly("bytes_copied", &PyEncoded::bytes_copied)
      .def("unpin", &PyEncoded::Unpin);

  m.def("reaches", &Reaches, py::arg("obj"), py::arg("limit"));
  m.def("encode", &PyEncode, py::arg("obj"), py::kw_only(), py::arg("move") = false);
  m.def("encode_buffers", &PyEncodeBuffers, py::arg("header"), py::arg("buffers"), py::kw_only(),
        py::arg("move") = false);
  m.def("decode", &PyDecode, py::arg("message"), py::arg("owner"), py::arg("relocated") = py::none());
  m.def("message_segments", &PyMessageSegments, py::arg("message"));
  m.def("message_allocations", &PyMessageAllocations, py::arg("message"));
  m.def("locate", &PyLocate, py::arg("buffer"));
  m.def("map_privately", &PyMapPrivately, py::arg("buffer"), py::arg("fd"), py::arg("offset"));
  m.def("view", &PyView, py::arg("segment"), py::arg("offset"), py::arg("size"), py::arg("owner"));

  m.def(
      "map_segment",
      [](const py::bytes& segment, int fd, uint64_t size, bool sealed) {
        Segments::Map(ToSegmentId(std::string_view(segment)), fd, size, sealed);
      },
      py::arg("segment"), py::arg("fd"), py::arg("size"), py::kw_only(), py::arg("sealed") = true);
  m.def(
      "unmap_segment",
      [](const py::bytes& segment) { return Segments::Unmap(ToSegmentId(std::string_view(segment))); },
      py::arg("segment"));
  m.def("mapped_segments", &PyMappedSegments);
}

}  // namespace zerrow
