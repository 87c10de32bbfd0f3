"""`xvit order`: does a model use the order of frames?"""
