"""The service does what its own OpenAPI document says, for valid and invalid requests that are generated from it."""

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from helpers.serving import serve

EXAMPLES = 20  # for each route


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_match_the_document(video, mode):
    for kind in ("video/mp4", "video/webm", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, st.sampled_from([video.read_bytes(), b"garbage", b""]))
    with serve(["motion"]) as running:
        schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()
            if mode is GenerationMode.NEGATIVE and not operation.query:
                continue  # nothing of it can be wrong

            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            @hypothesis.settings(
                max_examples=EXAMPLES,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def check(case) -> None:
                # Bytes that are no video are rejected although the document cannot exclude them.
                case.call_and_validate(excluded_checks=[positive_data_acceptance])

            check()
        assert running.service.places.used == 0
        assert running.uploads() == []
