"""Annotations: which videos a data set has, and what they show.

samples         `Sample`, `DatasetSplits`, files of class names
class_folders   one folder per class
lists           lists of `path label` lines
formats         the annotation files of Kinetics, Something-Something v2 and EPIC-KITCHENS-100; `load_splits` for all
finder          find the videos on disk
"""

from xvit.data.annotations.class_folders import read_class_folders
from xvit.data.annotations.finder import VideoFinder
from xvit.data.annotations.formats import load_splits, read_epic, read_kinetics, read_ssv2
from xvit.data.annotations.inputs import find_videos
from xvit.data.annotations.lists import read_list, read_multi_label_list, write_list
from xvit.data.annotations.samples import (
    DatasetSplits,
    Label,
    ParsedAnnotations,
    Sample,
    class_indices,
    read_class_names,
    remap_label,
)

__all__ = ["DatasetSplits", "Label", "ParsedAnnotations", "Sample", "VideoFinder", "class_indices", "find_videos"]
__all__ += ["load_splits", "read_class_folders", "read_class_names", "read_epic", "read_kinetics", "read_list"]
__all__ += ["read_multi_label_list", "read_ssv2", "remap_label", "write_list"]
