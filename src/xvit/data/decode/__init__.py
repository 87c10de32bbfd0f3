"""Decoding of video files and of folders of extracted frames, with PyAV (FFmpeg).

Public: `read_clip` and `decode` read chosen frames as a `Clip`; `probe` returns a `VideoInfo` without decoding.
`sequential` reads a long file from start to end. `demux` opens and scans files, `frame_folder` does so for folders.
`streams` chooses one of several video streams, `orientation` turns frames for display, and `signatures` recognises
files that are no video.
"""

from xvit.data.decode.demux import VideoInfo
from xvit.data.decode.video import Clip, decode, probe, read_clip

__all__ = ["Clip", "VideoInfo", "decode", "probe", "read_clip"]
