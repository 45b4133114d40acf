import os

import pytest

from codefend.models.prompts.templates import GENERATOR
from codefend.service.cores import ThreadShares, share_threads, usable_cores
from codefend.service.prompts import WriterConfig
from codefend.service.purify.engine import EngineOptions
from codefend.service.settings import Settings


@pytest.mark.parametrize(
    ("num_cores", "purifier", "embedded", "writer"),
    [(1, 1, 1, 1), (2, 2, 1, 1), (4, 3, 2, 1), (8, 6, 4, 2), (16, 14, 4, 4)],
)
def test_what_each_gets(num_cores, purifier, embedded, writer):
    assert share_threads(num_cores) == ThreadShares(purifier, embedded, writer)


@pytest.mark.parametrize("num_cores", range(1, 65))
def test_several_purifiers_never_have_more_threads_than_there_are_cores(num_cores):
    for num_purifiers in range(1, num_cores + 1):
        assert share_threads(num_cores, num_purifiers).purifier * num_purifiers <= num_cores


@pytest.mark.parametrize(
    ("quota", "most"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("", None)]
)
def test_a_containers_quota_counts(tmp_path, quota, most):
    (tmp_path / "cpu.max").write_text(quota)
    allowed = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path / "cpu.max") == min(allowed, most or allowed)
    assert usable_cores(tmp_path / "absent") == allowed


def test_a_worker_gets_its_share_unless_it_is_set():
    threads = EngineOptions.of(Settings(devices="cpu,cpu"), "cpu").cpu_threads
    assert threads == share_threads(usable_cores(), 2).purifier
    assert EngineOptions.of(Settings(cpu_threads=5), "cpu").cpu_threads == 5


def test_the_writer_of_prompts_gets_its_share_whatever_a_purifier_is_set_to(tmp_path):
    (tmp_path / GENERATOR).touch()
    config = WriterConfig.of(
        Settings(prompt="generator", prompt_generator=str(tmp_path), cpu_threads=5)
    )
    assert config == WriterConfig(str(tmp_path), None, share_threads(usable_cores()).writer)
    assert WriterConfig.of(Settings(cpu_threads=5)) is None
