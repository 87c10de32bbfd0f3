"""Data: from annotations and video files to batches of clips.

annotations   which videos a data set has, and what they show
decode        read frames of video files and folders of frames
capture       frames of cameras, streams and pipes
sampling      which frames make up a clip
reading       the frames of a sample's clips
transforms    augmentation, test views, normalisation
arrays        test views and normalisation without torch
dataset       `VideoDataset`: samples -> clips
sampler       the order of the samples in an epoch
loader        `make_loader`: batches, read by worker processes
synthetic     the built-in data set
tools         check, resize and pack a data set
shards        tar files of videos, as WebDataset has them

Nothing is imported here: some modules need torch, which takes seconds to import.
"""
