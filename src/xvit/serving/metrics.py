"""What the service counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from xvit.serving.places import Places

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one service, in a registry of their own.

    Args:
        places: whose use is shown.
    """

    def __init__(self, places: Places) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        registry = self.registry
        self.requests = Counter("xvit_requests", "Answered requests.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "xvit_request_seconds", "Time from a request's first byte to its answer.", ["route"], registry=registry
        )
        self.batches = Histogram(
            "xvit_batch_clips", "Clips in each batch of the model.", ["model"], buckets=_BATCH_SIZES, registry=registry
        )
        self.batch_seconds = Histogram("xvit_batch_seconds", "Time of each batch.", ["model"], registry=registry)
        self.stream_batches = Histogram(
            "xvit_stream_batch_streams",
            "Live streams in each batch of the model.",
            ["model"],
            buckets=_BATCH_SIZES,
            registry=registry,
        )
        self.upload_bytes = Counter("xvit_upload_bytes", "Bytes of bodies that were received.", registry=registry)
        self.streams = Gauge("xvit_streams", "Live streams that are open.", registry=registry)
        self.frames = Counter("xvit_stream_frames", "Frames of live streams that were scored.", registry=registry)
        queue = Gauge("xvit_queue", "Requests that are accepted and not answered yet.", registry=registry)
        queue.set_function(lambda: places.used)

    def count_batch(self, model: str, clips: int, seconds: float) -> None:
        self.batches.labels(model).observe(clips)
        self.batch_seconds.labels(model).observe(seconds)

    def text(self) -> bytes:
        """All values, in the text format of Prometheus."""
        return generate_latest(self.registry)
