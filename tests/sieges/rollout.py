"""A rollout in shadow mode with the quarantine on: the report, what is read, what is deleted."""

import io
import json
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.server import run_server
from codefend.service.quarantine import SUFFIX
from codefend.service.rollout import RolloutReport, read_events
from codefend.service.sealing import make_key, open_sealed
from tests.documentation import ROOT
from tests.service.fake_upstream import run_upstream

LIFETIME_S = 60
PER_SECOND = 1.5
ATTACKED_SHARE = 0.03


def pictures(seed=0):
    """One after another: a scene of the gallery, cropped and written anew; some are attacked."""
    draw = np.random.default_rng(seed)
    scenes = json.loads((ROOT / "gallery/scenes.json").read_text())
    while True:
        scene = scenes[draw.integers(len(scenes))]
        is_attacked = draw.random() < ATTACKED_SHARE
        image = Image.open(ROOT / "gallery" / scene["attacked" if is_attacked else "clean"])
        image = image.convert("RGB")
        buffer = io.BytesIO()
        if is_attacked:
            image.save(buffer, "PNG", pnginfo=None, compress_level=int(draw.integers(10)))
        else:
            left, top = (int(each) for each in draw.integers(0, 8, 2))
            image = image.crop((left, top, image.width, image.height))
            image.save(buffer, "JPEG", quality=int(draw.integers(85, 96)))
        yield buffer.getvalue(), is_attacked


class Watched:
    """What lay in the quarantine, and how long."""

    def __init__(self, directory):
        self._directory, self._left, self.kept = directory, {}, {}

    @property
    def lateness_s(self):
        """How much longer than it should each file lay that is gone."""
        return [left - time_s - LIFETIME_S for name, left in self._left.items()
                for time_s in [self.kept[name][0]]]  # fmt: skip

    def look(self):
        now_s, there = time.time(), {}
        for file in self._directory.glob(f"*{SUFFIX}"):
            try:
                there[file.name] = (file.stat().st_mtime, file.read_bytes())
            except FileNotFoundError:
                continue  # deleted in this very moment
        for name in self.kept.keys() - there.keys() - self._left.keys():
            self._left[name] = now_s
        self.kept |= {name: found for name, found in there.items() if name not in self.kept}

    def are_gone(self):
        return len(self._left) == len(self.kept)


def run(minutes=10):
    """Sends traffic for so long, and yields what there is to say."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {
            "mode": "shadow",
            "log_level": "info",
            "quarantine": "flagged",
            "quarantine_directory": str(folder / "vault"),
            "quarantine_key": make_key(folder / "private.key"),
            "quarantine_lifetime_s": str(LIFETIME_S),
        }
        watched = Watched(folder / "vault")
        with (
            (folder / "log").open("wb") as log,
            run_upstream() as upstream,
            run_server(log.fileno(), upstream_url=upstream.url, **settings) as server,
            httpx.Client(base_url=server.url, timeout=60) as client,
        ):
            yield send(client, upstream, watched, 60 * minutes)
            ends_s = time.monotonic() + 3 * LIFETIME_S
            while not watched.are_gone() and time.monotonic() < ends_s:
                watched.look()
                time.sleep(0.2)
        events = read_events((folder / "log").read_text().splitlines())
        yield json.loads(RolloutReport.of(events).to_json())
        yield {"report": RolloutReport.of(events).to_markdown()}
        yield of_quarantine(watched, folder, events)


def send(client, upstream, watched, seconds):
    """Sends for so long, at a steady rate; says what of it reached the model as it was sent."""
    sent, began_s = [], time.monotonic()
    for number, (file, is_attacked) in enumerate(pictures()):
        due_s = began_s + number / PER_SECOND
        while time.monotonic() < due_s:
            watched.look()
            time.sleep(min(0.2, max(0.0, due_s - time.monotonic())))
        if time.monotonic() - began_s > seconds:
            break
        form = {"files": {"file": ("x", file)}, "data": {"question": "what is this?"}}
        answer = client.post("/v1/vqa", **form)
        sent.append((answer.status_code, answer.json().get("defense", {}), is_attacked))
    flags = [(found.get("flagged"), is_attacked) for _, found, is_attacked in sent]
    return {
        "sent": len(sent),
        "answers_200": sum(status == 200 for status, _, _ in sent),
        "bypassed": sum(bool(found.get("bypassed")) for _, found, _ in sent),
        "asked_model": len(upstream.bodies),
        "attacked": sum(is_attacked for _, is_attacked in flags),
        "attacked_flagged": sum(bool(flag) for flag, is_attacked in flags if is_attacked),
        "clean_flagged": sum(bool(flag) for flag, is_attacked in flags if not is_attacked),
    }


def of_quarantine(watched, folder, events):
    """What could be read of the sealed files, and when they went."""
    make_key(folder / "other.key")
    hashes = {event["sha256"] for event in events if event.get("flagged")}
    plain = [b"PNG", b"IHDR", b"original", *(each.encode() for each in hashes)]
    opened, others, readable = set(), 0, 0
    for _, sealed in watched.kept.values():
        readable += any(word in sealed for word in plain)
        opened.add(json.loads(open_sealed(sealed, folder / "private.key")["event.json"])["sha256"])
        try:
            open_sealed(sealed, folder / "other.key")
            others += 1
        except ValueError:
            continue
    lateness_s = watched.lateness_s
    return {
        "flagged_files": len(hashes),
        "sealed": len(watched.kept),
        "sealed_bytes": sum(len(sealed) for _, sealed in watched.kept.values()),
        "opened_with_the_key": len(opened),
        "every_flagged_file_is_there": opened == hashes,
        "readable_without_a_key": readable,
        "opened_with_another_key": others,
        "lifetime_s": LIFETIME_S,
        "deleted": len(lateness_s),
        "deleted_late_by_s_at_most": round(max(lateness_s, default=0.0), 2),
        "deleted_early_by_s_at_most": round(-min(0.0, *lateness_s, 0.0), 2),
    }
