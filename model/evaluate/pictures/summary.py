"""List the layers of a network with their parameters and multiply-adds; needs torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model.train.export import load_network

_PER_MULTIPLY_ADD = 2  # torch counts a multiplication and an addition as two operations


@dataclass(frozen=True)
class Layer:
    """Describe a part of the network that holds weights or multiplies; numbers are for one image."""

    name: str
    kind: str
    output: tuple[int, ...]  # shape without the batch axis
    parameters: int
    multiply_adds: int


def layers(network: nn.Module, example: Tensor) -> list[Layer]:
    """Return the layers in the order in which they run on `example`, [1, ...].

    Multiply-adds are those of convolutions and matrix products, as torch counts them. The rest (norms,
    activations, sums) is negligible.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: _shape(out)}))
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.inference_mode(False), torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
    modules, counts = dict(network.named_modules()), counter.get_flop_counts()
    root = type(network).__name__  # torch prefixes every name with it
    found = [
        Layer(
            name=name,
            kind=type(modules[name]).__name__,
            output=shape,
            parameters=sum(parameter.numel() for parameter in modules[name].parameters()),
            multiply_adds=sum(counts.get(f"{root}.{name}", {}).values()) // _PER_MULTIPLY_ADD,
        )
        for name, shape in shapes.items()
    ]
    return [layer for layer in found if layer.parameters or layer.multiply_adds]


def write_summary(weights: Path, size: int, path: Path) -> str:
    """Write the table of a `.safetensors` network for an input of `size` pixels a side; return its totals as
    text.

    Raises UsageError when the file holds no such network.
    """
    found = layers(load_network(weights), torch.zeros(1, 1, size, size))
    parameters = sum(layer.parameters for layer in found)
    products = sum(layer.multiply_adds for layer in found)
    rows = [
        ("layer", "kind", "output", "parameters", "multiply-adds"),
        *(_row(layer) for layer in found),
        ("total", "", "", f"{parameters:,}", f"{products:,}"),
    ]
    path.write_text("\n".join(_table(rows)) + "\n", encoding="utf-8")
    return f"{parameters / 1e6:.2f} million parameters, {products / 1e6:,.0f} million multiply-adds per image"


_Row = tuple[str, str, str, str, str]


def _row(layer: Layer) -> _Row:
    shape = " x ".join(str(side) for side in layer.output)
    return layer.name, layer.kind, shape, f"{layer.parameters:,}", f"{layer.multiply_adds:,}"


def _table(rows: Sequence[_Row]) -> list[str]:
    """Align text left and numbers right, with a rule under the header and above the total."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    sides = ("<", "<", "<", ">", ">")
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _shape(out: object) -> tuple[int, ...]:
    return tuple(out.shape[1:]) if isinstance(out, Tensor) else ()
