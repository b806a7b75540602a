"""Off-policy values on the Open Bandit logs: do they agree with obp's own estimators, and with what the other policy really earned?

Run: python bench/policy.py [folder of an unzipped obp 0.4.1 wheel]. Without a folder pip fetches the wheel. One JSON line a
log, policy and estimator. obp's estimator module is the wheel's own; of its dependencies only torch, which it names for
types and tensors that are not used here, is stood in for by an empty module.

The logs: 10,000 rows each of a uniformly random policy and of Thompson sampling (bts), three places on a page. From bts logs
the random policy is valued, whose propensities are exact; from random logs bts, by how often it showed each item at each place.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import types
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from meguri.record.policy import PolicyValue, doubly_robust, ips, snips

PLACES = 3
CAMPAIGNS = ("all", "men", "women")


@dataclass(frozen=True)
class Log:
    """One policy's rows: item, place (0 to 2), click and propensity, all (n,)."""

    item: np.ndarray
    place: np.ndarray
    click: np.ndarray
    propensity: np.ndarray

    @classmethod
    def read(cls, wheel: Path, policy: str, campaign: str) -> Log:
        path = wheel / "obp" / "dataset" / "obd" / policy / campaign / f"{campaign}.csv"
        rows = pl.read_csv(path, columns=["item_id", "position", "click", "propensity_score"])
        place = rows["position"].rank("dense").cast(pl.Int64).to_numpy() - 1
        click = rows["click"].cast(pl.Float64).to_numpy()
        return cls(rows["item_id"].to_numpy(), place, click, rows["propensity_score"].to_numpy())

    def shares(self, items: int) -> np.ndarray:
        """How often each item was shown at each place, (items, PLACES); a place sums to 1."""
        counts = np.zeros((items, PLACES))
        np.add.at(counts, (self.item, self.place), 1.0)
        return counts / counts.sum(axis=0)

    def estimates(self, items: int) -> np.ndarray:
        """Each item's click rate, drawn to the mean, as the other half of the rows has it, (n, items)."""
        made = np.empty((len(self.item), items))
        half = np.arange(len(self.item)) % 2
        for side in (0, 1):
            rows = half != side
            clicks = np.bincount(self.item[rows], weights=self.click[rows], minlength=items)
            shown = np.bincount(self.item[rows], minlength=items)
            made[half == side] = (clicks + 200 * self.click[rows].mean()) / (shown + 200)
        return made


def fetch(folder: Path) -> Path:
    """The wheel, by pip's ordinary index, unzipped."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "obp==0.4.1"]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("obp-0.4.1-*.whl"))) as wheel:
        wheel.extractall(folder / "wheel")
    return folder / "wheel"


def reference(wheel: Path) -> Any:
    """obp.ope.estimators, without the package's __init__ files, which import every policy and learner."""
    for name, folder in (("obp", wheel / "obp"), ("obp.ope", wheel / "obp" / "ope")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]  # type: ignore[attr-defined]
        sys.modules[name] = package
    if importlib.util.find_spec("torch") is None:
        torch = types.ModuleType("torch")
        torch.Tensor = type("Tensor", (), {})  # type: ignore[attr-defined]
        sys.modules["torch"] = torch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("obp.ope.estimators")


def compare(theirs: Any, name: str, log: Log, chances: np.ndarray, truth: float) -> bool:
    """Value the policy that shows item i at place j with probability chances[i, j], (items, PLACES)."""
    rows, items = len(log.item), len(chances)
    target = chances[log.item, log.place]
    guess = log.estimates(items)
    policy_guess = np.einsum("na,an->n", guess, chances[:, log.place])
    ours = {
        "ips": ips(log.click, log.propensity, target),
        "snips": snips(log.click, log.propensity, target),
        "dr": doubly_robust(log.click, log.propensity, target, guess[np.arange(rows), log.item], policy_guess),
    }
    given = {
        "reward": log.click,
        "action": log.item,
        "position": log.place,
        "pscore": log.propensity,
        "action_dist": np.broadcast_to(chances, (rows, items, PLACES)),
    }
    model = {"estimated_rewards_by_reg_model": np.repeat(guess[:, :, None], PLACES, axis=2)}
    reference_values = {
        "ips": theirs.InverseProbabilityWeighting().estimate_policy_value(**given),
        "snips": theirs.SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**given),
        "dr": theirs.DoublyRobust().estimate_policy_value(**given, **model),
    }
    good = [line(name, ours[key], float(reference_values[key]), truth) for key in ours]
    return all(good)


def line(name: str, value: PolicyValue, theirs: float, truth: float) -> bool:
    apart = abs(value.value - theirs)
    inside = value.low <= truth <= value.high
    ok = apart <= 1e-9 and inside  # with too few effective samples the interval is refused, that is, infinite
    facts = {
        "case": name, "estimator": value.estimator, "value": value.value, "obp": theirs, "apart": apart, "bar": 1e-9,
        "low": value.low if value.enough else None, "high": value.high if value.enough else None, "observed": truth, "inside": inside,
        "refused": not value.enough, "effective": round(value.effective, 1),
        "largest_weight": round(value.largest_weight, 2), "mean_weight": round(value.mean_weight, 3), "ok": ok,
    }  # fmt: skip
    print(json.dumps(facts), flush=True)
    return ok


def coverage(rate: float, items: int, repeats: int = 1000, rows: int = 10_000) -> bool:
    """How often the interval of the uniform policy's value holds, from simulated logs of a policy that prefers few items."""
    rng = np.random.default_rng(items)
    chances = np.maximum(rng.dirichlet(np.full(items, 0.7)), 0.0005)
    chances /= chances.sum()
    rates = rate * rng.uniform(0.3, 1.7, items)
    truth, held = float(rates.mean()), 0
    for _ in range(repeats):
        item = rng.choice(items, rows, p=chances)
        click = (rng.random(rows) < rates[item]).astype(np.float64)
        value = snips(click, chances[item], np.full(rows, 1 / items))
        held += value.low <= truth <= value.high
    share = held / repeats
    print(
        json.dumps(
            {
                "case": f"coverage: {items} items, clicks of {rate:.1%}",
                "rate": share,
                "bar": 0.95,
                "repeats": repeats,
                "ok": share >= 0.95,
            }
        ),
        flush=True,
    )
    return share >= 0.95


def run(wheel: Path) -> int:
    theirs, good = reference(wheel), True
    good &= all([coverage(0.005, 34), coverage(0.005, 80), coverage(0.02, 80)])
    for campaign in CAMPAIGNS:
        uniform, bts = Log.read(wheel, "random", campaign), Log.read(wheel, "bts", campaign)
        items = 1 + int(max(uniform.item.max(), bts.item.max()))
        even = np.full((items, PLACES), 1 / items)
        good &= compare(theirs, f"{campaign}: random, from bts logs", bts, even, float(uniform.click.mean()))
        good &= compare(
            theirs, f"{campaign}: bts, from random logs", uniform, bts.shares(items), float(bts.click.mean())
        )
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        raise SystemExit(run(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as made:
        raise SystemExit(run(fetch(Path(made))))
