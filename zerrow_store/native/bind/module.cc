// The Python module. `_native.pyi` documents it.
#include <arrow/python/pyarrow.h>

#include "bind/bind.h"

PYBIND11_MODULE(_native, m) {
  if (arrow::py::import_pyarrow() != 0) throw pybind11::error_already_set();
  zerrow::BindMemory(m);
  zerrow::BindSipc(m);
}
