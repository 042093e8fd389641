"""A component's memories: one may hold something, so that the limit of one memory is the limit of the program.

wasmtime bounds each memory by itself, and a component may consist of many modules that have one. What composes
components leaves empty memories behind (TypeScript has two), which must stay empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pie_wire.errors import BadProgram

from pie_runner.wasm.sections import HEAD, Malformed, Reader, leb, section, sections

_MODULE_HEAD = b"\0asm\x01\0\0\0"
_COMPONENT_HEAD = b"\0asm\x0d\0\x01\0"
_MEMORIES = 5
"""Section of a module."""
_MODULE, _CORE_INSTANCES, _COMPONENT, _INSTANCES, _ALIASES, _EXPORTS = 1, 2, 4, 5, 6, 11
"""Sections of a component."""
_SORT_VALUE, _SORT_TYPE = 0x02, 0x03
_INSTANTIATE, _OUTER, _SAME_TYPE = 0x00, 0x02, 0x00
_HAS_MOST, _SHARED, _WIDE = 0x01, 0x02, 0x04
"""Flags of a memory."""
_DEEPEST = 64
"""Components within each other."""


def with_one_memory(binary: bytes) -> bytes:
    """The component with its empty memories kept empty (but for the first, if nothing else could hold anything).

    Raises BadProgram where an instance of it would have two memories that hold something, or one that is shared.
    """
    if not binary.startswith(_COMPONENT_HEAD):
        raise Malformed("it does not begin as a component does")
    scan = _Scan(main_is_empty=not any(_least_pages(binary)))
    changed, memories = scan.component(binary, 0)
    if memories > 1:
        raise BadProgram(
            f"The component has {memories} memories that may hold something, but the limit `memory` is for one: link "
            "its modules so that they share it."
        )
    return changed


@dataclass
class _Memory:
    flags: int
    least: int
    most: int | None

    @classmethod
    def read(cls, reader: Reader) -> _Memory:
        flags = reader.byte()
        if flags & _SHARED:
            raise BadProgram("The component has a shared memory, which no limit would bound: build it without threads.")
        if flags & ~(_HAS_MOST | _WIDE):
            raise Malformed("it has a memory of an unknown kind")
        return cls(flags, reader.number(), reader.number() if flags & _HAS_MOST else None)

    @property
    def code(self) -> bytes:
        most = b"" if self.most is None else leb(self.most)
        return bytes([self.flags]) + leb(self.least) + most


def _memories(content: bytes) -> list[_Memory]:
    reader = Reader(content)
    found = [_Memory.read(reader) for _ in reader.items()]
    reader.end()
    return found


def _least_pages(binary: bytes, depth: int = 0) -> Iterator[int]:
    """Of each memory, wherever it is defined."""
    if depth > _DEEPEST:
        raise Malformed("its components are nested too deeply")
    for kind, content in sections(binary):
        if kind == _MODULE:
            for inner, memories in sections(content):
                if inner == _MEMORIES:
                    yield from (memory.least for memory in _memories(memories))
        elif kind == _COMPONENT:
            yield from _least_pages(content, depth + 1)


@dataclass
class _Counts:
    """Memories of what a component defines, in order: for an instance of each."""

    modules: list[int] = field(default_factory=list[int])
    components: list[int] = field(default_factory=list[int])


@dataclass
class _Scan:
    main_is_empty: bool
    """No memory has anything at the start: the first that may grow is the one that does."""

    def component(self, binary: bytes, depth: int) -> tuple[bytes, int]:
        """The changed component, and how many memories that may hold something an instance of it has."""
        known, memories = _Counts(), 0
        out = [binary[:HEAD]]
        for kind, content in sections(binary):
            new = content
            if kind == _MODULE:
                new, count = self._module(content)
                known.modules.append(count)
            elif kind == _COMPONENT:
                new, count = self.component(content, depth + 1)
                known.components.append(count)
            elif kind == _CORE_INSTANCES:
                memories += _of_core_instances(content, known.modules)
            elif kind == _INSTANCES:
                memories += _of_instances(content, known.components)
            elif kind == _ALIASES:
                _check_aliases(content)
            elif kind == _EXPORTS:
                _check_exports(content)
            out.append(section(kind, new))
        return b"".join(out), memories

    def _module(self, binary: bytes) -> tuple[bytes, int]:
        if not binary.startswith(_MODULE_HEAD):
            raise Malformed("a module in it does not begin as one")
        out, count = [binary[:HEAD]], 0
        for kind, content in sections(binary):
            new = content
            if kind == _MEMORIES:
                memories = _memories(content)
                for memory in memories:
                    count += self._settle(memory)
                new = leb(len(memories)) + b"".join(memory.code for memory in memories)
            out.append(section(kind, new))
        return b"".join(out), count

    def _settle(self, memory: _Memory) -> bool:
        """Whether it may hold something. If not, now it cannot."""
        if memory.least == 0 and memory.most != 0:
            if self.main_is_empty:
                self.main_is_empty = False
                return True
            memory.flags, memory.most = memory.flags | _HAS_MOST, 0
        return memory.least > 0


def _of_core_instances(content: bytes, modules: list[int]) -> int:
    reader, memories = Reader(content), 0
    for _ in reader.items():
        if reader.byte() == _INSTANTIATE:
            memories += _known(modules, reader.number())
        for _ in reader.items():  # arguments, or what it is put together from
            reader.skip_text()
            reader.byte()
            reader.number()
    reader.end()
    return memories


def _of_instances(content: bytes, components: list[int]) -> int:
    reader, memories = Reader(content), 0
    for _ in reader.items():
        made = reader.byte() == _INSTANTIATE
        if made:
            memories += _known(components, reader.number())
        for _ in reader.items():
            if made:
                reader.skip_text()
            else:
                reader.skip_name()
            reader.sort()
            reader.number()
    reader.end()
    return memories


def _known(counts: list[int], index: int) -> int:
    if index >= len(counts):
        raise BadProgram("The component instantiates what it does not define: compose it with what it needs.")
    return counts[index]


def _check_aliases(content: bytes) -> None:
    reader = Reader(content)
    for _ in reader.items():
        reader.sort()
        if reader.byte() == _OUTER:
            reader.number()
            reader.number()
        else:
            reader.number()
            reader.skip_text()
    reader.end()


def _check_exports(content: bytes) -> None:
    reader = Reader(content)
    for _ in reader.items():
        reader.skip_name()
        kind = reader.sort()
        reader.number()
        if reader.byte():  # it says of which type it is
            if reader.byte() != kind or kind == _SORT_VALUE:
                raise Malformed("an export has a type of another kind")
            if kind != _SORT_TYPE or reader.byte() == _SAME_TYPE:
                reader.number()
    reader.end()
