"""Who may import whom, who may read the environment, what no file may do.

Held by reading the source, so that an import inside a function counts too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT: dict[str, set[str]] = {
    "contracts": set(),
    "warehouse": {"contracts"},
    "features": {"contracts", "warehouse"},
    "training": {"contracts", "warehouse", "features"},
    "embeddings": {"contracts", "features"},
    "decisions": {"contracts", "warehouse", "features", "training.metrics"},
    "vision": {"contracts", "features", "embeddings", "training.export", "training.metrics"},
    "nlq": {"contracts", "warehouse", "features", "embeddings", "training.export", "training.metrics"},
    "serving": {"contracts"},
    "ray_apps": {"contracts", "warehouse", "features", "embeddings", "decisions", "vision", "nlq", "serving"},
    "dashboard": {"contracts"},
    "regulars": {
        "contracts",
        "warehouse",
        "features",
        "training",
        "embeddings",
        "decisions",
        "vision",
        "nlq",
        "serving",
        "ray_apps",
        "dashboard",
    },
}
"""The import table of docs/architecture.md; every package may import itself."""
MAY_ALSO_IMPORT = {"serving/triton_repo/text_to_sql/model.py": {"nlq"}}
"""What the model server runs in a process of its own."""
OURS = {*MAY_IMPORT, "tests", "benchmarks"}

TORCH = {"torch", "torchvision", "lightning", "pytorch_lightning", "transformers", "sentence_transformers", "safetensors", "timm"}
MAY_TORCH = ("training/", "embeddings/text.py", "vision/", "nlq/", "serving/backends/", "regulars/", "features/feast_import.py")
"""The last keeps torch *out* of Feast, and names it to do so."""

READS_ENVIRONMENT = {
    "contracts/settings.py": "the one reader of settings",
    "ray_apps/supervisor.py": "builds the environment of the Ray process that it starts",
    "serving/backends/onnxruntime/model.py": "runs inside the model server, where nothing of ours can be imported",
    "serving/triton_repo/text_to_sql/model.py": "runs inside the model server, and learns there where our code lies",
}
LOOKS_DANGEROUS = {"warehouse/importers/generic.py calls yaml.load": "with a SafeLoader that resolves even less"}
HEADINGS = ("Status", "Context", "Options", "Decision", "Consequences", "What would change our mind")


def sources() -> list[Path]:
    return sorted(p for package in MAY_IMPORT for p in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=name_of(path))


def imports_in(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names that a piece of source imports, wherever it does; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__") and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""


def package_of(path: Path) -> str:
    return module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]


def under(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(f"{allowed}.")


def forbidden_imports(path: Path, tree: ast.AST) -> list[str]:
    """Imports of ours that the table does not allow in this file."""
    package = path.relative_to(ROOT).parts[0]
    bad = []
    for name in imports_in(tree, package_of(path)):
        owner = name.split(".")[0]
        if owner not in OURS or owner == package:
            continue
        parts = name.split(".")
        served = package == "ray_apps" and any(part in ("model", "train") for part in parts[1:])
        if served or not any(under(name, allowed) for allowed in MAY_IMPORT[package] | MAY_ALSO_IMPORT.get(name_of(path), set())):
            bad.append(f"{name_of(path)} imports {name}")
    return bad


def problems(check: object) -> list[str]:
    return [line for path in sources() for line in check(path, tree_of(path))]  # type: ignore[operator]


# --- who imports whom ---


def test_every_folder_with_python_is_in_the_table() -> None:
    found = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"benchmarks"}
    assert found <= set(MAY_IMPORT)
    assert len(sources()) > 20


def test_imports_go_one_way() -> None:
    assert problems(forbidden_imports) == []


def test_the_table_has_no_circle_and_siblings_are_apart() -> None:
    order = list(MAY_IMPORT)
    for package, allowed in MAY_IMPORT.items():
        assert all(order.index(name.split(".")[0]) < order.index(package) for name in allowed), package
    for siblings in (("embeddings", "decisions"), ("vision", "nlq"), ("serving", "embeddings")):
        assert not any(a in MAY_IMPORT[b] for a in siblings for b in siblings)


@pytest.mark.parametrize(
    ("file", "source", "bad"),
    [
        ("features/x.py", "import training.metrics", True),
        ("features/x.py", "def f():\n    from training import metrics", True),
        ("serving/x.py", "from features.state import fold", True),
        ("serving/x.py", "from nlq.served import ServedDecoder", True),
        ("serving/triton_repo/text_to_sql/model.py", "from nlq.served import ServedDecoder", False),
        ("serving/x.py", "import importlib\nimportlib.import_module('features.state')", True),
        ("training/export/x.py", "from ...features import state", False),
        ("training/export/x.py", "from ..recommender import model", False),
        ("vision/x.py", "from training.export.onnx import export", False),
        ("vision/x.py", "from training.recommender import model", True),
        ("ray_apps/x.py", "from vision.model import Net", True),
        ("ray_apps/x.py", "from vision import preprocess", False),
        ("contracts/x.py", "from tests import conftest", True),
        ("warehouse/x.py", "import duckdb, contracts.errors", False),
    ],
)
def test_the_rule_sees_what_it_should(file: str, source: str, bad: bool) -> None:
    """Negative control of the test above."""
    assert bool(forbidden_imports(ROOT / file, ast.parse(source))) is bad


def test_the_command_line_loads_no_package_before_a_command_runs() -> None:
    """So that `regulars --help` is quick: commands import what they need inside."""
    late = MAY_IMPORT["regulars"] - {"contracts"} | TORCH | {"mlflow", "ray", "feast", "pandas", "faiss", "duckdb", "sqlalchemy"}
    code = f"import sys, regulars.cli; print(sorted({late!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


# --- torch ---


def torch_imports(path: Path, tree: ast.AST) -> list[str]:
    if name_of(path).startswith(MAY_TORCH):
        return []
    return [f"{name_of(path)} imports {name}" for name in imports_in(tree, package_of(path)) if name.split(".")[0] in TORCH]


def test_only_training_and_encoders_import_torch() -> None:
    assert problems(torch_imports) == []
    assert torch_imports(ROOT / "ray_apps/x.py", ast.parse("def f():\n    import torch"))


@pytest.mark.skipif(not (ROOT / "ray_apps" / "app.py").is_file(), reason="there is no ray_apps/app.py yet")
def test_the_serving_path_loads_no_torch() -> None:
    """Every module of the endpoints, in a fresh process: directly or through a library, torch costs seconds and half a gigabyte."""
    modules = sorted(module_of(p) for p in (ROOT / "ray_apps").rglob("*.py") if "migrations" not in p.parts)
    code = (
        "import importlib, sys\n"
        f"for name in ['ray_apps.app', *{modules!r}]:\n"
        "    importlib.import_module(name)\n"
        "    loaded = sorted({'torch', 'transformers', 'pytorch_lightning', 'training'} & set(sys.modules))\n"
        "    if loaded:\n"
        "        sys.exit(f'{name} loads {loaded}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


# --- what no file does ---


def environment_reads(path: Path, tree: ast.AST) -> list[str]:
    names = ("environ", "environb", "getenv", "putenv")
    return [
        f"{name_of(path)}:{node.lineno} reads the environment"
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in names and isinstance(node.value, ast.Name) and node.value.id == "os")
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and any(a.name in names for a in node.names))
    ]


def test_only_settings_read_the_environment() -> None:
    readers = {line.split(":")[0] for line in problems(environment_reads)}
    assert readers - set(READS_ENVIRONMENT) == set()
    assert {f for f in READS_ENVIRONMENT if (ROOT / f).is_file()} == readers, "the list above names a file that reads nothing"
    assert environment_reads(ROOT / "x.py", ast.parse("from os import environ"))


def dangers(path: Path, tree: ast.AST) -> list[str]:
    """print, pickle, eval, exec, shells, and loaders that run what they load."""
    found = [
        f"imports {n}"
        for n in imports_in(tree, package_of(path))
        if n.split(".")[0] in {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        options = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
        if isinstance(node.func, ast.Name) and node.func.id in {"print", "eval", "exec", "compile"}:
            found.append(f"calls {node.func.id}")
        if options.get("shell") is True or options.get("allow_pickle") is True or options.get("weights_only") is False:
            found.append(f"calls {called(node)} with {options}")
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            name = f"{node.func.value.id}.{node.func.attr}"
            if name in {"yaml.load", "os.system"} or (name == "torch.load" and options.get("weights_only") is not True):
                found.append(f"calls {name}")
    return [f"{name_of(path)} {what}" for what in found]


def test_nothing_prints_evaluates_or_unpickles() -> None:
    assert set(problems(dangers)) - set(LOOKS_DANGEROUS) == set()


@pytest.mark.parametrize(
    "source",
    [
        "print(1)",
        "eval('1')",
        "exec('1')",
        "import pickle",
        "f(shell=True)",
        "np.load(p, allow_pickle=True)",
        "torch.load(p)",
        "yaml.load(t)",
    ],
)
def test_the_dangers_are_seen(source: str) -> None:
    assert dangers(ROOT / "contracts/x.py", ast.parse(source))


@pytest.mark.parametrize("source", ["model.eval()", "torch.load(p, weights_only=True)", "yaml.safe_load(t)", "console.print(1)"])
def test_what_only_looks_dangerous_passes(source: str) -> None:
    assert dangers(ROOT / "contracts/x.py", ast.parse(source)) == []


# --- the command line and the records ---


def commands() -> list[tuple[str, click.Command]]:
    from regulars.cli import app

    def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield name, command
        for sub, inner in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {sub}", inner)

    return list(walk("regulars", typer.main.get_command(app)))


def test_every_command_and_option_says_what_it_is_for() -> None:
    found = commands()
    assert {"regulars doctor", "regulars data", "regulars train"} <= {name for name, _ in found}
    silent = [name for name, command in found if not (command.help or "").strip()]
    silent += [
        f"{name} {option.opts[0]}"
        for name, command in found
        for option in command.params
        if not (getattr(option, "help", "") or "").strip()
    ]
    assert silent == []


RECORDS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


@pytest.mark.skipif(not RECORDS, reason="there are no records in docs/decisions yet")
def test_records_are_numbered_once() -> None:
    assert all(re.fullmatch(r"\d{3}-[a-z0-9-]+\.md", p.name) for p in RECORDS), [p.name for p in RECORDS]
    numbers = [p.name[:3] for p in RECORDS]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_record_has_its_headings_in_order_and_a_price(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    at = [re.search(rf"^(?:#+ |\*\*){heading}\b", text, re.MULTILINE | re.IGNORECASE) for heading in HEADINGS]
    assert all(at), [heading for heading, match in zip(HEADINGS, at, strict=True) if not match]
    starts = [match.start() for match in at if match]
    assert starts == sorted(starts)
    assert re.search(r"\bbad\b", text[starts[4] : starts[5]], re.IGNORECASE), "consequences name nothing bad"


def test_the_import_table_is_documented() -> None:
    """docs/architecture.md shows the same table as this file."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for package, allowed in MAY_IMPORT.items():
        if not (ROOT / package).is_dir() or package == "regulars":
            continue
        line = re.search(rf"^\| `{package}` \| (.*) \|$", text, re.MULTILINE)
        assert line, f"docs/architecture.md has no line for {package}"
        shown = set(re.findall(r"`([a-z_.]+)`", line[1].split("(")[0]))
        assert shown == {a for a in allowed if (ROOT / a.split(".")[0]).is_dir()}, package
