"""Models of TensorFlow Lite, written by flatbuffers after tensorflow/lite/schema/schema.fbs."""

import flatbuffers
import ml_dtypes
import numpy as np

# TensorType.
KINDS = {
    "float32": 0,
    "float16": 1,
    "int32": 2,
    "uint8": 3,
    "int64": 4,
    "bool": 6,
    "int16": 7,
    "complex64": 8,
    "int8": 9,
    "float64": 10,
    "complex128": 11,
    "uint64": 12,
    "uint32": 15,
    "uint16": 16,
    "int4": 17,
    "bfloat16": 18,
    "int2": 19,
    "uint4": 20,
    "float8_e4m3fn": 21,
    "float8_e5m2": 22,
}
BITS = {"int4": 4, "int2": 2, "uint4": 4}


def stored(array):
    """The bytes of a buffer, elements of some bits packed from the lowest up."""
    bits = BITS.get(array.dtype.name)
    if bits is None:
        return array.tobytes()
    content = bytearray(-(-array.size * bits // 8))
    for i, value in enumerate(array.reshape(-1).astype(int)):
        content[i * bits // 8] |= (int(value) & ((1 << bits) - 1)) << (i * bits % 8)
    return bytes(content)


class Writer:
    """Builds a model; tables are written from the inside out."""

    def __init__(self):
        self.builder = flatbuffers.Builder(1024)

    def table(self, size, fields):
        """Fields by number: how the builder adds it, its value and default."""
        self.builder.StartObject(size)
        for number, (kind, value) in fields.items():
            if kind == "Offset":
                self.builder.PrependUOffsetTRelativeSlot(number, value, 0)
            else:
                # No value is left out because it is the default.
                getattr(self.builder, f"Prepend{kind}")(value)
                self.builder.Slot(number)
        return self.builder.EndObject()

    def vector(self, offsets):
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()

    def numbers(self, values, dtype):
        return self.builder.CreateNumpyVector(np.asarray(values, dtype))

    def quantization(self, scale=(), zero=(), axis=0, details=0):
        fields = {
            2: ("Offset", self.numbers(scale, np.float32)),
            3: ("Offset", self.numbers(zero, np.int64)),
            4: ("Uint8", details),
            6: ("Int32", axis),
        }
        return self.table(7, fields)

    def tensor(self, name, shape, kind, buffer, quantization=None, sparse=False):
        fields = {
            0: ("Offset", self.numbers(shape, np.int32)),
            1: ("Int8", kind),
            2: ("Uint32", buffer),
            3: ("Offset", self.builder.CreateString(name)),
        }
        if quantization is not None:
            fields[4] = ("Offset", self.quantization(**quantization))
        if sparse:
            fields[6] = ("Offset", self.table(3, {}))
        return self.table(10, fields)

    def buffer(self, content):
        fields = {0: ("Offset", self.numbers(list(content), np.uint8))} if content else {}
        return self.table(3, fields)

    def distant_buffer(self, offset, size):
        return self.table(3, {1: ("Uint64", offset), 2: ("Uint64", size)})

    def subgraph(self, tensors, name="main"):
        fields = {
            0: ("Offset", self.vector(tensors)),
            4: ("Offset", self.builder.CreateString(name)),
        }
        return self.table(6, fields)

    def finish(self, subgraphs, buffers, codes=()):
        # The number of an operator is in two fields, of which the first holds small ones alone.
        codes = [self.table(4, {0: ("Int8", c), 3: ("Int32", c), 2: ("Int32", 1)}) for c in codes]
        fields = {
            0: ("Uint32", 3),
            1: ("Offset", self.vector(codes)),
            2: ("Offset", self.vector(subgraphs)),
            4: ("Offset", self.vector(buffers)),
        }
        self.builder.Finish(self.table(8, fields), file_identifier=b"TFL3")
        return bytes(self.builder.Output())


def model(*entries):
    """Of one graph: entries are name, array, and what else the tensor has.

    An array may also be a tuple of shape, number of the type, and bytes.
    """
    writer = Writer()
    # The first buffer is empty: tensors without data have it.
    buffers = [writer.buffer(b"")]
    tensors = [writer.tensor("input", (1, 4), 0, 0)]
    for name, array, *others in entries:
        if isinstance(array, tuple):
            shape, kind, content = array
        else:
            array = np.asarray(array)
            shape, kind, content = array.shape, KINDS[array.dtype.name], stored(array)
        tensors.append(writer.tensor(name, shape, kind, len(buffers), **dict(*others)))
        buffers.append(writer.buffer(content))
    return writer.finish([writer.subgraph(tensors)], buffers)


# Operators, and the table of their options: its number in the union, and its fields.
FULLY_CONNECTED, TANH = (9, (8, 4)), (28, None)


def network(arrays, shape, operators, outputs, quantization=None):
    """A graph that runs, with the input "x".

    Args:
      arrays: constants by name.
      shape: of the input; the first size may differ when it runs.
      operators: (operator, names of inputs, name of the output, its shape).
      outputs: names.
      quantization: of the activations, which are then int8.
    """
    writer = Writer()
    buffers, tensors, numbers = [writer.buffer(b"")], [], {}
    kind = KINDS["float32" if quantization is None else "int8"]

    def add(name, *fields, **options):
        numbers[name] = len(tensors)
        tensors.append(writer.tensor(name, *fields, **options))

    add("x", shape, kind, 0, quantization=quantization)
    for name, array in arrays.items():
        add(name, array.shape, KINDS[array.dtype.name], len(buffers))
        buffers.append(writer.buffer(stored(array)))
    for *_, name, size in operators:
        add(name, size, kind, 0, quantization=quantization)
    made = []
    for number, ((_, options), inputs, output, _) in enumerate(operators):
        fields = {
            0: ("Uint32", number),
            1: ("Offset", writer.numbers([numbers[name] for name in inputs], np.int32)),
            2: ("Offset", writer.numbers([numbers[output]], np.int32)),
        }
        if options:
            fields |= {3: ("Uint8", options[0]), 4: ("Offset", writer.table(options[1], {}))}
        made.append(writer.table(9, fields))
    graph = {
        0: ("Offset", writer.vector(tensors)),
        1: ("Offset", writer.numbers([0], np.int32)),
        2: ("Offset", writer.numbers([numbers[name] for name in outputs], np.int32)),
        3: ("Offset", writer.vector(made)),
    }
    codes = [operator[0] for operator, *_ in operators]
    return writer.finish([writer.table(6, graph)], buffers, codes)


def values(name):
    """Fifteen numbers of a dtype, negative ones among them where it has any."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    numbers = np.arange(15) % 4 - (0 if dtype.kind in "ub" or name == "uint4" else 2)
    return numbers.astype(dtype).reshape(3, 5)
