"""OceanKit's parts. Importing any of them bounds what OpenCV decodes; it reads the bound when it is itself imported."""

import os

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))  # px; see lib.images.MAX_PIXELS
