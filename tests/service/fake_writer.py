"""Stands for the model that writes prompts: quick, slow or deadly, as the question says."""

import os
import time

__all__ = ["NAMED", "SLOW_S", "make_fake_writer"]

NAMED = {"name": "fake", "version": "7"}
SLOW_S = 1.5


def make_fake_writer(_):
    def write(meta, _, __):
        questions = meta["questions"]
        if any("die" in question for question in questions):
            os._exit(3)
        if any("slow" in question for question in questions):
            time.sleep(SLOW_S)
        number = len(questions)
        return {"prefixes": [None if "unfit" in q else f"{number} of {q}" for q in questions]}, b""

    return write, NAMED
