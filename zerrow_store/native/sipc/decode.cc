// Decoding of a message into Arrow data.
//
// The message may be hostile: every number in it is checked before it is used, and every array's
// structure before it is returned. The bytes in the segments (a string's offsets, a dictionary's
// indices) are not read here.
#include <Python.h>
#include <arrow/api.h>
#include <arrow/array/validate.h>
#include <arrow/io/memory.h>
#include <arrow/ipc/dictionary.h>
#include <arrow/ipc/reader.h>
#include <arrow/util/utf8.h>

#include "memory/gil.h"
#include "sipc/sipc.h"
#include "sipc/types.h"

namespace zerrow {
namespace {

alignas(64) const uint8_t kNothing[64] = {};

// A node has at least its length, null count and offset.
constexpr uint64_t kWordsPerNode = 3;

// A reference to a Python object: transferred, or released under the GIL.
class OwnerRef {
 public:
  explicit OwnerRef(PyObject* owner) : owner_(owner) {}
  ~OwnerRef() {
    if (owner_ == nullptr) return;
    GilHeld held;
    Py_DECREF(owner_);
  }
  OwnerRef(const OwnerRef&) = delete;
  OwnerRef& operator=(const OwnerRef&) = delete;
  PyObject* Give() { return std::exchange(owner_, nullptr); }

 private:
  PyObject* owner_;
};

template <typename T>
T Checked(arrow::Result<T> result, const char* what) {
  if (!result.ok()) throw SipcError("SIPC " + std::string(what) + ": " + result.status().ToString());
  return std::move(result).ValueUnsafe();
}

// pyarrow decodes the name of every field that it looks at.
void CheckNames(const arrow::FieldVector& fields) {
  for (const auto& field : fields) {
    if (!arrow::util::ValidateUTF8(field->name()))
      throw SipcError("SIPC schema with a name that is not UTF-8");
    CheckNames(StorageType(*field->type()).fields());
  }
}

std::vector<MappedAllocation> Resolve(const Envelope& envelope, const Relocated* relocated) {
  if (relocated != nullptr && relocated->size() != envelope.allocations.size()) {
    throw SipcError("relocation of " + std::to_string(relocated->size()) +
                    " allocations for a message with " + std::to_string(envelope.allocations.size()));
  }
  std::vector<MappedAllocation> resolved;
  resolved.reserve(envelope.allocations.size());
  for (size_t i = 0; i < envelope.allocations.size(); ++i) {
    const AllocationRef& given = envelope.allocations[i];
    const SegmentId& id = relocated ? (*relocated)[i].first : envelope.segments[given.segment];
    uint64_t offset = relocated ? (*relocated)[i].second : given.offset;
    // Neighbours are mostly in the same segment, and the registry takes a lock.
    if (!resolved.empty() && resolved.back().mapping->id == id) {
      resolved.push_back(Within(resolved.back().mapping, offset, given.size));
    } else {
      resolved.push_back(Segments::Resolve(id, offset, given.size));
    }
  }
  return resolved;
}

std::shared_ptr<arrow::Buffer> CopyOfInline(std::string_view inlined) {
  // Not from the arena: encoded again, it must not pass for published memory.
  auto buffer =
      Checked(arrow::AllocateBuffer(static_cast<int64_t>(inlined.size()), arrow::system_memory_pool()),
              "inline section");
  if (!inlined.empty()) std::memcpy(buffer->mutable_data(), inlined.data(), inlined.size());
  return buffer;
}

// A recursive descent: one method per element of a message, each of which reads from the same
// stream.
class Decoder {
 public:
  Decoder(const Envelope& envelope, OwnerRef* owner, const Relocated* relocated)
      : envelope_(envelope),
        stream_(envelope.stream),
        view_(MakeView(envelope, owner, relocated)),
        inlined_(CopyOfInline(envelope.inlined)) {}

  Decoded Run() {
    if (envelope_.kind != Kind::kBuffers) schema_ = ReadSchema();
    Decoded decoded = Body();
    if (!stream_.empty()) {
      throw SipcError("SIPC stream has " + std::to_string(Left()) + " words after its end");
    }
    return decoded;
  }

 private:
  static std::shared_ptr<MessageView> MakeView(const Envelope& envelope, OwnerRef* owner,
                                               const Relocated* relocated) {
    std::vector<MappedAllocation> resolved = Resolve(envelope, relocated);
    return MessageView::Make(owner->Give(), std::move(resolved));
  }

  Decoded Body() {
    switch (envelope_.kind) {
      case Kind::kTable:
        return Table();
      case Kind::kRecordBatch:
        return RecordBatch();
      case Kind::kChunkedArray:
        return Chunks(OneType());
      case Kind::kArray:
        return arrow::MakeArray(TopLevel(OneType()));
      case Kind::kBuffers:
        return Buffers();
    }
    throw SipcError("SIPC message of unknown kind");
  }

  // --- the stream ---

  uint64_t Left() const { return stream_.size() / sizeof(int64_t); }

  int64_t Word() {
    if (stream_.empty()) throw SipcError("SIPC stream ends too early");
    int64_t word;
    std::memcpy(&word, stream_.data(), sizeof(word));
    stream_.remove_prefix(sizeof(word));
    return word;
  }

  int64_t NotNegative(const char* what) {
    int64_t word = Word();
    if (word < 0) throw SipcError("SIPC " + std::string(what) + " is negative: " + std::to_string(word));
    return word;
  }

  // The number of items, of which each takes at least `words` of the stream.
  size_t Count(const char* what, uint64_t words) {
    int64_t count = NotNegative(what);
    if (static_cast<uint64_t>(count) > Left() / words) {
      throw SipcError("SIPC " + std::string(what) +
                      " is more than the stream views: " + std::to_string(count));
    }
    return static_cast<size_t>(count);
  }

  // --- schema ---

  std::shared_ptr<arrow::Schema> ReadSchema() {
    arrow::io::BufferReader reader(std::make_shared<arrow::Buffer>(envelope_.schema));
    arrow::ipc::DictionaryMemo memo;
    auto schema = Checked(arrow::ipc::ReadSchema(&reader, &memo), "schema");
    if (reader.Tell().ValueOr(-1) != static_cast<int64_t>(envelope_.schema.size())) {
      throw SipcError("SIPC schema has bytes after its end");
    }
    CheckNames(schema->fields());
    if (!schema->is_native_endian()) throw SipcError("SIPC schema of another byte order");
    return schema;
  }

  std::shared_ptr<arrow::DataType> OneType() const {
    if (schema_->num_fields() != 1) {
      throw SipcError("SIPC array with a schema of " + std::to_string(schema_->num_fields()) + " fields");
    }
    return schema_->field(0)->type();
  }

  // --- arrays ---

  std::shared_ptr<arrow::Table> Table() {
    int64_t rows = NotNegative("number of rows");
    std::vector<std::shared_ptr<arrow::ChunkedArray>> columns;
    columns.reserve(schema_->num_fields());
    for (const auto& field : schema_->fields()) {
      columns.push_back(Chunks(field->type()));
      CheckRows(columns.back()->length(), rows);
    }
    return arrow::Table::Make(schema_, std::move(columns), rows);
  }

  std::shared_ptr<arrow::RecordBatch> RecordBatch() {
    int64_t rows = NotNegative("number of rows");
    std::vector<std::shared_ptr<arrow::ArrayData>> columns;
    columns.reserve(schema_->num_fields());
    for (const auto& field : schema_->fields()) {
      columns.push_back(TopLevel(field->type()));
      CheckRows(columns.back()->length, rows);
    }
    return arrow::RecordBatch::Make(schema_, rows, std::move(columns));
  }

  static void CheckRows(int64_t length, int64_t rows) {
    if (length == rows) return;
    throw SipcError("SIPC column of " + std::to_string(length) + " rows in a table of " +
                    std::to_string(rows));
  }

  std::shared_ptr<arrow::ChunkedArray> Chunks(const std::shared_ptr<arrow::DataType>& type) {
    size_t count = Count("number of chunks", kWordsPerNode);
    arrow::ArrayVector chunks;
    chunks.reserve(count);
    int64_t length = 0;
    for (size_t i = 0; i < count; ++i) {
      chunks.push_back(arrow::MakeArray(TopLevel(type)));
      if (__builtin_add_overflow(length, chunks.back()->length(), &length)) {
        throw SipcError("SIPC chunks are too long together");
      }
    }
    return std::make_shared<arrow::ChunkedArray>(std::move(chunks), type);
  }

  std::shared_ptr<arrow::ArrayData> TopLevel(const std::shared_ptr<arrow::DataType>& type) {
    std::shared_ptr<arrow::ArrayData> data = Node(type, 0);
    arrow::Status status = arrow::internal::ValidateArray(*data);
    if (!status.ok()) throw SipcError("SIPC array is not valid: " + status.ToString());
    return data;
  }

  std::shared_ptr<arrow::ArrayData> Node(const std::shared_ptr<arrow::DataType>& type, int depth) {
    if (depth >= kMaxDepth) {
      throw SipcError("SIPC array is nested more than " + std::to_string(kMaxDepth) + " deep");
    }
    const arrow::DataType& storage = StorageType(*type);
    if (storage.id() == arrow::Type::INTERVAL_MONTHS || storage.id() == arrow::Type::INTERVAL_DAY_TIME) {
      throw SipcError("SIPC array of type " + storage.ToString() + ", which pyarrow does not have");
    }
    int64_t length = NotNegative("length");
    int64_t null_count = Word();
    if (null_count < arrow::kUnknownNullCount || null_count > length) {
      throw SipcError("SIPC null count " + std::to_string(null_count) + " of an array of length " +
                      std::to_string(length));
    }
    auto data = std::make_shared<arrow::ArrayData>(type, length, null_count, NotNegative("offset"));
    data->buffers = ArrayBuffers(storage);
    CheckValidity(storage, data.get());
    CheckPresent(storage, *data);
    data->child_data.reserve(storage.num_fields());
    for (const auto& field : storage.fields()) data->child_data.push_back(Node(field->type(), depth + 1));
    if (storage.id() == arrow::Type::DICTIONARY) {
      data->dictionary =
          Dictionary(static_cast<const arrow::DictionaryType&>(storage).value_type(), depth + 1);
    }
    return data;
  }

  // Arrow assumes these, and aborts the process where they do not hold.
  static void CheckValidity(const arrow::DataType& storage, arrow::ArrayData* data) {
    bool has_bitmap = arrow::internal::may_have_validity_bitmap(storage.id());
    if (!has_bitmap) {
      if (data->buffers[0] != nullptr) {
        throw SipcError("SIPC array of type " + storage.ToString() + " with a validity bitmap");
      }
      // Arrow's null arrays do not always have the count that its validation requires.
      data->null_count = storage.id() == arrow::Type::NA ? data->length : 0;
    } else if (data->null_count > 0 && data->buffers[0] == nullptr) {
      throw SipcError("SIPC array with nulls, but without a validity bitmap");
    }
  }

  // Arrow reads the views of any array and the type codes of a union without checking that the
  // buffers exist. Arrays of other types need their buffers unless they are empty.
  static void CheckPresent(const arrow::DataType& storage, const arrow::ArrayData& data) {
    if (data.length == 0 && !BufferCount(storage).variadic) return;
    for (size_t i = 1; i < data.buffers.size(); ++i) {
      if (data.buffers[i] != nullptr) continue;
      arrow::DataTypeLayout layout = storage.layout();
      if (i < layout.buffers.size() && layout.buffers[i].kind == arrow::DataTypeLayout::ALWAYS_NULL) continue;
      throw SipcError("SIPC array of type " + storage.ToString() + " without its buffer " +
                      std::to_string(i));
    }
  }

  std::shared_ptr<arrow::ArrayData> Dictionary(const std::shared_ptr<arrow::DataType>& type, int depth) {
    int64_t known = Word();
    if (known == kNewDictionary) {
      // The encoder numbers a dictionary before those nested in it.
      size_t number = dictionaries_.size();
      dictionaries_.emplace_back();
      auto dictionary = Node(type, depth);
      dictionaries_[number] = dictionary;
      return dictionary;
    }
    if (known < 0 || static_cast<uint64_t>(known) >= dictionaries_.size() ||
        dictionaries_[known] == nullptr) {
      throw SipcError("SIPC array refers to dictionary " + std::to_string(known) + ", which is not there");
    }
    if (dictionaries_[known]->type.get() != type.get() && !dictionaries_[known]->type->Equals(*type)) {
      throw SipcError("SIPC array of " + type->ToString() + " refers to a dictionary of " +
                      dictionaries_[known]->type->ToString());
    }
    return dictionaries_[known];
  }

  // --- buffers ---

  std::vector<std::shared_ptr<arrow::Buffer>> ArrayBuffers(const arrow::DataType& storage) {
    TypeBuffers expected = BufferCount(storage);
    size_t count = expected.count;
    if (expected.variadic) {
      count = Count("number of buffers", 1);
      if (count < expected.count) throw SipcError("SIPC view array without its buffers");
    }
    std::vector<std::shared_ptr<arrow::Buffer>> buffers;
    buffers.reserve(count);
    for (size_t i = 0; i < count; ++i) buffers.push_back(Buffer());
    return buffers;
  }

  std::shared_ptr<arrow::Buffer> Buffer() {
    int64_t tag = Word();
    switch (tag) {
      case kNull:
        return nullptr;
      case kEmpty:
        return Empty();
      case kInline: {
        auto [offset, size] = RangeWithin(envelope_.inlined.size(), "inline section");
        return std::make_shared<arrow::Buffer>(inlined_, offset, size);
      }
      default:
        return InAllocation(tag);
    }
  }

  std::shared_ptr<arrow::Buffer> InAllocation(int64_t tag) {
    if (tag < 0 || static_cast<uint64_t>(tag) >= view_->allocations().size()) {
      throw SipcError("SIPC buffer in allocation " + std::to_string(tag) + " of a message with " +
                      std::to_string(view_->allocations().size()));
    }
    const MappedAllocation& allocation = view_->allocations()[tag];
    auto [offset, size] = RangeWithin(allocation.size, "allocation");
    return std::make_shared<RefBuffer>(allocation.data() + offset, size, view_, static_cast<uint32_t>(tag));
  }

  std::pair<int64_t, int64_t> RangeWithin(uint64_t limit, const char* what) {
    int64_t offset = NotNegative("buffer's offset");
    int64_t size = NotNegative("buffer's length");
    if (static_cast<uint64_t>(offset) > limit || static_cast<uint64_t>(size) > limit - offset) {
      throw SipcError("SIPC buffer " + std::to_string(offset) + " + " + std::to_string(size) +
                      " outside its " + what + " of " + std::to_string(limit) + " bytes");
    }
    return {offset, size};
  }

  static const std::shared_ptr<arrow::Buffer>& Empty() {
    static const auto* empty =
        new std::shared_ptr<arrow::Buffer>(std::make_shared<arrow::Buffer>(kNothing, 0));
    return *empty;
  }

  Decoded Buffers() {
    size_t count = Count("number of buffers", 1);
    std::vector<std::shared_ptr<arrow::Buffer>> buffers;
    buffers.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      buffers.push_back(Buffer());
      if (buffers.back() == nullptr) throw SipcError("SIPC buffer is null");
    }
    auto [offset, size] = RangeWithin(envelope_.inlined.size(), "inline section");
    return std::make_pair(std::string(envelope_.inlined.substr(offset, size)), std::move(buffers));
  }

  const Envelope& envelope_;
  std::string_view stream_;
  std::shared_ptr<MessageView> view_;
  std::shared_ptr<arrow::Buffer> inlined_;
  std::shared_ptr<arrow::Schema> schema_;
  std::vector<std::shared_ptr<arrow::ArrayData>> dictionaries_;
};

}  // namespace

Decoded Decode(std::string_view message, PyObject* owner, const Relocated* relocated) {
  arrow::util::InitializeUTF8();
  OwnerRef reference(owner);
  Envelope envelope = ParseEnvelope(message);
  return Decoder(envelope, &reference, relocated).Run();
}

}  // namespace zerrow
