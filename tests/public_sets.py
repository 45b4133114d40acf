"""Tiny public test sets: the files, fields and names that the official ones have."""

import json

import numpy as np
from PIL import Image

NAMES = ["cat", "dog", "bus", "cup", "hat", "kite", "boat", "pizza"]


def write_coco(root, num=8, *, karpathy=False):
    """COCO captions of val2014: five captions a picture."""
    ids = _pictures(root / "val2014", num, "COCO_val2014_{:012d}.jpg")
    images, annotations, entries = [], [], []
    for number, image_id in enumerate(ids):
        file_name = f"COCO_val2014_{image_id:012d}.jpg"
        raw = [
            f"A {NAMES[number]} on a table, seen {word}. "
            for word in ["now", "then", "late", "soon", "far"]
        ]
        images.append(
            {
                "license": 3,
                "file_name": file_name,
                "coco_url": f"http://images.cocodataset.org/val2014/{file_name}",
                "height": 48,
                "width": 64,
                "date_captured": "2013-11-14 11:18:45",
                "id": image_id,
            }
        )
        annotations += [
            {"image_id": image_id, "id": 100 * number + i, "caption": text}
            for i, text in enumerate(raw)
        ]
        entries.append(
            {
                "filepath": "val2014",
                "sentids": list(range(5)),
                "filename": file_name,
                "imgid": number,
                "split": "test" if number else "restval",
                "sentences": [
                    {"tokens": text.split(), "raw": text, "imgid": number, "sentid": i}
                    for i, text in enumerate(raw)
                ],
                "cocoid": image_id,
            }
        )
    if karpathy:
        _write(root / "dataset_coco.json", {"images": entries, "dataset": "coco"})
    else:
        told = {"info": {}, "licenses": [], "images": images, "annotations": annotations[::-1]}
        _write(root / "annotations" / "captions_val2014.json", told)
    return root


def write_vqav2(root, num=8):
    """VQAv2: two questions a picture, ten answers each."""
    ids = _pictures(root / "val2014", num, "COCO_val2014_{:012d}.jpg")
    questions, annotations = [], []
    for number, image_id in enumerate(ids):
        for place, (text, answer, kind) in enumerate(
            [
                ("What is on the table?", NAMES[number], "other"),
                ("Is there a table?", "yes", "yes/no"),
            ]
        ):
            question_id = image_id * 1000 + place
            said = [answer] * 8 + ["no", "thing"]
            questions.append({"image_id": image_id, "question": text, "question_id": question_id})
            annotations.append(
                {
                    "question_type": "what is" if place == 0 else "is there",
                    "multiple_choice_answer": answer,
                    "answers": [
                        {"answer": each, "answer_confidence": "yes", "answer_id": i + 1}
                        for i, each in enumerate(said)
                    ],
                    "image_id": image_id,
                    "answer_type": kind,
                    "question_id": question_id,
                }
            )
    about = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    asked = {**about, "task_type": "Open-Ended", "questions": questions}
    _write(root / "v2_OpenEnded_mscoco_val2014_questions.json", asked)
    _write(root / "v2_mscoco_val2014_annotations.json", {**about, "annotations": annotations[::-1]})
    return root


def write_textvqa(root, num=8):
    """TextVQA: ten answers as plain text, picture ids of hexadecimal digits."""
    ids = _pictures(root / "train_images", num, "{:016x}.jpg")
    data = [
        {
            "image_id": f"{image_id:016x}",
            "image_classes": ["Sign"],
            "flickr_original_url": "",
            "flickr_300k_url": "",
            "image_width": 64,
            "image_height": 48,
            "question": "what does the sign say?",
            "question_tokens": ["what", "does", "the", "sign", "say"],
            "question_id": 34602 + number,
            "answers": [NAMES[number]] * 3
            + [f"{NAMES[number]}s"] * 6
            + ["answering does not require"],
            "set_name": "val",
        }
        for number, image_id in enumerate(ids)
    ]
    told = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    _write(root / "TextVQA_0.5.1_val.json", {**told, "data": data})
    return root


WRITERS = {"coco": write_coco, "vqav2": write_vqav2, "textvqa": write_textvqa}


def _pictures(folder, num, name):
    folder.mkdir(parents=True)
    ids = [42 + 391 * number for number in range(num)]
    for number, image_id in enumerate(ids):
        blocks = np.random.default_rng(number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        pixels = np.kron(blocks, np.ones((16, 16, 1), dtype=np.uint8))
        Image.fromarray(pixels).save(folder / name.format(image_id))
    return ids


def _write(file, told):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told))
