"""`regulars recognize`: what pictures show, receipts and products, in the terminal, without a running server."""

from __future__ import annotations

import glob
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regulars.common import DEFAULT_HOME, HomeOption, console, errors, print_json

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from contracts.errors import StackError
    from vision.matching import ProductMatcher
    from vision.recognizer import Asked, Recognizer, Seen
    from vision.types import Picture, Receipt

IN_DETAIL = 5
"""Pictures up to which each is shown at length; more have a row each."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
"""Of a folder's files that are taken for pictures. A file that is named itself is opened whatever it is called."""


@dataclass(frozen=True)
class Looked:
    """One file and what was found, or why nothing could be."""

    name: str
    seen: Seen | None = None
    error: StackError | None = None
    annotated: Path | None = None
    latency_ms: float = 0.0


def register(app: typer.Typer) -> None:
    """Add the command of this file to the command line."""
    app.command("recognize")(recognize)


def recognize(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Pictures (JPEG, PNG, WebP), folders of them, patterns in quotes.")],
    home: HomeOption = DEFAULT_HOME,
    kind: Annotated[str, typer.Option(help="auto: find out what each shows. receipt, product: it is known.")] = "auto",
    as_of: Annotated[
        datetime | None, typer.Option("--as-of", formats=["%Y-%m-%d"], help="Day the receipts were handed in; today if not given.")
    ] = None,
    annotate: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write a PNG of each picture with what was seen in it.")] = None,
    products: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Home or warehouse whose table products gives the receipts' line items their product ids."),
    ] = None,
    business: Annotated[
        str | None, typer.Option(help="Whose products: those of --products and those taught by photos; the only one when not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a picture on standard output, for machines.")] = False,
) -> None:  # fmt: skip
    """Read receipts and recognise products in pictures.

    Works on its own: no server has to run, and nothing is stored. What reads text is set up in HOME by the first use. A file that cannot be
    read is told and does not stop the others; the command then ends with an error's exit code. Bounds of a picture are variables
    REGULARS_PICTURE_<NAME>, other settings REGULARS_OCR_<NAME>, REGULARS_RECEIPT_<NAME> and REGULARS_RECOGNIZE_<NAME>.
    """
    from contracts.errors import ContractError
    from vision.recognizer import KINDS, open_recognizer

    asked = next((k for k in KINDS if k == kind), None)
    if asked is None:
        raise ContractError(f"--kind is {kind!r}, must be one of {', '.join(KINDS)}. Leave it out to have it found.")
    paths = list(paths_of(files))
    matcher = None if products is None else _matcher(products, business)
    with errors.status("loading the networks"):
        recognizer = open_recognizer(home)
    out = _Drawn(annotate) if annotate is not None else None
    day = as_of.date() if as_of is not None else date.today()
    looked = look_at_all(paths, recognizer, asked, day, business or "", matcher, out)
    found = _told(looked, len(paths), as_json)
    failed = [one.error.exit_code for one in found if one.error is not None]
    if failed:
        raise typer.Exit(max(failed))


# ---- the files --------------------------------------------------------------------------------------------------------------


def paths_of(names: list[str]) -> Iterator[Path]:
    """The files that are meant: a file itself, what a pattern finds, the pictures below a folder; in order, each once.

    A name that is nothing of these stays: the look at it says that there is no such file.

    Raises:
        ContractError: no file at all.
    """
    from contracts.errors import ContractError

    seen: set[Path] = set()
    for name in names:
        here = Path(name)
        matched = [here] if here.exists() or not glob.has_magic(name) else _matching(name)
        for path in matched or [here]:
            for one in _below(path) if path.is_dir() else [path]:
                if one not in seen:
                    seen.add(one)
                    yield one
    if not seen:
        raise ContractError(f"there are no pictures in {', '.join(names)}. Give files ending in {', '.join(sorted(SUFFIXES))}.")


def _matching(pattern: str) -> list[Path]:
    return [Path(p) for p in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - the pattern may begin at a root


def _below(folder: Path) -> list[Path]:
    return sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES and p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )


def read(path: Path) -> Picture:
    """Open a picture, no more of its file than a picture may have.

    Raises:
        ContractError: there is no such file, or it cannot be read; or as `vision.upload.open_picture`.
    """
    from contracts.errors import ContractError
    from vision.upload import PictureSettings, open_picture

    limits = PictureSettings.load()
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ContractError(f"{path} is not a file, must be a picture. Give a file or a folder of files.")
    try:
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except OSError as exc:
        raise ContractError(f"cannot read {path}: {exc.strerror}. Correct its name or its permissions.") from exc
    return open_picture(data, limits)


class _Drawn:
    """Writes annotated pictures into a folder, none over another of the same run."""

    def __init__(self, folder: Path) -> None:
        from contracts.errors import ConfigError

        self._folder, self._names = folder, Counter[str]()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"cannot make {folder}: {exc.strerror}. Give another folder with --annotate.") from exc

    def __call__(self, path: Path, picture: Picture, seen: Seen) -> Path:
        from contracts.errors import ConfigError
        from vision.annotate import annotate

        self._names[path.name] += 1
        again = self._names[path.name]
        target = self._folder / f"{path.name}{f'-{again}' if again > 1 else ''}.png"
        try:
            target.write_bytes(annotate(picture, seen))
        except OSError as exc:
            raise ConfigError(f"cannot write {target}: {exc.strerror}. Give another folder with --annotate.") from exc
        return target


# ---- looking ----------------------------------------------------------------------------------------------------------------


def look_at_all(
    paths: list[Path],
    recognizer: Recognizer,
    kind: Asked,
    as_of: date,
    business: str = "",
    matcher: ProductMatcher | None = None,
    draw: Callable[[Path, Picture, Seen], Path] | None = None,
) -> Iterator[Looked]:
    """Each file in order; what is wrong with one does not stop the next."""
    from contracts.errors import StackError

    for path in paths:
        began = time.perf_counter()
        try:
            picture = read(path)
            seen = recognizer.look(picture, as_of, business, matcher, kind)
            ms = (time.perf_counter() - began) * 1000
            yield Looked(str(path), seen, annotated=draw(path, picture, seen) if draw else None, latency_ms=ms)
        except StackError as exc:
            yield Looked(str(path), error=exc)


def _matcher(folder: Path, business: str | None) -> ProductMatcher:
    """Of one business's products in a home's warehouse, or in a warehouse."""
    from contracts.errors import ArtifactError, UnknownItem
    from contracts.paths import Home
    from vision.matching import Product, ProductMatcher
    from warehouse.store import Warehouse

    root = next((f for f in (folder, Home(folder).warehouse) if (f / "manifest.json").is_file()), None)
    if root is None:
        raise ArtifactError(f"no warehouse in {folder}, its table products is needed. Run: regulars data generate (or import)")
    with Warehouse(root).connect() as connection:
        rows = connection.sql("SELECT business_id, product_id, name, brand, category, price FROM products ORDER BY ALL").fetchall()
    known = sorted({row[0] for row in rows})
    if not known:
        raise ArtifactError(f"the warehouse {root} has no products to match line items with. Import some, or leave --products out.")
    if business is None and len(known) > 1:
        raise UnknownItem(f"{root} has products of {', '.join(known)}. Take one of them with --business.")
    if business is not None and business not in known:
        raise UnknownItem(f"no products of {business!r} in {root}, there are some of {', '.join(known)}. Take one with --business.")
    chosen = [Product(i, name, brand, category, price) for b, i, name, brand, category, price in rows if b == (business or known[0])]
    with errors.status(f"making text vectors of {len(chosen):,} products"):
        return ProductMatcher(chosen)


# ---- telling ----------------------------------------------------------------------------------------------------------------


def _told(looked: Iterator[Looked], count: int, as_json: bool) -> list[Looked]:
    """Show all, each as soon as it is there; what was shown."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    found = []
    columns = (TextColumn("recognizing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=count < 2) as progress:
        task = progress.add_task("recognizing", total=count)
        for one in looked:
            # The pixels of many pictures are long gone, the texts of many receipts are small.
            found.append(one)
            if as_json:
                print_json(as_dict(one))
            elif count <= IN_DETAIL:
                show(one)
            progress.advance(task)
    if not as_json and count > IN_DETAIL:
        console.print(_rows(found))
    kinds = Counter("error" if one.seen is None else one.seen.kind for one in found)
    if count > 1:
        told = [f"{kinds[k]:,} {name}" for k, name in _COUNTED if kinds[k]]
        errors.print(f"{count:,} pictures: {', '.join(told)}", highlight=False)
    return found


_COUNTED = (("receipt", "receipts"), ("product", "of products"), ("nothing", "with nothing that is known"), ("error", "not read"))


def as_dict(one: Looked) -> dict[str, Any]:
    """A file's line of JSON: the answer of image recognition with the file's name in front, or the problem."""
    if one.error is not None:
        return {"file": one.name, "error": problem(one.error)}
    from vision.recognizer import to_api

    assert one.seen is not None  # noqa: S101 - one of both is there
    drawn = {} if one.annotated is None else {"annotated": str(one.annotated)}
    return {"file": one.name, **to_api(one.seen), "latency": round(one.latency_ms), **drawn}


def problem(error: StackError) -> dict[str, Any]:
    """An error as the routes answer it (RFC 9457), less what only a request has."""
    from ray_apps.problems import TYPE_PREFIX

    reason = {"reason": error.reason} if hasattr(error, "reason") else {}
    return {"type": TYPE_PREFIX + error.slug, "title": error.title, "status": error.status, "detail": str(error), **reason}


def show(one: Looked) -> None:
    """One file at length."""
    from rich.text import Text

    if one.seen is None or one.error is not None:
        errors.print(Text.assemble((one.name, "bold"), ": ", (f"{one.error}", "red")), highlight=False, soft_wrap=True)
        return
    seen = one.seen
    console.print(Text.assemble((one.name, "bold"), f"  {seen.width} x {seen.height}  ", (seen.kind, "bold cyan")))
    if seen.receipt is not None:
        console.print(_fields(seen.receipt))
        if seen.receipt.items:
            console.print(_items(seen.receipt))
        for reason in seen.receipt.review:
            console.print(Text(f"  a person should look: {reason}", style="yellow"))
    if seen.products:
        console.print(_products(seen))
    for note in seen.notes:
        console.print(Text(f"  {note}", style="yellow"))
    if seen.kind == "nothing" and seen.nearest:
        guesses = ", ".join(f"{name} {share:.0%}" for name, share in seen.nearest[:3])
        console.print(Text(f"  the nearest products: {guesses}; known with {seen.known:.0%}", style="dim"))
    drawn = f", drawn in {one.annotated}" if one.annotated is not None else ""
    console.print(Text(f"  {one.latency_ms:,.0f} ms{drawn}\n", style="dim"), soft_wrap=True)


def _sure(value: float | None) -> Text:
    from rich.text import Text

    if value is None:
        return Text("")
    return Text(f"{value:.0%}", style="green" if value >= 0.9 else "yellow" if value >= 0.7 else "red")


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def _fields(receipt: Receipt) -> Table:
    from rich.text import Text

    table = _table("field", "value", "confidence", right=("confidence",))
    for name in ("merchant", "date", "total", "currency", "subtotal", "tax", "discount", "rounding", "cash", "change"):
        value = getattr(receipt, name)
        if value is not None:
            table.add_row(name, Text(str(value), style="bold" if name == "total" else ""), _sure(receipt.confidences.get(name)))
        elif name in ("merchant", "date", "total"):
            table.add_row(name, Text("not found", style="red"), "")
    agree = {True: "they agree", False: "they contradict the total", None: "they tell nothing"}[receipt.reconciled]
    table.add_row("sums", Text(agree, style="red" if receipt.reconciled is False else ""), "")
    return table


def _items(receipt: Receipt) -> Table:
    from rich.text import Text

    matched = any(item.product_id for item in receipt.items)
    table = _table(
        "quantity", "item", "amount", "confidence", *(["product"] if matched else []), right=("quantity", "amount", "confidence")
    )
    for item in receipt.items:
        product = [Text(f"{item.product_id} {item.product_confidence:.0%}" if item.product_id else "")] if matched else []
        table.add_row(f"{item.quantity:f}", Text(item.description), str(item.amount), _sure(item.confidence), *product)
    return table


def _products(seen: Seen) -> Table:
    from rich.text import Text

    table = _table("product", "brand", "group", "confidence", "x, y, width, height", "known from", right=("confidence",))
    for p in seen.products:
        where = f"{p.box.x}, {p.box.y}, {p.box.width}, {p.box.height}"
        known = f"photos of {p.product_id}" if p.source == "catalogue" else "the network"
        table.add_row(Text(p.name, style="bold"), Text(p.brand), Text(p.group), _sure(p.confidence), where, Text(known))
    return table


def _rows(found: list[Looked]) -> Table:
    """A row a file."""
    from rich.text import Text

    table = _table("file", "shows", "what", "date", "total", "confidence", "ms", right=("total", "confidence", "ms"))
    for one in found:
        if one.seen is None:
            table.add_row(Text(one.name), Text("not read", style="red"), Text(str(one.error), style="red"))
            continue
        seen, ms = one.seen, f"{one.latency_ms:,.0f}"
        if seen.receipt is not None:
            r = seen.receipt
            total = "" if r.total is None else f"{r.total} {r.currency or ''}".strip()
            sure = min((r.confidences.get(n, 0.0) for n in ("merchant", "date", "total")), default=0.0)
            table.add_row(Text(one.name), seen.kind, Text(r.merchant or "?"), str(r.date or "?"), total or "?", _sure(sure), ms)
        elif seen.products:
            best = seen.products[0]
            what = f"{best.brand} {best.name}".strip()
            table.add_row(Text(one.name), seen.kind, Text(what), "", "", _sure(best.confidence), ms)
        else:
            table.add_row(Text(one.name), Text(seen.kind, style="yellow"), Text("; ".join(seen.notes), style="dim"), "", "", "", ms)
    return table
