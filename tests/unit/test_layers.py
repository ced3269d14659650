"""Imports run one way, and the heavy libraries are imported where they are used."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = [  # a file may import from the layers above its own here
    ["errors", "stdio", "signals"],
    ["registry"],
    ["plugins"],
    ["seeding", "acquisition", "images", "disk", "device", "gpu_sharing"],
    ["alignment", "clustering", "timing"],
    ["config", "seals", "lock"],
    ["precision", "protocols"],
    ["flags"],
    ["datasets", "classifiers"],
    ["pool", "objective", "augmentation", "auxiliary_norm", "cuda_graph", "compiled_layers"],
    ["training"],
    ["learner"],
    ["oracle"],
    ["generators"],
    ["image_counts"],
    ["galot"],
    ["borrowed_galot"],
    ["unlabeled"],
    ["generator_choice"],
    ["deepalplus"],
    ["query_strategies"],
    ["results"],
    ["experiments"],
    ["synthetic_from", "request"],
    ["strategy_entries"],
    ["trial", "plan"],
    ["costs"],
    ["probe", "notes"],
    ["cost_table"],
    ["campaign"],
    ["jobs"],
    ["ray_engine"],
    ["engines"],
    ["predict", "speed"],
    ["report"],
    ["experiment_campaigns"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def room(path: Path) -> str:
    """The layer name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "deepal_galot" else parts[0]


def imported_rooms(path: Path) -> set[str]:
    """Layer names a file imports, at the top or inside functions."""
    package = list(path.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [a.name.split(".") for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            names = [[*module, a.name] for a in node.names]
        else:
            continue
        for name in names:
            if name[0] == "deepal_galot" and len(name) > 1:
                found.add(name[1])
            elif name[0] in ("generators", "query_strategies"):
                found.add(name[0])
    return found


def source_files() -> list[Path]:
    folders = ("deepal_galot", "generators", "query_strategies")
    return [p for f in folders for p in (ROOT / f).rglob("*.py") if p.parent.name != "tiny_sd"]


def test_imports_run_downwards():
    wrong = []
    for path in source_files():
        here = room(path)
        if here == "__init__":
            continue
        for other in imported_rooms(path) - {here, "__version__"}:
            assert other in RANK, f"{path}: {other} has no layer"
            if RANK[other] >= RANK[here]:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_generators_know_no_learner():
    for path in (ROOT / "generators").glob("*.py"):
        assert not imported_rooms(path) & {"learner", "pool", "trial"}, path


def test_the_deepalplus_plugin_needs_no_query_strategies():
    """In a DeepALPlus folder that name is DeepALPlus's; nothing that the plug-in may ever import,
    at the top or inside functions, may import ours."""
    imports: dict[str, set[str]] = {}
    for path in source_files():
        imports.setdefault(room(path), set()).update(imported_rooms(path))
    reached, new = set(), {"deepalplus"}
    while new:
        reached |= new
        new = set().union(*(imports.get(name, set()) for name in new)) - reached
    assert "galot" in reached and "query_strategies" not in reached
    code = "import sys, deepal_galot.deepalplus.__main__; print(sorted(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "'generators.diffusion'" in out and "'query_strategies" not in out


def test_trial_knows_no_strategy_by_name():
    text = (ROOT / "deepal_galot" / "trial.py").read_text()
    for file in (ROOT / "query_strategies").glob("*.py"):
        if file.stem not in ("strategy", "__init__", "galot"):
            assert file.stem not in text


def test_heavy_libraries_are_late():
    """Asking for --help or --list must not load a text-to-image library or a plotting one."""
    code = "import sys, deepal_galot.cli as c; c.main(['--list']); print(sorted(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in ("'diffusers'", "'transformers'", "'matplotlib'", "'ray'", "'sklearn'"):
        assert name not in out
