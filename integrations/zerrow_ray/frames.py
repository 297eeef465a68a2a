"""pandas and polars frames by reference.

A pandas frame is pickled as by Ray, except for its buffers: those that the pickler meets inside the
frame are published. So the frame comes back exactly, with its index, attributes and dtypes. polars
frames are converted to Arrow.
"""

from typing import Any

import pyarrow as pa

from zerrow_ray import serialization
from zerrow_ray.break_even import pays
from zerrow_ray.kinds import Kind, Reduced, add_kind, add_when_imported
from zerrow_store.native import _native


def register() -> None:
    """Let frames go by reference in this process, as soon as it has imported their libraries."""
    add_when_imported("pandas", lambda pandas: add_kind(pandas.DataFrame, _PANDAS))
    add_when_imported("polars", lambda polars: add_kind(polars.DataFrame, _POLARS))


def _own(frame: Any) -> Reduced:
    reduced: Reduced = frame.__reduce_ex__(5)
    return reduced


def _pandas_reaches(frame: Any) -> bool:
    import pandas as pd

    bare = pd.DataFrame(frame)  # without attributes, which pandas deep-copies in each operation
    if not all(_is_buffer_backed(dtype) for dtype in bare.dtypes):
        return False
    return pays(int(bare.memory_usage(index=False).sum()).__ge__)


def _reduce_pandas(frame: Any) -> Reduced:
    function, arguments, state = frame.__reduce_ex__(5)[:3]
    return function, arguments, (_Opening(), state, _Closing()), None, None, _set_state


_PANDAS = Kind(_pandas_reaches, _reduce_pandas, _own)


class _Opening:
    """A marker: the pickler comes to it when it enters a frame."""

    def __reduce__(self) -> Reduced:
        serialization.current().frames_open += 1
        return bool, ()


class _Closing:
    """A marker: the pickler comes to it when it leaves a frame."""

    def __reduce__(self) -> Reduced:
        serialization.current().frames_open -= 1
        return bool, ()


def _set_state(frame: Any, marked: tuple[bool, Any, bool]) -> None:
    frame.__setstate__(marked[1])


def _polars_reaches(frame: Any) -> bool:
    if not pays(int(frame.estimated_size()).__ge__):
        return False
    return bool(_from_arrow(frame.clear().to_arrow()).schema == frame.schema)


def _reduce_polars(frame: Any) -> Reduced:
    from zerrow_ray.messages import publish

    table = frame.to_arrow()
    return publish(lambda: _native.encode(table, move=True), frame, _POLARS, wrap=_from_arrow)


_POLARS = Kind(_polars_reaches, _reduce_polars, _own)


def _is_buffer_backed(dtype: Any) -> bool:
    import pandas as pd

    if isinstance(dtype, pd.ArrowDtype):
        return True
    if isinstance(dtype, pd.StringDtype):
        return bool(dtype.storage == "pyarrow")
    return getattr(dtype, "kind", "O") in "biufcmM" and not isinstance(
        dtype, pd.api.extensions.ExtensionDtype
    )


def _from_arrow(table: pa.Table) -> Any:
    import polars as pl

    return pl.from_arrow(table)
