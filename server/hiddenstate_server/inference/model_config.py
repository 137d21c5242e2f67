"""How a model is run, in the terms in which Triton's tools ask for it."""

from collections.abc import Mapping
from typing import Final

from hiddenstate_server.inference import open_inference_pb2 as messages
from hiddenstate_server.inference.tensors import Datatype, TensorModel, TensorSpec

ONNX_PLATFORM: Final = "onnxruntime_onnx"
_CPU: Final = "CPUExecutionProvider"
_ONNX_FILE: Final = "model.onnx"

_TYPES: "Final[Mapping[Datatype, messages.DataType.ValueType]]" = {
    "BOOL": messages.TYPE_BOOL,
    "INT8": messages.TYPE_INT8,
    "INT16": messages.TYPE_INT16,
    "INT32": messages.TYPE_INT32,
    "INT64": messages.TYPE_INT64,
    "UINT8": messages.TYPE_UINT8,
    "UINT16": messages.TYPE_UINT16,
    "UINT32": messages.TYPE_UINT32,
    "UINT64": messages.TYPE_UINT64,
    "FP16": messages.TYPE_FP16,
    "FP32": messages.TYPE_FP32,
    "FP64": messages.TYPE_FP64,
    "BF16": messages.TYPE_BF16,
    "BYTES": messages.TYPE_STRING,
}


def model_config(model: TensorModel) -> messages.ModelConfig:
    """Returns how a model is run."""
    is_onnx, batched = model.platform == ONNX_PLATFORM, model.max_batch_size > 0
    config = messages.ModelConfig(
        name=model.name,
        platform=model.platform,
        max_batch_size=model.max_batch_size,
        input=[_input(spec, batched) for spec in model.inputs],
        output=[_output(spec, batched) for spec in model.outputs],
        instance_group=[messages.ModelInstanceGroup(name=model.name, count=1, kind=_kind(model.provider))],
        default_model_filename=_ONNX_FILE if is_onnx else "",
        parameters={"provider": messages.ModelParameter(string_value=model.provider)},
        backend="onnxruntime" if is_onnx else model.platform,
        model_transaction_policy=messages.ModelTransactionPolicy(decoupled=False),
    )
    if model.stateful:
        config.sequence_batching.max_sequence_idle_microseconds = round(model.sequence_idle_s * 1e6)
        config.sequence_batching.oldest.SetInParent()
    elif batched:
        config.dynamic_batching.SetInParent()
    return config


def _kind(provider: str) -> "messages.ModelInstanceGroup.Kind.ValueType":
    on_cpu = provider == _CPU
    return messages.ModelInstanceGroup.KIND_CPU if on_cpu else messages.ModelInstanceGroup.KIND_GPU


def _input(spec: TensorSpec, batched: bool) -> messages.ModelInput:
    return messages.ModelInput(
        name=spec.name, data_type=_TYPES[spec.datatype], dims=spec.shape[batched:], optional=spec.optional
    )


def _output(spec: TensorSpec, batched: bool) -> messages.ModelOutput:
    return messages.ModelOutput(name=spec.name, data_type=_TYPES[spec.datatype], dims=spec.shape[batched:])
