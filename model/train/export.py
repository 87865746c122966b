"""Export trained weights to the ONNX file that serves, with its calibration inside."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from safetensors import safe_open

from model.serve.engine import Calibration
from model.train.network import Network, NetworkConfig
from model.train.settle import fold_norms
from pipeline.errors import UsageError

_LARGE = 1000  # values


def load_network(path: Path) -> Network:
    """Load the network of a `network.safetensors` in evaluation mode; raise UsageError for another file."""
    try:
        with safe_open(path, "pt") as file:
            config = json.loads(file.metadata()["config"])["network"]
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} holds no weights written by `cxr train`: {error}") from error
    network = Network(NetworkConfig.from_dict(config)).eval()
    fold_norms(network)
    network.load_state_dict(weights)
    return network.eval()


def export_onnx(network: Network, calibration: Calibration, path: Path) -> None:
    """Write the network as ONNX with a free batch axis.

    The outputs are `logits` [N, 2], `map` [N, h, w], `distance` [N], `outside` [N].
    """
    size = network.config.size
    example = torch.zeros(2, 1, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter warns of torch's own calls
        program = torch.onnx.export(
            network.eval(),
            (example,),
            input_names=["image"],
            output_names=["logits", "map", "distance", "outside"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _forget_origin(model)
    _store_halves(model.graph)
    model.metadata_props.append(
        onnx.StringStringEntryProto(key="calibration", value=calibration.model_dump_json())
    )
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _store_halves(graph: onnx.GraphProto) -> None:
    """Store weights that are exact in 16 bits in 16 bits; the file halves, and the network stays the same."""
    for weight in graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        half = values.astype(np.float16)
        if values.dtype == np.float32 and values.size > _LARGE and np.array_equal(half, values):
            name = weight.name
            weight.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_half"))
            cast = onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT)
            graph.node.insert(0, cast)


def _forget_origin(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes: stack traces with paths of the machine that wrote the file."""
    graphs = [model.graph, *model.functions]
    for part in (*graphs, *(node for graph in graphs for node in graph.node)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.initializer, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
