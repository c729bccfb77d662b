"""Time per photograph of the aesthetics networks on one core: torch, ONNX and int8, beside parameters and megabytes.

python -m benchmarks.aesthetics_export ALEXNET.safetensors VGG16.safetensors PHOTOGRAPHS
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from belvedere.export import quantized, times, write_model
from belvedere.portable import portable
from datamodules.read.names import picture_files
from datamodules.read.pictures import read_picture, squared
from tasks.aesthetics import AestheticsTask

PREPARATION = {"kind": "squared", "side": 256, "size": 224, "squeeze": False}


def main(alexnet: str, vgg16: str, photographs: str) -> None:
    """Prints the table."""
    files = picture_files(Path(photographs))[:8]
    image = squared(read_picture(files[0]), 256)
    print("| network | width | parameters | MB torch | MB ONNX | MB int8 | ms torch | ms ONNX | ms int8 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for network, weights in {"alexnet_torchvision": alexnet, "vgg16": vgg16}.items():
        for width in (4096, 250):
            task = AestheticsTask(network, width, pretrained=weights)
            task.load_pretrained()
            count = sum(parameter.numel() for parameter in task.network.parameters())
            module = portable(task, PREPARATION)
            settings = {"preparation": PREPARATION, "task": "AestheticsTask", "version": "", "formats": {}}
            with TemporaryDirectory() as folder:
                made = Path(folder) / "model.onnx"
                write_model(module, image, made, settings)
                both = [made, quantized(made, Path(folder) / "model.int8.onnx", files)]
                taken = times(module, both, image, 1)
                sizes = [4 * count / 1e6, *(each.stat().st_size / 1e6 for each in both)]
                cells = [f"{size:.1f}" for size in sizes] + [f"{1000 * each:.1f}" for each in taken.values()]
                print(f"| {network} | {width} | {count:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
