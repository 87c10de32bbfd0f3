"""Synthetic videos whose class is defined by motion.

motion         the built-in data set: two-second clips in class folders
concatenated   long videos made of such clips, with the ground truth of their segments
"""

from xvit.data.synthetic.concatenated import write_concatenated_videos
from xvit.data.synthetic.motion import CLASSES, encode_video, render_clip, write_motion_dataset

__all__ = ["CLASSES", "encode_video", "render_clip", "write_concatenated_videos", "write_motion_dataset"]
