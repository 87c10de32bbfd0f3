"""Videos at addresses (s3://, gs://, az://, hf://, https://), read through fsspec.

web          the client for https:// and http://, which reaches no private network
stores       open a file at an address; the sizes and beginnings of files
errors       what an error of a library means: try again, an unusable video, or the wrong credentials
download     `local_video`: a path for the decoder

Which addresses are allowed is decided in `xvit.utils.addresses`. fsspec is imported when the first address is opened.
"""

from xvit.data.remote.download import LocalVideo, MissingVideoError, local_video

__all__ = ["LocalVideo", "MissingVideoError", "local_video"]
