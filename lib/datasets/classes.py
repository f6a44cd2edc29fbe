"""Labelled pictures for training a classifier: a folder a class, as ImageNet lies, or CIFAR's binary files.

Picture n of the stream is a function of (seed, n) alone, as pairs are. Changes are timm's (its `create_transform`).
"""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from lib.config import ClassesConfig
from lib.crops import Image
from lib.datasets.mixing import generator, mix, shuffled
from lib.errors import UserError, did_you_mean, package
from lib.files import read_text
from lib.images import SUFFIXES, read_image

# FORMAT -> (files of training, files of the test, bytes before a picture of which the last is the label, file of names)
_CIFAR = {"cifar10": ([f"data_batch_{k}.bin" for k in range(1, 6)], ["test_batch.bin"], 1, "batches.meta.txt"),
          "cifar100": (["train.bin"], ["test.bin"], 2, "fine_label_names.txt")}
_SIDE = 32  # px of CIFAR's pictures
_TRIES = 100  # other pictures tried in place of one that cannot be read


class Labelled(NamedTuple):
    """A picture and its class; a batch is one of tensors (B, ...)."""

    image: Any  # uint8 (3, side, side), channels B, G, R
    label: Any  # int64, the class's number
    unreadable: tuple[str, ...] = ()  # pictures that had to be replaced: "path: reason"


class FolderPictures:
    """`root/<class>/<picture>`, at any depth below the class; classes are numbered in the order of their names."""

    def __init__(self, root: Path, *, classes: list[str] | None = None) -> None:
        """List the pictures; with `classes` only those may be there. Raises UserError."""
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; expected train/<class>/*.jpg and val/<class>/*.jpg")
        folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
        if len(folders) < 2:
            raise UserError(f"{root}: {len(folders)} class folder(s); expected two or more, each with its pictures")
        self.classes = [folder.name for folder in folders] if classes is None else classes
        if unknown := [folder.name for folder in folders if folder.name not in self.classes]:
            raise UserError(f"{root}: {len(unknown)} class(es) that train does not have ({', '.join(unknown[:3])})"
                            f"{did_you_mean(unknown[0], self.classes)}")
        found = {folder: sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
                 for folder in folders}
        if empty := [folder.name for folder, paths in found.items() if not paths]:
            raise UserError(f"{root}: no pictures in {len(empty)} folder(s) ({', '.join(empty[:3])}); expected files "
                            f"such as {empty[0]}/1.jpg, or remove the folder")
        self.paths = [path for paths in found.values() for path in paths]
        self.labels = [self.classes.index(folder.name) for folder, paths in found.items() for _ in paths]

    def read(self, index: int) -> Image:
        """Return a picture, BGR uint8 (H, W, 3)."""
        return read_image(self.paths[index])


class CifarPictures:
    """CIFAR-10 or -100 as the binary files of its authors (label bytes, then 3 x 1024 bytes red, green, blue)."""

    def __init__(self, root: Path, form: str, *, train: bool) -> None:
        """Map the files; raise UserError for one that is missing or of another length."""
        files, test, skip, names = _CIFAR[form]
        self.classes = read_text(root / names).split()
        parts = []
        for name in files if train else test:
            path, row = root / name, skip + 3 * _SIDE**2
            if not path.is_file() or path.stat().st_size % row or not path.stat().st_size:
                raise UserError(f"{path}: {'not a whole number of pictures' if path.is_file() else 'no such file'}; "
                                f"expected the binary version of {form}, rows of {row} bytes")
            parts.append(np.memmap(path, np.uint8, mode="r").reshape(-1, row))
        self._rows = np.concatenate(parts)
        self.labels = self._rows[:, skip - 1].astype(int).tolist()
        if max(self.labels) >= len(self.classes):
            raise UserError(f"{root}: label {max(self.labels)}, but {names} has {len(self.classes)} names")

    def read(self, index: int) -> Image:
        """Return a picture, BGR uint8 (32, 32, 3)."""
        rgb = self._rows[index, -3 * _SIDE**2:].reshape(3, _SIDE, _SIDE)
        return np.ascontiguousarray(rgb[::-1].transpose(1, 2, 0))


Pictures = FolderPictures | CifarPictures


class ClassDataset(Dataset[Labelled]):
    """Pictures by number: each epoch goes through all of them once, in an order of its own."""

    def __init__(self, pictures: Pictures, settings: ClassesConfig, *, seed: int, train: bool) -> None:
        self.pictures, self.seed, self.train, self._side = pictures, seed, train, settings.SIZE
        create = package("timm.data", needed_by="training a classifier").create_transform
        change = {"auto_augment": settings.AUGMENT or None, "re_prob": settings.ERASE, "color_jitter": settings.COLOR,
                  "scale": (settings.SCALE, 1.0)} if train else {"crop_pct": 0.9}
        self._transform = create(settings.SIZE, is_training=train, mean=(0, 0, 0), std=(1, 1, 1), **change)

    def __len__(self) -> int:
        return len(self.pictures.labels)

    def __getitem__(self, n: int) -> Labelled:
        """Return picture n >= 0 of the stream; one that cannot be read is named, and in training replaced by another.

        In validation its place is taken by a black one of class -1, which no answer hits.
        """
        epoch, place = divmod(n, len(self))
        index = shuffled(place, len(self), key=mix(self.seed, epoch)) if self.train else place
        rng = generator(self.seed, n)
        unreadable: list[str] = []
        for _ in range(_TRIES):
            try:
                image = self.pictures.read(index)
            except UserError as error:
                unreadable.append(str(error))
                if not self.train:
                    return Labelled(torch.zeros(3, self._side, self._side, dtype=torch.uint8), torch.tensor(-1),
                                    tuple(unreadable))
                index = int(rng.integers(len(self)))
                continue
            return Labelled(self._changed(image, rng), torch.tensor(self.pictures.labels[index]), tuple(unreadable))
        raise UserError(f"{unreadable[0]}; none of {_TRIES} other pictures could be read either")

    def _changed(self, image: Image, rng: np.random.Generator) -> torch.Tensor:
        """Return uint8 (3, side, side) BGR; timm draws from the global generators, which `rng` seeds."""
        seed = int(rng.integers(2**31))
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        pixels = self._transform(importlib.import_module("PIL.Image").fromarray(image[..., ::-1].copy()))
        return (pixels.flip(0) * 255).round().clamp(0, 255).to(torch.uint8)


def open_pictures(settings: ClassesConfig) -> tuple[Pictures, Pictures]:
    """Return the pictures to train and to validate on; raise UserError for what is missing or does not fit."""
    root = Path(settings.PATH)
    if settings.FORMAT != "folder":
        return tuple(CifarPictures(root, settings.FORMAT, train=train) for train in (True, False))  # type: ignore[return-value]
    train = FolderPictures(root / "train")
    return train, FolderPictures(root / "val", classes=train.classes)
