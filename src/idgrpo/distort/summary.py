"""What came out of a run of distortions: counts, strengths, and what was skipped and why."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Summary:
    """Add up the parts of single clips."""

    num_clips: int = 0
    num_used: int = 0
    num_people: int = 0
    labels: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    strengths: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 1.0, 0.0]))
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    balanced: Counter[str] = field(default_factory=Counter)

    @property
    def num_pairs(self) -> int:
        return sum(sum(counts.values()) for counts in self.labels.values())

    def add(self, part: dict[str, Any]) -> None:
        """Count one clip's part."""
        self.num_clips += 1
        if part["refused"]:
            self.refused[part["refused"][0]] += 1
        for name, reason, _ in part["skipped"]:
            self.skipped[name, reason] += 1
        if part["preferences"]:
            self.num_used += 1
            self.num_people += len(part["preferences"][0]["references"])
        for row in part["preferences"]:
            name, strength = row["distortion"], row["strength"]
            self.labels[name][row["label"]] += 1
            total, low, high = self.strengths[name]
            self.strengths[name] = [total + strength, min(low, strength), max(high, strength)]
            origin = row["origin"]
            self.balanced["graded"] += origin["graded_from"] is not None
            self.balanced["unsteady better"] += origin["better_by"] is not None and origin["graded_from"] is None
            self.balanced["mirrored"] += origin["mirrored_slot"] is not None
            if origin["artefact_sides"]:
                self.balanced[f"artefact on {origin['artefact_sides']}"] += 1

    def document(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return {
            "clips": self.num_clips,
            "clips_used": self.num_used,
            "people": self.num_people,
            "pairs": self.num_pairs,
            "distortions": {
                name: {
                    **{label: counts[label] for label in ("a", "b", "tie")},
                    "strength_mean": round(self.strengths[name][0] / max(sum(counts.values()), 1), 4),
                    "strength_min": self.strengths[name][1],
                    "strength_max": self.strengths[name][2],
                }
                for name, counts in sorted(self.labels.items())
            },
            "balanced": dict(sorted(self.balanced.items())),
            "clips_skipped": dict(self.refused.most_common()),
            "distortions_skipped": [
                {"distortion": name, "reason": reason, "count": count}
                for (name, reason), count in self.skipped.most_common()
            ],
        }


def refusals_of(part: dict[str, Any]) -> list[dict[str, Any]]:
    """List what was refused in one clip: sample, distortion (None: the whole clip), person (None: nobody's fault), reason, count."""
    counts: Counter[tuple[str | None, str | None, str]] = Counter()
    if part["refused"]:
        reason, person = part["refused"]
        counts[None, person, reason] += 1
    for name, reason, person in part["skipped"]:
        counts[name, person, reason] += 1
    return [
        {"sample": part["sample"], "distortion": name, "person": person, "reason": reason, "count": count}
        for (name, person, reason), count in counts.items()
    ]


def lines_of(document: dict[str, Any]) -> list[str]:
    """Make a table for people of what `Summary.document` gives."""
    rows = [f"{document['pairs']} pairs from {document['clips_used']} of {document['clips']} clips"]
    rows.append(f"{'distortion':<20}{'pairs':>7}{'a':>6}{'b':>6}{'tie':>6}{'strength':>18}")
    for name, row in document["distortions"].items():
        total = row["a"] + row["b"] + row["tie"]
        spread = f"{row['strength_mean']:.2f} ({row['strength_min']:.2f}-{row['strength_max']:.2f})"
        rows.append(f"{name:<20}{total:>7}{row['a']:>6}{row['b']:>6}{row['tie']:>6}{spread:>18}")
    rows.append("balanced by  " + ", ".join(f"{key} {count}" for key, count in document["balanced"].items()))
    rows += [f"skipped {count} clips: {reason}" for reason, count in list(document["clips_skipped"].items())[:5]]
    rows += [
        f"skipped {s['distortion']} {s['count']} times: {s['reason']}" for s in document["distortions_skipped"][:5]
    ]
    return rows
