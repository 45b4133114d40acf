"""Takes out of what a service says whatever is rightly different each time."""

import hashlib
import json
import re

STAGES = "admit|decode|queue|purify|encode|forward|respond|total"
TIMING = re.compile(rf'("(?:{STAGES})":\s*)[\d.e+-]+')
DATA_URL = re.compile(r"(data:[\w./+-]*;base64,)([A-Za-z0-9+/=]{60,})")
BASE64 = re.compile(r"(?<![A-Za-z0-9+/=])[A-Za-z0-9+/=]{400,}")
PLACES = re.compile(r"127\.0\.0\.1:\d+|/tmp/[\w./-]+")
LONG = 3000
# Their values are times, or depend on which images happened to share a batch.
TIMED_METRICS = ("_sum", "_bucket", "_created")
GROUPED = ("codefend_batch", "codefend_connections", "codefend_queue_depth", "process_", "python_")
PROBED = ('endpoint="/readyz"',)


def digest(content):
    return f"<{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()[:12]}>"


def plain_text(text, *, hides_pixels=False):
    """The text without times and ports, and its images as hashes."""

    def hashed(match):
        name = "<an image>" if hides_pixels else digest(match[2].encode())
        return match[1] + name

    text = DATA_URL.sub(hashed, TIMING.sub(r"\1<ms>", text))
    text = BASE64.sub(lambda match: digest(match[0].encode()), text)
    text = PLACES.sub("<place>", text)
    return text if len(text) <= LONG else f"{text[:300]} ... {digest(text.encode())}"


def body(content, **options):
    """A body as text; as a hash, where it is none."""
    try:
        return plain_text(content.decode(), **options)
    except UnicodeDecodeError:
        return digest(content)


def headers(given, *, has_timings):
    """Name and value of each header, by name; ids and times are only said to be there."""
    shown = {}
    for name, value in sorted((name.lower(), value) for name, value in given):
        hidden = name in {"date", "x-request-id", "traceparent", "server-timing"}
        hidden |= name == "content-length" and has_timings
        # Only how it compares with nothing can be said of an estimate.
        hidden |= name == "retry-after" and value not in {"7", "11"}
        shown[name] = "<given>" if hidden else PLACES.sub("<place>", value)
    return shown


def log_line(line):
    """One line of the log; None for one that tells of a probe."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError:
        return re.sub(r"\d+", "<number>", PLACES.sub("<place>", line))
    if fields.get("endpoint") in {"/readyz", "/healthz"}:
        return None
    for name in ("time", "request_id", "pid"):
        if name in fields:
            fields[name] = "<given>"
    if "service." in fields["logger"]:  # which module says it is nobody's business
        fields["logger"] = "codefend.service"
    if "exception" in fields:
        fields["exception"] = fields["exception"].splitlines()[-1].rpartition(".")[2]
    if isinstance(fields.get("timings_ms"), dict):
        fields["timings_ms"] = dict.fromkeys(sorted(fields["timings_ms"]), "<ms>")
    fields["message"] = re.sub(r"\b\d{2,}\b", "<number>", PLACES.sub("<place>", fields["message"]))
    return plain_text(json.dumps(fields, sort_keys=True))


def metrics(exposition):
    """Value by sample, and help by metric; of times only that they are there."""
    samples, helps = {}, {}
    for line in exposition.splitlines():
        if line.startswith("# HELP"):
            name, _, text = line.removeprefix("# HELP ").partition(" ")
            helps[name] = text
        elif not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            name = sample.partition("{")[0]
            is_timed = name.endswith(TIMED_METRICS) and not name.startswith("codefend_suspicion_b")
            is_timed |= name.startswith(GROUPED) or any(part in sample for part in PROBED)
            samples[sample] = "<given>" if is_timed else float(value)
    return samples, helps
