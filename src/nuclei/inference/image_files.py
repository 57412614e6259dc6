"""Which files are a user's images, what their results are called, and how each is read: all that needs no network."""

import hashlib
import json
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.data.archives import Archive, is_clutter, open_archive
from nuclei.data.axes import Picture, View
from nuclei.data.image_ids import MAX_ID_BYTES
from nuclei.data.images import decode_image
from nuclei.data.microscope import SUFFIXES, count_times, list_series, measure_size, read_picture
from nuclei.data.normalisation import normalise
from nuclei.data.slides import unpack
from nuclei.data.zarr_image import ZARR
from nuclei.errors import CONTROLS, UserError
from nuclei.inference.arguments import Diameter, check_paths
from nuclei.limits import check_kind
from nuclei.runs.files import file_hash, list_matching, read_json

MADE_BY = "nuclei predict-images"
RECORD = ".json"


@dataclass(frozen=True)
class Reading:
    """Say how images are read: which picture of a file, normalised or not, the sizes; and what is written of them."""

    view: View = field(default_factory=View)
    normalise: bool = True
    pixel_size_um: float | None = None  # instead of what a file says
    diameter: Diameter = "unlike"  # of the nuclei, in pixels of the image
    tile: int | None = None  # side of tiles, as slide.choose_tile takes it
    formats: tuple[str, ...] = ()  # of records.ON_REQUEST, beside those that are always written

    def record(self) -> dict[str, Any]:
        """Return all settings as JSON holds them."""
        return asdict(self.view) | {
            "normalise": self.normalise,
            "pixel_size_um": self.pixel_size_um,
            "diameter": self.diameter,
            "tile": self.tile,
            **({"formats": list(self.formats)} if self.formats else {}),  # so that earlier results stay up to date
        }


@dataclass(frozen=True, slots=True)  # of which there may be a hundred thousand
class Source:
    """Hold one image to be segmented: a file, an image or time point of one, or an image of an official archive."""

    name: str  # what the names of its results begin with
    location: str  # of the file; a Path takes five times the memory
    time: int | None = None
    series: int | None = None  # number of the image, of a file with several
    archive: Archive | None = None

    @property
    def path(self) -> Path:
        """The image's file, or the archive or folder that it lies in."""
        return Path(self.location)

    @property
    def file(self) -> str:
        """The image's file, as people are told."""
        inner = f": {self.archive.image_name(self.name)}" if self.archive else ""
        return in_utf8(f"{self.location}{inner}")

    def hash(self) -> str:
        """Return the sha256 of the file's content, of an OME-Zarr that of its folder, hexadecimal."""
        if self.archive is None:
            return file_hash(self.path)
        return hashlib.sha256(self.archive.read(self.archive.image_name(self.name))).hexdigest()

    def size(self, reading: Reading) -> tuple[int, int]:
        """Return the height and width of the image by its headers; 0, 0 of one in an archive, which are no slides."""
        return (0, 0) if self.archive else measure_size(self.path, reading.view, self.series or 0)

    def unpack(self, reading: Reading, target: Path) -> Picture:
        """Write the image in its own values to a .npy file, as slides.unpack does, and return the rest of it."""
        picture = unpack(self.path, reading.view, target, self.time or 0, self.series or 0)
        return replace(picture, pixel_size_um=reading.pixel_size_um or picture.pixel_size_um)

    def read(self, reading: Reading) -> tuple[Picture, NDArray[np.uint8], str]:
        """Return the image in its own values, as uint8 [H, W, 3] for the networks, and the rule that led there.

        Official archives are read as the pipeline reads them. Raises UserError naming the file and the fault.
        """
        if self.archive is not None:
            image = decode_image(self.archive.read(self.archive.image_name(self.name)), self.file)
            return Picture(image, f"YXS {' x '.join(map(str, image.shape))}"), image, "official archive, as it is"
        picture = read_picture(self.path, reading.view, self.time or 0, self.series or 0)
        try:
            image, rule = normalise(picture.pixels, reading.normalise)
        except ValueError as error:
            raise UserError(f"{self.path}: {error}") from None
        return replace(picture, pixel_size_um=reading.pixel_size_um or picture.pixel_size_um), image, rule


def in_utf8(text: str) -> str:
    """Return a text with "?" for control codes and for what UTF-8 cannot hold, bytes that other systems wrote.

    Those would make lines of a terminal or a file of their own, or commands to a terminal.
    """
    return CONTROLS.sub("?", text.encode(errors="replace").decode())


def find_images(paths: Iterable[Path], recursive: bool = False) -> list[Source]:
    """Return the images among files, folders of them, and official archives (zips or extracted), in order.

    recursive: those in nested folders, too. Left-overs of operating systems and this command's own results are skipped.
    A file that is named twice counts once; files of one name get distinct ones by `name_files`. Raises UserError on a
    missing path, and on a folder without images.
    """
    files: dict[str, Path] = {}
    folders: dict[Path, str] = {}
    archived: list[Source] = []
    paths = list(paths)
    check_paths(paths)
    for path in paths:
        check_kind(path)
        is_folder = path.is_dir() and path.suffix.lower() != ZARR
        found = list_files(path, recursive) if is_folder else [path]
        beside = list_files(path) if is_folder and recursive else found
        if path.suffix.lower() == ".zip" or (is_folder and not beside and _is_archive(path)):
            archive = open_archive(path, "test")
            archived += [Source(image_id, str(path), archive=archive) for image_id in archive.image_ids]
        elif not found:
            nested = not recursive and list_files(path, recursive=True)
            fix = "its folders have some: give --recursive" if nested else f"looked for *{', *'.join(SUFFIXES)}"
            raise UserError(f"no images in {path}; {fix}")
        else:
            for file in found:
                files.setdefault(_resolve(file, folders), file)
    chosen = list(files.values())
    del files  # of very many images it takes more than they do
    sources = archived + [Source(name, str(path)) for name, path in zip(name_files(chosen), chosen, strict=True)]
    check_names(sources)
    return sources


def _resolve(file: Path, folders: dict[Path, str]) -> str:
    """Return what os.path.realpath does, asking the disk once of a folder. folders: those that are known."""
    if file.is_symlink():
        return os.path.realpath(file)
    folder = file.parent
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    return f"{folders[folder]}/{file.name}"


def _is_archive(folder: Path) -> bool:
    """Return whether a folder without images is an official archive, extracted: <image_id>/images/<image_id>.png."""
    inner = (path for path in folder.glob("*/images/*") if path.suffix.lower() == ".png")
    return any(path.stem == path.parents[1].name for path in inner)


def list_files(folder: Path, recursive: bool = False) -> list[Path]:
    """Return the files of a folder that are meant as images, sorted."""
    found, folders = [], set()  # the images, and the folders that they lie in
    for inner in sorted(_list_inside(folder, recursive), key=lambda inner: inner.split("/")):
        suffix = PurePath(inner).suffix.lower()
        if (suffix == ZARR or suffix in SUFFIXES) and not is_clutter(inner):
            path = folder / inner
            lost = path.is_symlink() and not path.exists()  # an image that cannot be read, of which people are told
            if lost or (path.is_dir() if suffix == ZARR else path.is_file()):
                found.append(path)
                folders.add(path.parent)
    # Some results lie in a folder below their record.
    own = {file for one in folders | {one.parent for one in folders} for file in own_results(one)}
    return [path for path in found if path not in own] if own else found


def _list_inside(folder: Path, recursive: bool) -> Iterator[str]:
    """Yield what lies in a folder, relative to it; recursive: in folders there, too, OME-Zarrs aside."""
    for root, folders, files in os.walk(folder):
        inner = Path(root).relative_to(folder).as_posix()
        yield from (name if inner == "." else f"{inner}/{name}" for name in (*folders, *files))
        folders[:] = [name for name in folders if recursive and not name.lower().endswith(ZARR)]


def own_results(folder: Path) -> set[Path]:
    """Return the files in a folder, or in folders there, that this command wrote, by the records in that folder."""
    records = (read_record(path) for path in list_matching(folder, f"*{RECORD}"))
    return {folder / file for record in records if record for file in record["files"]}


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what this command recorded of an image; None where there is no such file, or another program's."""
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return None
    kinds = {"files": list, "made_from": dict, "sha256": dict, "stats": dict}
    whole = all(isinstance(record.get(key, kind()), kind) for key, kind in kinds.items()) and "files" in record
    names = whole and all(isinstance(file, str) and "\0" not in file for file in record["files"])
    return record if names and record.get("made_by") == MADE_BY and record_settings(record) is not None else None


def record_settings(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings that a record says its results were made with; None if it is damaged there."""
    settings = record.get("made_from", {}).get("settings", {})
    return settings if isinstance(settings, dict) else None


def name_files(paths: Sequence[Path]) -> list[str]:
    """Return a distinct name for the results of each file, in the order of the files.

    It is the file's name without its suffix, if no other file has it, in any case of letters. Of several, the folders
    below the one that they have in common go before it, and if that is not enough the suffix after it: x_a, y_a; a_png,
    a_tif. What is equal even then is numbered: a_png_2.
    """
    names = [_stem(path) for path in paths]
    count = Counter(name.casefold() for name in names)
    taken = {name for name, n in count.items() if n == 1}
    groups: dict[str, list[int]] = defaultdict(list)  # places of files that share a name
    for place, name in enumerate(names):
        if (key := name.casefold()) not in taken:
            groups[key].append(place)
    for group in groups.values():
        folders = [Path(os.path.realpath(paths[place])).parent for place in group]
        common = Path(os.path.commonpath(folders))
        short = ["_".join([*one.relative_to(common).parts, names[i]]) for one, i in zip(folders, group, strict=True)]
        if len({name.casefold() for name in short}) < len(group):
            short = [f"{name}_{paths[i].suffix[1:]}" for name, i in zip(short, group, strict=True)]
        for place, name in zip(group, short, strict=True):
            names[place] = name
    size = {place: len(group) for group in groups.values() for place in group}
    for place in sorted(size, key=lambda place: (size[place], paths[place])):
        unique, number = names[place], 1
        while unique.casefold() in taken:
            number += 1
            unique = f"{names[place]}_{number}"
        taken.add(unique.casefold())
        names[place] = unique
    return names


def _stem(path: Path) -> str:
    stem = in_utf8(path.stem)
    return stem.removesuffix(".ome") or stem


def check_names(sources: Iterable[Source], seen: dict[str, Source] | None = None) -> None:
    """Raise UserError if two images have one name, so that their results would overwrite each other.

    seen: images of earlier calls by name, to which these are added.
    """
    seen = {} if seen is None else seen
    for source in sources:
        first = seen.setdefault(source.name.casefold(), source)
        if first is not source:
            raise UserError(
                f"{first.file} and {source.file} are both called {source.name}: rename one, or give them in two calls"
            )


def split_file(source: Source, reading: Reading) -> list[Source]:
    """Return the images of a source: of a file with several each by itself, <name>_s000, <name>_s001 and so on.

    Of a time series each time point is one, <name>_t000, <name>_t001. Raises UserError naming the file if it is
    damaged, if it is open which picture of it is wanted, or if its name is too long to name results.
    """
    if (length_bytes := len(source.name.encode())) > MAX_ID_BYTES:
        raise UserError(f"{source.path}: its name has {length_bytes} bytes, more than {MAX_ID_BYTES}: shorten it")
    if source.archive is not None:
        return [source]
    images = []
    numbers = list_series(source.path, reading.view)
    for number in numbers:
        image = source
        if len(numbers) > 1 or number:
            image = replace(source, name=f"{source.name}_s{number:03d}", series=number)
        times = count_times(source.path, reading.view, number)
        if times == 1:
            images.append(image)
        else:
            images += [replace(image, name=f"{image.name}_t{time:03d}", time=time) for time in range(times)]
    return images


def check_folder(output: Path) -> None:
    """Make the folder of results; raise UserError if it is a file, or if nothing can be written there."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        fault = "it is a file" if output.is_file() else (error.strerror or str(error))
        raise UserError(f"nothing can be written to {output} ({fault}): name another folder by --output") from None


def describe_change(found: dict[str, Any] | None, wanted: dict[str, Any]) -> str:
    """Say why the results of a record, or of none, are not those that are wanted; nothing if they are."""
    if found is None:
        return "no results yet"
    if not found.get("finished"):
        return "unfinished"
    made = found.get("made_from", {})
    names = {"image_sha256": "the image has changed", "weights_sha256": "other weights", "version": "other version"}
    changes = [text for key, text in names.items() if key in wanted and made.get(key) != wanted[key]]
    old, new = made.get("settings", {}), wanted["settings"]
    changes += [
        f"{key}: {json.dumps(old.get(key))} -> {json.dumps(value)}"
        for key, value in new.items()
        if old.get(key) != value
    ]
    return "; ".join(changes)
