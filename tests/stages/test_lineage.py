"""Lineage as a tree: each artifact once, lines that say what hangs where."""

from types import SimpleNamespace

from idgrpo.stages.lineage import SEEN, tree_lines
from idgrpo.store.store import Ancestor


def found(command: str) -> SimpleNamespace:
    return SimpleNamespace(manifest=SimpleNamespace(command=command.split()))


def test_what_stands_twice_is_drawn_once():
    cases, samples = found("idgrpo cases"), found("idgrpo sample")
    rows = [
        (0, "report/r@v1", found("idgrpo eval")), (1, "samples/a@v1", samples), (2, "cases/c@v1", cases), (3, "x.csv", None),
        (1, "samples/b@v1", samples), (2, "cases/c@v1", cases), (3, "x.csv", None), (2, "policy/p@v1", found("idgrpo train-policy")),
        (3, "cases/c@v1", cases), (4, "x.csv", None),
    ]  # fmt: skip
    steps = [Ancestor(depth, ref, artifact, ()) for depth, ref, artifact in rows]
    assert tree_lines(steps) == [
        "report/r@v1   <- idgrpo eval",
        "├─ samples/a@v1   <- idgrpo sample",
        "│  └─ cases/c@v1   <- idgrpo cases",
        "│     └─ x.csv   (a file, or no longer there)",
        "└─ samples/b@v1   <- idgrpo sample",
        f"   ├─ cases/c@v1 {SEEN}",
        "   └─ policy/p@v1   <- idgrpo train-policy",
        f"      └─ cases/c@v1 {SEEN}",
    ]


def test_two_roles_of_an_input_are_told():
    steps = [Ancestor(0, "policy/p@v1", found("x"), ()), Ancestor(1, "policy/s@v1", None, ("init", "reference"))]
    assert tree_lines(steps)[1] == "└─ policy/s@v1 (init and reference)   (a file, or no longer there)"
