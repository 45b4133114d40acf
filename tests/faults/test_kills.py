"""Kill -9 on the worker, again and again under load: nothing is lost and nothing is mixed up."""

import os
import random
import signal
import time
from pathlib import Path

from tests.faults.loads import Senders, is_clear_refusal, is_right, post
from tests.service.running import make_settings, run_service

NUM_CLIENTS = 8
NUM_KILLS = 20


class Clients(Senders):
    """They count right answers, clear refusals, and everything else."""

    def __init__(self, service):
        super().__init__(service, NUM_CLIENTS)
        self.num_right = 0
        self.num_refused = 0
        self.others = []

    def send(self, pixels):
        response = post(self._service, pixels)
        if is_right(response, pixels):
            self.num_right += 1
        elif is_clear_refusal(response):
            self.num_refused += 1
        else:
            self.others.append((response.status_code, response.content[:200]))

    def fail(self, error):
        self.others.append(error)


def test_every_accepted_request_is_answered_rightly_or_clearly_refused(upstream, leases):
    chance = random.Random(0)
    settings = make_settings(upstream.url, engine_options={"seconds": 0.05}, max_batch=4)
    with run_service(settings) as service:
        with Clients(service) as clients:
            for _ in range(NUM_KILLS):
                service.wait_until(lambda: service.runtime.pipeline.is_warm)
                right = clients.num_right
                service.wait_until(lambda right=right: clients.num_right > right)
                time.sleep(chance.uniform(0, 0.2))
                os.kill(service.runtime.workers.worker_pids[0], signal.SIGKILL)
                service.wait_until(lambda: not service.runtime.pipeline.is_warm)
            service.wait_until(lambda: service.runtime.pipeline.is_warm)
        assert clients.others == []
        assert clients.num_right > 10 * clients.num_refused
        assert service.metric("codefend_worker_restarts_total", kind="purify") == NUM_KILLS
        assert service.runtime.in_flight.num_inside == 0
        assert len(service.runtime.queue) == 0
    assert leases
    assert not any(Path(lease.name).exists() for lease in leases), "no pixels are left behind"
