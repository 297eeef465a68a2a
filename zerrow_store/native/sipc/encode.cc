// Encoding of Arrow data into a message. The stream has the structure of the arrays as it is.
#include <arrow/api.h>
#include <arrow/array/concatenate.h>
#include <arrow/ipc/writer.h>
#include <arrow/util/byte_size.h>

#include <stdexcept>

#include "sipc/allocations.h"
#include "sipc/sipc.h"
#include "sipc/types.h"

namespace zerrow {
namespace {

// Below this many bytes outside of all segments, cutting a slice out does not pay.
constexpr int64_t kCompactLimit = 4096;

void Check(const arrow::Status& status) {
  if (!status.ok()) throw std::invalid_argument("cannot encode: " + status.ToString());
}

// Arrow's schema message describes a dictionary by the field of its values, with a mark. So values
// cannot be dictionaries themselves, and the name of an extension would be taken for that of the
// dictionary type.
void CheckDescribable(const arrow::DataType& type) {
  const arrow::DataType& storage = StorageType(type);
  if (storage.id() == arrow::Type::DICTIONARY) {
    const arrow::DataType& values = *static_cast<const arrow::DictionaryType&>(storage).value_type();
    if (values.id() == arrow::Type::EXTENSION || values.id() == arrow::Type::DICTIONARY) {
      throw std::invalid_argument("cannot encode: Arrow's IPC format cannot describe " + type.ToString() +
                                  ": a dictionary's values cannot be dictionaries or extensions");
    }
    CheckDescribable(values);
  }
  for (const auto& field : storage.fields()) CheckDescribable(*field->type());
}

class Encoder {
 public:
  Encoder(Kind kind, bool move) : kind_(kind), allocations_(move) {}

  void Word(int64_t word) { stream_.push_back(word); }

  void Schema(const arrow::Schema& schema) {
    for (const auto& field : schema.fields()) CheckDescribable(*field->type());
    auto serialized = arrow::ipc::SerializeSchema(schema, arrow::system_memory_pool());
    Check(serialized.status());
    schema_ = std::move(*serialized);
  }

  void TopLevel(const std::shared_ptr<arrow::ArrayData>& data, const arrow::DataType& type) {
    if (data->type.get() != &type && !data->type->Equals(type)) {
      throw std::invalid_argument("cannot encode: a chunk of type " + data->type->ToString() +
                                  " in a column of type " + type.ToString());
    }
    if (std::shared_ptr<arrow::ArrayData> compact = Compacted(data)) {
      // Kept alive: the table knows memory by address, which must not be reused.
      compacted_.push_back(compact);
      allocations_.set_compacting(true);
      Node(*compact, 0);
      allocations_.set_compacting(false);
    } else {
      Node(*data, 0);
    }
  }

  void Buffer(const arrow::Buffer* buffer) {
    if (buffer == nullptr) return Word(kNull);
    if (buffer->size() == 0) return Word(kEmpty);
    if (!buffer->is_cpu()) throw std::invalid_argument("cannot encode: a buffer is not in main memory");
    Place place = allocations_.Add(*buffer);
    Word(place.tag);
    Word(place.offset);
    Word(buffer->size());
  }

  Encoded Finish(std::string_view header = {}) {
    allocations_.Move();
    Encoded encoded;
    encoded.message = Message(header);
    allocations_.Release(&encoded);
    return encoded;
  }

 private:
  void Node(const arrow::ArrayData& data, int depth) {
    if (depth >= kMaxDepth) {
      throw std::invalid_argument("cannot encode: nested more than " + std::to_string(kMaxDepth) + " deep");
    }
    const arrow::DataType& type = StorageType(*data.type);
    Word(data.length);
    Word(data.null_count.load());
    // Arrow's import cuts the buffers of an empty slice to nothing, but its validation still
    // requires the part before the slice.
    Word(data.length == 0 ? 0 : data.offset);
    Buffers(data, BufferCount(type));
    for (const auto& child : data.child_data) Node(*child, depth + 1);
    if (type.id() == arrow::Type::DICTIONARY) Dictionary(data.dictionary.get(), depth + 1);
  }

  void Buffers(const arrow::ArrayData& data, TypeBuffers expected) {
    size_t count = data.buffers.size();
    if (expected.variadic) {
      Word(static_cast<int64_t>(count));
    } else if (count != expected.count) {
      throw std::invalid_argument("cannot encode: an array of type " + data.type->ToString() + " has " +
                                  std::to_string(count) + " buffers");
    }
    for (size_t i = 0; i < count; ++i) {
      // Where all data is within the views, pyarrow 19's cast to them leaves the data's buffer null.
      // Nobody may read such views (CheckPresent).
      if (i >= expected.count && data.buffers[i] == nullptr) {
        Word(kEmpty);
      } else {
        Buffer(data.buffers[i].get());
      }
    }
  }

  void Dictionary(const arrow::ArrayData* dictionary, int depth) {
    if (dictionary == nullptr) throw std::invalid_argument("cannot encode: a dictionary is missing");
    auto [known, is_new] = dictionaries_.try_emplace(dictionary, dictionaries_.size());
    if (!is_new) return Word(known->second);
    Word(kNewDictionary);
    Node(*dictionary, depth);
  }

  int64_t BytesOutside(const arrow::ArrayData& data) {
    int64_t bytes = 0;
    for (const auto& buffer : data.buffers) {
      if (buffer != nullptr && buffer->size() > static_cast<int64_t>(kInlineLimit) && buffer->is_cpu() &&
          allocations_.IsOutside(*buffer)) {
        bytes += buffer->size();
      }
    }
    for (const auto& child : data.child_data) bytes += BytesOutside(*child);
    return bytes;
  }

  // A copy of the array alone, if its buffers lie outside of all segments and it uses less than
  // half of them. Null if that saves nothing, or Arrow cannot cut this type.
  std::shared_ptr<arrow::ArrayData> Compacted(const std::shared_ptr<arrow::ArrayData>& data) {
    int64_t outside = BytesOutside(*data);
    if (outside <= kCompactLimit) return nullptr;
    std::shared_ptr<arrow::Array> array = arrow::MakeArray(data);
    arrow::Result<int64_t> used = arrow::util::ReferencedBufferSize(*array);
    if (!used.ok() || *used > outside / 2) return nullptr;
    arrow::Result<std::shared_ptr<arrow::Array>> compact = arrow::Concatenate({array});
    return compact.ok() ? (*compact)->data() : nullptr;
  }

  std::string Message(std::string_view buffers_header) {
    const std::string& inlined =
        kind_ == Kind::kBuffers ? WithHeader(buffers_header) : allocations_.inlined();
    Header header{};
    std::memcpy(header.magic, kMagic, sizeof(kMagic));
    header.version = kVersion;
    header.kind = static_cast<uint16_t>(kind_);
    header.segments = allocations_.segments().size();
    header.allocations = allocations_.allocations().size();
    header.schema_bytes = schema_ == nullptr ? 0 : static_cast<uint64_t>(schema_->size());
    header.inline_bytes = inlined.size();
    header.words = stream_.size();

    std::string message;
    message.reserve(sizeof(header) + header.segments * sizeof(SegmentId) +
                    header.allocations * sizeof(AllocationRef) + Padded(header.schema_bytes) +
                    Padded(header.inline_bytes) + header.words * sizeof(int64_t));
    auto append = [&message](const void* data, size_t size) {
      if (size != 0) message.append(static_cast<const char*>(data), size);
      message.resize(Padded(message.size()));
    };
    append(&header, sizeof(header));
    append(allocations_.segments().data(), header.segments * sizeof(SegmentId));
    append(allocations_.allocations().data(), header.allocations * sizeof(AllocationRef));
    if (schema_ != nullptr) append(schema_->data(), header.schema_bytes);
    append(inlined.data(), header.inline_bytes);
    append(stream_.data(), header.words * sizeof(int64_t));
    uint64_t checksum = Checksum(message);
    std::memcpy(message.data() + offsetof(Header, checksum), &checksum, sizeof(checksum));
    return message;
  }

  // The header of a message of buffers lies behind the inline buffers. The stream's last words say
  // where.
  const std::string& WithHeader(std::string_view header) {
    inline_with_header_ = allocations_.inlined();
    Word(static_cast<int64_t>(inline_with_header_.size()));
    Word(static_cast<int64_t>(header.size()));
    inline_with_header_.append(header);
    return inline_with_header_;
  }

  const Kind kind_;
  AllocationTable allocations_;
  std::shared_ptr<arrow::Buffer> schema_;
  std::vector<int64_t> stream_;
  std::string inline_with_header_;
  std::unordered_map<const arrow::ArrayData*, int64_t> dictionaries_;
  std::vector<std::shared_ptr<arrow::ArrayData>> compacted_;
};

void Chunks(const arrow::ChunkedArray& array, Encoder* encoder) {
  encoder->Word(array.num_chunks());
  for (const auto& chunk : array.chunks()) encoder->TopLevel(chunk->data(), *array.type());
}

}  // namespace

Encoded EncodeTable(const arrow::Table& table, bool move) {
  Encoder encoder(Kind::kTable, move);
  encoder.Schema(*table.schema());
  encoder.Word(table.num_rows());
  for (int i = 0; i < table.num_columns(); ++i) Chunks(*table.column(i), &encoder);
  return encoder.Finish();
}

Encoded EncodeRecordBatch(const arrow::RecordBatch& batch, bool move) {
  Encoder encoder(Kind::kRecordBatch, move);
  encoder.Schema(*batch.schema());
  encoder.Word(batch.num_rows());
  for (int i = 0; i < batch.num_columns(); ++i) {
    encoder.TopLevel(batch.column_data(i), *batch.schema()->field(i)->type());
  }
  return encoder.Finish();
}

Encoded EncodeChunkedArray(const arrow::ChunkedArray& array, bool move) {
  Encoder encoder(Kind::kChunkedArray, move);
  encoder.Schema(*arrow::schema({arrow::field("", array.type())}));
  Chunks(array, &encoder);
  return encoder.Finish();
}

Encoded EncodeArray(const arrow::Array& array, bool move) {
  Encoder encoder(Kind::kArray, move);
  encoder.Schema(*arrow::schema({arrow::field("", array.type())}));
  encoder.TopLevel(array.data(), *array.type());
  return encoder.Finish();
}

Encoded EncodeBuffers(std::string_view header, const std::vector<std::shared_ptr<arrow::Buffer>>& buffers,
                      bool move) {
  Encoder encoder(Kind::kBuffers, move);
  encoder.Word(static_cast<int64_t>(buffers.size()));
  for (const auto& buffer : buffers) encoder.Buffer(buffer.get());
  return encoder.Finish(header);
}

}  // namespace zerrow
