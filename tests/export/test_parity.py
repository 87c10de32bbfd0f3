"""`check_parity`: NaN logits, agreement."""

from dataclasses import replace

import pytest

from xvit.export import ParityLimits, ParityReport
from xvit.export.parity import check_parity
from xvit.utils.errors import XViTError

REPORT = ParityReport(
    num_clips=4,
    max_difference=0.25,
    mean_difference=0.1,
    max_logit=2.0,
    agreement=0.75,
    model_ms=2.0,
    exported_ms=1.0,
    size_bytes=1,
)


def test_report_within_the_limits_passes():
    check_parity(REPORT, ParityLimits(max_difference=0.25, min_agreement=0.75))
    assert REPORT.speedup == 2


def test_nan_logits_raise():
    with pytest.raises(XViTError, match="the exported model produced NaN logits; nothing was written"):
        check_parity(replace(REPORT, max_difference=float("nan")), ParityLimits(min_agreement=0))


def test_low_agreement_raises():
    with pytest.raises(XViTError, match=r"same top-1 class on 75.0 % of 4 clips, below --min-agreement 0.8;"):
        check_parity(REPORT, ParityLimits(min_agreement=0.8))
