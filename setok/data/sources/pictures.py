"""Where the pictures of a data set lie: folders that are listed once, and names that lead to files."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from setok.config import SourceConfig
from setok.data.sources.base import is_image, read_image
from setok.errors import DataError

COCO_FOLDERS = ("train2014", "val2014", "test2015", "train2017", "val2017", "test2017", "images")
COCO_ORIGIN = (
    "http://images.cocodataset.org/zips ({train,val}2014.zip, test2015.zip, or those of 2017: the same pictures)"
)
_COCO_NAME = re.compile(r"(?:COCO_[a-z]+\d+_)?(\d+)")
_ORIENTATION = 0x0112
_EXIF_UPRIGHT = 1


class PictureFolders:
    """The pictures in some folders; where two have one key, the one in the earlier folder counts.

    Args:
        folders: looked through in this order, without those below them; missing ones are passed over.
        key_of: from a file's name without suffix to the key that the annotations have.
    """

    def __init__(self, folders: Sequence[Path], key_of: Callable[[str], str] = str) -> None:
        self.folders = [folder for folder in folders if folder.is_dir()]
        self._key_of = key_of

    @cached_property
    def _files(self) -> dict[str, str]:
        files: dict[str, str] = {}
        for folder in self.folders:
            with os.scandir(folder) as entries:
                for name in sorted(entry.name for entry in entries if is_image(entry.name)):
                    files.setdefault(self._key_of(Path(name).stem), str(folder / name))
        return files

    def __bool__(self) -> bool:
        """Whether there is any picture."""
        return bool(self._files)

    def path(self, key: str) -> Path:
        """The file of a picture.

        Raises:
            DataError: there is none.
        """
        if key not in self._files:
            raise DataError(f"image file missing: {key}", "get the file, or leave the record out")
        return Path(self._files[key])

    def read(self, key: str) -> bytes:
        """A picture's bytes.

        Raises:
            DataError: there is none, or it cannot be read.
        """
        return read_image(self.path(key))


def picture_root(config: SourceConfig) -> Path:
    """The folder that the pictures are below: ``images``, or the data set's own."""
    return Path(config.images or config.path).absolute()


def coco_key(stem: str) -> str:
    """The image id in a file's name of 2014 or 2017 (``COCO_val2014_%012d`` or ``%012d``): the id means one picture in both.

    Names of another form are kept.
    """
    match = _COCO_NAME.fullmatch(stem)
    return str(int(match[1])) if match else stem


def coco_pictures(config: SourceConfig) -> PictureFolders:
    """The pictures of COCO by image id, in the folders of either year or in the folder itself."""
    root = picture_root(config)
    return PictureFolders([*(root / name for name in COCO_FOLDERS), root], coco_key)


def check_pictures(source: str, config: SourceConfig, pictures: PictureFolders, origin: str) -> None:
    """Look whether there is any picture.

    Raises:
        DataError: there is none; it says where to get them.
    """
    if not pictures:
        raise DataError(
            f"source {source!r}: no pictures below {config.images or config.path!r}",
            f"get them from {origin}, or set images to the folder where they are",
        )


def check_geometry(data: bytes, height: int, width: int) -> None:
    """Look whether a picture has the pixels that masks and boxes were drawn on. A damaged picture passes: that is found
    when it is decoded.

    Raises:
        DataError: it has another size, or will be turned upright while its masks are not.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            size, orientation = image.size, image.getexif().get(_ORIENTATION, _EXIF_UPRIGHT)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return
    remedy = "get the picture that the annotations belong to"
    if size != (width, height):
        raise DataError(
            f"picture and annotations differ: {size[0]} × {size[1]} pixels, the annotations say {width} × {height}",
            remedy,
        )
    if orientation != _EXIF_UPRIGHT:
        raise DataError(f"picture and annotations differ: EXIF turns the picture (orientation {orientation})", remedy)
