"""Shared by several test modules: made videos, small models, naive reference computations."""
