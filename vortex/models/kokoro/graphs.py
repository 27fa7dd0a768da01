"""Changes to the graph of Kokoro's network, as it is packaged in ONNX."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

_SHIFT = 128  # of an unsigned byte, against a signed one


def add_output(graph: onnx.GraphProto, tensor: str, name: str) -> None:
    """Make an int64 tensor the last output as well."""
    graph.node.append(helper.make_node("Identity", [tensor], [name]))
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, None))


def sign_activations(graph: onnx.GraphProto) -> None:
    """Have convolutions of bytes take signed inputs instead of unsigned ones.

    Both stand for the same numbers, since input and zero point are shifted alike. Of unsigned
    weights and signed inputs, processors with VNNI multiply and add four pairs in one instruction,
    which onnxruntime does not use for two unsigned ones. Without VNNI, x86 processors add pairs up
    in 16 bits, which overflow: there, this graph would not speak the same.
    """
    shift = helper.make_tensor("signed_shift", TensorProto.INT32, [], [_SHIFT])
    graph.initializer.append(shift)
    convolutions = [node for node in graph.node if node.op_type == "ConvInteger"]
    unsigned = {convolution.input[0] for convolution in convolutions}
    for convolution in convolutions:
        convolution.input[2] = f"{convolution.input[0]}_signed_zero"
        convolution.input[0] = f"{convolution.input[0]}_signed"
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.append(node)
        if node.op_type == "DynamicQuantizeLinear" and node.output[0] in unsigned:
            graph.node.extend(_signed(node, shift.name))


def _signed(quantize: onnx.NodeProto, shift: str) -> list[onnx.NodeProto]:
    """Return what quantises the same to signed bytes."""
    (full,), (unsigned, scale, zero) = quantize.input, quantize.output
    signed, wide, shifted = (f"{unsigned}_signed{part}" for part in ("", "_wide", "_shifted"))
    return [
        helper.make_node("Cast", [zero], [wide], to=TensorProto.INT32),
        helper.make_node("Sub", [wide, shift], [shifted]),
        helper.make_node("Cast", [shifted], [f"{signed}_zero"], to=TensorProto.INT8),
        helper.make_node("QuantizeLinear", [full, scale, f"{signed}_zero"], [signed]),
    ]
