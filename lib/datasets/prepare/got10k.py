"""GOT-10k-form videos: a folder per video with `groundtruth.txt` (x, y, w, h, origin 0) and its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib.datasets.prepare.folders import boxes_of, flags_of, one_object, pictures_by_line, video_folders
from lib.datasets.prepare.records import Video

_COVER_LEVELS = 8  # cover.label goes from 0, out of view, to 8, all visible


@dataclass(frozen=True)
class Got10kVideo:
    """One video of GOT-10k."""

    root: Path
    folder: str  # below root
    name: str

    def read(self) -> Video:
        """Return the video's frames without those in which the object is absent.

        A box of zeros, a 1 in `absence.label` or a 0 in `cover.label` is an absent object; the cover's eighths are
        its visible share. Raises UserError naming file and line, or the counts if pictures and boxes do not match.
        """
        path = self.root / self.folder
        boxes_xywh = boxes_of(path / "groundtruth.txt")
        absent = flags_of(path / "absence.label", len(boxes_xywh)) != 0
        cover = flags_of(path / "cover.label", len(boxes_xywh), missing=_COVER_LEVELS) / _COVER_LEVELS
        absent |= (cover == 0) | (boxes_xywh == 0).all(axis=1)
        pictures = pictures_by_line(path / "img" if (path / "img").is_dir() else path, len(boxes_xywh))
        return one_object(self.name, pictures, boxes_xywh, absent=absent, visible=cover, root=self.root)


def tasks(root: Path, *, split: str = "") -> list[Got10kVideo]:
    """Return a task for each video of the archive's split (train if there is one), else of the folder itself.

    With a `list.txt` its videos, in its order, and a UserError for one that is missing; else every folder that holds
    a `groundtruth.txt`.
    """
    base = root / split if split else root / "train" if (root / "train").is_dir() else root
    listing = base / "list.txt"
    return [Got10kVideo(root, folder.relative_to(root).as_posix(), folder.relative_to(base).as_posix())
            for folder in video_folders(base, listing=listing, truth="groundtruth.txt")]
