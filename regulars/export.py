"""`regulars export` and `regulars compile`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from contracts.paths import Home
from regulars.common import DEFAULT_HOME, HomeOption, JsonOption, console, errors, print_json

OCR, PRODUCTS = "ocr", "products"
PRECISIONS = {"two-tower": "fp16", "sequence": "fp32", OCR: "fp16", PRODUCTS: "fp16"}
"""What TensorRT engines are built in: `sequence` takes logarithms of probabilities near 1 and exponentials, which fp16 does not suit."""

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


CompiledOption = Annotated[str | None, typer.Option(help="two-tower, sequence, ocr or products; every one that there is when not given.")]
ExportedOption = Annotated[
    str | None,
    typer.Option(
        help="two-tower or sequence, every one that there is when not given; or ocr, the networks that read text, which need no run."
    ),
]


def export(
    model: ExportedOption = None,
    run: Annotated[str | None, typer.Option(help="Training run to export; the newest finished one of each model when not given.")] = None,
    deploy: Annotated[bool, typer.Option("--deploy/--no-deploy", help="Make it the version that is served.")] = True,
    verify_triton: Annotated[
        bool,
        typer.Option("--verify-triton/--no-verify-triton", help="Start a model server of its own and compare its answers with torch's."),
    ] = True,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Turn training runs into served versions: ONNX, parity at each hop, bundle, model repository, deployment."""
    paths = Home(home)
    if model == OCR:
        _export_ocr(paths, verify_triton, json)
        return
    from training.registry import Registry

    say = errors if json else console
    results = []
    with say.status("reading the runs") as status:
        registry = Registry(paths)
        for name, run_id in _runs(registry, model, run).items():
            results.append(_export_one(registry, paths, name, run_id, deploy, verify_triton, status.update))
            if not json:
                _show(results[-1])
    if json:
        print_json({"exported": results})
    elif deploy:
        console.print("Next: regulars serve")


def _export_ocr(paths: Home, verify_triton: bool, json: bool) -> None:
    """The networks that read text, from the installed package's weights into the home and the model repository.

    Raises:
        ArtifactError: Triton reads a page otherwise than this process does.
    """
    from serving import repository
    from vision.engines import ocr_folder
    from vision.export_ocr import export as export_networks
    from vision.ocr_settings import OcrSettings

    folder = ocr_folder(paths.root)
    with (errors if json else console).status("ocr: writing the networks") as status:
        record = export_networks(folder, OcrSettings.load().script)
        lines = None
        if verify_triton:
            status.update("ocr: comparing what Triton reads with what this process reads")
            lines = _verify_ocr(folder, paths)
        repository.build_ocr(folder, paths.triton_repo)
    shown = {k: record[k] for k in ("version", "script", "origin", "package", "licence", "fingerprint")}
    result = {"model": OCR, **shown, "bundle": str(folder), "repository": str(paths.triton_repo), "lines_compared": lines}
    if json:
        print_json({"exported": [result]})
    else:
        compared = "" if lines is None else f", {lines} lines of a page read alike by Triton and in this process"
        console.print(f"ocr version [bold]{record['version']}[/] ({record['package']}, {record['licence']}): {folder}{compared}.")


def _verify_ocr(folder: Path, paths: Home) -> int:
    """A drawn page read by a model server of its own and by this process: the same boxes, the same texts. Returns how many."""
    import tempfile

    from contracts.errors import ArtifactError
    from ray_apps.ocr_networks import TritonNetworks
    from serving import repository
    from serving.triton import TritonServer, TritonSettings
    from vision.compiled import page
    from vision.ocr import LocalNetworks, PaddleOcr

    drawn = page()
    paths.run.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=paths.run) as temporary:
        repository.build_ocr(folder, Path(temporary) / "repository")
        settings = TritonSettings.load(external_url="", http_port=0, grpc_port=0, metrics_port=0)
        server = TritonServer(settings, Path(temporary) / "repository", Path(temporary) / "run", lambda client: None)
        try:
            remote = TritonNetworks(server.start().url, folder, deadline_s=30)
            there = [(line.quad, line.text) for line in PaddleOcr(remote).read(drawn)]
            remote.close()
        finally:
            server.stop()
    here = [(line.quad, line.text) for line in PaddleOcr(LocalNetworks(folder)).read(drawn)]
    if not here or there != here:
        raise ArtifactError(
            f"Triton reads a page as {[text for _, text in there]}, this process as {[text for _, text in here]}, must be alike. "
            "Look at the versions of ONNX Runtime in both environments: make setup"
        )
    return len(here)


def _runs(registry: Registry, model: str | None, run: str | None) -> dict[str, str]:
    """Runs to export, by model.

    Raises:
        ArtifactError: there is none.
        ConfigError: `run` is of another model than `model`, or there is no such model.
    """
    from contracts.bundle import BUNDLES, MODEL_NAME, bundle_spec
    from contracts.errors import ConfigError

    if run is not None:
        found = bundle_spec(registry.model_of(run)).name
        if model not in (None, found):
            raise ConfigError(f"run {run} is of {found}, --model says {model}. Give one of the two, or both alike")
        return {found: run}
    if model is not None:
        return {model: registry.latest_run(model)}
    newest = {name: registry.find_run(name) for name in BUNDLES}
    return {name: run_id for name, run_id in newest.items() if run_id is not None} or {MODEL_NAME: registry.latest_run(MODEL_NAME)}


def _export_one(
    registry: Registry, paths: Home, model: str, run_id: str, deploy: bool, verify_triton: bool, progress: Callable[[str], None]
) -> dict[str, Any]:
    from serving import repository

    progress(f"{model}: reading the run")
    built = _build(registry, paths, model, run_id, progress)
    hops = list(built.hops)
    if verify_triton:
        progress(f"{model}: comparing Triton with torch on the golden rows")
        hops += _verify_triton(built.path, paths)
    progress(f"{model}: adding the version to the model repository")
    repository.build(built.path, paths.triton_repo)
    if deploy:
        _deploy(registry, paths, model, built.version)
    return {
        "model": model, "version": built.version, "run": run_id, "bundle": str(built.path), "repository": str(paths.triton_repo),
        "reused": built.reused, "deployed": deploy, "hops": [h.as_dict() for h in hops],
    }  # fmt: skip


def _show(result: dict[str, Any]) -> None:
    console.print(_table(result["hops"]))
    state = "deployed; a running stack swaps to it by itself" if result["deployed"] else "not deployed (--no-deploy)"
    console.print(f"{result['model']} version [bold]{result['version']}[/] of run {result['run']}: {result['bundle']}, {state}.")


def _build(registry: Registry, paths: Home, model: str, run_id: str, progress: Callable[[str], None]) -> Bundle:
    from training.export.bundle import RunRecord, build_bundle

    artifacts = registry.run_artifacts(run_id)
    tags = registry.client.get_run(run_id).data.tags
    record = RunRecord(*(str(tags.get(name, "unknown")) for name in ("data_version", "code_version", "as_of")))
    version = registry.register(run_id, model)
    return build_bundle(paths.models, artifacts, version, record, lambda text: progress(f"{model}: {text}"), model)


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
    from contracts.bundle import bundle_of
    from serving.client import BlockingTritonClient
    from training.export import parity
    from training.export.bundle import golden_reference, golden_rows, read_golden

    golden = read_golden(bundle)
    with BlockingTritonClient(url, deadline_s=10.0) as client:
        hops = [
            parity.compare(
                spec, "torch → triton", golden_reference(spec, golden), _served(client, spec, bundle.name), golden_rows(spec, golden)
            )
            for spec in bundle_of(bundle).models.values()
        ]
    parity.require(hops)
    return hops


def _served(client: BlockingTritonClient, spec: ModelSpec, version: str) -> Run:
    return lambda inputs: client.infer(spec, inputs, version)


def _deploy(registry: Registry, paths: Home, model: str, version: str) -> None:
    from contracts.bundle import deploy

    deploy(paths.models, version, model)
    registry.set_alias(version, model=model)


def _table(hops: Sequence[Mapping[str, Any]]) -> Table:
    """Of hops as dictionaries (`Hop.as_dict`)."""
    table = Table(title="Parity on the golden rows", title_justify="left")
    for name in ("model", "hop", "nearest output"):
        table.add_column(name)
    for name in ("rows", "largest difference", "allowed"):
        table.add_column(name, justify="right")
    table.add_column("")
    for h in hops:
        mark = "[green]ok[/]" if h["ok"] else "[bold red]differs[/]"
        table.add_row(h["model"], h["hop"], h["tensor"], str(h["rows"]), f"{h['max_difference']:.1e}", f"{h['tolerance']:.0e}", mark)
    return table


def compile_engines(
    target: Annotated[
        str, typer.Option(help="tensorrt: engines for this machine's GPU. onnxruntime: nothing to build, only checked.")
    ] = "tensorrt",
    model: CompiledOption = None,
    precision: Annotated[
        str | None, typer.Option(help="fp16 or fp32 (tensorrt only); fp32 for sequence and fp16 for the others when not given.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Version to compile, with --model; the deployed one when not given.")] = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Compile versions' models for a runtime and compare them with torch; TensorRT engines go to a model repository of their own."""
    from contracts.bundle import read_manifest
    from contracts.errors import ConfigError

    if target not in ("tensorrt", "onnxruntime"):
        raise ConfigError(f"--target is {target!r}, must be tensorrt or onnxruntime. Give one of them")
    if precision not in (None, "fp16", "fp32"):
        raise ConfigError(f"--precision is {precision!r}, must be fp16 or fp32. Give one of them")
    if target == "tensorrt":
        from training.export.tensorrt import require_tensorrt

        require_tensorrt()
    paths = Home(home)
    results = []
    with (errors if json else console).status(f"compiling for {target}"):
        for name in (OCR, PRODUCTS):
            found = _pictures(name, paths, precision or PRECISIONS[name], target) if model in (None, name) else None
            if found is not None:
                results.append(found)
        for bundle in _bundles(paths, model, version, needed=not results) if model not in (OCR, PRODUCTS) else ():
            read_manifest(bundle)
            used = (precision or PRECISIONS[bundle.parent.name]) if target == "tensorrt" else "fp32"
            hops = _compile_tensorrt(bundle, paths, used) if target == "tensorrt" else _check_onnx(bundle)
            record = {"model": bundle.parent.name, "version": bundle.name, "target": target, "precision": used}
            results.append((record, hops))
        if target == "tensorrt":
            _add_questions(paths)
    if json:
        print_json({"compiled": [record | {"hops": [h.as_dict() for h in hops]} for record, hops in results]})
    else:
        console.print(_table([h.as_dict() for _, hops in results for h in hops]))


def _pictures(name: str, paths: Home, precision: Any, target: str) -> tuple[dict[str, Any], list[Hop]] | None:
    """The networks that read text or know products, compiled and compared; None where the home has none.

    Raises:
        ArtifactError: they are damaged, cannot be compiled, or see something else afterwards.
    """
    from contracts.ocr import OCR_MODELS
    from serving import repository
    from training.export import parity, tensorrt
    from vision import compiled
    from vision.engines import ocr_folder
    from vision.export_ocr import read_record as read_ocr
    from vision.products import products_folder
    from vision.products import read_record as read_products

    folder = ocr_folder(paths.root) if name == OCR else products_folder(paths.root)
    if not folder.is_dir():
        return None
    if name == OCR:
        version, specs = str(read_ocr(folder)["version"]), list(OCR_MODELS.values())
    else:
        record = read_products(folder)
        version, specs = record.version, [compiled.product_model(record, -1)]
    hops = []
    for spec in specs:
        onnx_path = folder / f"{spec.name}.onnx"
        compare = compiled.comparison(spec, onnx_path, f"onnx → {target}" + (f" {precision}" if target == "tensorrt" else ""))
        if target == "tensorrt":
            out, cache = folder / "engines" / f"{spec.name}.plan", paths.models / "tensorrt-timing.cache"
            built = tensorrt.compile(onnx_path, spec, out, precision, timing_cache=cache, compare=compare)
            hops.append(parity.Hop(**{k: v for k, v in built.parity.items() if k != "ok"}))
        else:
            hops.append(compare(parity.onnx_run(onnx_path, threads=2)))
    parity.require(hops)
    if target == "tensorrt":
        build = repository.build_ocr if name == OCR else repository.build_products
        build(folder, paths.root / "triton_repo_tensorrt", target="tensorrt")
    used = precision if target == "tensorrt" else "fp32"
    return {"model": name, "version": version, "target": target, "precision": used}, hops


def _bundles(paths: Home, model: str | None, version: str | None, needed: bool) -> list[Path]:
    """Folders of the versions that are meant; where nothing is deployed and none is `needed`, no folder.

    Raises:
        ArtifactError: nothing is deployed.
        ConfigError: there is no such model.
    """
    from contracts.bundle import BUNDLES, MODEL_NAME, bundle_spec, deployed_version

    if version is not None:
        return [paths.models / bundle_spec(model or MODEL_NAME).name / version]
    deployed = [name for name in BUNDLES if (paths.models / name / "deployed.json").is_file()]
    return [
        paths.models / name / deployed_version(paths.models, name) for name in ([model] if model else deployed or [MODEL_NAME] * needed)
    ]


def _compile_tensorrt(bundle: Path, paths: Home, precision: Any) -> list[Hop]:
    from contracts.bundle import bundle_of
    from serving import repository
    from training.export import tensorrt
    from training.export.bundle import read_golden
    from training.export.parity import Hop

    golden, hops = read_golden(bundle), []
    for spec in bundle_of(bundle).models.values():
        out = bundle / "engines" / f"{spec.name}.plan"
        cache = paths.models / "tensorrt-timing.cache"
        record = tensorrt.compile(bundle / f"{spec.name}.onnx", spec, out, precision, golden, cache)
        hops.append(Hop(**{k: v for k, v in record.parity.items() if k != "ok"}))
    repository.build(bundle, paths.root / "triton_repo_tensorrt", target="tensorrt")
    return hops


def _add_questions(paths: Home) -> None:
    """The text-to-SQL model beside the engines: it is not compiled, but the model server's repository is one."""
    from nlq.translate import MODEL, model_in
    from serving import repository

    folder = model_in(paths.root)
    if (folder / MODEL).is_file():
        repository.build_questions(folder, paths.root / "triton_repo_tensorrt")


def _check_onnx(bundle: Path) -> list[Hop]:
    """ONNX Runtime runs the exported file itself: compare it with torch's recorded answers."""
    from contracts.bundle import bundle_of
    from training.export import parity
    from training.export.bundle import golden_reference, golden_rows, read_golden

    golden = read_golden(bundle)
    hops = [
        parity.compare(s, "torch → onnx", golden_reference(s, golden), parity.onnx_run(bundle / f"{s.name}.onnx"), golden_rows(s, golden))
        for s in bundle_of(bundle).models.values()
    ]
    parity.require(hops)
    return hops
