"""The commands that docs/training.md prints for one's own model, run as they stand there.

A tiny SmolVLM of random weights and a folder of drawn pictures go in; pairs, a purifier, a report
and a served endpoint come out.
"""

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from codefend.lab.folders.folder import open_folder
from codefend.lab.train.pairs import load_pairs
from codefend.lab.victims.dialogue import chat_prompt
from codefend.models.mllm.stills import load_processor
from codefend.models.prompts.templates import render
from tests.e2e.test_serve import START_TIMEOUT_S
from tests.families import build_family
from tests.pictures_folder import draw_pictures
from tests.service.running import wait_until_ready
from tests.service.test_api import as_form

ROOT = Path(__file__).parents[2]
SECTION = "## Train a purifier on your own model\n"
QUESTION = "what is at the top left?"
SMALL = {
    "SIZE_PX": "64",
    "NUM_PAIRS": "10",
    "BATCH": "4",
    "ATTACK_STEPS": "1",
    "STEPS": "2",
    "MINUTES": "5",
    "NUM_TESTED": "4",
}


def documented():
    """The settings that the document shows, by name, and its commands, one a string."""
    section = (ROOT / "docs" / "training.md").read_text().split(SECTION)[1].split("\n## ")[0]
    settings, commands = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return set(re.findall(r"(\w+)=", settings)), commands.replace("\\\n", " ").splitlines()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory like those of the hub; its weights are scaled up so that inputs matter."""
    directory = tmp_path_factory.mktemp("models") / "smolvlm"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = build_family("smolvlm")
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(6.0)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    config = directory / "processor_config.json"
    fields = json.loads(config.read_text()) | {"processor_class": "SmolVLMProcessor"}
    config.write_text(json.dumps(fields))
    return directory


@pytest.fixture(scope="module")
def environment(model, tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    draw_pictures(root / "pictures", 30)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    own = {"MODEL": str(model), "IMAGES": str(root / "pictures"), "WORK": str(root / "own")}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        **SMALL,
        **own,
        "PATH": programs,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CODEFEND_PORT": str(port),
        "CODEFEND_CPU_THREADS": "1",
        "CODEFEND_DECODE_WORKERS": "1",
        "CODEFEND_ENCODE_WORKERS": "1",
    }


@pytest.fixture(scope="module")
def trained(environment):
    """The folder of everything that all commands but the last one made, and how each ended."""
    _, commands = documented()
    work = Path(environment["WORK"])
    ended = [
        subprocess.run(
            ["bash", "-c", command],
            cwd=work.parent,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        for command in commands[:-1]
    ]
    return work, ended


def test_the_test_sets_what_the_document_sets(environment):
    settings, _ = documented()
    assert settings == {"MODEL", "IMAGES", "WORK", *SMALL}


def test_pairs_are_of_training_pictures(trained, environment, tmp_path):
    work, ended = trained
    assert ended[0].returncode == 0, ended[0].stderr
    pairs = load_pairs(work / "pairs")
    assert pairs.clean.shape == (12, 3, 64, 64)
    images = open_folder(Path(environment["IMAGES"]), 64, kept=tmp_path)
    training = {image.tobytes() for image in images.images(images.paths["train"])}
    assert {clean.permute(1, 2, 0).numpy().tobytes() for clean in pairs.clean} <= training
    difference = (pairs.clean.int() - pairs.attacked.int()).abs().amax((1, 2, 3))
    assert torch.all((difference > 0) & (difference <= pairs.epsilon * 255))


def test_the_report_says_what_is_right_and_measures_agreement_with_it(trained):
    work, ended = trained
    assert ended[1].returncode == 0, ended[1].stderr
    report = json.loads((work / "report" / "report.json").read_text())
    # Random weights may well fail a check of the report; the command must say so, and nothing else.
    failed = [check["name"] for check in report["checks"] if not check["passed"]]
    assert ended[2].returncode == bool(failed), ended[2].stderr
    assert "agreement with those answers" in report["meta"]["data"]
    rows = [row for row in report["rows"] if (row["task"], row["metric"]) == ("vqa", "accuracy")]
    found = {(row["tier"], row["attack"], row["defence"]): row["value"] for row in rows}
    assert found["clean", "none", "none"] == 1
    assert {"none", "codefend", "jpeg"} == {defence for _, _, defence in found}
    assert found["t0", "apgd-margin", "none"] < 1
    assert ("t0", "apgd-margin", "codefend") in found
    assert {row["metric"] for row in report["rows"]}.isdisjoint(
        {"objects_named", "question_only_accuracy"}
    )


@pytest.fixture(scope="module")
def client(trained, environment):
    work, _ = trained
    _, commands = documented()
    process = subprocess.Popen(
        ["bash", "-c", commands[-1]], cwd=work.parent, env=environment, start_new_session=True
    )
    url = f"http://127.0.0.1:{environment['CODEFEND_PORT']}"
    try:
        with httpx.Client(base_url=url, timeout=START_TIMEOUT_S) as client:
            wait_until_ready(client, process, START_TIMEOUT_S)
            yield client
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def test_the_endpoint_serves_the_model_behind_the_new_purifier(client, environment, model):
    processor = load_processor(model, "smolvlm")
    picture = next(Path(environment["IMAGES"]).iterdir())
    form = as_form(picture.read_bytes(), question=QUESTION, max_tokens=4)
    response = client.post("/v1/vqa", **form)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["defense"]["purifier"] == {"name": "purifier", "version": "own-1"}
    assert isinstance(answer["answer"], str)
    assert 1 <= answer["usage"]["completion_tokens"] <= 4
    data = base64.b64decode(answer["purified_image"].partition(",")[2])
    with Image.open(picture) as sent, Image.open(io.BytesIO(data)) as purified:
        assert purified.size == sent.size
        assert not np.array_equal(np.asarray(purified.convert("RGB")), np.asarray(sent))
        # The length of the prompt, tiles of the image and all, tells who answered.
        text = chat_prompt(processor, render("vqa", QUESTION))
        read = processor(text=[text], images=[purified.convert("RGB")])["input_ids"][0]
    assert answer["usage"]["prompt_tokens"] == len(read)
