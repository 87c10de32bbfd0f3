"""Live capture of frames from a file, a camera, an address or the standard input.

`source.Source` is what callers use: it reconnects, counts frames and reports events. `connection.Connection` is one
opening of a source, decoded in a thread of its own.
"""
