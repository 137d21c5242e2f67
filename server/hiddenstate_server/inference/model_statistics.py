"""Statistics of a model as ModelStatistics tells them."""

from hiddenstate_server.inference import open_inference_pb2 as messages
from hiddenstate_server.inference.statistics import ComputeDurations, Duration
from hiddenstate_server.inference.tensors import TensorModel


def model_statistics(model: TensorModel) -> messages.ModelStatistics:
    """Returns what was run of a model so far."""
    now = model.statistics.snapshot()
    return messages.ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=now.last_inference_ms,
        inference_count=now.inference_count,
        execution_count=now.execution_count,
        inference_stats=messages.InferStatistics(
            success=_duration(now.success),
            fail=_duration(now.fail),
            queue=_duration(now.queue),
            compute_input=_duration(now.compute.compute_input),
            compute_infer=_duration(now.compute.compute_infer),
            compute_output=_duration(now.compute.compute_output),
            cache_hit=messages.StatisticDuration(),
            cache_miss=messages.StatisticDuration(),
        ),
        batch_stats=[_batch(rows, durations) for rows, durations in now.batches.items()],
    )


def _batch(rows: int, durations: ComputeDurations) -> messages.InferBatchStatistics:
    return messages.InferBatchStatistics(
        batch_size=rows,
        compute_input=_duration(durations.compute_input),
        compute_infer=_duration(durations.compute_infer),
        compute_output=_duration(durations.compute_output),
    )


def _duration(duration: Duration) -> messages.StatisticDuration:
    return messages.StatisticDuration(count=duration.count, ns=duration.ns)
