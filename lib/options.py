"""The options of every command: one dataclass each, whose fields are its flags (see `lib.cli.flag`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lib.cli import flag

Amp = Literal["none", "bf16", "fp16"]
Convention = Literal["pysot", "otb", "lasot", "got10k", "pytracking"]
_CHECKPOINT = "checkpoint, e.g. snapshot/checkpoint_e20.pth, or shipped weights by name: OceanSmall"
_OVERRIDES = "settings of the YAML, such as OCEAN.TRAIN.BATCH=16"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a network is opened and where it computes."""

    arch: str = flag("architecture; OceanONNX takes an exported folder", "Ocean")
    align: bool | None = flag("with the object-aware branch; default: if the checkpoint has it", None)
    online: bool = flag("with the online branch, which goes on learning each target", False)
    params: Path | None = flag("tracking hyper-parameters; default: the YAML beside the checkpoint, of its name, or "
                               "experiments/test/<dataset>/...", None)
    device: str = flag("cpu, cuda or cuda:N; default: cuda where there is one", "")
    amp: Amp = flag("number format of the network", "none")


@dataclass(frozen=True, kw_only=True)
class TrackerOptions(ModelOptions):
    """Which tracker: ours from a checkpoint, or one of other people's."""

    resume: Path | None = flag(_CHECKPOINT, None)
    tracker: str = flag("one of your own, FILE.py:NAME, or of OpenCV, opencv:MIL, in place of --arch, in a sweep "
                        "beside the checkpoints; --resume is its model, if it takes one", "", metavar="FILE.py:NAME")


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Which test set, and where it lies."""

    dataset: str = flag("test set", "OTB2015")
    dataset_dir: Path = flag("its folder, or that folder's parent", Path("dataset"))


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(TrackerOptions, DatasetOptions):
    """What every run of a tracker over a test set takes."""

    result_dir: Path = flag("results go to DIR/<dataset>/<tracker>", Path("result"))
    compile: bool = flag("torch.compile the network", False)
    batch: int | None = flag("sequences that advance together on the device; default: 1, on a GPU in a sweep more",
                             None, least=1)
    threads: int | None = flag("threads that decode images ahead; default: a core each, up to 16", None, least=1)
    fresh: bool = flag("throw old results away", False)
    tracker_name: str = flag("folder of the results, in a sweep the first part of the names; default: --arch", "")


@dataclass(frozen=True, kw_only=True)
class TestOptions(BenchmarkOptions):
    """Test one checkpoint, or a tracker of other people's, on a test set."""

    epoch_test: bool = flag("True: results go to <arch>_checkpoint_eN", False)
    video: str = flag("one sequence, by name; default: all", "")
    vis: bool = flag("write videos with boxes", False)
    list_missing: bool = flag("print the names of all sequences that are not there, and do nothing else", False)


@dataclass(frozen=True, kw_only=True)
class SweepOptions(BenchmarkOptions):
    """Test and score many checkpoints."""

    start_epoch: int | None = flag("first epoch; default: the first there is", None, least=1)
    end_epoch: int | None = flag("last epoch; default: the last there is", None, least=1)
    snapshot: Path = flag("folder of checkpoint_e<N>.pth", Path("snapshot"))
    checkpoints: tuple[str, ...] = flag("files or quoted patterns instead of epochs", ())
    gpus: str = flag("devices, e.g. 0,1,2: a worker on each; default: --workers", "")
    workers: int = flag("workers on the CPU", 1, least=1)
    together: int | None = flag("checkpoints a worker tests side by side; default: 1, more on a GPU", None, least=1)
    watch: bool = flag("test each checkpoint of a running training as it appears, until --end_epoch", False)
    convention: Convention | None = flag("rules of scoring; default: the set's own", None)
    html: bool = flag("write the page with curves and a player at the end", True)
    log_dir: Path | None = flag("TensorBoard folder; default: that of the training run", None)
    stale_after: float = flag("seconds until a lock without a sign of life counts as left behind", 60.0, hidden=True)
    worker: bool = flag("started by another process of the sweep", False, hidden=True)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a tracker from a YAML file."""

    cfg: Path = flag("training YAML", metavar="FILE")
    gpus: str | None = flag("devices, one process each; default: the YAML's first", None, metavar="0,1,2")
    nproc: int | None = flag("processes, on the CPU through gloo; default: one per device", None, metavar="N", least=1)
    max_restarts: int = flag("times that all processes are started again after one failed", 0, metavar="N", least=0)
    resume: str | None = flag("go on from the newest checkpoint, or this one; default: as the YAML", None,
                              metavar="auto|PATH")
    workers: int | None = flag("loader processes in all; default: the YAML's WORKERS", None, metavar="N", least=0)
    deterministic: bool = flag("the same bits each time, on a GPU too (slower)", False)
    detect_anomaly: bool = flag("name the layer where a NaN arises (very slow)", False)
    overrides: tuple[str, ...] = flag(_OVERRIDES, (), metavar="KEY=VALUE", positional=True)


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(TrainOptions):
    """Train a classifier of a tracker's parts, whose weights TRAIN.PRETRAIN of a tracker takes."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Score trackers' result files: one-pass evaluation, for VOT the restart protocol."""

    dataset: str = flag("OTB2015 (= OTB100), OTB50, OTB2013, VOT2015 to VOT2019, another benchmark's name, or any "
                        "folder of videos with a ground-truth file")
    dataset_dir: Path = flag("the data set's folder or its parent; annotations suffice, images are not needed")
    tracker_result_dir: tuple[Path, ...] = flag(
        "holds <tracker>/<Sequence>.txt, for VOT <tracker>/baseline/<video>/<video>_001.txt; with several, such as "
        "yours and published ones, their trackers come into one table", metavar="DIR")
    trackers: tuple[str, ...] = flag("names of folders, or globs", ("*",), metavar="NAME")
    convention: Convention | None = flag("whose rules decide on broken rows, first frames and lengths; default: those "
                                         "of the benchmark's authors where there are any, else pysot's", None)
    length: Literal["error", "truncate", "fit"] | None = flag(
        "what to do with results of another length: refuse them, cut the ground truth to them, or count missing rows "
        "as failures; default: the convention's rule", None)
    origin: tuple[str, ...] = flag("pixel origin of the result files, of all or of the named trackers, where it is "
                                   "not the data set's own (OTB: 1)", (), metavar="[NAME=]0|1")
    labels: tuple[str, ...] = flag("names for tables, plots and the page", (), metavar="NAME=DISPLAY")
    overlap: Literal["counted", "exact"] | None = flag("VOT: pixels counted as the toolkits do (the default), or exact "
                                                       "areas by shapely", None)
    allow_missing: bool = flag("score although sequences are missing", False)
    list_missing: bool = flag("print the names of all sequences that are not there, and do nothing else", False)
    show_video_level: bool = flag("print the scores of every sequence", False)
    vis: bool = flag("write success, precision and attribute plots (PNG and PDF) to --out, by default _eval in the "
                     "first --tracker_result_dir", False)
    html: Path | None = flag("write one self-contained page: tables, curves and a player of every video", None,
                             metavar="FILE")
    embed: int = flag("with --html: put up to so many frames (the worst videos) into the page as small JPEGs, 2000 if "
                      "no number is given; the others are referenced from the data set", 0, metavar="FRAMES", least=0,
                      alone=2000)
    num: int = flag("processes that read and score at once", 1, least=1)
    format: Literal["text", "markdown", "csv", "json", "latex"] = flag("what is printed", "text")
    out: Path | None = flag("folder to write the scores to, in every format; default: none", None)


@dataclass(frozen=True, kw_only=True)
class TuneOptions(ModelOptions):
    """Tune the tracking hyper-parameters on a test set."""

    cfg: Path | None = flag("training configuration: TUNE.DATA is the test set by default", None)
    resume: Path = flag(_CHECKPOINT)
    dataset: str = flag("test set; default: TUNE.DATA of --cfg, or OTB2015", "")
    dataset_dir: Path = flag("its folder, or that folder's parent", Path("dataset"))
    videos: tuple[str, ...] = flag("only these of its sequences; default: all", (), metavar="NAME")
    trials: int = flag("trials of the whole study: the settings in force, and pruned ones, included", 100, least=1)
    prune_after: int = flag("sequences before a trial may be given up", 3, least=1)
    out: Path | None = flag("folder of study, table, YAML and plots; default below logs/tune", None)
    workers: int = flag("processes of this machine that work on the study", 1, least=1)
    batch: int = flag("sequences that advance together on the device", 1, least=1)
    seed: int | None = flag("of the sampler, for a study by one process that can be repeated", None)
    helper: bool = flag("started by another process of the study", False, hidden=True)


@dataclass(frozen=True, kw_only=True)
class CompareOptions(DatasetOptions):
    """Compare models: size, FLOPs, speed, memory and scores."""

    cfg: tuple[str, ...] = flag("training YAML or checkpoint, with the folder of its results behind =",
                                metavar="FILE[=TRACKER]", positional=True)
    result_dir: Path = flag("results are DIR/<dataset>/<tracker>", Path("result"))
    search_size: Literal[255, 271, 287] | None = flag("px; default: the test set's", None)
    device: str = flag("cpu, cuda or cuda:N; default: cuda where there is one", "")
    amp: Amp = flag("number format of the network", "none")
    frames: int = flag("frames timed for each model", 50, least=1)
    out: Path | None = flag("also write the table to this file", None)


@dataclass(frozen=True, kw_only=True)
class MarginOptions(ModelOptions, DatasetOptions):
    """Measure how well a checkpoint tells targets from what is around them, without tracking."""

    resume: Path = flag(_CHECKPOINT)
    videos: tuple[str, ...] = flag("only these of its sequences; default: all", (), metavar="NAME")
    every: int = flag("take each so many-th frame", 1, least=1)
    out: Path | None = flag("PNG of each video's worst frame, worst first: true box green, peak red", None)


@dataclass(frozen=True, kw_only=True)
class VideoOptions(TrackerOptions):
    """Follow a target in a video of your own."""

    source: str = flag("video file, folder of images, camera number, or stream such as rtsp://...", positional=True)
    init: tuple[str, ...] = flag("target's box in the first frame, px from the upper left corner; several follow "
                                 "several targets; default: draw it", (), metavar="x,y,w,h")
    resume: Path | None = flag(f"{_CHECKPOINT}, the default without --tracker", None)
    lost: float = flag("below this presence the target is lost", 0.5, metavar="PRESENCE", least=0, most=1)
    out: Path | None = flag("folder of video and result file; default: result/video/<name>", None)
    save_video: bool = flag("False: only the result file", True)
    show: bool = flag("also show it; q ends", False)
    max_frames: int | None = flag("stop after this many frames; default: at the end", None, least=1)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(DatasetOptions):
    """Export a checkpoint to ONNX and compare it with PyTorch."""

    checkpoint: Path = flag(_CHECKPOINT, positional=True)
    out: Path = flag("each number format goes to DIR/<format>")
    precision: tuple[Literal["fp32", "fp16", "bf16", "int8"], ...] = flag("number formats", ("fp32",))
    align: bool | None = flag("with the object-aware branch; default: as the checkpoint", None)
    videos: tuple[str, ...] = flag("only these of its sequences; default: all", (), metavar="NAME")
    crops: int = flag("crops to compare, and as many to calibrate int8 on", 60, least=1)
    tolerance: tuple[float, ...] = flag("largest differences of score and px that pass; default: by number format", (),
                                        metavar="NUMBER")
    opset: int = flag("ONNX operator set", 19, least=1)
    score: bool = flag("False: do not track the whole test set with each format", True)
    params: Path | None = flag("tracking hyper-parameters; default: as test_ocean.py's", None)
    frames: int = flag("frames timed for each format", 50, least=1)
    device: str = flag("where both run: cpu, cuda or cuda:N; default: cuda where there is one", "")


@dataclass(frozen=True, kw_only=True)
class OnekeyOptions:
    """Train, test the epochs, tune and report, as one YAML says."""

    cfg: Path = flag("training YAML; TRAIN, TEST, TUNE.ISTRUE choose parts", metavar="FILE")
    dataset_dir: Path = flag("folder of the test sets", Path("dataset"))
    result_dir: Path = flag("results go to DIR/<dataset>/<tracker>", Path("result"))
    nproc: int | None = flag("training processes on a machine without GPU; default: 1", None, least=1)
    trials: int = flag("trials of the tuning, pruned ones included", 100, least=1)
    overrides: tuple[str, ...] = flag(_OVERRIDES, (), metavar="KEY=VALUE", positional=True)


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Pretrain, train and test several arms with several seeds, and compare them in one table."""

    cfg: Path = flag("YAML of the study: RUNS, TESTS, SEEDS", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Train, test, score and show a small Ocean."""

    fresh: bool = flag("throw away what an earlier one left, and redo it", False)
    cfg: Path | None = flag("training YAML; default: experiments/train/OceanDemo.yaml", None, metavar="FILE")
    sequences: int = flag("held-out sequences", 12, least=1)
    real: Path | None = flag("folder of OTB sequences; default: dataset/OTB2015 or ../shared", None)
    overrides: tuple[str, ...] = flag(_OVERRIDES, (), metavar="KEY=VALUE", positional=True)


@dataclass(frozen=True, kw_only=True)
class ReleaseOptions:
    """Write a checkpoint's weights for others to use."""

    checkpoint: Path = flag("such as snapshot/OceanSmall/checkpoint_e10.pth", positional=True)
    name: str = flag("name to load them by")
    out: Path | None = flag("folder; default: experiments/weights", None)


@dataclass(frozen=True, kw_only=True)
class VotTrackerOptions(TrackerOptions):
    """Run a tracker for the official vot-toolkit, which starts it."""

    dataset: str = flag("whose hyper-parameters to use", "VOT")


@dataclass(frozen=True, kw_only=True)
class VotWorkspaceOptions(TrackerOptions):
    """Write a workspace of the official vot-toolkit."""

    folder: Path = flag("folder of the workspace", metavar="DIR", positional=True)
    stack: str = flag("experiments: vot2022/shorttermbox, tests/basic, or a YAML file")
    name: str = flag("the tracker's identifier in the toolkit; default: --arch, or the NAME of --tracker", "")
    label: str = flag("its name in reports; default: --name", "")
    sequences: Path | None = flag("folder of videos with list.txt; default: the toolkit downloads", None)
    dummy: bool = flag("the toolkit's rendered test video instead of a download", False)


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Turn a raw data set into training data; `prepare check`, `pack` and `select` work on what it made."""

    source: str = flag("the data set: COCO, DET, GOT10K, LASOT, TRACKINGNET, VID, VIDEOS (plain folders), VOC or YTB",
                       positional=True)
    root: Path = flag("the raw data, as its archive unpacks")
    out: Path = flag("folder for crops, index and manifest, e.g. data/coco")
    split: str = flag("which part of the archive; default: the training part", "")
    annotation: str = flag("COCO: the JSON below root, where it is not the official one", "")
    pictures: str = flag("COCO: the folder of pictures below root", "")
    origin: Literal[0, 1] = flag("VIDEOS: number of the first px", 0)
    no_crops: bool = flag("write the index alone, to train with FORMAT: raw", False)
    jobs: int | None = flag("processes; default: all cores", None, least=1, most=1024)
    quality: int = flag("JPEG quality of the crops", 95, least=1, most=100)
    min_side: float = flag("leave out boxes with a side of fewer px", 8.0, least=1, most=1e6)
    max_area: float = flag("leave out boxes that cover more of the picture", 0.9, least=0, most=100)
    max_aspect: float = flag("leave out boxes whose longer side is more times the shorter", 10.0, least=1, most=1e6)
    min_visible: float = flag("leave out boxes of which less is inside the picture or visible", 0.3, least=0, most=1)
    absent: Literal["keep", "drop"] = flag("boxes of objects called out of sight (GOT10K, LASOT, YTB)", "drop")
    border: Literal["keep", "drop"] = flag("boxes that touch the picture's edge", "keep")
    occluded: Literal["keep", "drop"] = flag("boxes called occluded (VID, DET)", "keep")
    generated: Literal["keep", "drop"] = flag("boxes called generated (VID)", "keep")


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Say whether what prepare made is whole."""

    folder: Path = flag("a folder that prepare made", positional=True)
    jobs: int | None = flag("processes; default: all cores", None, least=1)


@dataclass(frozen=True, kw_only=True)
class PackOptions(CheckOptions):
    """Put the crops that prepare made into a few archives."""

    out: Path | None = flag("where the archives go; default: `packed` in that folder", None)


@dataclass(frozen=True, kw_only=True)
class ClassesOptions:
    """Cut the labelled objects of a set in COCO's form out into an image folder for tracking/pretrain.py."""

    root: Path = flag("the raw data, as its archive unpacks")
    out: Path = flag("folder for train/<category>/*.jpg and val/..., e.g. data/classes")
    split: str = flag("which part of the archive; default: the training part", "")
    annotation: str = flag("the JSON below root, where it is not the official one", "")
    pictures: str = flag("the folder of pictures below root", "")
    val: int = flag("per cent of the pictures to validate on", 10, least=1, most=90)
    least: int = flag("objects a category must have", 20, least=2)
    least_side: float = flag("px of the shorter side an object must have", 16.0, least=1)
    side: int = flag("px of what is cut, at most", 160, least=8)


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """Write a smaller index of some of the videos of one that prepare made."""

    index: Path = flag("an index that prepare made; its crops stay where they are", positional=True)
    out: Path = flag("the smaller index, beside it")
    only: tuple[str, ...] = flag("videos to keep, as 'foda_*'", ("*",), metavar="PATTERN")
    without: tuple[str, ...] = flag("videos to leave out", (), metavar="PATTERN")
