"""Videos and images in and out, by PyAV and Pillow. Reads any file with a video stream; writes H.264 and PNG.

Pixels are uint8 tensors: clips [frame, channel, height, width], images [channel, height, width].
"""
