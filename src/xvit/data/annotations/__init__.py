"""Annotations: which videos a data set has, and what they show.

samples         `Sample`, `DatasetSplits`
class_names     files of class names
class_folders   one folder per class
lists           lists of `path label` lines
formats         the annotation files of Kinetics, Something-Something v2 and EPIC-KITCHENS-100; `load_splits` for all
webdataset      shards: tar files of videos and their annotations
finder          find the videos on disk: what counts as a video
inputs          the videos that a person gives to a command
"""

from xvit.data.annotations.class_folders import read_class_folders
from xvit.data.annotations.class_names import read_class_names
from xvit.data.annotations.finder import VideoFinder, describe_left_out
from xvit.data.annotations.formats import load_splits, read_epic, read_kinetics, read_ssv2
from xvit.data.annotations.inputs import class_by_folder, find_videos
from xvit.data.annotations.lists import read_list, read_multi_label_list, write_list
from xvit.data.annotations.samples import (
    DatasetSplits,
    Label,
    ParsedAnnotations,
    Sample,
    class_indices,
    remap_label,
)
from xvit.data.annotations.webdataset import read_webdataset

__all__ = ["DatasetSplits", "Label", "ParsedAnnotations", "Sample", "VideoFinder", "class_by_folder", "class_indices"]
__all__ += ["describe_left_out", "find_videos"]
__all__ += ["load_splits", "read_class_folders", "read_class_names", "read_epic", "read_kinetics", "read_list"]
__all__ += ["read_multi_label_list", "read_ssv2", "read_webdataset", "remap_label", "write_list"]
