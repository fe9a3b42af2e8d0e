"""Follow the objects of the bundled clip with ONNX graphs: numpy, onnxruntime, PyAV and Pillow, without torch.

hodor export xmem-lite -o graphs
python examples/onnx_segment.py graphs examples/cup.mp4 examples/cup.png out
"""

import sys
import time
from pathlib import Path

import av
import numpy as np
from PIL import Image

from hodor.onnx_runtime import OnnxTracker  # or the files onnx_runtime.py and onnx_memory.py, copied into your program


def main(graphs: str, video: str, mask: str, out: str, frames: int = 30) -> None:
    tracker = OnnxTracker(graphs, size=256)  # short side inside the network; without it the network's own
    first = np.asarray(Image.open(mask))  # a palette PNG: the value of a pixel is the id of its object, 0 is background
    Path(out).mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with av.open(video) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == frames:
                break
            labels = tracker.track(frame.to_ndarray(format="rgb24"), first if index == 0 else None)
            picture = Image.fromarray(labels)
            picture.putpalette([0, 0, 0, 220, 60, 60, 60, 160, 220])  # background, object 1, object 2
            picture.save(Path(out) / f"{index:05d}.png")
    count = len(list(Path(out).glob("*.png")))
    print(f"{count} frames, {(time.perf_counter() - began) / count:.3f} s a frame, objects {tracker.objects}")
    print("torch was imported" if "torch" in sys.modules else "torch was not imported")


if __name__ == "__main__":
    main(*sys.argv[1:5])
