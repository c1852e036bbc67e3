"""Gates for CI: minima, maxima and regressions, as text and as JUnit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from idgrpo.errors import UsageError
from idgrpo.evaluate.document import Report


@dataclass(frozen=True)
class GateResult:
    """Say whether one gate holds; `text` gives the numbers."""

    name: str
    passed: bool
    text: str


def parse_bounds(texts: list[str], option: str) -> dict[str, float]:
    """Read `measure=number` settings, several also separated by commas; UsageError says what is wrong.

    A measure that is named twice is held to both: the stricter number counts, the greater of --min and the smaller of --max.
    """
    bounds: dict[str, float] = {}
    stricter = min if option.startswith("--max") else max
    for text in [part for whole in texts for part in whole.split(",") if part.strip()]:
        name, sign, number = text.partition("=")
        try:
            bound = float(number)
        except ValueError:
            sign, bound = "", 0.0
        if not sign or not math.isfinite(bound):
            raise UsageError(f"{option} {text!r} is not measure=number", fix=f"for example {option} identity=0.35")
        bounds[name.strip()] = stricter(bound, bounds.get(name.strip(), bound))
    return bounds


def check_bounds(report: Report, minima: Mapping[str, float], maxima: Mapping[str, float]) -> list[GateResult]:
    """Hold every tuned variant (or the only one there is) against the bounds; UsageError for an unknown measure."""
    variants = report.tuned_variants() or [report.reference_variant]
    known = {m.name for m in report.measures}
    unknown = sorted((set(minima) | set(maxima)) - known)
    if unknown:
        raise UsageError(f"no measure {unknown[0]!r} in this report (known: {', '.join(sorted(known))})")
    results = []
    for variant in variants:
        for word, bounds, sign in (("at least", minima, 1), ("at most", maxima, -1)):
            for name, bound in bounds.items():
                found = report.means[variant].get(name)
                value = None if found is None else found.value
                passed = value is not None and sign * value >= sign * bound
                shown = "not defined" if value is None else f"{value:.4f}"
                results.append(
                    GateResult(
                        f"{variant}.{name}", passed, f"{name} of {variant} is {shown}, {word} {bound:g} is asked"
                    )
                )
    return results


def check_regression(report: Report, before: Report) -> list[GateResult]:
    """Compare with an earlier report: a measure is worse when it moved the wrong way by more than both intervals allow.

    Where a report has too few cases for an interval, any move the wrong way fails: the same cases and seeds give the same
    numbers, so a change is real even if it proves nothing about other cases.
    Variants are matched by name, or the only tuned one with the only tuned one.
    """
    results = []
    for variant in report.tuned_variants() or [report.reference_variant]:
        partner = variant if variant in before.means else _only(before)
        if partner is None:
            raise UsageError(
                f"the earlier report has no variant {variant!r} (known: {', '.join(sorted(before.means))})"
            )
        for info in report.measures:
            now, then = report.means[variant].get(info.name), before.means[partner].get(info.name)
            if now is None or then is None or info.better == "neutral" or info.family == "field":
                continue
            sign = 1 if info.better == "higher" else -1
            slack = sum(abs(f.value - (f.low if f.low is not None else f.value)) ** 2 for f in (now, then)) ** 0.5
            change = now.value - then.value
            passed = sign * change >= -max(slack, 1e-9)
            text = f"{info.name} of {variant}: {then.value:.4f} before, {now.value:.4f} now ({change:+.4f}, noise {slack:.4f})"
            results.append(GateResult(f"{variant}.{info.name}.regression", passed, text))
    return results


def _only(report: Report) -> str | None:
    tuned = report.tuned_variants() or [report.reference_variant]
    return tuned[0] if len(tuned) == 1 else None


def junit(results: list[GateResult], suite: str = "idgrpo eval") -> str:
    """Write gates as a JUnit document, which every CI shows."""
    failures = sum(not r.passed for r in results)
    root = ElementTree.Element("testsuite", name=suite, tests=str(len(results)), failures=str(failures), errors="0")
    for result in results:
        case = ElementTree.SubElement(root, "testcase", classname="idgrpo.eval", name=result.name)
        if not result.passed:
            ElementTree.SubElement(case, "failure", message=result.text).text = result.text
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
