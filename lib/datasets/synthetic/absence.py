"""Scenes whose target is out of sight for a while and comes back: it leaves the frame, or something covers it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lib.datasets.synthetic.bodies import Points, random_body
from lib.datasets.synthetic.scene import POSE_ASPECT, POSE_SIZE, Mover, Scene

GONE = 0.9  # hidden share of the target above which a frame counts as one without it
SHORTEST, LONGEST = 12, 40  # frames of an absence
COVER_STREAM = 5  # of the textures of what covers


@dataclass(frozen=True)
class Trip:
    """A shift away from a path and back."""

    leave: float  # the frame in which the shift begins
    back: float  # the frame in which it has ended
    ramp: float  # frames that each way takes
    away: Points  # (2,) px

    def share(self, time: float) -> float:
        """Return how far away it is at a time, 0..1."""
        way = np.clip(min((time - self.leave) / self.ramp, (self.back - time) / self.ramp), 0.0, 1.0)
        return float(way * way * (3 - 2 * way))


@dataclass(frozen=True)
class Traveller(Mover):
    """A body that leaves its path on trips, or, `reversed`, comes to it on trips from where it is otherwise."""

    trips: tuple[Trip, ...] = ()
    reversed: bool = False

    def pose(self, time: float) -> Points:
        """Return the affine matrix (2, 3) from the body's coordinates to frame px."""
        pose = super().pose(time)
        for trip in self.trips:
            pose[:, 2] += trip.away * (1 - trip.share(time) if self.reversed else trip.share(time))
        return pose


def with_absences(scene: Scene, *, seed: int, length: int) -> tuple[Scene, list[bool]]:
    """Return the scene with an absence in each stretch of 75 frames but the first 20, and the frames without target.

    One half leaves the frame, one half is covered by a body larger than itself that goes with it.
    """
    rng = np.random.default_rng([seed, scene.number, length])
    trips: list[Trip] = []
    covers: list[Trip] = []
    front = scene.front
    bank = (seed, COVER_STREAM)
    for start in range(20, length - LONGEST, 75):
        ramp, stay = rng.uniform(1, 15), rng.uniform(SHORTEST, LONGEST)
        leave, angle = start + rng.uniform(0, 15), rng.uniform(0, 2 * np.pi)
        away = 1.5 * max(scene.size_wh) * np.array([np.cos(angle), np.sin(angle)])
        (trips if rng.random() < 0.5 else covers).append(Trip(leave, leave + 2 * ramp + stay, ramp, away))
    target = scene.target
    for trip in covers:
        path = replace(target.path, rest=target.path.rest.copy())
        path.rest[POSE_SIZE] += np.log(rng.uniform(1.8, 2.6))
        path.rest[POSE_ASPECT] = rng.uniform(-0.2, 0.2)
        front = (*front, Traveller(random_body(bank, rng, kinds=1), path, trips=(trip,), reversed=True))
    target = Traveller(target.body, target.path, target.opacity, tuple(trips))
    made = replace(scene, target=target, front=front)
    return made, [made.covered(time) > GONE for time in range(length)]
