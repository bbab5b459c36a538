"""Pickles of NVIDIA's stylegan2-ada-pytorch, read without running anything.

Such a file holds networks as calls of a function that compiles source code out of the file. Here the opcodes
are stepped through one by one (Python's disassembler decodes them) by a machine that has no way to import or to
call: a short list of names stands for tensors, plain containers and inert records, and any other is refused.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewtoon.errors import Problem

# Bounds that no genuine file comes near, because a few bytes must not claim hours.
MOST_STEPS = 5_000_000  # opcodes; 22,000 at 64 px
MOST_LEVELS = 16  # of modules within modules
MOST_PARTS = 20_000  # modules and tensors in one network

_MAGIC = 0x1950A86A20F9469CFC6C  # what torch.save put first before it wrote zip files
_VERSION = 1001
_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
}


@dataclass(frozen=True)
class Record:
    """One object of NVIDIA's persistent classes, as data: what it was, and what it held."""

    class_name: str
    state: dict[str, Any] = field(repr=False)


def read(path: str | Path) -> Any:
    """The content of a pickle of NVIDIA's networks: containers, numbers, texts, tensors (CPU) and Records.

    Raises Problem for a missing or torn file and for one that asks for anything else.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Problem(
            f"weights file {str(path)!r} cannot be read ({error.strerror}); check its name"
        ) from None
    # Twice, because protocol 2 spells a storage as text, which becomes bytes first and then numbers.
    machine = _Machine(repr(str(path)), 2 * len(data), _NAMES)
    return _guarded(lambda: machine.run(io.BytesIO(data), MOST_STEPS), machine.what)


def tensors(record: Record, what: str) -> dict[str, Tensor]:
    """All parameters and buffers of a network, named as its state dict would name them.

    Buffers too, because NVIDIA's frozen layers keep their weights there. Raises Problem for an odd network.
    """
    out: dict[str, Tensor] = {}
    met = 0

    def walk(module: Any, prefix: str, levels: int) -> None:
        nonlocal met
        if not isinstance(module, Record) or levels > MOST_LEVELS:
            raise Problem(
                f"{what}: {prefix[:80]!r} is no module of a network; save it again with NVIDIA's code"
            )
        for kind in ("_parameters", "_buffers", "_modules"):
            for name, value in _members(module, kind, what).items():
                met += 1
                if met > MOST_PARTS:
                    raise Problem(
                        f"{what} has more than {MOST_PARTS} parts; save it again with NVIDIA's code"
                    )
                if value is None:
                    continue  # torch's word for 'has none', as a convolution without bias
                if kind == "_modules":
                    walk(value, f"{prefix}{name}.", levels + 1)
                elif isinstance(value, Tensor):
                    out[prefix + name] = value
                else:
                    raise Problem(
                        f"{what}: {(prefix + name)[:80]!r} is no tensor; save it again with NVIDIA's code"
                    )

    walk(record, "", 0)
    return out


def _members(module: Record, kind: str, what: str) -> dict[str, Any]:
    members = module.state.get(kind, {})
    if not isinstance(members, dict) or not all(isinstance(name, str) for name in members):
        raise Problem(f"{what}: {module.class_name!r} has damaged {kind!r}; copy the file again")
    return members


def _guarded(run: Callable[[], Any], what: str) -> Any:
    try:
        return run()
    except Problem:
        raise
    except Exception as error:  # a damaged file may break any line of the reader
        told = str(error).split(". ")[0][:160]
        raise Problem(
            f"{what} is torn or not a pickle ({type(error).__name__}: {told}); copy it again"
        ) from None


class _Machine:
    """Steps through one pickle. `names` are the globals it may hold; nothing is ever imported or called.

    budget: how many bytes may be copied out of it. What a genuine file unfolds lies in it once, while a hostile
    one could ask for the same megabytes a million times.
    """

    def __init__(
        self,
        what: str,
        budget: int,
        names: dict[str, Any],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.what = what
        self.budget = budget
        self.names = names
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each MARK
        self.memo: dict[int, Any] = {}

    def run(self, stream: io.BytesIO, most: int) -> Any:
        """The one object of the next pickle in `stream`, which takes at most `most` opcodes."""
        for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            name = opcode.name
            if step >= most:
                raise Problem(
                    f"{self.what} was refused: it has more than {most} opcodes; save its state dicts alone"
                )
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _VALUES:
                self.stack.append(_VALUES[name]())
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name not in ("PROTO", "FRAME", "STOP"):
                raise Problem(
                    f"{self.what} was refused: it holds the pickle opcode {name}; save its state dicts alone"
                )
        if len(self.stack) != 1 or self.marked:
            raise Problem(f"{self.what} is torn: its pickle ends in the middle; copy it again")
        return self.stack.pop()

    def spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            raise Problem(
                f"{self.what} was refused: it would unfold to far more than its own size; save its state dicts alone"
            )

    def refuse(self, wanted: str) -> Problem:
        if wanted.startswith("dnnlib.tflib."):
            return Problem(
                f"{self.what} is a TensorFlow pickle of StyleGAN ({wanted!r}): convert it with legacy.py of "
                "NVIDIA's stylegan2-ada-pytorch first, and import the .pkl that it writes"
            )
        return Problem(
            f"{self.what} was refused: it holds {wanted[:80]!r}, and only tensors and plain settings are read "
            "because anything else could run code; save its state dicts alone"
        )

    # What the opcodes do. `argument` is what the disassembler decoded.

    def named(self, argument: str) -> None:
        name = argument.replace(" ", ".", 1).replace("__builtin__.", "builtins.", 1)
        name = name.replace("numpy.core.", "numpy._core.", 1)  # the name before numpy 2
        if name not in self.names:
            raise self.refuse(name)
        self.stack.append(self.names[name])

    def named_by_stack(self, argument: None) -> None:
        module, name = self.top(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.refuse("a global without a name")
        self.named(f"{module} {name}")

    def call(self, argument: None) -> None:
        function, arguments = self.top(2)
        if not isinstance(function, _Known) or not isinstance(arguments, tuple):
            raise self.refuse(f"a call of {type(function).__name__}")
        self.stack.append(function.meaning(self, *arguments))

    def build(self, argument: None) -> None:
        target, state = self.top(2)
        if isinstance(target, _NumpyType) and isinstance(state, tuple) and state[1] in ("<", "|", "="):
            self.stack.append(target)  # its byte order, which is ours
        else:
            raise self.refuse(f"a state for {type(target).__name__}")

    def mark(self, argument: None) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def top(self, count: int) -> list[Any]:
        items = [self.stack.pop() for _ in range(count)]
        return items[::-1]

    def pack(self, argument: None) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items))

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise self.refuse(f"entries for {type(target).__name__}")
        target.update(zip(map(self.key, items[::2]), items[1::2]))

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise self.refuse(f"entries for {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def add(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], set):
            raise self.refuse(f"entries for {type(self.stack[-1]).__name__}")
        self.stack[-1].update(map(self.key, items))

    def key(self, value: Any) -> Any:
        """Keys are texts and numbers alone: the hash of deeply nested tuples would overflow the C stack."""
        if not isinstance(value, (str, int, float, type(None))):
            raise self.refuse(f"a key of type {type(value).__name__}")
        return value

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def persist(self, argument: None) -> None:
        if self.persistent is None:
            raise self.refuse("a persistent id")
        self.stack.append(self.persistent(self.stack.pop()))


_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE",
    "BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
_VALUES: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.named_by_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "MARK": _Machine.mark,
    "TUPLE": _Machine.pack,
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.top(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.top(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.top(3))),
    "SETITEM": lambda m, _: m.set_items(m.top(2)),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "APPEND": lambda m, _: m.append(m.top(1)),
    "APPENDS": lambda m, _: m.append(m.since_mark()),
    "ADDITEMS": lambda m, _: m.add(m.since_mark()),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "BINPERSID": _Machine.persist,
}


# What the known names stand for. Each takes the machine and what the file hands over.


class _Known(NamedTuple):
    """A name that a file may call, and our own function that answers in its place."""

    meaning: Callable[..., Any]


class _NumpyType(NamedTuple):
    code: str


class _Storage(NamedTuple):
    numbers: Tensor  # one-dimensional


def _record(machine: _Machine, meta: Any) -> Record:
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise machine.refuse("a persistent object that is no class")
    name, state = meta.get("class_name"), meta.get("state")
    if not isinstance(name, str) or not isinstance(state, dict):
        raise machine.refuse("a persistent object without a name or a state")
    return Record(name, state)  # meta["module_src"], the source code, is dropped unread


def _dict(machine: _Machine, pairs: Any = ()) -> dict[Any, Any]:
    machine.spend(len(pairs))
    return {machine.key(key): value for key, value in pairs}


def _set(machine: _Machine, items: Any = ()) -> set[Any]:
    machine.spend(len(items))
    return set(map(machine.key, items))


def _encode(machine: _Machine, text: str, encoding: str) -> bytes:
    """How protocol 2 spells bytes."""
    if encoding != "latin1":
        raise machine.refuse("text in another encoding than latin1")
    machine.spend(len(text))
    return text.encode("latin1")


def _numpy_type(machine: _Machine, code: str, *flags: bool) -> _NumpyType:
    if not isinstance(code, str) or not re.fullmatch("[biuf][1248]", code):
        raise machine.refuse("a numpy type that is no plain number")
    return _NumpyType(code)


def _numpy_scalar(machine: _Machine, kind: _NumpyType, data: bytes) -> float | int | bool:
    if not isinstance(kind, _NumpyType) or not isinstance(data, bytes) or len(data) != int(kind.code[1]):
        raise machine.refuse("a damaged numpy number")
    return np.frombuffer(data, "<" + kind.code)[0].item()


def _storage(machine: _Machine, data: bytes) -> _Storage:
    """The numbers in what torch.save wrote of one storage before there were zip files: five small pickles (magic,
    version, machine, the storage as a persistent id, its key), the count as int64, the raw numbers."""
    if not isinstance(data, bytes):
        raise machine.refuse("a storage that is no bytes")
    machine.spend(len(data))

    def known(id_: Any) -> tuple[torch.dtype, str, int]:
        kind, dtype, key, _location, count, *view = id_
        plain = isinstance(dtype, torch.dtype) and isinstance(key, str) and type(count) is int
        if kind != "storage" or not plain or any(view):
            raise machine.refuse("a damaged storage")
        return dtype, key, count

    stream = io.BytesIO(data)
    header = [_Machine(machine.what, 0, _STORAGES, known).run(stream, 100) for _ in range(5)]
    magic, version, system, (dtype, key, count), keys = header
    start = stream.tell() + 8
    told = int.from_bytes(data[start - 8 : start], "little", signed=True)
    if magic != _MAGIC or version != _VERSION or system.get("little_endian") is not True or keys != [key]:
        raise machine.refuse("a storage of another version or byte order")
    if told != count or len(data) - start != count * dtype.itemsize:
        raise Problem(
            f"{machine.what} is torn: a storage claims {count} {dtype} numbers but has {len(data) - start} bytes; "
            "copy it again"
        )
    if not count:
        return _Storage(torch.empty(0, dtype=dtype))
    return _Storage(torch.frombuffer(bytearray(memoryview(data)[start:]), dtype=dtype))


def _tensor(
    machine: _Machine, storage: _Storage, offset: int, size: Any, stride: Any, *ignored: Any
) -> Tensor:
    """A view of a storage that lies wholly inside it and counts no number twice."""
    if not isinstance(storage, _Storage) or len(size) != len(stride) or len(size) > 8:
        raise machine.refuse("a damaged tensor")
    if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise machine.refuse("a tensor with odd sizes")
    count, last = 1, offset
    for length, step in zip(size, stride):
        count *= length
        last += (length - 1) * step
    room = storage.numbers.numel()
    if count > room or (count and last >= room):
        raise Problem(
            f"{machine.what} is torn: a tensor claims the shape {tuple(size)}, but its storage holds {room} "
            "numbers; copy it again"
        )
    return storage.numbers.as_strided(tuple(size), tuple(stride), offset)


def _parameter(machine: _Machine, tensor: Tensor, *ignored: Any) -> Tensor:
    return tensor


def _size(machine: _Machine, lengths: Any = ()) -> tuple[Any, ...]:
    machine.spend(len(lengths))
    return tuple(lengths)


def _device(machine: _Machine, *where: Any) -> str:
    return "cpu"  # where everything goes, wherever it was


_NAMES: dict[str, Any] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _Known(_record),
    "dnnlib.util.EasyDict": _Known(_dict),
    "collections.OrderedDict": _Known(_dict),
    "builtins.set": _Known(_set),
    "_codecs.encode": _Known(_encode),
    "numpy.dtype": _Known(_numpy_type),
    "numpy._core.multiarray.scalar": _Known(_numpy_scalar),
    "torch.storage._load_from_bytes": _Known(_storage),
    "torch._utils._rebuild_tensor_v2": _Known(_tensor),
    "torch._utils._rebuild_parameter": _Known(_parameter),
    "torch.Size": _Known(_size),
    "torch.device": _Known(_device),
    **{str(dtype): dtype for dtype in _DTYPES.values()},
}
_STORAGES: dict[str, Any] = {f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()}
