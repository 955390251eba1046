"""From breaks to results: which arms a break needs, and what they say about its predictions."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from underhood.base.config import override
from underhood.lab import baseline as baselines
from underhood.lab.baseline import Baseline
from underhood.lab.compare import Judgement, effect, judge_crash, judge_effect, judge_property
from underhood.lab.run import Arm, ArmStore, Job, Listener, job_hash, run_jobs
from underhood.lab.sabotage import Above, Below, Crashes, Falls, Keeps, Prediction, Rises, Sabotage, Stays, Violates

ARMS = "arms.jsonl"  # the store of finished arms in an experiment's folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """Healthy and broken arms of one patch on one baseline, paired by seed, with a judgement for each prediction."""

    baseline: Baseline
    seeds: tuple[int, ...]
    healthy: tuple[Arm, ...]
    broken: tuple[Arm, ...]
    judgements: tuple[Judgement, ...]

    def pairs(self, metric: str) -> tuple[list[float], list[float]]:
        """The healthy and the broken figures of ``metric``, in the order of the seeds."""
        return [float(a.figure(metric, self.baseline)) for a in self.healthy], [float(a.figure(metric, self.baseline)) for a in self.broken]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """All that was measured of one break; ``separates`` is whether its probe told every broken arm from every healthy one."""

    name: str  # "project.break"
    sabotage: Sabotage
    trial: Trial
    separates: bool | None = None
    claim: Trial | None = None


def experiment(
    breaks: Sequence[tuple[str, Sabotage]],
    seeds: Sequence[int],
    folder: Path,
    *,
    claims: bool = True,
    settings: Mapping[str, Any] | None = None,
    workers: int = 0,
    listen: Listener | None = None,
    fresh: bool = False,
) -> list[Result]:
    """Run ``breaks`` (each with its full name) and judge them. Finished arms under ``folder`` are used again.

    Healthy arms are shared by all breaks of a baseline; ``claims`` also runs each claim's own setting; ``settings`` change the config of both arms.
    With ``fresh`` nothing that is stored counts.
    """
    store = ArmStore(folder / ARMS)
    if fresh:
        store.arms.clear()
    arms = run_jobs(plan(breaks, seeds, claims=claims, settings=settings), store, workers=workers, listen=listen)
    results = []
    for name, sabotage in breaks:
        baseline, claim = _baseline(sabotage.baseline, settings), None
        found = trial(arms, _healthy(baseline, seeds), _broken(name, sabotage, baseline, seeds), sabotage.expect)
        if claims and sabotage.claim and sabotage.claim.baseline:
            other = baselines.get(sabotage.claim.baseline)
            claim = trial(arms, _healthy(other, seeds), _broken(name, sabotage, other, seeds), sabotage.claim.expect)
        results.append(Result(name=name, sabotage=sabotage, trial=found, separates=_separates(sabotage.probe, found), claim=claim))
    return results


def plan(breaks: Sequence[tuple[str, Sabotage]], seeds: Sequence[int], *, claims: bool = True, settings: Mapping[str, Any] | None = None) -> list[Job]:
    """The jobs behind ``experiment``, healthy ones first, each once."""
    asked = [(name, s, _baseline(s.baseline, settings)) for name, s in breaks]
    if claims:
        asked += [(name, s, baselines.get(s.claim.baseline)) for name, s in breaks if s.claim and s.claim.baseline]
    jobs = [_healthy(b, seeds) for _, _, b in asked] + [_broken(name, s, b, seeds) for name, s, b in asked]
    return list({(job_hash(job), job.label): job for job in jobs}.values())


def _healthy(baseline: Baseline, seeds: Sequence[int]) -> Job:
    return Job(label="healthy", baseline=baseline, seeds=tuple(seeds))


def _broken(name: str, sabotage: Sabotage, baseline: Baseline, seeds: Sequence[int]) -> Job:
    return Job(label=name, baseline=baseline, patches=sabotage.patches, seeds=tuple(seeds))


def _baseline(name: str, settings: Mapping[str, Any] | None) -> Baseline:
    baseline = baselines.get(name)
    return dataclasses.replace(baseline, config=override(baseline.config, settings)) if settings else baseline


def trial(arms: Sequence[Arm], healthy_job: Job, broken_job: Job, expect: Sequence[Prediction]) -> Trial:
    def of(job: Job) -> tuple[Arm, ...]:
        found = {a.seed: a for a in arms if a.label == job.label and a.declaration == job_hash(job)}
        return tuple(found[s] for s in job.seeds)

    baseline, healthy, broken = broken_job.baseline, of(healthy_job), of(broken_job)
    judgements = tuple(judge(p, baseline, healthy, broken) for p in expect)
    return Trial(baseline=baseline, seeds=broken_job.seeds, healthy=healthy, broken=broken, judgements=judgements)


def judge(prediction: Prediction, baseline: Baseline, healthy: Sequence[Arm], broken: Sequence[Arm]) -> Judgement:
    """One prediction against the arms."""
    if isinstance(prediction, Crashes):
        return judge_crash(prediction, [a.how for a in healthy], [a.how for a in broken])
    good, bad = ([a.figure(prediction.metric, baseline) for a in arms] for arms in (healthy, broken))
    if isinstance(prediction, (Violates, Keeps)):
        return judge_property(prediction, [v is True for v in good], [v is True for v in bad])
    assert isinstance(prediction, (Rises, Falls, Stays))
    silent = [a for a in (*healthy, *broken) if prediction.metric not in a.figures]
    if silent and baseline.metrics[prediction.metric].worst is None:
        ends = ", ".join(sorted({a.how for a in silent}))
        return Judgement(prediction, "inconclusive", None, f"{len(silent)} arms ended without this figure ({ends}), and nothing stands in for it")
    return judge_effect(prediction, effect([float(v) for v in good], [float(v) for v in bad]), smallest=baseline.metrics[prediction.metric].smallest)


def _separates(probe: Above | Below | None, trial: Trial) -> bool | None:
    if probe is None:
        return None
    if trial.baseline.metrics[probe.metric].worst is None and not all(probe.metric in a.figures for a in (*trial.healthy, *trial.broken)):
        return False
    healthy, broken = trial.pairs(probe.metric)
    if isinstance(probe, Above):
        return all(h <= probe.threshold for h in healthy) and all(b > probe.threshold for b in broken)
    return all(h >= probe.threshold for h in healthy) and all(b < probe.threshold for b in broken)
