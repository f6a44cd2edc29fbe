"""The benchmarks, one table entry each: where their files lie and what is special about them. And how one is read.

Pixel origins, which no layout tells: 1 for the sets made with MATLAB (OTB, LaSOT and UAV123, of which the reference
implementation too takes 1 off before it tracks, VastTrack, TOTB, TNL2K, VisDrone-SOT, TColor-128, DTB70), 0 for those
made with Python or in a browser (GOT-10k, TrackingNet, NfS, AVisT, OxUvA) and for VOT. A folder of one's own counts as
OTB does, 1.

Conventions are those of the authors' toolkits: VastTrack's and TNL2K's are LaSOT's with other names, TOTB has LaSOT's
authors and files, VisDrone-SOT's is OTB's by its own word, AVisT was published with pytracking. Of OxUvA and VOT-LT
success and precision are not official: their measures need a tracker that tells when its target is gone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.benchmarks import absence, facts, readers
from lib.benchmarks.box_files import Rows, read_truth
from lib.benchmarks.facts import Benchmark, OTBFact, Protocol, Sequence, alias_key, check_name, otb_name, without_origin
from lib.benchmarks.readers import Flags, Video, frame_number, truth_boxes
from lib.benchmarks.vot import corners_of, vot_sequence
from lib.boxes import Boxes
from lib.errors import UserError


@dataclass(frozen=True)
class Layout:
    """A benchmark as its authors lay it out. A new one is an entry of `LAYOUTS`; `name` and `find` are enough."""

    name: str
    find: Callable[[Path], list[Video]]  # the videos below a folder that may be the data set's root; none elsewhere
    example: str = "<video>/groundtruth.txt"  # a ground-truth file relative to the root, for messages
    protocol: Protocol = "one-pass"  # how it is run and scored
    origin: int = 0  # pixel origin of annotation and result files
    names: tuple[str, ...] = ()
    """The sequences of the benchmark, where the folder may hold more and where missing ones can be told by name."""
    expected: int = 0  # number of sequences where their names are not known; 0: as many as there are
    also: tuple[str, ...] = ()  # other names of it; how they are written (case, dashes) does not matter
    folders: tuple[str, ...] = ()  # names of folders and JSON files in which it may lie among others
    results: tuple[str, ...] = ()  # further names of the folder of its results, in pytracking and what descends from it
    json_first: bool = False  # whether a JSON in its folder is preferred to the official files
    read: Callable[[Video, int], Boxes] | None = None
    """Reads the ground truth (N, 4), given the number of images (0: not there); None: lines of boxes or polygons."""
    absent: Callable[[Video, Boxes], Flags | None] | None = None
    """Reads in which frames nothing of the target is to be seen; None where the files are not there."""
    sparse: bool = False
    """Whether a frame with neither a box nor a flag of absence is one that nobody looked at, and does not count."""
    size: Callable[[Video], tuple[int, int] | None] | None = None  # reads the size of the images
    facts: Mapping[str, OTBFact] = field(default_factory=dict)  # frame ranges and attributes by sequence
    shorter_counts: Callable[[int, int], bool] = lambda _boxes, _images: False
    """Whether so many boxes beside so many images are cut to the shorter of the two, and said, not refused."""
    convention: str = "pysot"  # convention of one-pass evaluation (`lib.eval_toolkit.ope`) where none is asked for


def _otb(name: str, *also: str) -> Layout:
    sets = tuple(label for label in ("OTB2015", "OTB100", "OTB50", "OTB2013") if label != name)
    names = facts.OTB_SETS[name]
    return Layout(name, readers.otb(names), "<Name>/groundtruth_rect.txt", origin=1, names=names, also=also,
                  folders=sets, json_first=True, facts=facts.OTB_FACTS)


def _lasot(name: str, example: str, *also: str, **differs: Any) -> Layout:
    # Frames end where the ground truth does, as in pytracking: some copies of airplane-15 and monkey-17 go on.
    return replace(Layout(name, readers.by_class(), example, origin=1, also=also, absent=absence.lasot_absent,
                          shorter_counts=lambda boxes, images: images > boxes, convention="lasot"), **differs)


def _nfs(rate: int) -> Layout:
    # The got10k toolkit forgives one frame.
    return Layout(f"NFS{rate}", readers.nfs(rate), f"airboard_1/{rate}/airboard_1.txt", expected=100,
                  read=readers.nfs_boxes, folders=("NFS", "Nfs", "NfS", "nfs"), results=("nfs",) if rate == 30 else (),
                  shorter_counts=lambda boxes, images: abs(boxes - images) == 1)


def _got10k(subset: str) -> tuple[str, ...]:
    return tuple(f"GOT-10k_{subset}_{number:06d}" for number in range(1, 181))


_GOT10K = ("GOT10K", "GOT-10k", "got10k")
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (
    _otb("OTB2015", "OTB100", "OTB", "TB100"), _otb("OTB50", "TB50"), _otb("OTB2013", "CVPR2013"),
    *(Layout(name, readers.vot(names), f"{names[0]}/groundtruth.txt", "vot", names=names, json_first=True,
             folders=("sequences", *facts.SAME_VIDEOS.get(name, ()))) for name, names in facts.VOT_NAMES.items()),
    Layout("GOT10K", readers.got10k("test"), "test/GOT-10k_Test_000001/groundtruth.txt", "server",
           names=_got10k("Test"), also=("GOT10K-test",), folders=_GOT10K),
    Layout("GOT10K-val", readers.got10k("val"), "val/GOT-10k_Val_000001/groundtruth.txt", "got10k",
           names=_got10k("Val"), folders=_GOT10K, absent=absence.got10k_absent, size=readers.got10k_size),
    _lasot("LASOT", "airplane/airplane-1/groundtruth.txt", "LaSOT", "lasot", "LaSOTBenchmark", "LaSOTTesting",
           "LaSOT_test", names=facts.LASOT_NAMES),
    _lasot("LASOT_ext", "atv/atv-1/groundtruth.txt", "LaSOT_ext", "LaSOT_extension_subset",
           names=facts.LASOT_EXT_NAMES),
    _lasot("TOTB", "Beaker_1/groundtruth.txt", find=readers.by_class(mark="_"), names=facts.TOTB_NAMES),
    _lasot("VastTrack", "<class>/<class>-<n>/Groundtruth.txt", "VastTrack_test", folders=("test",), expected=3500,
           find=readers.by_class(truth="Groundtruth.txt"), absent=absence.no_box),
    _lasot("TNL2K", "<video>/groundtruth.txt", "TNL2K_test_subset", "TNL2K_test", find=readers.own, expected=700,
           absent=absence.no_box),
    Layout("AVisT", readers.paired("anno", "sequences"), "anno/<name>.txt", expected=120, absent=absence.avist_absent,
           shorter_counts=lambda boxes, images: images > boxes, convention="pytracking"),
    Layout("VisDrone-SOT", readers.paired("annotations", "sequences"), "annotations/<name>.txt", origin=1, expected=35,
           also=("VisDrone2019-SOT-test-dev", "VisDrone-SOT-test-dev"), convention="otb"),
    Layout("VisDrone-SOT-val", readers.paired("annotations", "sequences"), "annotations/<name>.txt", origin=1,
           expected=11, also=("VisDrone2018-SOT-val", "VisDrone2019-SOT-val"), convention="otb"),
    Layout("VOT2018-LT", readers.own, expected=35, folders=("sequences",), absent=absence.no_box, convention="lasot"),
    Layout("VOT2019-LT", readers.own, expected=50, also=("VOT2020-LT", "VOT2021-LT"), folders=("sequences",),
           absent=absence.no_box, convention="lasot"),
    Layout("OxUvA", absence.oxuva, "annotations/dev.csv", expected=200, also=("OxUvA-dev",), folders=("dataset",),
           read=absence.oxuva_boxes, absent=absence.oxuva_absent, sparse=True),
    Layout("TrackingNet", readers.paired("anno", "frames", "TEST"), "TEST/anno/<name>.txt", "server", expected=511,
           also=("TrackingNet_TEST",)),
    Layout("UAV123", readers.uav("UAV123"), "anno/UAV123/bike1.txt", origin=1, names=facts.UAV123_NAMES,
           folders=("Dataset_UAV123",), results=("uav",)),
    Layout("UAV123_10fps", readers.uav("UAV123_10fps", step=3), "anno/UAV123_10fps/bike1.txt", origin=1,
           names=facts.UAV123_NAMES, folders=("Dataset_UAV123_10fps", "UAV123")),
    Layout("UAV20L", readers.uav("UAV20L", images="UAV123"), "anno/UAV20L/bird1.txt", origin=1,
           names=facts.UAV20L_NAMES, folders=("UAV123", "Dataset_UAV123")),
    _nfs(30), _nfs(240),
    Layout("TC128", readers.tcolor128, "Airport_ce/Airport_ce_gt.txt", origin=1, expected=128,
           also=("TColor128", "Temple-color-128")),
    Layout("DTB70", readers.otb(None), "Animal1/groundtruth_rect.txt", origin=1, expected=70),
)}  # fmt: skip
"""The benchmarks by name. A new one is a new entry."""


def layout_of(dataset: str) -> Layout:
    """Return the benchmark of this name, however it is written (`otb-100`, `GOT10K_val`); else that of one's own data.

    `layout.name` is its one name, which result folders and tables have; one's own data, any folder of videos with a
    `groundtruth_rect.txt` or `groundtruth.txt`, are called as given. Raises UserError for what is no plain name
    (`dataset/OTB2015`), and for one that is nearly a benchmark's and would be read as data of one's own.
    """
    known = {alias_key(name): layout for layout in LAYOUTS.values() for name in (layout.name, *layout.also)}
    key = alias_key(dataset)
    if key in known:
        return known[key]
    near = next((layout for name, layout in known.items() if _nearly(key, name)), None)
    if near is not None:
        raise UserError(f"--dataset {dataset}: no known data set; did you mean {near.name}? Data of your own may have "
                        "any name that is not nearly a benchmark's, whatever its folder is called")
    if not dataset.strip() or Path(dataset).name != dataset or dataset[0] == "." or dataset.endswith(".json"):
        raise UserError(f"--dataset {dataset!r}: expected the plain name of a data set; --dataset_dir says where it is")
    return Layout(dataset, readers.own, "<Name>/groundtruth.txt or groundtruth_rect.txt", origin=1, json_first=True,
                  absent=absence.marked)


def _nearly(key: str, name: str) -> bool:
    """Return whether a key is another but for one letter, or two that changed places, its number or its century."""
    short, long = sorted((key, name), key=len)
    if len(short) == len(long):
        wrong = sum(a != b for a, b in zip(key, name, strict=True))
        slip = wrong == 1 or (wrong == 2 and sorted(key) == sorted(name))
    else:
        slip = any(long[:at] + long[at + 1 :] == short for at in range(len(long)))
    shortened = (name.rstrip("0123456789"), re.split("[0-9]", name)[0], name.replace("20", "", 1))
    return (slip and len(short) > 3) or (len(key) > 2 and key in shortened)


def load_benchmark(dataset: str, dataset_dir: str | Path, *, images: bool) -> Benchmark:
    """Return the test set called `dataset` as far as it lies in `dataset_dir`, its own folder or that folder's parent.

    A name that is not in `LAYOUTS` means folders in OTB's form or with a plain `groundtruth.txt`, or a JSON of that
    name in pysot's form, taken as they are. With `images` every sequence has its frames' paths, checked to exist; one
    without any is left out and noted. Sequences that are not there are listed in `missing`. Raises UserError when
    nothing is there, or something that is there is broken.
    """
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the data set {dataset} or the folder it lies in")
    layout = layout_of(dataset)
    labels = list(dict.fromkeys([dataset, layout.name, *layout.also, *layout.folders]))
    roots = _roots(folder, labels)
    image_roots = [*roots, *(folder.parent / label for label in labels)]
    source, videos = _find(layout, roots, labels)
    sequences: dict[str, Sequence] = {}
    notes: list[str] = []
    for video in videos:
        sequence, own = _read(layout, video, image_roots, images=images)
        notes += own
        if sequence is not None:
            sequences[sequence.name] = sequence
    if not sequences:
        raise UserError(f"{source}: no sequence{' with its images' if images else ''} of {layout.name} found"
                        f"{f' ({notes[0]})' if notes else ''}; expected e.g. {layout.example}")
    names = layout.names or tuple(sequences)
    unknown = sum(sequence.image_wh is None for sequence in sequences.values())
    if layout.protocol == "vot" and unknown:
        notes.insert(0, f"{unknown} videos without images: their size is unknown, overlaps are not cut at the border")
    return Benchmark(layout.name, tuple(sequences[name] for name in names if name in sequences),
                     layout.expected or len(names), tuple(name for name in names if name not in sequences), source,
                     tuple(notes), layout.protocol)


def _roots(folder: Path, labels: list[str]) -> list[Path]:
    """Return a folder, and those in it and in these again (archives bring one of their own) that are called so."""
    order = {alias_key(label): place for place, label in reversed([*enumerate(labels)])}
    roots, level = [folder], [folder]
    for _ in range(2):
        found = [path for root in level for path in readers.sub_folders(root)]
        level = sorted((path for path in found if alias_key(path.name) in order),
                       key=lambda path: order[alias_key(path.name)])
        roots += level
    return roots


def _find(layout: Layout, roots: list[Path], labels: list[str]) -> tuple[Path, list[Video]]:
    """Return the folder or JSON that the ground truth is read from, and the benchmark's videos in it."""
    def jsons(folder: Path) -> list[Path]:
        return [path for label in labels if (path := folder / f"{label}.json").is_file()]

    sources = [source for root in roots for source in (*jsons(root), root)]
    if not layout.json_first:
        sources.sort(key=Path.is_file)
    lacking: list[Video] = []
    for source in [*sources, *jsons(roots[0].parent)]:
        videos = readers.json_videos(source) if source.is_file() else layout.find(source)
        if layout.facts:
            videos = [video._replace(name=otb_name(video.name) or video.name) for video in videos]
        videos = [video for video in videos if not layout.names or video.name in layout.names]
        if any(video.truth.is_file() for video in videos):
            return source, videos
        lacking += videos
    if lacking:
        raise _no_truth(lacking[0])
    raise UserError(f"{roots[0]}: no ground truth of {layout.name}; expected {layout.example} or {layout.name}.json")


def _no_truth(video: Video) -> UserError:
    return UserError(f"{video.truth.parent.parent}: no {video.truth.name} with boxes in {video.truth.parent.name!r}; "
                     "expected one line x,y,w,h per frame")


def _read(layout: Layout, video: Video, image_roots: list[Path], *, images: bool) -> tuple[Sequence | None, list[str]]:
    """Return the record of one video, None where it has no images, and notes."""
    place = f"{video.truth}" if video.entry is None else f"{video.truth}: {video.images.name}"
    check_name(video.name, place)
    if video.entry is None and not video.truth.is_file():
        raise _no_truth(video)
    rows = None if video.entry is None else readers.json_truth(place, video.entry)
    frames: list[Path] = []
    # A folder of images is listed only where something hangs on it: LaSOT's hold 700,000.
    if images or (rows is None and (layout.read or layout.protocol in ("server", "vot"))):
        frames, why = readers.frames_of(video, image_roots, place=place, num_boxes=None if rows is None else len(rows))
        if images and not frames:
            return None, [f"{video.name}: {why}, left out"]
    elif layout.protocol == "vot":  # for their size
        folders = [readers.image_folder(root / video.name) for root in image_roots]
        frames = next((found for folder in folders if (found := readers.images_in(folder))), [])
    if rows is None:
        rows = layout.read(video, len(frames)) if layout.read else read_truth(video.truth)
    _check_first(rows, place)
    sequence: Sequence
    if layout.protocol == "vot":
        sequence, notes = vot_sequence(video.name, rows, frames, place=place, folder=video.truth.parent,
                                       entry=video.entry)
        if images:
            _check_counts(len(sequence), frames, place)
    else:
        sequence, notes = _sequence(layout, video, truth_boxes(rows), frames, place=place)
    return sequence if images else replace(sequence, frames=()), notes


def _sequence(
    layout: Layout, video: Video, boxes: Boxes, frames: list[Path], *, place: str
) -> tuple[Sequence, list[str]]:
    """Return the record of one video of one-pass evaluation, with the images that belong to its boxes, and notes."""
    notes = []
    fact = layout.facts.get(video.name)
    lead_in = fact.lead_in if fact and len(boxes) == fact.num_frames + fact.lead_in else 0
    boxes = without_origin(boxes, layout.origin)
    boxes, before = boxes[lead_in:], boxes[:lead_in]
    if fact and len(boxes) != fact.num_frames:
        notes.append(f"{video.name}: {len(boxes)} boxes, the official data set has {fact.num_frames}")
    elif fact and len(frames) != len(boxes):  # the folders of David and a few others hold more
        frames = [path for path in frames if fact.first <= frame_number(path) <= fact.last]
    if layout.protocol == "server":
        boxes = np.concatenate([boxes[:1], np.full((max(0, len(frames) - 1), 4), np.nan)]) if frames else boxes
    elif frames and len(frames) != len(boxes) and layout.shorter_counts(len(boxes), len(frames)):
        notes.append(f"{video.name}: {len(boxes)} boxes for {len(frames)} images; cut to the shorter")
        frames, boxes = frames[: len(boxes)], boxes[: len(frames)]
    _check_counts(len(boxes), frames, place)
    absent = layout.absent(video, boxes) if layout.absent and video.entry is None else None
    if layout.absent and absent is None and layout.name in LAYOUTS:
        notes.append(f"{video.name}: no file tells where the target is absent; every frame counts")
    if absent is not None and len(absent) != len(boxes):
        raise UserError(f"{video.truth.parent}: absence is told for {len(absent)} of {len(boxes)} frames of "
                        f"{video.name}; expected one value per frame")
    told = (video.entry or {}).get("attr")
    attributes = fact.attributes if fact else tuple(map(str, told)) if isinstance(told, list) else ()
    return Sequence(video.name, tuple(frames), boxes, attributes, origin=layout.origin, lead_in_xywh=before,
                    num_lead_in=fact.lead_in if fact else 0, absent=absent, sparse=layout.sparse,
                    image_wh=layout.size(video) if layout.size and video.entry is None else None), notes


def _check_counts(boxes: int, frames: list[Path], place: str) -> None:
    if frames and len(frames) != boxes:
        raise UserError(f"{place}: {boxes} boxes for {len(frames)} images in {frames[0].parent}; expected one each")


def _check_first(rows: Rows, place: str) -> None:
    """Refuse a ground truth whose first row no tracker can be initialised on."""
    if not len(rows):
        raise UserError(f"{place}: no boxes; expected one x,y,w,h per frame")
    box, corners = truth_boxes(rows[:1])[0], corners_of(rows[:1])[0]
    width, height = corners.max(axis=0) - corners.min(axis=0)
    if not np.isfinite(box).all() or not (box[2:] > 0).all():
        raise UserError(f"{place} row 1: the first box has no size; no tracker can be initialised on it")
    if min(width, height) < 1:
        shares = "; boxes as shares of the picture? Multiply them by its width and height" if corners.max() <= 1 else ""
        raise UserError(f"{place} row 1: the first box is {width:g} x {height:g}; expected px, 1 or more each way"
                        f"{shares}")
