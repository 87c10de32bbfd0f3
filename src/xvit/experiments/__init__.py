"""Experiments that measure the library, called by the commands `xvit demo`, `xvit ablate` and `xvit benchmark`.

demo       train three models on synthetic videos and write an HTML report
ablation   train the rows of the paper's ablation tables and compare them with the paper's figures
benchmark  time and memory of XViT beside other video transformers
"""
