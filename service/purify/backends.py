"""Which engine runs the purifier: what `CODEFEND_BACKEND` says, or what suits the device."""

import logging

from codefend.service.devices import Backend, CpuDtype, has_accelerator, has_openvino, has_torch
from codefend.service.purify.engine import Engine, EngineOptions

__all__ = ["load_engine"]

logger = logging.getLogger(__name__)


def load_engine(options: EngineOptions) -> Engine:
    """Loads the engine of the backend.

    Raises:
        Exception: Whatever that engine raises; under `auto`, what torch's raises, unless it is
            not installed, or 8-bit integers are asked for, which it does not compute in.
    """
    if options.backend is Backend.OPENVINO:
        return _load_openvino(options)
    if options.backend is Backend.AUTO and _suits_openvino(options):
        try:
            return _load_openvino(options)
        except Exception as error:  # its library, or what it does not know: torch runs all there is
            if options.cpu_dtype is CpuDtype.INT8 or not has_torch():
                raise
            logger.warning("OpenVINO cannot run %s, torch does: %s", options.purifier, error)
    from codefend.service.purify.torch_engine import load_engine as load_eager

    return load_eager(options)


def _load_openvino(options: EngineOptions) -> Engine:
    from codefend.service.purify.openvino_engine import load_engine as load

    return load(options)


def _suits_openvino(options: EngineOptions) -> bool:
    if not has_openvino():
        return False
    return options.device == "cpu" or (options.device == "auto" and not has_accelerator())
