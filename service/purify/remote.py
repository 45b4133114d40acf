"""An engine whose devices are elsewhere: Ray Serve's replicas of `codefend.service.cluster`.

It runs where the others do, in a worker's process, and so behind the same queue and the same
batches. What it is given it sends to a replica; which one, Ray chooses. A replica that is gone
before it has answered costs nobody an answer: the batch is sent to another one.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from codefend.models.buckets import Bucket
from codefend.models.purifier.strengths import Strength
from codefend.service.purify.engine import EngineOptions
from codefend.service.stages import EngineFacts

__all__ = ["APPLICATION", "PURIFIER", "RayEngine", "load_engine"]

logger = logging.getLogger(__name__)

APPLICATION = "codefend"
PURIFIER = "Purifier"
# A batch that as many replicas ended on may be what ends them: then it is halved, as ever.
MOST_LOSSES = 3
# Of one try; how long a batch may take in all is for whoever watches this process.
ANSWER_TIMEOUT_S = 300.0
PAUSE_S = 0.2


class RayEngine:
    """Purifies on replicas; its facts are theirs.

    Attributes:
        facts: What the replicas' engine is.
    """

    def __init__(self, replicas: Any) -> None:
        """Takes the deployment's handle, and asks what its engine is; blocks until there is one."""
        self._replicas = replicas
        self.facts: EngineFacts = self._ask("describe")

    def run_batch(
        self,
        bucket: Bucket,
        uploads: Sequence[NDArray[np.uint8]],
        strength: Strength = Strength.STANDARD,
    ) -> tuple[list[NDArray[np.uint8]], list[float | None]]:
        """Purifies images of one bucket; see `RemoteEngine`."""
        purified, suspicions = self._ask("run_batch", bucket, list(uploads), strength)
        return purified, suspicions

    def purify(
        self, images: NDArray[np.uint8], strength: Strength = Strength.STANDARD
    ) -> NDArray[np.uint8]:
        """Purifies one batch of whole buckets: a worker's warm-up does."""
        purified, _ = self.run_batch(Bucket(*images.shape[1:3]), list(images), strength)
        return np.stack(purified)

    def suspect(self, upload: NDArray[np.uint8], purified: NDArray[np.uint8]) -> float | None:
        """How much an upload looks attacked: a worker's warm-up asks."""
        found: float | None = self._ask("suspect", upload, purified)
        return found

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Has a replica do it; another one, where that was gone or none would take it.

        Raises:
            RayActorError: As many replicas as `MOST_LOSSES` were gone.
            Exception: Whatever the engine there raised.
        """
        num_losses = 0
        while True:
            try:
                answer = getattr(self._replicas, method).remote(*arguments)
                return answer.result(timeout_s=ANSWER_TIMEOUT_S)
            except (BackPressureError, DeploymentUnavailableError):
                time.sleep(PAUSE_S)
            except RayActorError:
                num_losses += 1
                logger.warning("a replica is gone; %s goes to another one", method)
                if num_losses == MOST_LOSSES:
                    raise
                time.sleep(PAUSE_S)


def load_engine(_: EngineOptions) -> RayEngine:
    """Joins the cluster of the machine; the replicas have settings of their own."""
    ray.init(address="auto", log_to_driver=False, logging_level=logging.WARNING)
    return RayEngine(serve.get_deployment_handle(PURIFIER, APPLICATION))
