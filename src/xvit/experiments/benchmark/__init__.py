"""The benchmark.

peers    the models under comparison
measure  time, memory and multiply-adds of the models in one group
preload  imports the models' libraries before memory is measured
run      all groups, saved one by one
report   tables, summary and plot
"""
