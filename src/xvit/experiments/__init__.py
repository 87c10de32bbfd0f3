"""Experiments that measure the library, called by `xvit demo`, `xvit ablate`, `xvit benchmark` and `xvit order`."""
