"""The stack machine that a pickle is a program for, without what makes Python's own dangerous.

It knows no calls but those of a given table, takes no byte that the file does not hold, and
puts no container in two places: what it gives is a tree.
"""

import pickletools
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

MOST_STEPS = 6_000_000  # opcodes; the slices' UIDs of 4,348 series take 2.1 million
MOST_SHARED = 8  # items of a tuple that may be in two places, as shapes may
LEAVES = {str, int, float, bool, type(None)}
CONTAINERS = {dict, list, tuple}

Calls = dict[str, Callable | None]


class Call(NamedTuple):
    """A function that a pickle names."""

    name: str
    function: Callable | None  # None: the name of a type, an argument of the others


class Unbuilt:
    """What a call returned that has no content before its state follows (opcode BUILD)."""

    def __init__(self, build: Callable[[Any], Any]):
        self.build = build
        self.place: int | None = None  # in the memo


class Machine:
    """Stack, marks and memo of a pickle that is read.

    Each opcode has a method. Its argument is how many bytes hold a size, or what to push.
    """

    def __init__(self, data: bytes, calls: Calls, load: Callable | None = None):
        """Start at the first byte.

        calls: {"module.name": function of the arguments, or None for the name of a type}.
        load: what a persistent id stands for; None if the pickle may have none.
        """
        self.data, self.calls, self.load = data, calls, load
        self.at = 0  # the next byte; past the end, the next opcode is an IndexError
        self.stack: list = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: list = []  # values that may be used again
        self.unbuilt = 0

    def run(self) -> Any:
        """Return what the pickle holds. Raise an error, of almost any type, if it is broken."""
        data, stack, memo, handlers, at = self.data, self.stack, self.memo, HANDLERS, 0
        for _ in range(MOST_STEPS):
            code = data[at]
            if code == MEMOIZE and type(stack[-1]) is not Unbuilt:  # these are three of five
                memo.append(stack[-1])
                at += 1
            elif code == SHORT_TEXT:
                end = at + 2 + data[at + 1]
                stack.append(str(data[at + 2 : end], "utf-8", "surrogatepass"))
                at = end
            elif code == BYTE:
                stack.append(data[at + 1])
                at += 2
            elif code == STOP:
                return self.result()
            else:
                handler, argument = handlers.get(code) or refuse(code)
                self.at = at + 1
                handler(self, argument)
                at = self.at
        raise ValueError(f"it has more than {MOST_STEPS} steps")

    def result(self) -> Any:
        if len(self.stack) != 1 or self.marks or self.unbuilt:
            raise ValueError("its end is missing")
        return self.stack[0]

    def take(self, count: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        start = self.at
        self.at = start + count
        return self.data[start : self.at]

    def number(self, size: int) -> int:
        """Return the unsigned number that the next `size` bytes hold."""
        if size == 1:
            self.at += 1
            return self.data[self.at - 1]
        return int.from_bytes(self.take(size), "little")

    def line(self) -> bytes:
        """Return the text up to the next line feed."""
        end = self.data.index(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1]

    def since_mark(self) -> list:
        """Return what was pushed since the last mark, and take it off."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def text(self, size: int) -> None:
        self.stack.append(str(self.take(self.number(size)), "utf-8", "surrogatepass"))

    def text_line(self, _) -> None:
        self.stack.append(str(self.line(), "raw-unicode-escape"))

    def raw(self, size: int) -> None:
        self.stack.append(self.take(self.number(size)))

    def integer(self, size: int) -> None:
        self.stack.append(self.number(size))

    def signed(self, size: int) -> None:
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def long(self, _) -> None:
        size = self.number(1)
        if size > 9:
            raise ValueError("it holds a number of more than 64 bits")
        self.signed(size)

    def integer_line(self, _) -> None:
        line = self.line()
        if len(line) > 21:
            raise ValueError("it holds a number of more than 64 bits")
        is_bool = line in (b"00", b"01")
        self.stack.append(line == b"01" if is_bool else int(line.removesuffix(b"L")))

    def float_line(self, _) -> None:
        self.stack.append(float(self.line()[:40]))

    def float64(self, _) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    def constant(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _) -> None:
        self.marks.append(len(self.stack))

    def empty(self, kind: type) -> None:
        self.stack.append(kind())

    def tuple_of(self, count: int) -> None:
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def marked_tuple(self, _) -> None:
        self.stack.append(tuple(self.since_mark()))

    def marked_list(self, _) -> None:
        self.stack.append(self.since_mark())

    def marked_dict(self, _) -> None:
        items = self.since_mark()
        self.stack.append({})
        self.add_pairs(items)

    def append(self, _) -> None:
        value = self.stack.pop()
        self.top(list).append(value)

    def appends(self, _) -> None:
        items = self.since_mark()
        self.top(list).extend(items)

    def set_item(self, _) -> None:
        pair = self.stack[-2:]
        del self.stack[-2:]
        self.add_pairs(pair)

    def set_items(self, _) -> None:
        self.add_pairs(self.since_mark())

    def add_pairs(self, items: list) -> None:
        """Add keys and values, which follow one another, to the dict on the stack."""
        keys = items[::2]
        if len(items) % 2:
            raise ValueError("a key has no value")
        if not set(map(type, keys)) <= {str, int}:  # the hash of nested tuples would crash
            raise ValueError("a key is neither text nor a number")
        self.top(dict).update(zip(keys, items[1::2], strict=True))

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"it adds to what is no {kind.__name__}")
        return self.stack[-1]

    def memoize(self, _) -> None:
        self.put(len(self.memo))

    def put_at(self, size: int) -> None:
        self.put(self.number(size))

    def put_line(self, _) -> None:
        self.put(int(self.line()[:20]))

    def put(self, place: int) -> None:
        """Keep the top of the stack in the memo."""
        value = self.stack[-1]
        if type(value) is Unbuilt:
            value.place = place
        if place == len(self.memo):
            self.memo.append(value)
        elif 0 <= place < len(self.memo):
            self.memo[place] = value
        else:
            raise ValueError("it skips places of the memo")

    def get_at(self, size: int) -> None:
        self.get(self.number(size))

    def get_line(self, _) -> None:
        self.get(int(self.line()[:20]))

    def get(self, place: int) -> None:
        value = self.memo[place]
        kind = type(value)
        is_flat = kind is tuple and len(value) <= MOST_SHARED and set(map(type, value)) <= LEAVES
        if kind is Unbuilt or (kind in CONTAINERS and not is_flat):
            raise ValueError(f"it uses the same {kind.__name__.lower()} twice")
        self.stack.append(value)

    def name_lines(self, _) -> None:
        module = str(self.line(), "utf-8")
        self.name(module, str(self.line(), "utf-8"))

    def name_on_stack(self, _) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def name(self, module: str, name: str) -> None:
        now_called = f"{module}.{name}".replace("numpy.core.", "numpy._core.")  # since numpy 2
        if now_called not in self.calls:
            raise ValueError(f"it asks for {module}.{name}")
        self.stack.append(Call(now_called, self.calls[now_called]))

    def call(self, _) -> None:
        """Call one of the functions that the table allows."""
        arguments, called = self.stack.pop(), self.stack.pop()
        if type(called) is not Call or called.function is None or type(arguments) is not tuple:
            raise ValueError("it calls what cannot be called")
        value = called.function(*arguments)
        self.unbuilt += type(value) is Unbuilt
        self.stack.append(value)

    def build(self, _) -> None:
        """Give the value on the stack its state."""
        state, value = self.stack.pop(), self.stack.pop()
        if type(value) is Unbuilt:
            place, value = value.place, value.build(state)
            self.unbuilt -= 1
            if place is not None:
                self.memo[place] = value
        elif type(value) is not dict:  # torch's OrderedDict has a state that nobody needs
            raise ValueError("it changes what is whole")
        self.stack.append(value)

    def persistent(self, _) -> None:
        if self.load is None:
            refuse(ord("Q"))
        self.stack.append(self.load(self.stack.pop()))


def refuse(code: int) -> None:
    known = pickletools.code2op.get(chr(code))
    raise ValueError(f"it needs opcode {known.name if known else code}")


M = Machine
STOP, BYTE, SHORT_TEXT, MEMOIZE = b".K\x8c\x94"
HANDLERS = {  # opcode of protocols 0 to 5: what it does, its argument
    **{0x8C: (M.text, 1), ord("X"): (M.text, 4), 0x8D: (M.text, 8), ord("V"): (M.text_line, None)},
    **{ord("C"): (M.raw, 1), ord("B"): (M.raw, 4), 0x8E: (M.raw, 8), 0x96: (M.raw, 8)},
    **{ord("K"): (M.integer, 1), ord("M"): (M.integer, 2), ord("J"): (M.signed, 4)},
    **{0x8A: (M.long, None), ord("I"): (M.integer_line, None), ord("L"): (M.integer_line, None)},
    **{ord("G"): (M.float64, None), ord("F"): (M.float_line, None)},
    **{ord("N"): (M.constant, None), 0x88: (M.constant, True), 0x89: (M.constant, False)},
    **{ord("}"): (M.empty, dict), ord("]"): (M.empty, list), ord(")"): (M.empty, tuple)},
    **{0x85: (M.tuple_of, 1), 0x86: (M.tuple_of, 2), 0x87: (M.tuple_of, 3)},
    **{ord("("): (M.mark, None), ord("t"): (M.marked_tuple, None)},
    **{ord("l"): (M.marked_list, None), ord("d"): (M.marked_dict, None)},
    **{ord("a"): (M.append, None), ord("e"): (M.appends, None)},
    **{ord("s"): (M.set_item, None), ord("u"): (M.set_items, None)},
    **{0x94: (M.memoize, None), ord("p"): (M.put_line, None), ord("g"): (M.get_line, None)},
    **{ord("q"): (M.put_at, 1), ord("r"): (M.put_at, 4)},
    **{ord("h"): (M.get_at, 1), ord("j"): (M.get_at, 4)},
    **{ord("c"): (M.name_lines, None), 0x93: (M.name_on_stack, None)},
    **{ord("R"): (M.call, None), ord("b"): (M.build, None), ord("Q"): (M.persistent, None)},
    **{0x80: (M.take, 1), 0x95: (M.take, 8)},  # protocol and frames say nothing new
}
