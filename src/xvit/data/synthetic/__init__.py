"""Synthetic videos whose class is defined by motion.

shapes         drawing of textured shapes
motion         the classes, in pairs that differ only in the order of frames
background     videos in which nothing happens
dataset        the built-in data set: two-second clips in class folders
concatenated   long videos made of such clips, with the ground truth of their segments
"""

from xvit.data.synthetic.background import BACKGROUND, render_background
from xvit.data.synthetic.concatenated import write_concatenated_videos
from xvit.data.synthetic.dataset import encode_video, write_motion_dataset
from xvit.data.synthetic.motion import CLASSES, render_clip

__all__ = ["BACKGROUND", "CLASSES", "encode_video", "render_background", "render_clip"]
__all__ += ["write_concatenated_videos", "write_motion_dataset"]
