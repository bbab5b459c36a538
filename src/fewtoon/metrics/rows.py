"""The rows of a study: the figures of a preset, over the seeds that it was trained with."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fewtoon.metrics.distance import subset_deviation


def row(results: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """The figures of a preset over its seeds: of facts and results of `evaluate`."""
    all_facts, found = [facts for facts, _ in results], [result for _, result in results]
    entries = [result["metrics"]["all"] for result in found]
    found_row: dict[str, Any] = {
        "size": found[0]["protocol"]["size"],
        "steps": all_facts[0]["steps"],
        "pictures": all_facts[0]["pictures"],
        **figures(entries),
    }
    if all("back" in result for result in found):
        found_row["back"] = figures([result["back"] for result in found])
    groups = [result["summary"].get("kid_mean_of_groups") for result in found]
    if any(one is not None for one in groups):
        found_row["kid_mean_of_groups"] = _mean(groups)
    attributes = _attributes(found)
    if attributes:
        found_row["attributes"] = attributes
    who = [entry["identity"] for entry in entries if "identity" in entry]
    if who:
        keys = ("rank1", "chance", "rank1_in_group", "chance_in_group")
        found_row["identity"] = {key: _mean([one[key] for one in who])["mean"] for key in keys}
    ratios = _mean([result["memorisation"]["ratio"] for result in found])["mean"]
    peaks = [facts["peak_memory"] for facts in all_facts if "peak_memory" in facts]
    return {
        **found_row,
        **({"memorisation": ratios} if ratios is not None else {}),
        "seconds": _mean([facts["seconds"] for facts in all_facts]),
        "parameters": all_facts[0]["parameters"],
        **({"peak_memory": max(peaks)} if peaks else {}),
        "runs": [
            {**facts, "kid": entry["kid"], "kid_interval": entry["kid_interval"], "fid": entry["fid"]}
            for facts, entry in zip(all_facts, entries)
        ],
    }


def figures(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """KID in both scales and FID of one entry of `evaluate` per seed."""
    kid = _mean([entry["kid"] for entry in entries])
    ends = [entry["kid_interval"] for entry in entries if entry["kid_interval"][0] is not None]
    found = {
        "kid": {**kid, "interval": [statistics.fmean(side) for side in zip(*ends)] if ends else None},
        "fid": _mean([entry["fid"] for entry in entries]),
        "n_real": entries[0]["n_real"],
        "n_fake": entries[0]["n_fake"],
    }
    deviations = [
        subset_deviation(e["kid"], e["kid_interval"][1], e["n_real"], e["n_fake"], e["subset_size"])
        for e in entries
        if e["kid_interval"][0] is not None
    ]
    if deviations:
        found["kid_x100"] = {"mean": kid["mean"] / 10, "deviation": statistics.fmean(deviations) / 10}
    return found


def _mean(values: Sequence[float | None]) -> dict[str, Any]:
    """{"mean", "spread": the deviation (n - 1), None of one}, of those that are there."""
    there = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(there) if there else None,
        "spread": statistics.stdev(there) if len(there) > 1 else None,
    }


def _attributes(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{name: {"kept": over all photos, "worst": {"group", "kept"}}}, means over seeds; None without a figure."""
    kept: dict[str, dict[str, list[float]]] = {}
    for result in found:
        for group, entry in result["metrics"].items():
            for name, read in (entry.get("attributes") or {}).items():
                if read["kept"] is not None:
                    kept.setdefault(name, {}).setdefault(group, []).append(read["kept"])
    rows = {}
    for name, groups in kept.items():
        means = {group: statistics.fmean(values) for group, values in groups.items()}
        whole = means.pop("all", None)
        worst = min(means, key=lambda group: means[group]) if means else None
        if worst is not None and whole is not None and means[worst] > whole:
            worst = None  # those that do worse are too small for a figure of their own
        rows[name] = {
            "kept": whole,
            "worst": {"group": worst, "kept": means[worst]} if worst is not None else None,
        }
    return rows
