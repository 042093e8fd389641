"""wasmtime's C API as far as fibers need it: the only module that declares C functions.

The published bindings have no asynchronous component calls and declare a few wrong types, so this module
opens the same library under its own handle with its own prototypes. Opaque pointers are plain integers (0 is null).

Nothing in this module is safe on two threads at once, except `increment_epoch`.
"""
# The single relaxed module: ctypes builds its types at run time.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false, reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import (
    CFUNCTYPE,
    POINTER,
    byref,
    c_bool,
    c_char,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int8,
    c_int16,
    c_int32,
    c_int64,
    c_size_t,
    c_ssize_t,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import wasmtime
import wasmtime.component
from wasmtime import _ffi as stock

if TYPE_CHECKING:
    from _ctypes import _Pointer

    ValPointer: TypeAlias = "_Pointer[Val]"

KNOWN_VERSION = "50.0.1"
VERSION = version("wasmtime")

# Discriminants of wasmtime_component_val_t.
BOOL, S8, U8, S16, U16, S32, U32, S64, U64, F32, F64, CHAR, STRING = range(13)
LIST, RECORD, TUPLE, VARIANT, ENUM, OPTION, RESULT, FLAGS, RESOURCE = range(13, 22)


class ByteVec(ctypes.Structure):
    """wasm_byte_vec_t: bytes owned by the library's allocator."""

    size: int
    data: int | None
    _fields_: ClassVar = [("size", c_size_t), ("data", c_void_p)]


class ValVec(ctypes.Structure):
    """Lists and tuples: `size` values at `data`."""

    size: int
    data: _Pointer[Val]


class RecordVec(ctypes.Structure):
    """Records: `size` entries at `data`."""

    size: int
    data: _Pointer[RecordEntry]


class FlagsVec(ctypes.Structure):
    """The names of the flags that are set."""

    size: int
    data: _Pointer[ByteVec]
    _fields_: ClassVar = [("size", c_size_t), ("data", POINTER(ByteVec))]


class VariantVal(ctypes.Structure):
    """A case name and its payload (null when it has none)."""

    discriminant: ByteVec
    val: _Pointer[Val]


class ResultVal(ctypes.Structure):
    """`val` is null when that side has no payload."""

    is_ok: bool
    val: _Pointer[Val]


class ValUnion(ctypes.Union):
    """The payload of a value; `Val.kind` says which field holds."""

    boolean: bool
    s8: int
    u8: int
    s16: int
    u16: int
    s32: int
    u32: int
    s64: int
    u64: int
    f32: float
    f64: float
    character: int
    string: ByteVec
    list: ValVec
    record: RecordVec
    tuple: ValVec
    variant: VariantVal
    enumeration: ByteVec
    option: _Pointer[Val]
    result: ResultVal
    flags: FlagsVec
    resource: int | None


class Val(ctypes.Structure):
    """wasmtime_component_val_t: one component-model value, 32 bytes."""

    kind: int
    of: ValUnion


class RecordEntry(ctypes.Structure):
    """A field name and its value."""

    name: ByteVec
    val: Val


ValVec._fields_ = [("size", c_size_t), ("data", POINTER(Val))]
RecordVec._fields_ = [("size", c_size_t), ("data", POINTER(RecordEntry))]
VariantVal._fields_ = [("discriminant", ByteVec), ("val", POINTER(Val))]
ResultVal._fields_ = [("is_ok", c_bool), ("val", POINTER(Val))]
ValUnion._fields_ = [
    ("boolean", c_bool),
    ("s8", c_int8),
    ("u8", c_uint8),
    ("s16", c_int16),
    ("u16", c_uint16),
    ("s32", c_int32),
    ("u32", c_uint32),
    ("s64", c_int64),
    ("u64", c_uint64),
    ("f32", c_float),
    ("f64", c_double),
    ("character", c_uint32),
    ("string", ByteVec),
    ("list", ValVec),
    ("record", RecordVec),
    ("tuple", ValVec),
    ("variant", VariantVal),
    ("enumeration", ByteVec),
    ("option", POINTER(Val)),
    ("result", ResultVal),
    ("flags", FlagsVec),
    ("resource", c_void_p),
]
Val._fields_ = [("kind", c_uint8), ("of", ValUnion)]
RecordEntry._fields_ = [("name", ByteVec), ("val", Val)]

VAL_SIZE = ctypes.sizeof(Val)
PAYLOAD_OFFSET: int = Val.of.offset  # type: ignore[attr-defined]


class Instance(ctypes.Structure):
    """wasmtime_component_instance_t, by value."""

    _fields_: ClassVar = [("store_id", c_uint64), ("index", c_uint32)]


class Func(ctypes.Structure):
    """wasmtime_component_func_t, by value; its fields are the library's own business."""

    _fields_: ClassVar = [("opaque", c_uint64 * (ctypes.sizeof(stock.wasmtime_component_func_t) // 8))]


class Continuation(ctypes.Structure):
    """wasmtime_async_continuation_t: how the library asks whether a host call is complete."""

    callback: int | None
    env: int | None
    finalizer: int | None
    _fields_: ClassVar = [("callback", c_void_p), ("env", c_void_p), ("finalizer", c_void_p)]


_HOST_CALL = CFUNCTYPE(
    None,
    c_void_p,
    c_void_p,
    c_void_p,
    POINTER(Val),
    c_size_t,
    POINTER(Val),
    c_size_t,
    POINTER(c_void_p),
    POINTER(Continuation),
)
_CONTINUE = CFUNCTYPE(c_bool, c_void_p)
# Finalizers are not used (null): what crosses to C as a number is forgotten by its owner, at a moment that is known.
_FINALIZER = c_void_p
_DESTROY = CFUNCTYPE(c_size_t, c_void_p, c_void_p, c_uint32)
_OUTPUT = CFUNCTYPE(c_ssize_t, c_void_p, POINTER(c_uint8), c_size_t)

_dll = ctypes.CDLL(str(stock.filename))


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_dll, name)
    function.restype = result
    function.argtypes = arguments
    return function


_error_new = _declare("wasmtime_error_new", c_void_p, c_char_p)
_error_message = _declare("wasmtime_error_message", None, c_void_p, POINTER(ByteVec))
_error_exit_status = _declare("wasmtime_error_exit_status", c_bool, c_void_p, POINTER(c_int))
_error_delete = _declare("wasmtime_error_delete", None, c_void_p)
_bytes_new = _declare("wasm_byte_vec_new", None, POINTER(ByteVec), c_size_t, c_char_p)
_bytes_delete = _declare("wasm_byte_vec_delete", None, POINTER(ByteVec))
_val_new = _declare("wasmtime_component_val_new", POINTER(Val), POINTER(Val))
_val_delete = _declare("wasmtime_component_val_delete", None, POINTER(Val))
_list_new = _declare("wasmtime_component_vallist_new_uninit", None, POINTER(ValVec), c_size_t)
_tuple_new = _declare("wasmtime_component_valtuple_new_uninit", None, POINTER(ValVec), c_size_t)
_record_new = _declare("wasmtime_component_valrecord_new_uninit", None, POINTER(RecordVec), c_size_t)
_flags_new = _declare("wasmtime_component_valflags_new_uninit", None, POINTER(FlagsVec), c_size_t)
_any_to_host = _declare("wasmtime_component_resource_any_to_host", c_void_p, c_void_p, c_void_p, POINTER(c_void_p))
_host_to_any = _declare("wasmtime_component_resource_host_to_any", c_void_p, c_void_p, c_void_p, POINTER(c_void_p))
_host_new = _declare("wasmtime_component_resource_host_new", c_void_p, c_bool, c_uint32, c_uint32)
_host_rep = _declare("wasmtime_component_resource_host_rep", c_uint32, c_void_p)
_host_delete = _declare("wasmtime_component_resource_host_delete", None, c_void_p)
_add_func = _declare(
    "wasmtime_component_linker_instance_add_func_async",
    c_void_p,
    c_void_p,
    POINTER(c_char),
    c_size_t,
    _HOST_CALL,
    c_void_p,
    _FINALIZER,
)
_add_resource = _declare(
    "wasmtime_component_linker_instance_add_resource",
    c_void_p,
    c_void_p,
    POINTER(c_char),
    c_size_t,
    c_void_p,
    _DESTROY,
    c_void_p,
    _FINALIZER,
)
_instantiate = _declare(
    "wasmtime_component_linker_instantiate_async",
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
    POINTER(Instance),
    POINTER(c_void_p),
)
_call = _declare(
    "wasmtime_component_func_call_async",
    c_void_p,
    POINTER(Func),
    c_void_p,
    POINTER(Val),
    c_size_t,
    POINTER(Val),
    c_size_t,
    POINTER(c_void_p),
)
_get_export_index = _declare(
    "wasmtime_component_instance_get_export_index", c_void_p, POINTER(Instance), c_void_p, c_void_p, c_char_p, c_size_t
)
_export_index_delete = _declare("wasmtime_component_export_index_delete", None, c_void_p)
_get_func = _declare(
    "wasmtime_component_instance_get_func", c_bool, POINTER(Instance), c_void_p, c_void_p, POINTER(Func)
)
_future_poll = _declare("wasmtime_call_future_poll", c_bool, c_void_p)
_future_delete = _declare("wasmtime_call_future_delete", None, c_void_p)
_set_deadline = _declare("wasmtime_context_set_epoch_deadline", None, c_void_p, c_uint64)
# The published bindings declare an error pointer as its result; the C function returns nothing.
_yield_on_deadline = _declare("wasmtime_context_epoch_deadline_async_yield_and_update", None, c_void_p, c_uint64)
_increment_epoch = _declare("wasmtime_engine_increment_epoch", None, c_void_p)
_concurrency_support = _declare("wasmtime_config_concurrency_support_set", None, c_void_p, c_bool)
_async_stack_size = _declare("wasmtime_config_async_stack_size_set", None, c_void_p, c_size_t)
_stdout_custom = _declare("wasi_config_set_stdout_custom", None, c_void_p, _OUTPUT, c_void_p, _FINALIZER)
_stderr_custom = _declare("wasi_config_set_stderr_custom", None, c_void_p, _OUTPUT, c_void_p, _FINALIZER)


class WasmError(Exception):
    """An error of the library, with its whole text. `exit_status` is set when the guest called exit."""

    def __init__(self, text: str, exit_status: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.exit_status = exit_status


def address(pointer: Any) -> int:
    """The address in a pointer of the published bindings."""
    return ctypes.cast(pointer, c_void_p).value or 0


def _take_error(pointer: int) -> WasmError:
    status = c_int()
    exited = bool(_error_exit_status(pointer, byref(status)))
    text = ByteVec()
    _error_message(pointer, byref(text))
    error = WasmError(read_string(text), status.value if exited else None)
    _bytes_delete(byref(text))
    _error_delete(pointer)
    return error


def _check(pointer: int | None) -> None:
    if pointer:
        raise _take_error(pointer)


# Values


def read_string(vec: ByteVec) -> str:
    """The text of a byte vector, which stays the owner of its memory."""
    return ctypes.string_at(vec.data, vec.size).decode("utf-8", "replace") if vec.size and vec.data else ""


def write_string(vec: ByteVec, text: bytes) -> None:
    """Fill an unowned byte vector with a copy."""
    _bytes_new(byref(vec), len(text), text)


def _zero(pointer: Any, size: int) -> None:
    # All zero bytes are `bool(false)`, which owns nothing: from here on the vector can be deleted at any time.
    ctypes.memset(pointer, 0, size)


def new_list(val: Val, size: int) -> _Pointer[Val]:
    """Make `val` a list of `size` values, each false until written."""
    vec = ValVec()
    _list_new(byref(vec), size)
    if size:
        _zero(vec.data, size * VAL_SIZE)
    val.of.list = vec
    val.kind = LIST
    return vec.data


def new_tuple(val: Val, size: int) -> _Pointer[Val]:
    """Make `val` a tuple of `size` values, each false until written."""
    vec = ValVec()
    _tuple_new(byref(vec), size)
    if size:
        _zero(vec.data, size * VAL_SIZE)
    val.of.tuple = vec
    val.kind = TUPLE
    return vec.data


def new_record(val: Val, size: int) -> _Pointer[RecordEntry]:
    """Make `val` a record of `size` unnamed fields, each false until written."""
    vec = RecordVec()
    _record_new(byref(vec), size)
    if size:
        _zero(vec.data, size * ctypes.sizeof(RecordEntry))
    val.of.record = vec
    val.kind = RECORD
    return vec.data


def new_flags(val: Val, names: list[bytes]) -> None:
    """Make `val` the flags of these names."""
    vec = FlagsVec()
    _flags_new(byref(vec), len(names))
    for at, name in enumerate(names):
        write_string(vec.data[at], name)
    val.of.flags = vec
    val.kind = FLAGS


def boxed(val: Val) -> _Pointer[Val]:
    """Move a value to the library's heap, as payloads of options, results and variants need."""
    return _val_new(byref(val))


NO_VALUE = POINTER(Val)()


def is_null(pointer: Any) -> bool:
    """Whether a typed pointer is null."""
    return not pointer


def delete_val(val: Val) -> None:
    """Free a value and all it owns; it is false afterwards."""
    _val_delete(byref(val))


def list_memory(pointer: _Pointer[Val], size: int) -> memoryview:
    """The raw bytes of `size` values, writable: valid as long as the list is."""
    return memoryview((c_char * (size * VAL_SIZE)).from_address(ctypes.addressof(pointer.contents)))


# Resources


def resource_rep(context: int, resource: int | None) -> int:
    """The number the host gave a resource. A borrow must be asked exactly once."""
    host = c_void_p()
    _check(_any_to_host(context, resource, byref(host)))
    rep: int = _host_rep(host)
    _host_delete(host)
    return rep


def new_resource(context: int, rep: int, type_id: int) -> int:
    """An owned handle for the guest."""
    host = _host_new(True, rep, type_id)
    handle = c_void_p()
    error = _host_to_any(context, host, byref(handle))
    _host_delete(host)
    _check(error)
    return handle.value or 0


# Host functions


class HostEntry(Protocol):
    """A host function as the trampoline calls it."""

    def call(self, context: int, args: _Pointer[Val], results: _Pointer[Val]) -> int:
        """Write the answer to `results[0]` and return 0, or return the token of a parked call."""
        ...

    def resume(self, token: int) -> bool:
        """Whether the parked call is answered by now; if so its answer has been written. May raise."""
        ...


class ResourceOwner(Protocol):
    """Who is told that a guest dropped a resource."""

    def drop(self, rep: int) -> None:
        """The guest's handle is gone."""
        ...


class OutputSink(Protocol):
    """Where the bytes go that a guest writes to its WASI stdout or stderr."""

    def write(self, data: bytes) -> None:
        """Take these bytes."""
        ...


_entries: dict[int, HostEntry] = {}
_owners: dict[int, ResourceOwner] = {}
_sinks: dict[int, OutputSink] = {}
_parked: dict[int, tuple[HostEntry, Any]] = {}
_next_id = 0


def _new_id() -> int:
    global _next_id  # noqa: PLW0603 - one counter for all handles that cross to C
    _next_id += 1
    return _next_id


def _describe(error: BaseException) -> bytes:
    return f"host: {type(error).__name__}: {error}".encode().replace(b"\0", b"?")


@_HOST_CALL
def _on_call(index, context, _type, args, _count, results, _result_count, error, continuation):  # noqa: ANN001, ANN202
    answer = continuation[0]
    answer.callback = _TRUE
    try:
        entry = _entries[index]
        token = entry.call(context, args, results)
        if token:
            _parked[token] = (entry, error)
            answer.callback = _RESUME
            answer.env = token
    except BaseException as exc:  # noqa: BLE001 - no exception may cross C; it becomes the guest's trap
        error[0] = _error_new(_describe(exc))


@_CONTINUE
def _on_resume(token):  # noqa: ANN001, ANN202
    entry, error = _parked[token]
    try:
        return entry.resume(token)
    except BaseException as exc:  # noqa: BLE001 - no exception may cross C; it becomes the guest's trap
        error[0] = _error_new(_describe(exc))
        return True


@_CONTINUE
def _on_true(_env):  # noqa: ANN001, ANN202
    return True


@_DESTROY
def _on_destroy(index, _context, rep):  # noqa: ANN001, ANN202
    try:
        _owners[index].drop(rep)
    except BaseException as exc:  # noqa: BLE001 - no exception may cross C; it becomes the guest's trap
        return _error_new(_describe(exc)) or 0
    return 0


@_OUTPUT
def _on_output(index, data, size):  # noqa: ANN001, ANN202
    try:
        _sinks[index].write(ctypes.string_at(data, size))
    except BaseException:  # noqa: BLE001 - no exception may cross C; the guest sees an I/O error
        return -1
    return size


_TRUE = ctypes.cast(_on_true, c_void_p).value
_RESUME = ctypes.cast(_on_resume, c_void_p).value


def forget(handles: Iterable[int]) -> None:
    """Forget host functions, owners, sinks or parked calls. Nothing of C may use their numbers any more."""
    for handle in handles:
        for table in (_entries, _owners, _sinks, _parked):
            table.pop(handle, None)


def parked_calls() -> int:
    """How many host calls wait for an answer, in the whole process."""
    return len(_parked)


def new_token() -> int:
    """A number for a call that parks, unique in the process."""
    return _new_id()


def add_function(linker_instance: Any, name: str, entry: HostEntry) -> int:
    """Define a host function in an instance of a linker. Returns a handle to `forget` after the linker."""
    index = _new_id()
    _entries[index] = entry
    raw = name.encode()
    _check(_add_func(address(linker_instance.ptr()), raw, len(raw), _on_call, index, None))
    return index


def add_resource(linker_instance: Any, name: str, type_id: int, owner: ResourceOwner) -> int:
    """Define a host resource type in an instance of a linker. Returns a handle to `forget` after the linker."""
    index = _new_id()
    _owners[index] = owner
    raw = name.encode()
    kind = stock.wasmtime_component_resource_type_new_host(type_id)
    _check(_add_resource(address(linker_instance.ptr()), raw, len(raw), address(kind), _on_destroy, index, None))
    stock.wasmtime_component_resource_type_delete(kind)
    return index


def capture_output(wasi: wasmtime.WasiConfig, stdout: OutputSink, stderr: OutputSink) -> list[int]:
    """Send what the guest writes to its WASI stdout and stderr to these sinks.

    Returns handles to `forget` after the store.
    """
    handles: list[int] = []
    for setter, sink in ((_stdout_custom, stdout), (_stderr_custom, stderr)):
        index = _new_id()
        _sinks[index] = sink
        setter(address(wasi.ptr()), _on_output, index, None)
        handles.append(index)
    return handles


# Calls


class Call:
    """A component call (or an instantiation) on its own fiber. Whoever makes one must `delete` it."""

    __slots__ = ("_error", "_future", "_keep")

    def __init__(self, future: int, error: c_void_p, keep: tuple[object, ...]) -> None:
        self._future = future
        self._error = error
        self._keep = keep

    def poll(self) -> bool:
        """Run the guest until it is done (True), parks in a host call or uses up its slice (False). Raises WasmError.

        Other Python threads run meanwhile.
        """
        if not _future_poll(self._future):
            return False
        if self._error.value:
            pointer, self._error.value = self._error.value, None
            raise _take_error(pointer)
        return True

    def delete(self) -> None:
        """Free the fiber; a guest that is not done is gone. May be called again."""
        if self._future:
            future, self._future = self._future, 0
            _future_delete(future)
            if self._error.value:
                _error_delete(self._error)
                self._error.value = None


def instantiate(
    linker: wasmtime.component.Linker, context: int, component: wasmtime.component.Component
) -> tuple[Call, Instance]:
    """Start to instantiate; the instance may be used when the call is done."""
    instance = Instance()
    error = c_void_p()
    future = _instantiate(address(linker.ptr()), context, address(component.ptr()), byref(instance), byref(error))
    return Call(future, error, (instance, linker, component)), instance


def exported_function(context: int, instance: Instance, name: str) -> Func | None:
    """A function that the component exports at its top level."""
    raw = name.encode()
    index = _get_export_index(byref(instance), context, None, raw, len(raw))
    if not index:
        return None
    func = Func()
    found = _get_func(byref(instance), context, index, byref(func))
    _export_index_delete(index)
    return func if found else None


def call(context: int, func: Func, args: ctypes.Array[Val], result: Val) -> Call:
    """Start a call. `args` stay the caller's to free; `result` is the caller's to free once the call is done."""
    error = c_void_p()
    future = _call(byref(func), context, args, len(args), byref(result), 1, byref(error))
    return Call(future, error, (func, args, result))


def new_args(count: int) -> ctypes.Array[Val]:
    """Room for arguments, all false."""
    return (Val * count)()


# Stores and engines


def context_of(store: wasmtime.Store) -> int:
    """The context pointer of a store: valid as long as the store is."""
    return address(store._context())


def set_slice(context: int, ticks: int) -> None:
    """Let the guest run for this many ticks of the epoch from now."""
    _set_deadline(context, ticks)


def yield_at_deadline(context: int, ticks: int) -> None:
    """At its deadline the guest yields to the poller (instead of trapping) and gets this many ticks more."""
    _yield_on_deadline(context, ticks)


def increment_epoch(engine: wasmtime.Engine) -> None:
    """One tick. Callable from any thread."""
    _increment_epoch(address(engine.ptr()))


def configure(config: wasmtime.Config, fiber_stack_bytes: int) -> None:
    """Settings that the published bindings do not offer.

    Component-model concurrency is off: it is not used, costs time, and lets two borrows in one call trap.
    """
    _concurrency_support(address(config.ptr()), False)
    _async_stack_size(address(config.ptr()), fiber_stack_bytes)
