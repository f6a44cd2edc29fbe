"""A worker of a sweep: claims sequences, follows them, writes their results, until nothing is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from lib.testing.batched import Job, Watcher
from lib.testing.locks import Claims
from lib.testing.run import Candidate, job_of, run_jobs
from lib.testing.sweep_plan import Entry, Sweep

POLL = 1.0  # seconds between two looks at what the other workers do
Report = Callable[[str, str], None]  # called with a folder's name and a sequence's name when a result is written


def work(
    sweep: Sweep, claims: Claims, *, report: Report, tick: Callable[[], None], watcher: Watcher | None = None
) -> None:
    """Return when every sequence of every checkpoint has its result, whoever made it.

    `tick` is called after each result and while waiting. A sequence whose worker has died is taken over.
    """
    while True:
        sweep.refresh()
        tick()
        group = sweep.next_group(claims, size=sweep.options.together or 1)
        if group:
            _run_group(sweep, claims, group, report=report, tick=tick, watcher=watcher)
        elif sweep.is_finished():
            return
        else:
            time.sleep(POLL)


def _run_group(sweep: Sweep, claims: Claims, group: list[Entry], *, report: Report, tick: Callable[[], None],
               watcher: Watcher | None) -> None:
    """Do what can be claimed for some checkpoints, which share the decoded images of each sequence."""
    options = sweep.options
    sweep.keep_only(group)
    candidates = [sweep.candidate(entry) for entry in group]
    tracks = run_jobs(candidates, sweep.by_name, _claimed(sweep, claims, candidates), batch=options.batch or 1,
                      threads=options.threads or 0, watcher=watcher)
    for candidate, track in tracks:
        claims.release(candidate.folder.claim_path(track.job.name))
        report(candidate.folder.path.name, track.job.name)
        tick()


def _claimed(sweep: Sweep, claims: Claims, candidates: list[Candidate]) -> Iterator[Job]:
    """Return sequences claimed for as many of the checkpoints as lack them; each when it is asked for."""
    for sequence in sweep.sequences:
        mine = []
        for index, folder in enumerate(candidate.folder for candidate in candidates):
            path = folder.claim_path(sequence.name)
            if folder.is_done(sequence) or not claims.take(path):
                continue
            if folder.is_done(sequence):  # by another worker, between the look and the claim
                claims.release(path)
                continue
            mine.append(index)
        if mine:
            yield job_of(sequence, trackers=tuple(mine))
