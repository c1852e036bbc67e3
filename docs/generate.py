"""Write docs/reference/ from the code: `python docs/generate.py`. A test compares the pages with the code.

Nothing here is a fact of its own: texts come from help, field descriptions, docstrings and registries.
"""

import inspect
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo

from idgrpo import stages
from idgrpo.bases.entries import ENTRIES
from idgrpo.cli import COMMANDS
from idgrpo.distort.registry import known, load_distortion
from idgrpo.errors import exit_codes
from idgrpo.evaluate import FIELD_MEASURES, MEASURES
from idgrpo.evaluate.measure import load_measures
from idgrpo.flow import LAWS, SOLVERS
from idgrpo.people import FINDERS
from idgrpo.policy import CONTROLS
from idgrpo.policy import LOSSES as POLICY_LOSSES
from idgrpo.policy.keys import POLICY_KEYS
from idgrpo.policy.recipes import RECIPES
from idgrpo.records.jsonl import write_records
from idgrpo.records.models import Case, Pair, Preference, Record, Reference, Sample, Vote
from idgrpo.reward import LOSSES, METRIC_KEYS
from idgrpo.run.described import default_of, default_text, slots_of, values_of, words
from idgrpo.stages.settings import STAGES
from idgrpo.stages.source import RECORD_FILES
from idgrpo.store import CONTENTS
from idgrpo.store.store import MAKERS

HERE = Path(__file__).resolve().parent / "reference"
MARK = "<!-- Written by docs/generate.py from the code. Do not edit: run `make reference`. -->\n"
ANNA = Reference(person="anna", images=["photos/anna-1.jpg", "photos/anna-2.jpg"], second=["photos/anna-3.jpg"])
BEN = Reference(person="ben", images=["photos/ben.jpg"])
SHOWN = {"prompt": "two friends dance on a beach", "references": [ANNA, BEN]}
CLIPS = {"pair_id": "beach-0", "case_id": "beach", "video_a": "videos/beach--s0.mp4", "video_b": "videos/beach--s1.mp4"}
EXAMPLES: dict[str, Record] = {
    "cases": Case(id="beach", seed=7, **SHOWN),
    "samples": Sample(
        id="beach--s0", case_id="beach", video="videos/beach--s0.mp4", base="vace", seed=7, sampler={"num_steps": 50}, **SHOWN
    ),
    "pairs": Pair(**CLIPS, **SHOWN, origin={"a": {"base": "vace"}, "b": {"base": "vace"}}),
    "votes": Vote(
        vote_id="v1", pair_id="beach-0", annotator="carla", answer="a", shown="right", a_is_left=False, seconds=8.5,
        time_utc="2026-11-23T10:00:00Z",
    ),
    "preferences": Preference(**CLIPS, **SHOWN, label="a", votes={"a": 2, "b": 1}, source="human"),
}  # fmt: skip
"""One valid line of each kind; all names are made up."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Give the lines of a Markdown table; nothing where there are no rows."""
    if lines := [f"| {' | '.join(map(cell_of, row))} |" for row in rows]:
        yield from (f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *lines, "")


def cell_of(text: str) -> str:
    """Write a text for a cell of a table: one line, no bars, and no tags outside of code."""
    parts = " ".join(str(text).split()).replace("|", "\\|").split("`")
    return "`".join(part if place % 2 else part.replace("<", "&lt;") for place, part in enumerate(parts))


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def first_lines(function: Any) -> str:
    """Give the first paragraph of a docstring."""
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def commands() -> Iterator[str]:
    """Every command with its arguments and options, as `--help` tells them."""
    yield "# Commands\n"
    yield "Every command has `--help`. Results go to stdout, everything else to stderr. [Exit codes](exit-codes.md)."
    yield "`idgrpo version` prints the version; `idgrpo help STAGE` is `idgrpo STAGE --help`.\n"
    for name, (target, short) in COMMANDS.items():
        function = imported(target)
        yield f"## idgrpo {name}\n"
        if not isinstance(function, typer.Typer):
            yield from one_command(function)
            continue
        yield f"{short}\n"
        for part in function.registered_commands:
            yield f"### idgrpo {name} {part.name or part.callback.__name__}\n"
            yield from one_command(part.callback)


def one_command(function: Any) -> Iterator[str]:
    """Give the help of a command and the table of its options, from the signature of its function."""
    yield f"{inspect.getdoc(function)}\n"
    hints = get_type_hints(function, include_extras=True)
    rows = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = get_args(hints[name])[:2]
        takes = words(kind).removesuffix(" or none").replace("list (text)", "text, repeatable").replace("Path", "path")
        if isinstance(info, ArgumentInfo):
            called = info.metavar or name.upper()
        else:
            first = [info.default] if isinstance(info.default, str) else []  # inside Annotated, typer moves it later
            called = ", ".join([*first, *(info.param_decls or ())] or [f"--{name.replace('_', '-')}"])
            takes = "" if takes == "true or false" else takes
        default = parameter.default
        required = default is inspect.Parameter.empty
        shown = "" if required or default is None or isinstance(default, bool) else default_text(default)
        rows.append((code(called), takes + (", required" if required else ""), code(shown), info.help or ""))
    yield from table(("option or argument", "takes", "default", "what it does"), rows)


def configuration() -> Iterator[str]:
    """Every setting of every stage."""
    yield "# Settings\n"
    yield "Settings come from `--config FILE` (TOML), then `--set key=value`, then options. `idgrpo config show STAGE` prints them,"
    yield '`idgrpo config check STAGE FILE` checks a file. An unknown key is an error. In TOML, `"none"` means no value.\n'
    yield "The defaults of `train-policy` below are those of the settings model. A recipe fills in others for each base:"
    yield f"`idgrpo config show train-policy --base vace --recipe default`. Recipes: {', '.join(map(code, RECIPES))}.\n"
    for stage, target in STAGES.items():
        yield f"## {stage}\n"
        for slot in slots_of(getattr(import_module(target.partition(":")[0]), target.partition(":")[2])):
            yield f"### {stage}: {slot.key}\n" if slot.key else ""
            yield f"{slot.about}\n"
            for setting in slot.settings:
                if not setting.description:
                    raise SystemExit(f"{stage}: the setting {setting.key} has no description: give its Field one")
            yield from table(
                ("setting", "takes", "default", "unit", "what it does"),
                ((code(s.key), s.values, code(default_text(s.default)), s.unit, s.description) for s in slot.settings),
            )


def records() -> Iterator[str]:
    """What travels between stages, with an example line each."""
    yield "# Record formats\n"
    yield "One line of JSON each (JSON Lines, UTF-8). Paths are relative to the file. An unknown field is an error that names file and"
    yield "line. Cases may also be a CSV file or a folder ([what is read](../inputs.md)).\n"
    models = {"cases": Case, "samples": Sample, "pairs": Pair, "votes": Vote, "preferences": Preference}
    for kind, model in models.items():
        yield f"## {kind}: {RECORD_FILES[kind]}\n"
        yield f"{first_lines(model)}\n"
        yield "```json"
        yield example_line(kind)
        yield "```\n"
        yield from fields_of(model)
    yield "## A reference\n"
    yield f"{first_lines(Reference)}\n"
    yield from fields_of(Reference)


def example_line(kind: str) -> str:
    """Write the example of a kind as the stages do."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / RECORD_FILES[kind]
        write_records(file, [EXAMPLES[kind]])
        return file.read_text(encoding="utf-8").strip()


def fields_of(model: type[Record]) -> Iterator[str]:
    rows = []
    for name, field in model.model_fields.items():
        if not field.description:
            raise SystemExit(f"{model.__name__}.{name} has no description: give its Field one")
        rows.append((code(name), values_of(field), code(default_text(default_of(field))), field.description))
    yield from table(("field", "takes", "default", "what it is"), rows)


def artifacts() -> Iterator[str]:
    """The kinds of artifacts."""
    yield "# Artifacts\n"
    yield "An artifact lies in `<store>/artifacts/<kind>/<name>/v0001/` with a `manifest.json`: content digest, files, inputs, settings,"
    yield "command, metrics. It never changes. References: `rm` (newest), `rm@v3`, `rm/name@v3`, `rm:best` (a tag), `rm@sha256:..`, or a folder.\n"
    yield from table(
        ("kind", "what lies in it", "made by", "records"),
        ((code(kind), about, MAKERS[kind], code(RECORD_FILES.get(kind, ""))) for kind, about in CONTENTS.items()),
    )


def metrics() -> Iterator[str]:
    """The keys of metrics.jsonl."""
    yield "# Keys of metrics.jsonl\n"
    yield "One line of JSON per update. A run writes it into its folder (`<store>/runs/`), and a copy into the artifact.\n"
    yield "## train-policy\n"
    yield from table(("key", "what it means"), ((code(key), text) for key, text in POLICY_KEYS.items()))
    yield "## train-rm\n"
    yield from table(("key", "what it means"), ((code(key), text) for key, text in METRIC_KEYS.items()))


def measures() -> Iterator[str]:
    """What `idgrpo eval` measures."""
    yield "# Measures\n"
    yield "`idgrpo eval` reports all of them unless `measures` names some. [How they are read](../evaluate.md).\n"
    for title, registry in (
        ("Measures of idgrpo", MEASURES),
        ("Measures of other projects, for comparison", FIELD_MEASURES),
    ):
        loaded = load_measures(list(registry))
        yield f"## {title}\n"
        yield from table(
            ("name", "title", "better", "family", "what it is"),
            ((code(name), m.info.title, m.info.better, m.info.family, m.info.definition) for name, m in loaded.items()),
        )


def distortions() -> Iterator[str]:
    """What `idgrpo distort` does to clips."""
    yield "# Distortions\n"
    yield "`--mix swap_late=2,replace` chooses kinds and weights; a weight of 0 means: only where `--mix` names it. [How pairs are made](../distort.md).\n"
    rows = []
    for name, entry in known().items():
        needs = ["a stranger"] if entry.needs_stranger else []
        needs += ["a generator (--base)"] if entry.needs_generator else []
        needs += [f"{entry.num_people} people"] if entry.num_people > 1 else []
        rows.append(
            (code(name), entry.family, f"{entry.weight:g}", ", ".join(needs), first_lines(load_distortion(name)))
        )
    yield from table(("name", "family", "weight", "needs", "what it does"), rows)


def registries() -> Iterator[str]:
    """Names that settings and options take."""
    yield "# Names\n"
    yield "What settings and options call by name. Yours is one function and one line: [extend](../extend.md).\n"
    yield "## Bases\n"
    yield from table(
        ("name", "family", "weights", "clip", "training clip", "steps", "shift", "frames per second"),
        (
            (
                code(e.name),
                e.family,
                code(e.source),
                str(e.size),
                str(e.train_size),
                str(e.num_steps),
                f"{e.shift:g}",
                str(e.fps),
            )
            for e in ENTRIES.values()
        ),
    )
    for title, registry in (
        ("Finders", FINDERS), ("Losses of train-rm", LOSSES), ("Losses of train-policy", POLICY_LOSSES),
        ("Controls", CONTROLS), ("Stochastic laws", LAWS), ("Solvers", SOLVERS),
    ):  # fmt: skip
        yield f"## {title}\n"
        yield from table(
            ("name", "what it is"), ((code(name), first_lines(imported(target))) for name, target in registry.items())
        )


def imported(target: Any) -> Any:
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def codes() -> Iterator[str]:
    """Exit codes and what to do."""
    yield "# Exit codes\n"
    yield "The message on stderr names what is wrong and, behind `fix:`, what to do. With `--json` it is a document on stdout as well.\n"
    yield from table(
        ("code", "what it means", "what to do"),
        ((str(number), *texts) for number, texts in sorted(exit_codes().items())),
    )
    yield "\nA process that the system ended from outside has no message: a shell then shows 128 and the number of the signal, such as 137"
    yield "(SIGKILL, as when memory ran out). Run the same command again; with `--nproc` the launcher says which process it was, and ends with 1."


def python() -> Iterator[str]:
    """The functions of `idgrpo.stages`."""
    yield "# Python API\n"
    yield "Every command calls one function of `idgrpo.stages`. [How to use them](../python.md).\n"
    for name in sorted(stages.__all__, key=str.lower):
        found: Any = getattr(stages, name)
        # A stage has the name of its module, so the path of the function itself is given.
        module = found.__module__ if found.__module__.startswith("idgrpo.") else "idgrpo.stages.source"
        public = [*vars(found), *getattr(found, "__dataclass_fields__", ())] if isinstance(found, type) else []
        shown = ", ".join(dict.fromkeys(part for part in public if not part.startswith("_")))
        members = f"\n      members: [{shown}]" if shown else ""
        yield f"::: {module}.{name}\n    options:\n      heading_level: 2{members}\n"


PAGES = {
    "commands": commands, "settings": configuration, "records": records, "artifacts": artifacts, "metrics": metrics,
    "measures": measures, "distortions": distortions, "names": registries, "exit-codes": codes, "python": python,
}  # fmt: skip


def page(name: str) -> str:
    """Give the text of a page."""
    text = "\n".join([MARK, *PAGES[name]()]).rstrip() + "\n"
    return re.sub(r"\n{3,}", "\n\n", text)


def main() -> int:
    """Write all pages."""
    HERE.mkdir(exist_ok=True)
    for name in PAGES:
        (HERE / f"{name}.md").write_text(page(name), encoding="utf-8")
    sys.stdout.write(json.dumps({"written": [f"docs/reference/{name}.md" for name in PAGES]}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
