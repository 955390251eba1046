"""Records: committed measurements, one JSON file a break, with what they depend on and whether that still stands.

*Fresh*: nothing that the figures depend on has changed. *Moved*: only the context has; ``refresh`` runs the healthy arm of one seed again and
keeps the record when every figure agrees. *Stale*: the declaration or the target changed, or the figures no longer agree: measure again.
"""

import dataclasses
import datetime
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from underhood.base.errors import UserError
from underhood.base.files import read_json, write_json
from underhood.lab import baseline as baselines
from underhood.lab import identity
from underhood.lab import patch as patches
from underhood.lab.compare import ENOUGH_SEEDS, Judgement
from underhood.lab.experiment import Result, Trial
from underhood.lab.run import Arm, ArmStore, Job, run_jobs
from underhood.lab.sabotage import Edit, Sabotage

REGISTER = "predictions.json"  # prediction hashes, committed before the records that they are judged by

State = Literal["fresh", "moved", "stale", "missing"]


@dataclasses.dataclass(frozen=True)
class Standing:
    """Whether the record of one break still stands, and why not."""

    name: str
    state: State
    why: str = ""


def path_of(records: Path, name: str) -> Path:
    """Where the record of ``"project.break"`` lies."""
    project, _, rest = name.partition(".")
    return records / project / f"{rest}.json"


def write_record(result: Result, records: Path) -> Path:
    """Commit ``result`` to ``records``. Raises ``UserError`` below five seeds, or when its prediction was not registered first."""
    seeds = result.trial.seeds
    if len(seeds) < ENOUGH_SEEDS:
        raise UserError(f"{len(seeds)} seeds are a preview", where=result.name, expected=f"at least {ENOUGH_SEEDS} for a record")
    if registered(records).get(result.name, {}).get("prediction") != identity.prediction_hash(result.sabotage):
        raise UserError("its prediction is not registered", where=result.name, remedy="Run `underhood records register` and commit before measuring.")
    return write_json(path_of(records, result.name), to_plain(result))


def to_plain(result: Result) -> dict[str, Any]:
    """The record of ``result`` as JSON values; the same is printed by ``underhood break --json``."""
    sabotage, trial = result.sabotage, result.trial
    return {
        "break": result.name,
        "says": sabotage.says,
        "look": sabotage.look,
        "kind": sabotage.kind,
        "silent": sabotage.silent,
        "cites": list(sabotage.cites),
        "patch": [patches.to_plain(p) for p in sabotage.patches],
        "diff": [patches.diff(p) for p in sabotage.patches if isinstance(p, Edit)],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "declaration": identity.declaration_hash(sabotage, trial.baseline),
        "prediction": identity.prediction_hash(sabotage),
        "target": identity.target_hash(sabotage, trial.baseline),
        "context": _context((*trial.healthy, *trial.broken)),
        "versions": identity.versions(),
        "machine": {**identity.machine(), "threads": "1"},
        **_trial(trial),
        "probe": None
        if sabotage.probe is None
        else {"kind": type(sabotage.probe).__name__, **dataclasses.asdict(sabotage.probe), "separates": result.separates},
        "claim": _claim(result),
    }


def _context(arms: Iterable[Arm]) -> dict[str, str]:
    return dict(sorted({name: h for arm in arms for name, h in arm.context.items()}.items()))


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "baseline": trial.baseline.name,
        "corpus": trial.baseline.corpus,
        "metrics": {name: dataclasses.asdict(m) for name, m in trial.baseline.metrics.items()},
        "seeds": list(trial.seeds),
        "judgements": [_judgement(j) for j in trial.judgements],
        "healthy": [_arm(a, i == 0) for i, a in enumerate(trial.healthy)],
        "broken": [_arm(a, i == 0) for i, a in enumerate(trial.broken)],
    }


def _judgement(judgement: Judgement) -> dict[str, Any]:
    return {
        "prediction": identity.plain_predictions([judgement.prediction])[0],
        "verdict": judgement.verdict,
        "effect": None if judgement.effect is None else _finite_effect(dataclasses.asdict(judgement.effect)),
        "says": judgement.says,
    }


def _finite_effect(values: dict[str, Any]) -> dict[str, Any]:
    return {k: (None if isinstance(v, float) and v in (float("inf"), float("-inf")) else v) for k, v in values.items()}


def _arm(arm: Arm, first: bool) -> dict[str, Any]:
    """Figures of every arm; text and curve of the first seed alone, to keep records small."""
    kept = {"seed": arm.seed, "how": arm.how, "message": arm.message, "figures": arm.figures, "seconds": arm.seconds, "peak_mb": arm.peak_mb}
    kept["last_step"] = arm.curve[-1]["step"] if arm.curve else None
    return {**kept, "texts": arm.texts, "curve": arm.curve} if first else kept


def _claim(result: Result) -> dict[str, Any] | None:
    claim = result.sabotage.claim
    if claim is None:
        return None
    base = {"says": claim.says, "source": claim.source}
    if result.claim is None:
        return {**base, "verdict": "not tested here", "why": claim.untested or "its setting was left out of this run"}
    return {**base, "verdict": claim_verdict(result.claim.judgements), **_trial(result.claim)}


def claim_verdict(judgements: Sequence[Judgement]) -> str:
    """*Held* when every part of the claim did, *inconclusive* when no part was refuted but one is open, else *refuted*."""
    verdicts = {j.verdict for j in judgements}
    if verdicts == {"held"}:
        return "held"
    return "inconclusive" if verdicts <= {"held", "inconclusive", "preview"} else "refuted"


# ── registering predictions ───────────────────────────────────────────────────────────────────────────────────────────


def registered(records: Path) -> dict[str, dict[str, str]]:
    """Break name → prediction hash and the date on which it was registered."""
    path = records / REGISTER
    found: dict[str, dict[str, str]] = read_json(path) if path.exists() else {}
    return found


def register(breaks: Iterable[tuple[str, Sabotage]], records: Path) -> list[str]:
    """Write down the hash of every prediction that is new or changed; returns their names. To be committed before the measurement."""
    known, today = registered(records), datetime.datetime.now(datetime.UTC).date().isoformat()
    fresh = {name: identity.prediction_hash(s) for name, s in breaks if known.get(name, {}).get("prediction") != identity.prediction_hash(s)}
    write_json(records / REGISTER, dict(sorted({**known, **{n: {"prediction": h, "registered": today} for n, h in fresh.items()}}.items())))
    return sorted(fresh)


def registered_before(name: str, records: Path) -> bool | None:
    """Whether git shows the prediction of ``name`` in a commit before the one that brought its record; None where there is no full history."""
    prediction = read_json(path_of(records, name))["prediction"]
    declared = _git(records, "log", "--format=%H", "--reverse", f"-S{prediction}", "--", REGISTER)
    recorded = _git(records, "log", "--format=%H", "--reverse", f"-S{prediction}", "--", str(path_of(Path(), name)))
    if not declared or not recorded or _git(records, "rev-parse", "--is-shallow-repository") != ["false"]:
        return None
    order = _git(records, "rev-list", "--topo-order", "--reverse", "HEAD")
    return order.index(declared[0]) < order.index(recorded[0])


def _git(folder: Path, *words: str) -> list[str]:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


# ── staleness ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def standing(name: str, sabotage: Sabotage, records: Path) -> Standing:
    """Whether the record of a break still stands."""
    path = path_of(records, name)
    if not path.exists():
        return Standing(name, "missing")
    record, baseline = read_json(path), baselines.get(sabotage.baseline)
    if record["declaration"] != identity.declaration_hash(sabotage, baseline):
        return Standing(name, "stale", "its declaration changed (patch, prediction, probe, baseline or corpus)")
    if record["target"] != identity.target_hash(sabotage, baseline):
        return Standing(name, "stale", "the code that it breaks changed")
    changed = identity.changed_modules(record["context"])
    if changed:
        return Standing(name, "moved", f"changed since: {', '.join(m.removeprefix('underhood.') for m in changed)}")
    return Standing(name, "fresh")


def refresh(names: Sequence[str], records: Path, *, note: Callable[[str], None]) -> list[Standing]:
    """Re-run the first seed's healthy arm of every baseline behind ``names`` (moved records) and keep those whose figures agree within tolerance."""
    held = {name: read_json(path_of(records, name)) for name in names}
    found: list[Standing] = []
    for baseline_name, seed in sorted({(r["baseline"], r["seeds"][0]) for r in held.values()}):
        baseline = baselines.get(baseline_name)
        note(f"{baseline_name}, seed {seed}: one healthy run, about {baseline.seconds:.0f} s")
        arm = rerun(baseline, seed)
        for name, record in held.items():
            if (record["baseline"], record["seeds"][0]) == (baseline_name, seed):
                found.append(_renew(name, record, arm, baseline, records))
    return found


def rerun(baseline: baselines.Baseline, seed: int) -> Arm:
    """One healthy arm, measured now, whatever is stored."""
    with tempfile.TemporaryDirectory() as folder:
        return run_jobs([Job(label="healthy", baseline=baseline, seeds=(seed,))], ArmStore(Path(folder) / "arms.jsonl"), workers=1)[0]


def _renew(name: str, record: dict[str, Any], arm: Arm, baseline: baselines.Baseline, records: Path) -> Standing:
    differing = disagreements(record["healthy"][0]["figures"], arm, baseline)
    if differing:
        return Standing(name, "stale", f"figures differ: {', '.join(differing)}")
    context = {m: h for m in sorted({*record["context"], *arm.context}) if (h := identity.module_hash(m)) != "gone"}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    write_json(path_of(records, name), {**record, "context": context, "refreshed": today})
    return Standing(name, "fresh", f"refreshed {today}")


def disagreements(stored: dict[str, float | bool], arm: Arm, baseline: baselines.Baseline) -> list[str]:
    """The figures of ``arm`` that differ from the stored ones by more than their metric's relative tolerance."""
    rows = []
    for key, metric in baseline.metrics.items():
        old, new = float(stored.get(key, 0)), float(arm.figures.get(key, 0))
        if abs(old - new) > metric.tolerance * max(abs(old), abs(new)):
            rows.append(f"{key} {old:.6g} → {new:.6g}")
    return rows
