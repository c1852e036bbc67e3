"""Videos and images in and out, by PyAV and Pillow. Reads clips and pictures as a viewer sees them; writes H.264 and PNG.

Pixels are uint8 sRGB tensors: clips [frame, channel, height, width], images [channel, height, width].
"""
