"""Mutated images in real decode processes, in each one after another."""

import time
from concurrent.futures import ThreadPoolExecutor

from codefend.service.decode.picture import PictureLimits
from codefend.service.decode.process import DecodeConfig, make_decoder
from codefend.service.processes.child import Child, ChildDied, ChildTimeout
from codefend.service.processes.pixels import PixelStore
from codefend.service.settings import Settings
from tests.fuzz.envelopes import wrap
from tests.fuzz.mutations import mutate
from tests.fuzz.tally import Tally, merge, read_rss

START_S = 60
# Growth is measured from here on: by then every library is loaded and every arena in use.
WARM_AFTER = 500


def fuzz_decoding(seed, numbers, num_processes=1, progress=lambda: None):
    """Decodes the given mutations; a death or a silence is a fault, and its input is kept."""
    shares = [numbers[start::num_processes] for start in range(num_processes)]
    with ThreadPoolExecutor(num_processes) as threads:
        tallies = list(threads.map(lambda share: _fuzz_one(seed, share, progress), shares))
    return merge(tallies)


def _fuzz_one(seed, numbers, progress):
    settings = Settings()
    limits = PictureLimits.of(settings)
    store = PixelStore()
    memory_bytes, directory = settings.decode_memory_bytes, str(store.directory)
    config = DecodeConfig(limits, memory_bytes, settings.decode_cpu_s, directory)
    child = Child("fuzzed", make_decoder, config, is_single_threaded=True)
    tally = Tally()
    lease = store.lease(settings.max_pixels)
    _start(child)
    try:
        for count, number in enumerate(numbers):
            name, image = mutate(seed, number)
            body = wrap(seed, number, image)
            started_s = time.monotonic()
            outcome = _decode(child, lease.name, *body, tally, settings)
            tally.count(outcome, time.monotonic() - started_s, f"{number} ({name})")
            _measure(child, tally, count)
            progress()
    finally:
        child.stop()
        store.close()
    return tally


def _decode(child, pixels, content_type, body, tally, settings):
    try:
        meta = {"content_type": content_type, "decodes": True}
        headers = []

        def reply(header):
            headers.append(header)
            return {"pixels": pixels}

        answer, _ = child.call(meta, body, settings.decode_timeout_s, reply)
    except ChildDied as death:
        fault = "hung" if isinstance(death, ChildTimeout) else f"died with {death.exit_code}"
        tally.keep(fault, content_type, body)
        tally.num_restarts += 1
        _start(child)
        return fault
    if "refused" in answer:
        return answer["refused"]
    if not 0 < answer["height"] * answer["width"] <= settings.max_pixels:
        tally.keep("size beyond the limits", content_type, body)
    return f"decoded {headers[-1]['format']}"


def _measure(child, tally, count):
    if count % WARM_AFTER == WARM_AFTER - 1:
        now, peak = read_rss(child.pid)
        tally.rss_begin_bytes = tally.rss_begin_bytes or now
        tally.rss_end_bytes = now
        tally.rss_peak_bytes = max(tally.rss_peak_bytes, peak)


def _start(child):
    child.launch()
    child.wait_until_ready(START_S)
