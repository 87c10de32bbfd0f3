"""The parameters of requests, in the address or as fields of a form, and the answers."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xvit.serving.errors import ServiceError, describe_validation

Options = TypeVar("Options", bound="ModelOptions")
MAX_VIEWS = 1000


class ModelOptions(BaseModel):
    """The parameter that all requests share."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="Name of a model; the first one that is served if unset.")


class PredictOptions(ModelOptions):
    top_k: int = Field(5, ge=1, description="Number of classes.")
    temporal_views: int = Field(1, ge=1, le=MAX_VIEWS, description="Clips along the video, whose scores are averaged.")
    spatial_views: int = Field(1, ge=1, le=MAX_VIEWS, description="Crops of each clip, whose scores are averaged.")
    frames: bool = Field(False, description="Whether the answer holds the frames that the model saw.")


class TimelineOptions(ModelOptions):
    threshold: float = Field(0.5, ge=0, le=1, description="Score at which a segment begins.")
    predict_every: int | None = Field(
        None,
        ge=1,
        le=10**6,
        description="Frames that the model sees from one score to the next; as it suits it if unset.",
    )


class ExplainOptions(ModelOptions):
    target: str | None = Field(None, alias="class", description="A class; the best one if unset.")
    against: str | None = Field(None, description="Another class, with which it is compared.")
    method: Literal["integrated", "quick"] = Field("integrated", description="Exact, or one backward pass.")


def with_fields(options: Options, fields: Mapping[str, str]) -> Options:
    """The parameters of the address and, where it has none, those of the form. Raises `ServiceError`."""
    given = options.model_dump(exclude_unset=True, by_alias=True)
    try:
        return type(options).model_validate({**fields, **given})
    except ValidationError as error:
        raise ServiceError(422, describe_validation(error)) from None


Labels = list[str] | dict[str, list[str]]
Scores = list[float] | dict[str, list[float]]


class ModelEntry(BaseModel):
    name: str
    default: bool
    classes: list[str] | dict[str, list[str]]
    multi_label: bool
    num_frames: int
    image_size: int
    frame_rate: float | None
    predict: bool
    timeline: bool
    stream: bool
    explain: bool


class LimitsEntry(BaseModel):
    upload_bytes: int
    pixels: int
    frames: int
    seconds: float
    deadline_seconds: float


class ModelsAnswer(BaseModel):
    models: list[ModelEntry]
    limits: LimitsEntry
    version: str


class PredictAnswer(BaseModel):
    """Labels and scores, best first; dicts of tasks if the model has several."""

    model: str
    labels: Labels
    scores: Scores
    times: list[float] = Field(description="Seconds of the frames that the model saw.")
    warnings: list[str] = Field(description="What is wrong with the video, in words.")
    seconds: float = Field(description="Time taken.")
    known: bool | dict[str, bool] | None = Field(
        None, description="Whether the video shows one of the classes; only of calibrated models."
    )
    frames: list[str] | None = Field(None, description="JPEG pictures as data addresses, one for each of `times`.")


class ExplainAnswer(BaseModel):
    """How much each frame and patch adds to the logit of a class, compared with the clip held still."""

    model: str
    target: str = Field(alias="class")
    against: str | None
    method: str
    logit: float
    logit_still: float
    completeness_error: float
    error_bound: float
    times: list[float]
    frame_relevance: list[float]
    patch_relevance: list[list[list[float]]]
    frames: list[str]


class SampleEntry(BaseModel):
    name: str
    url: str
    label: str


def plain(values: Any) -> Any:
    """Tuples as lists, for JSON."""
    if isinstance(values, Mapping):
        return {key: plain(value) for key, value in values.items()}
    return list(values)
