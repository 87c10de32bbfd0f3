"""Experiments that measure the library, called by the commands `xvit demo`, `xvit ablate` and `xvit benchmark`."""
