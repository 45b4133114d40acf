"""Removes from an image's environment what serving never opens, and says what that saves.

Run while the image is built, after everything is installed: `python prune.py ENVIRONMENT`.
"""

import shutil
import sys
from pathlib import Path

# Below site-packages: what it is, by pattern.
NEEDLESS = {
    "torch/test": "torch's compiled tests",
    "torch/lib/*test*.so": "libraries of those tests",
    "torch/include": "headers, to compile extensions with",
    "torch/share": "the same for CMake",
    "torch/bin/protoc*": "a compiler of protocol buffers",
    "torch/bin/*test*": "more compiled tests",
    "openvino/include": "headers, to compile extensions with",
    "openvino/libs/libopenvino_intel_gpu_plugin.so": "Intel's GPUs: the purifier runs on the CPU",
    "openvino/libs/libopenvino_intel_npu*": "Intel's NPUs",
    "openvino/libs/cache.json": "kernels tuned for Intel's GPUs",
    "openvino/libs/libopenvino_onnx_frontend*": "readers of formats that are not served",
    "openvino/libs/libopenvino_tensorflow*": "the same",
    "openvino/libs/libopenvino_paddle_frontend*": "the same",
    "openvino/libs/libopenvino_gguf_frontend*": "the same",
    "**/tests": "Python packages' own tests",
    "pip": "nothing is installed into a running image",
    "pip-*.dist-info": "the same",
    "setuptools": "nothing is built there either",
    "setuptools-*.dist-info": "the same",
    "pkg_resources": "a part of setuptools",
    "_distutils_hack": "the same",
    "distutils-precedence.pth": "the same",
}


def prune(packages: Path) -> dict[str, int]:
    """Removes what matches.

    Args:
        packages: The environment's site-packages.

    Returns:
        Bytes that were freed, by pattern; those that match nothing are left out.
    """
    freed: dict[str, int] = {}
    for pattern in NEEDLESS:
        for found in sorted(packages.glob(pattern)):
            if found.exists():  # it may have lain in a folder that is gone
                freed[pattern] = freed.get(pattern, 0) + remove(found)
    return freed


def remove(path: Path) -> int:
    """Removes a file or a folder; returns its bytes."""
    if path.is_dir() and not path.is_symlink():
        size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
        shutil.rmtree(path)
        return size
    size = path.lstat().st_size
    path.unlink()
    return size


def main(environment: Path) -> None:
    """Prunes a virtual environment."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    freed = prune(packages)
    for command in environment.glob("bin/pip*"):
        command.unlink()
    for pattern, size in freed.items():
        sys.stdout.write(f"{size / 1e6:7.1f} MB  {pattern}: {NEEDLESS[pattern]}\n")
    sys.stdout.write(f"{sum(freed.values()) / 1e6:7.1f} MB less\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
