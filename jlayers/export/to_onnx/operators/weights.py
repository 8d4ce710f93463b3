"""Parameters in the layouts of ONNX: worked out where they are known, by nodes in a loop's body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..call import Call, full
from ..values import Known, Tensor
from .marking import Operand


class Weight:
    """An array that is transposed, cut and joined on its way to an operator.

    Args:
      call: whose graph nodes go to.
      value: what it is.
      shape: numbers alone.
    """

    def __init__(self, call: Call, value: Known | Tensor, shape: Sequence[int]):
        self.call, self.value, self.shape = call, value, tuple(int(n) for n in shape)

    @classmethod
    def of(cls, call: Call, operand: Operand, dtype: Any = None) -> Weight:
        """That of an operand, in the dtype of the input, as layers cast their parameters."""
        value, dtype = operand.value, dtype or operand.aval.dtype
        if isinstance(value, Known):
            array = np.broadcast_to(value.array, operand.shape)
            value = Known(array if array.dtype == dtype else array.astype(dtype), value.hint)
        else:
            name = full(call.graph, value, operand.aval)
            same = operand.aval.dtype == dtype
            value = Tensor(name if same else call.graph.cast(name, dtype), operand.shape)
        return cls(call, value, operand.shape)

    @classmethod
    def filled(cls, call: Call, shape: Sequence[int], value: float, dtype: Any) -> Weight:
        """One number, for what an operator wants and a layer does not have."""
        return cls(call, Known(np.full(shape, value, dtype)), shape)

    @property
    def name(self) -> str:
        """In the graph."""
        if isinstance(self.value, Tensor):
            return self.value.name
        return self.call.graph.constant(
            np.ascontiguousarray(self.value.array), hint=self.value.hint or "constant"
        )

    def transpose(self, *order: int) -> Weight:
        """With its axes in another order."""
        shape = [self.shape[axis] for axis in order]
        if isinstance(self.value, Known):
            value: Known | Tensor = Known(self.value.array.transpose(order), self.value.hint)
        else:
            value = Tensor(self.call.graph.transpose(self.value.name, order), tuple(shape))
        return Weight(self.call, value, shape)

    def reshape(self, *shape: int) -> Weight:
        """In another shape."""
        if isinstance(self.value, Known):
            value: Known | Tensor = Known(self.value.array.reshape(shape), self.value.hint)
        else:
            name = self.call.graph.reshape(self.value.name, self.shape, shape)
            value = Tensor(name, shape)
        return Weight(self.call, value, shape)

    def split(self, axis: int, count: int) -> list[Weight]:
        """In equal parts."""
        shape = list(self.shape)
        shape[axis] //= count
        if isinstance(self.value, Known):
            parts = np.split(self.value.array, count, axis)
            return [Weight(self.call, Known(part, self.value.hint), shape) for part in parts]
        graph = self.call.graph
        sizes = graph.ints(*([shape[axis]] * count))
        names = graph.ops("Split", self.value.name, sizes, outputs=count, axis=axis)
        return [Weight(self.call, Tensor(name, tuple(shape)), shape) for name in names]


def join(parts: Sequence[Weight], axis: int) -> Weight:
    """Parts behind one another."""
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    call = parts[0].call
    if all(isinstance(part.value, Known) for part in parts):
        arrays = [part.value.array for part in parts]  # type: ignore[union-attr]
        hints = [part.value.hint for part in parts if part.value.hint]  # type: ignore[union-attr]
        return Weight(call, Known(np.concatenate(arrays, axis), hints[0] if hints else ""), shape)
    name = call.op("Concat", *(part.name for part in parts), axis=axis)
    return Weight(call, Tensor(name, tuple(shape)), shape)
