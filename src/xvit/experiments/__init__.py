"""Experiments that measure the library: `xvit demo`, `finetune`, `ablate`, `benchmark` and `order`."""
