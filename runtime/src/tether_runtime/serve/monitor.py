"""What Prometheus is told: latency, answers, fallbacks, and whether observations drift from the training data."""

from __future__ import annotations

from typing import Any

import numpy as np
import prometheus_client
from prometheus_client import multiprocess

from tether_runtime.serve.store import Served

__all__ = ["Monitor"]

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
TRUST_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
MEMORY = 0.999  # of the running means: of the last thousand observations or so


class Monitor:
    """The metrics of one process; with several workers they are added up."""

    def __init__(self, several_processes: bool):
        self._several = several_processes
        self._registry = prometheus_client.CollectorRegistry()
        how: dict[str, Any] = {"registry": self._registry}
        counter, gauge = prometheus_client.Counter, prometheus_client.Gauge
        self.seconds = prometheus_client.Histogram(
            "tether_decision_seconds", "From a request read to its answer", ["policy"], buckets=BUCKETS, **how
        )
        self.decisions = counter("tether_decisions", "Decisions answered", ["policy"], **how)
        self.fallbacks = counter("tether_fallbacks", "Decisions that the policy did not make", ["policy", "why"], **how)
        self.troubles = counter("tether_troubles", "Observations with something wrong", ["policy", "trouble"], **how)
        self.trust = prometheus_client.Histogram(
            "tether_decision_trust",
            "Share of the data's own decisions that are as unlike the others",
            ["policy"],
            buckets=TRUST_BUCKETS,
            **how,
        )
        self.refused = counter("tether_refused", "Requests refused", ["status"], **how)
        self.unlogged = counter("tether_unlogged", "Decisions whose rows could not be written", **how)
        self.reloads = counter("tether_reloads", "Policies loaded anew", ["policy", "outcome"], **how)
        self.drift = gauge(
            "tether_observation_drift",
            "Running mean of a column, in standard deviations from that of the training data",
            ["policy", "column"],
            multiprocess_mode="mostrecent",
            **how,
        )
        self.outside = counter(
            "tether_observations_outside", "Observations outside the training data's range", ["policy", "column"], **how
        )
        self._means: dict[str, np.ndarray[Any, Any]] = {}
        self._seen = 0

    def observed(self, served: Served, vector: np.ndarray[Any, Any]) -> None:
        """An observation that a policy was shown."""
        seen = served.policy.document["observation"].get("statistics")
        if seen is None:
            return
        mean, std = np.asarray(seen["mean"]), np.maximum(np.asarray(seen["std"]), 1e-6)
        before = self._means.get(served.name)
        if before is None or before.shape != mean.shape:
            before = np.zeros_like(mean)
        distance = (vector - mean) / std
        self._means[served.name] = MEMORY * before + (1 - MEMORY) * distance
        names = served.guard.names()
        for index in np.flatnonzero((vector < np.asarray(seen["low"])) | (vector > np.asarray(seen["high"]))):
            self.outside.labels(served.name, names[index]).inc()
        self._seen += 1
        if self._seen % 100 == 1:  # a gauge for each column costs more than the arithmetic
            for name, value in zip(names, self._means[served.name]):
                self.drift.labels(served.name, name).set(float(value))

    def text(self) -> bytes:
        """What /metrics answers."""
        if not self._several:
            return prometheus_client.generate_latest(self._registry)
        registry = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return prometheus_client.generate_latest(registry)
