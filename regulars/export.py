"""`regulars export` and `regulars compile`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from contracts.paths import Home
from regulars.common import DEFAULT_HOME, HomeOption, JsonOption, console, errors, print_json

if TYPE_CHECKING:
    from contracts.tensors import ModelSpec
    from serving.client import BlockingTritonClient
    from training.export.bundle import Bundle
    from training.export.parity import Hop, Run
    from training.registry import Registry


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command()(export)
    app.command(name="compile")(compile_engines)


def export(
    run: Annotated[str | None, typer.Option(help="Training run to export; the newest finished one when not given.")] = None,
    deploy: Annotated[bool, typer.Option("--deploy/--no-deploy", help="Make it the version that is served.")] = True,
    verify_triton: Annotated[
        bool,
        typer.Option("--verify-triton/--no-verify-triton", help="Start a model server of its own and compare its answers with torch's."),
    ] = True,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Turn a training run into a served version: ONNX, parity at each hop, bundle, model repository, deployment."""
    from serving import repository
    from training.registry import Registry

    paths = Home(home)
    say = errors if json else console
    with say.status("reading the run") as status:
        registry = Registry(paths)
        run_id = run or registry.latest_run()
        built = _build(registry, paths, run_id, status.update)
        hops = list(built.hops)
        if verify_triton:
            status.update("comparing Triton with torch on the golden rows")
            hops += _verify_triton(built.path, paths)
        status.update("adding the version to the model repository")
        repository.build(built.path, paths.triton_repo)
        if deploy:
            _deploy(registry, paths, built.version)
    result = {
        "version": built.version, "run": run_id, "bundle": str(built.path), "repository": str(paths.triton_repo), "reused": built.reused,
        "deployed": deploy, "hops": [h.as_dict() for h in hops],
    }  # fmt: skip
    if json:
        print_json(result)
        return
    console.print(_table(hops))
    state = "deployed; a running stack swaps to it by itself" if deploy else "not deployed (--no-deploy)"
    console.print(f"two-tower version [bold]{built.version}[/] of run {run_id}: {built.path}, {state}.")
    if deploy:
        console.print("Next: regulars serve")


def _build(registry: Registry, paths: Home, run_id: str, progress: Any) -> Bundle:
    from training.export.bundle import RunRecord, build_bundle

    artifacts = registry.run_artifacts(run_id)
    tags = registry.client.get_run(run_id).data.tags
    record = RunRecord(*(str(tags.get(name, "unknown")) for name in ("data_version", "code_version", "as_of")))
    return build_bundle(paths.models, artifacts, registry.register(run_id), record, progress)


def _verify_triton(bundle: Path, paths: Home) -> list[Hop]:
    """A model server on a repository of its own, so that the served one gets nothing that was not proved."""
    import tempfile

    from serving import repository
    from serving.triton import TritonServer, TritonSettings, golden_probe

    paths.run.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=paths.run) as folder:
        repository.build(bundle, Path(folder) / "repository")
        settings = TritonSettings.load(external_url="", http_port=0, grpc_port=0, metrics_port=0)
        server = TritonServer(settings, Path(folder) / "repository", Path(folder) / "run", golden_probe(bundle))
        try:
            return _triton_hops(bundle, server.start().url)
        finally:
            server.stop()


def _triton_hops(bundle: Path, url: str) -> list[Hop]:
    """A running model server against torch's recorded answers.

    Raises:
        ArtifactError: they differ.
        UpstreamError: it does not answer as the specs say.
    """
    from contracts.tensors import MODELS
    from serving.client import BlockingTritonClient
    from training.export import parity
    from training.export.bundle import golden_reference, golden_rows, read_golden

    golden = read_golden(bundle)
    with BlockingTritonClient(url, deadline_s=10.0) as client:
        hops = [
            parity.compare(
                spec, "torch → triton", golden_reference(spec, golden), _served(client, spec, bundle.name), golden_rows(spec, golden)
            )
            for spec in MODELS.values()
        ]
    parity.require(hops)
    return hops


def _served(client: BlockingTritonClient, spec: ModelSpec, version: str) -> Run:
    return lambda inputs: client.infer(spec, inputs, version)


def _deploy(registry: Registry, paths: Home, version: str) -> None:
    from contracts.bundle import deploy

    deploy(paths.models, version)
    registry.set_alias(version)


def _table(hops: Sequence[Hop]) -> Table:
    table = Table(title="Parity on the golden rows", title_justify="left")
    for name in ("model", "hop"):
        table.add_column(name)
    for name in ("rows", "largest difference", "allowed"):
        table.add_column(name, justify="right")
    table.add_column("")
    for h in hops:
        mark = "[green]ok[/]" if h.ok else "[bold red]differs[/]"
        table.add_row(h.model, h.hop, str(h.rows), f"{h.max_difference:.1e}", f"{h.tolerance:.0e}", mark)
    return table


def compile_engines(
    target: Annotated[
        str, typer.Option(help="tensorrt: engines for this machine's GPU. onnxruntime: nothing to build, only checked.")
    ] = "tensorrt",
    precision: Annotated[str, typer.Option(help="fp16 or fp32 (tensorrt only).")] = "fp16",
    version: Annotated[str | None, typer.Option(help="Version to compile; the deployed one when not given.")] = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Compile a version's models for a runtime and compare them with torch; TensorRT engines go to a model repository of their own."""
    from contracts.bundle import MODEL_NAME, deployed_version, read_manifest
    from contracts.errors import ConfigError

    if target not in ("tensorrt", "onnxruntime"):
        raise ConfigError(f"--target is {target!r}, must be tensorrt or onnxruntime. Give one of them")
    if precision not in ("fp16", "fp32"):
        raise ConfigError(f"--precision is {precision!r}, must be fp16 or fp32. Give one of them")
    if target == "tensorrt":
        from training.export.tensorrt import require_tensorrt

        require_tensorrt()
    paths = Home(home)
    bundle = paths.models / MODEL_NAME / (version or deployed_version(paths.models))
    read_manifest(bundle)
    with (errors if json else console).status(f"compiling for {target}"):
        hops = _compile_tensorrt(bundle, paths, precision) if target == "tensorrt" else _check_onnx(bundle)
    if json:
        print_json({"version": bundle.name, "target": target, "precision": precision, "hops": [h.as_dict() for h in hops]})
    else:
        console.print(_table(hops))


def _compile_tensorrt(bundle: Path, paths: Home, precision: Any) -> list[Hop]:
    from contracts.tensors import MODELS
    from serving import repository
    from training.export import tensorrt
    from training.export.bundle import read_golden
    from training.export.parity import Hop

    golden, hops = read_golden(bundle), []
    for spec in MODELS.values():
        out = bundle / "engines" / f"{spec.name}.plan"
        cache = paths.models / "tensorrt-timing.cache"
        record = tensorrt.compile(bundle / f"{spec.name}.onnx", spec, out, precision, golden, cache)
        hops.append(Hop(**{k: v for k, v in record.parity.items() if k != "ok"}))
    repository.build(bundle, paths.root / "triton_repo_tensorrt", target="tensorrt")
    return hops


def _check_onnx(bundle: Path) -> list[Hop]:
    """ONNX Runtime runs the exported file itself: compare it with torch's recorded answers."""
    from contracts.tensors import MODELS
    from training.export import parity
    from training.export.bundle import golden_reference, golden_rows, read_golden

    golden = read_golden(bundle)
    hops = [
        parity.compare(s, "torch → onnx", golden_reference(s, golden), parity.onnx_run(bundle / f"{s.name}.onnx"), golden_rows(s, golden))
        for s in MODELS.values()
    ]
    parity.require(hops)
    return hops
