// The layout of arrays by their Arrow type, for encoder and decoder.
#pragma once
#include <arrow/extension_type.h>
#include <arrow/type.h>

#include "sipc/format.h"

namespace zerrow {

struct TypeBuffers {
  size_t count;   // a minimum if variadic
  bool variadic;  // the stream gives the number
};

inline TypeBuffers BufferCount(const arrow::DataType& storage_type) {
  switch (storage_type.id()) {
    case arrow::Type::STRING_VIEW:
    case arrow::Type::BINARY_VIEW:
      return {2, true};
    default:
      return {storage_type.layout().buffers.size(), false};
  }
}

inline const arrow::DataType& StorageType(const arrow::DataType& type) {
  const arrow::DataType* storage = &type;
  while (storage->id() == arrow::Type::EXTENSION) {
    storage = static_cast<const arrow::ExtensionType*>(storage)->storage_type().get();
  }
  return *storage;
}

}  // namespace zerrow
