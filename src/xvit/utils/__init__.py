"""What every package may use: errors, files, devices, processes, timing, the version. Imports nothing else of xvit."""
