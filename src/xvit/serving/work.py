"""The work of a request on an uploaded video: prediction and explanation."""

import threading
from typing import Any

from xvit.config import as_task_dict, unwrap_single_task
from xvit.inference.predictor import rank_classes, without_unknown
from xvit.serving.clips import check_video, read_views, video_answers
from xvit.serving.errors import ServiceError
from xvit.serving.models import ServedModel
from xvit.serving.options import ExplainOptions, PredictOptions, plain, with_fields
from xvit.serving.pictures import to_data_uri
from xvit.serving.service import Service
from xvit.serving.uploads import Upload


async def predict(service: Service, upload: Upload, options: PredictOptions) -> dict[str, Any]:
    """The fields of `PredictAnswer` but the time taken."""
    options = with_fields(options, upload.fields)
    model = service.find(options.model)
    counts = (options.temporal_views, options.spatial_views)
    if counts[0] * counts[1] > service.limits.views:
        text = f"temporal_views={counts[0]}, spatial_views={counts[1]}: expected a product of at most "
        raise ServiceError(422, f"{text}{service.limits.views}")
    views = await service.decode(read_views, model.model, upload.path, service.limits, *counts)
    scores = await model.batcher.submit(views.pixels)
    ranked = rank_classes(scores, 0, model.class_names)
    answer = {
        "model": model.name,
        "labels": plain(best(ranked.labels, options.top_k)),
        "scores": plain(best(ranked.scores, options.top_k)),
        "times": views.times,
        "warnings": list(views.clip.warnings),
        "known": ranked.known,
    }
    answer = without_unknown(answer)
    return answer | ({"frames": await service.decode(views.pictures)} if options.frames else {})


def best(values: Any, k: int) -> Any:
    """The first k labels or scores of each task."""
    return unwrap_single_task({task: row[:k] for task, row in as_task_dict(values).items()})


async def explain(service: Service, upload: Upload, options: ExplainOptions) -> dict[str, Any]:
    """The fields of `ExplainAnswer`."""
    options = with_fields(options, upload.fields)
    model = service.find(options.model)
    if not model.has_explanations:
        raise ServiceError(422, f"model {model.name}: no explanations: they need a trained model, not an exported one")
    await service.decode(_check, upload, service)
    stopped = threading.Event()
    try:
        return await service.run(model, _explain, model, upload, options, stopped)
    finally:
        stopped.set()


def _check(upload: Upload, service: Service) -> None:
    with video_answers(upload.path):
        check_video(upload.path, service.limits)


def _explain(model: ServedModel, upload: Upload, options: ExplainOptions, stopped: threading.Event) -> dict[str, Any]:
    from xvit.inference.explain import ERROR_BOUND, explain_video

    def check_stopped(*_: object) -> None:
        if stopped.is_set():
            raise ServiceError(504, "stopped: nobody waits for the explanation any more")

    check_stopped()
    with video_answers(upload.path):
        result = explain_video(
            model.predictor,
            upload.path,
            target=options.target,
            against=options.against,
            method=options.method,
            on_progress=check_stopped,
        )
    return {
        "model": model.name,
        "class": result.target,
        "against": result.against,
        "method": options.method,
        "logit": result.logit,
        "logit_still": result.logit_still,
        "completeness_error": result.completeness_error,
        "error_bound": ERROR_BOUND,
        "times": list(result.times),
        "frame_relevance": result.frame_relevance.tolist(),
        "patch_relevance": result.relevance.tolist(),
        "frames": [to_data_uri(frame) for frame in result.frames],
    }
