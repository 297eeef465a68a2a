// The parts of the Python module, one per file.
#pragma once
#include <pybind11/pybind11.h>

#include "memory/gil.h"

namespace zerrow {

void BindMemory(pybind11::module_& m);  // arena, pool, captures
void BindSipc(pybind11::module_& m);    // segments, encode, decode

}  // namespace zerrow
