"""What imports what: no circle, and no arrow that points up."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]

FLOORS = [
    {"attention", "reuse", "replay", "method", "keep", "patching", "_signatures", "_threads"},
    {"evaluation", "drift", "tuning", "pages", "texts"},
    {"models", "testing", "_witnesses", "_comparisons"},
    {"commands"},
]
"""The folders and modules of the core above the ground floor, from below. Adapters are on top."""

EXCEPTIONS = {
    "sadr_plugin": "users import from here what lies further up",
    "sadr_plugin.autoload": "enables SADR when Python starts",
}


def modules():
    for top in (ROOT / "sadr_plugin", *(ROOT / "adapters").iterdir()):
        for file in top.rglob("*.py"):
            inner = file.relative_to(top.parent).with_suffix("").parts
            yield ".".join(part for part in inner if part != "__init__"), file


MODULES = dict(modules())


def imported(name):
    """Yield the modules that a module imports, also inside functions and for types alone."""
    file = MODULES[name]
    package = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*up, *filter(None, [node.module])])
            found = [f"{base}.{alias.name}" for alias in node.names]
            yield from (inner if inner in MODULES else base for inner in found)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def graph():
    return {name: {n for n in imported(name) if n in MODULES} - {name} for name in MODULES}


def floor(name):
    core, *inner = name.split(".")
    if core != "sadr_plugin":
        return len(FLOORS) + 1
    found = [number for number, names in enumerate(FLOORS, 1) if set(inner[:1]) & names]
    return found[0] if found else 0


def test_no_import_points_up():
    up = {(n, t) for n, to in graph().items() for t in to if floor(t) > floor(n)}
    assert {name for name, _ in up} <= EXCEPTIONS.keys(), sorted(up)


def test_there_is_no_circle():
    arrows = graph()
    for name in EXCEPTIONS:
        arrows[name] = set()
    list(TopologicalSorter(arrows).static_order())
