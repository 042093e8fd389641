"""wasmtime's C API as far as fibers need it: the only module that declares C functions.

The published bindings have no asynchronous component calls and declare a few wrong types, so this module
opens the same library under its own handle with its own prototypes. Pointers are plain integers (0 is null);
component values go by their address, and `memory` reads and writes them.

Nothing in this module is safe on two threads at once, except `increment_epoch`.
"""
# The single relaxed module: ctypes builds its types at run time.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false, reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from ctypes import (
    CFUNCTYPE,
    POINTER,
    byref,
    c_bool,
    c_char,
    c_char_p,
    c_int,
    c_int64,
    c_size_t,
    c_ssize_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from importlib.metadata import version
from typing import Any, ClassVar, Protocol

import wasmtime
import wasmtime.component
from wasmtime import _ffi as stock

from pie_runner.wasm import memory

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


# Where things lie in a wasmtime_component_val_t, and in an entry of a record (a name, then a value). Lists, tuples,
# records and flags are (size, data); strings and enums too; a variant is its case's name, then a pointer; an option a
# pointer; a result a flag, then a pointer.
VAL_SIZE = ctypes.sizeof(stock.wasmtime_component_val_t)
PAYLOAD: int = stock.wasmtime_component_val_t.of.offset  # type: ignore[attr-defined]
ENTRY_SIZE = ctypes.sizeof(stock.wasmtime_component_valrecord_entry_t)
ENTRY_VALUE: int = stock.wasmtime_component_valrecord_entry_t.val.offset  # type: ignore[attr-defined]
VEC_SIZE = ctypes.sizeof(ByteVec)


class Instance(ctypes.Structure):
    """wasmtime_component_instance_t, by value."""

    _fields_: ClassVar = [("store_id", c_uint64), ("index", c_uint32)]


class Func(ctypes.Structure):
    """wasmtime_component_func_t, by value; its fields are the library's own business."""

    _fields_: ClassVar = [("opaque", c_uint64 * (ctypes.sizeof(stock.wasmtime_component_func_t) // 8))]


# Addresses are declared as numbers: ctypes then makes no pointer objects for arguments that are rarely looked at.
_HOST_CALL = CFUNCTYPE(None, *[c_size_t] * 9)
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
_bytes_new = _declare("wasm_byte_vec_new", None, c_size_t, c_size_t, c_char_p)
_bytes_delete = _declare("wasm_byte_vec_delete", None, POINTER(ByteVec))
_val_new = _declare("wasmtime_component_val_new", c_size_t, c_size_t)
_val_delete = _declare("wasmtime_component_val_delete", None, c_size_t)
_list_new = _declare("wasmtime_component_vallist_new_uninit", None, c_size_t, c_size_t)
_tuple_new = _declare("wasmtime_component_valtuple_new_uninit", None, c_size_t, c_size_t)
_record_new = _declare("wasmtime_component_valrecord_new_uninit", None, c_size_t, c_size_t)
_flags_new = _declare("wasmtime_component_valflags_new_uninit", None, c_size_t, c_size_t)
_any_to_host = _declare("wasmtime_component_resource_any_to_host", c_size_t, c_size_t, c_size_t, c_size_t)
_host_to_any = _declare("wasmtime_component_resource_host_to_any", c_size_t, c_size_t, c_size_t, c_size_t)
_host_new = _declare("wasmtime_component_resource_host_new", c_size_t, c_bool, c_uint32, c_uint32)
_host_rep = _declare("wasmtime_component_resource_host_rep", c_uint32, c_size_t)
_host_delete = _declare("wasmtime_component_resource_host_delete", None, c_size_t)
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
    c_size_t,
    c_size_t,
    c_size_t,
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
_future_poll = _declare("wasmtime_call_future_poll", c_bool, c_size_t)
_future_delete = _declare("wasmtime_call_future_delete", None, c_void_p)
_set_deadline = _declare("wasmtime_context_set_epoch_deadline", None, c_size_t, c_uint64)
# The published bindings declare an error pointer as its result; the C function returns nothing.
_yield_on_deadline = _declare("wasmtime_context_epoch_deadline_async_yield_and_update", None, c_void_p, c_uint64)
_increment_epoch = _declare("wasmtime_engine_increment_epoch", None, c_void_p)
_concurrency_support = _declare("wasmtime_config_concurrency_support_set", None, c_void_p, c_bool)
_async_stack_size = _declare("wasmtime_config_async_stack_size_set", None, c_void_p, c_size_t)
_store_new = _declare("wasmtime_store_new", c_size_t, c_void_p, c_void_p, _FINALIZER)
_store_context = _declare("wasmtime_store_context", c_size_t, c_size_t)
_store_limiter = _declare("wasmtime_store_limiter", None, c_size_t, *[c_int64] * 5)
_store_delete = _declare("wasmtime_store_delete", None, c_size_t)
_wasi_new = _declare("wasi_config_new", c_size_t)
_set_wasi = _declare("wasmtime_context_set_wasi", c_void_p, c_size_t, c_size_t)
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
    return memory.text(ctypes.addressof(vec))


def write_string(at: int, text: bytes) -> None:
    """Fill the unowned byte vector at this address with a copy."""
    _bytes_new(at, len(text), text)


def new_list(at: int, size: int) -> int:
    """Make the value there a list of `size` values, each false until written. Returns their address."""
    _list_new(at + PAYLOAD, size)
    data = memory.u64[at + PAYLOAD + 8 >> 3]
    clear(data, size * VAL_SIZE)
    memory.u8[at] = LIST
    return data


def new_tuple(at: int, size: int) -> int:
    """Make the value there a tuple of `size` values, each false until written. Returns their address."""
    _tuple_new(at + PAYLOAD, size)
    data = memory.u64[at + PAYLOAD + 8 >> 3]
    clear(data, size * VAL_SIZE)
    memory.u8[at] = TUPLE
    return data


def new_record(at: int, size: int) -> int:
    """Make the value there a record of `size` unnamed fields, each false until written. Returns their address."""
    _record_new(at + PAYLOAD, size)
    data = memory.u64[at + PAYLOAD + 8 >> 3]
    clear(data, size * ENTRY_SIZE)
    memory.u8[at] = RECORD
    return data


def new_flags(at: int, names: list[bytes]) -> None:
    """Make the value there the flags of these names."""
    _flags_new(at + PAYLOAD, len(names))
    data = memory.u64[at + PAYLOAD + 8 >> 3]
    clear(data, len(names) * VEC_SIZE)
    memory.u8[at] = FLAGS
    for number, name in enumerate(names):
        write_string(data + number * VEC_SIZE, name)


def clear(at: int, size: int) -> None:
    """Zero bytes: as values they are false, as byte vectors empty. Both own nothing and may be deleted at any time."""
    memory.u8[at : at + size] = bytes(size)


_false = (c_uint64 * (VAL_SIZE // 8))()
_FALSE = ctypes.addressof(_false)


def new_box() -> int:
    """A false value on the library's heap, for a payload of an option, result or variant, which owns it."""
    box: int = _val_new(_FALSE)
    return box


def delete_val(at: int) -> None:
    """Free what the value there owns; it is false afterwards."""
    _val_delete(at)


class Values:
    """Room for component values, each false, which frees nothing by itself."""

    __slots__ = ("_room", "at", "count")

    def __init__(self, count: int) -> None:
        self._room = (c_uint64 * (VAL_SIZE // 8 * count))()
        self.at = ctypes.addressof(self._room)
        self.count = count

    @property
    def kind(self) -> int:
        """Of the first value."""
        return memory.u8[self.at]

    def delete(self) -> None:
        """Free what the values own; they are false afterwards."""
        for number in range(self.count):
            _val_delete(self.at + number * VAL_SIZE)


# Resources

# Where C puts a pointer that is read at once.
_answer = c_uint64()
_ANSWER = ctypes.addressof(_answer)
_ANSWER_INDEX = _ANSWER >> 3


def resource_rep(context: int, resource: int) -> int:
    """The number the host gave a resource. A borrow must be asked exactly once."""
    _check(_any_to_host(context, resource, _ANSWER))
    host = memory.u64[_ANSWER_INDEX]
    rep: int = _host_rep(host)
    _host_delete(host)
    return rep


def new_resource(context: int, rep: int, type_id: int) -> int:
    """An owned handle for the guest."""
    host = _host_new(True, rep, type_id)
    error = _host_to_any(context, host, _ANSWER)
    handle = memory.u64[_ANSWER_INDEX]
    _host_delete(host)
    _check(error)
    return handle


# Host functions


class HostEntry(Protocol):
    """A host function as the trampoline calls it."""

    def call(self, args: int, results: int, error: int) -> int:
        """Write the answer and return 0, or return the address of a lowered flag: the call then waits until that is
        raised. `args` and `results` are addresses of values, `error` is for `fail_call`; the last two stay valid until
        the call is complete."""
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


_entries: dict[int, Callable[[int, int, int], int]] = {}
_owners: dict[int, ResourceOwner] = {}
_sinks: dict[int, OutputSink] = {}
_next_id = 0


def _new_id() -> int:
    global _next_id  # noqa: PLW0603 - one counter for all handles that cross to C
    _next_id += 1
    return _next_id


def _describe(error: BaseException) -> bytes:
    return f"host: {type(error).__name__}: {error}".encode().replace(b"\0", b"?")


# A continuation is (callback, env, finalizer); the callback is asked, again and again, whether the call is complete.
# Two functions of the C library answer without a way into Python and back: of a call that is complete at once, one that
# returns the 1 it is given; of one that waits, the length of a text, which is empty until the answer has been written.
_libc = ctypes.CDLL(None)
_DONE = ctypes.cast(_libc.labs, c_void_p).value or 0
_ASK = ctypes.cast(_libc.strlen, c_void_p).value or 0


@_HOST_CALL
def _on_call(index, _context, _type, args, _count, results, _result_count, error, continuation):  # noqa: ANN001, ANN202
    answer = continuation >> 3
    memory.u64[answer] = _DONE
    memory.u64[answer + 1] = 1
    try:
        flag = _entries[index](args, results, error)
        if flag:
            memory.u64[answer] = _ASK
            memory.u64[answer + 1] = flag
    except BaseException as exc:  # noqa: BLE001 - no exception may cross C; it becomes the guest's trap
        fail_call(error, exc)


def fail_call(error: int, cause: BaseException) -> None:
    """Let a host call, now or when it is complete, trap. `error`: the address that the call came with."""
    memory.u64[error >> 3] = _error_new(_describe(cause))


class Flag:
    """Whether the call that a fiber waits in is complete, where C can read it. Must outlive that call."""

    __slots__ = ("_text", "at")

    def __init__(self) -> None:
        self._text = c_uint64()
        self.at = ctypes.addressof(self._text)

    def lower(self) -> int:
        """A call waits. Returns the address."""
        memory.u8[self.at] = 0
        return self.at

    def raise_(self) -> None:
        """Its answer has been written."""
        memory.u8[self.at] = 1


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


def forget(handles: Iterable[int]) -> None:
    """Forget host functions, owners or sinks. Nothing of C may use their numbers any more."""
    for handle in handles:
        for table in (_entries, _owners, _sinks):
            table.pop(handle, None)


def add_function(linker_instance: Any, name: str, entry: HostEntry) -> int:
    """Define a host function in an instance of a linker. Returns a handle to `forget` after the linker."""
    index = _new_id()
    _entries[index] = entry.call
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


def call(context: int, func: Func, args: Values, result: Values) -> Call:
    """Start a call. `args` stay the caller's to free; `result` is the caller's to free once the call is done."""
    error = c_void_p()
    future = _call(byref(func), context, args.at, args.count, result.at, result.count, byref(error))
    return Call(future, error, (func, args, result))


# Stores and engines


class Store:
    """What one instance lives in: its limits, and inert WASI whose output goes to two sinks. Whoever makes one must
    `close` it. Of the library's own classes each would cost more than the C functions under it."""

    __slots__ = ("_pointer", "_sinks", "context")

    def __init__(
        self, engine: int, limits: tuple[int, int, int, int, int], outputs: tuple[OutputSink, OutputSink]
    ) -> None:
        """`engine`: `address` of its pointer. `limits`: bytes of a memory, elements of a table, instances, tables,
        memories. `outputs`: stdout, stderr."""
        self._pointer: int = _store_new(engine, None, None)
        self.context: int = _store_context(self._pointer)
        """The context pointer: valid as long as the store is."""
        _store_limiter(self._pointer, *limits)
        wasi = _wasi_new()
        first = self._sinks = _new_id()
        _sinks[first] = outputs[0]
        _sinks[_new_id()] = outputs[1]
        _stdout_custom(wasi, _on_output, first, None)
        _stderr_custom(wasi, _on_output, first + 1, None)
        _check(_set_wasi(self.context, wasi))  # which owns the configuration now

    def close(self) -> None:
        """Free it. No call of it may be left."""
        if self._pointer:
            pointer, self._pointer = self._pointer, 0
            _store_delete(pointer)
            forget((self._sinks, self._sinks + 1))


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
