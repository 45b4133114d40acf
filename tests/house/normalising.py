"""Takes out of what a service says whatever is rightly different each time."""

import hashlib
import json
import re

STAGES = "admit|decode|queue|purify|encode|forward|respond|total"
TIMING = re.compile(rf'("(?:{STAGES})":\s*)[\d.e+-]+')
DATA_URL = re.compile(r"(data:[\w./+-]*;base64,)([A-Za-z0-9+/=]{60,})")
BASE64 = re.compile(r"(?<![A-Za-z0-9+/=])[A-Za-z0-9+/=]{400,}")
ANSWER_ID = re.compile(r"chatcmpl-[0-9a-f]{32}")
CREATED = re.compile(r'("created":\s*)\d{6,}')
JUDGED = re.compile(r'("(?:suspicion|flagged)":\s*)(?:[\d.e+-]+|true|false)')
PLACES = re.compile(r"127\.0\.0\.1:\d+|/tmp/[\w./-]+")
LONG = 3000
# Their values are times, or depend on which images happened to share a batch.
TIMED_METRICS = ("_sum", "_bucket")
GROUPED = ("codefend_batch", "codefend_connections", "codefend_queue_depth", "process_", "python_")
# Audit fields that an image has once it is purified.
DONE_FIELDS = ("cached", "flagged", "suspicion")
JUDGED_METRICS = ("codefend_suspicion", "codefend_flagged")
PROBED = ('endpoint="/readyz"',)


def digest(content):
    return f"<{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()[:12]}>"


def plain_text(text, *, hides_pixels=False):
    """The text without times and ports, and its images as hashes."""

    def hashed(match):
        name = "<an image>" if hides_pixels else digest(match[2].encode())
        return match[1] + name

    if hides_pixels:
        text = JUDGED.sub(r"\1<judged>", text)
    text = DATA_URL.sub(hashed, TIMING.sub(r"\1<ms>", text))
    text = BASE64.sub(lambda match: digest(match[0].encode()), text)
    text = CREATED.sub(r"\1<time>", ANSWER_ID.sub("chatcmpl-<given>", text))
    text = PLACES.sub("<place>", text)
    return text if len(text) <= LONG else f"{text[:300]} ... {digest(text.encode())}"


def body(content, **options):
    """A body as text; as a hash, where it is none."""
    try:
        return plain_text(content.decode(), **options)
    except UnicodeDecodeError:
        return digest(content)


def headers(given, *, varies):
    """Name and value of each header, by name; ids and times are only said to be there.

    Args:
        given: Pairs of name and value.
        varies: Whether the body holds what is different each time.
    """
    shown = {}
    for name, value in sorted((name.lower(), value) for name, value in given):
        hidden = name in {"date", "x-request-id", "traceparent", "server-timing"}
        hidden |= name == "content-length" and varies
        # Only how it compares with nothing can be said of an estimate.
        hidden |= name == "retry-after" and value not in {"7", "11"}
        shown[name] = "<given>" if hidden else PLACES.sub("<place>", value)
    return shown


def log_line(line, **options):
    """One line of the log; None for one that tells of a probe, or where an error went through."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError:
        if line.startswith("  "):  # a frame of a traceback
            return None
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
    if options.get("hides_pixels"):
        fields = {name: value for name, value in fields.items() if name not in DONE_FIELDS}
    fields["message"] = re.sub(r"\b\d{2,}\b", "<number>", PLACES.sub("<place>", fields["message"]))
    return plain_text(json.dumps(fields, sort_keys=True), **options)


def metrics(exposition, *, hides_pixels=False):
    """Value by sample, and help by metric; of times only that they are there."""
    samples, helps = {}, {}
    for line in exposition.splitlines():
        if line.startswith("# HELP"):
            name, _, text = line.removeprefix("# HELP ").partition(" ")
            if not name.endswith("_created"):
                helps[name] = text
        elif not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            name = sample.partition("{")[0]
            if name.endswith("_created"):
                continue
            is_timed = name.endswith(TIMED_METRICS) and not name.startswith("codefend_suspicion_b")
            is_timed |= hides_pixels and name.startswith(JUDGED_METRICS)
            is_timed |= name.startswith(GROUPED) or any(part in sample for part in PROBED)
            samples[sample] = "<given>" if is_timed else float(value)
    return samples, helps
