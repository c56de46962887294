"""flowers102: 8,189 photographs of 102 kinds of flowers (Nilsback & Zisserman, ICVGIP 2008).

The official splits: 1,020 train, 1,020 val, 6,149 test. Resized and cut to `image_size` as in imagefolder.
Files as torchvision lays them out: <root>/flowers-102/{jpg/, imagelabels.mat, setid.mat}.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qprune.data.base import Listing
from qprune.data.files import fetch, fetch_file, hash_files, not_found, unpack
from qprune.data.pictures import identity
from qprune.data.places import default_root
from qprune.data.remembered import remembering
from qprune.registry.errors import UserError

FOLDER = "flowers-102"
MATRICES = ("imagelabels.mat", "setid.mat")
URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
ARCHIVE = "102flowers.tgz"
MD5 = {  # torchvision's
    ARCHIVE: "52808999861908f626f3c1f4e79d11fa",
    "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
    "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
}
NAMES = """\
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid, bird
of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris, globe-flower,
purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower, fritillary, red
ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke, sweet william, carnation,
garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort,
siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia, bolero deep blue, wallflower, marigold,
buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula, sunflower, pelargonium, bishop of llandaff,
gaura, geranium, orange dahlia, pink-yellow dahlia?, cautleya spicata, japanese anemone, black-eyed susan, silverbush,
californian poppy, osteospermum, spring crocus, bearded iris, windflower, tree poppy, gazania, azalea, water lily,
rose, thorn apple, morning glory, passion flower, lotus, toad lily, anthurium, frangipani, clematis, hibiscus,
columbine, desert-rose, tree mallow, magnolia, cyclamen, watercress, canna lily, hippeastrum, bee balm, ball moss,
foxglove, bougainvillea, camellia, mallow, mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily
"""  # torchvision's, whose release 0.21 lacks them
CLASSES = tuple(" ".join(NAMES.split()).split(", "))


def _root(options: dict) -> Path:
    """The folder that holds flowers-102; a root that is itself flowers-102 is accepted too."""
    root = Path(options["root"]) if options["root"] else default_root("flowers102")
    return root.parent if root.name == FOLDER else root


def _missing(options: dict) -> str | None:
    folder = _root(options) / FOLDER
    if not (folder / "jpg").is_dir():
        return "jpg/"
    return next((file for file in MATRICES if not (folder / file).is_file()), None)


def check(options: dict) -> None:
    missing = _missing(options)
    if missing and not options["download"]:
        raise not_found("flowers102", missing, [_root(options) / FOLDER])


def _folder(options: dict) -> Path:
    """The folder of the files, downloaded first where that is wanted and needed."""
    check(options)
    root = _root(options)
    if _missing(options):
        fetch("flowers102", root, lambda: _download(root / FOLDER))
    return root / FOLDER


def _download(folder: Path) -> None:
    """Fetches what is missing or damaged; jpg/ is put in place as a whole."""
    for file in MATRICES:
        fetch_file(folder / file, [URL + file], MD5[file])
    if not (folder / "jpg").is_dir():
        fetch_file(folder / ARCHIVE, [URL + ARCHIVE], MD5[ARCHIVE])
        unpack(folder / ARCHIVE, folder / "jpg")


def _read_matrix(path: Path, keys: tuple[str, ...]) -> list[np.ndarray]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        matrix = loadmat(path, squeeze_me=True)
        return [np.atleast_1d(matrix[key]).astype(np.int64) for key in keys]
    except (MatReadError, OSError, LookupError, ValueError, TypeError) as error:
        raise UserError(
            f"data flowers102: {path} is damaged or only half downloaded ({error}). "
            "Remove it and set download: true, which fetches it again."
        ) from error


def listing(options: dict) -> Listing:
    folder = _folder(options)
    (labels,) = _read_matrix(folder / "imagelabels.mat", ("labels",))  # [8189], 1..102
    numbered = _read_matrix(folder / "setid.mat", ("trnid", "valid", "tstid"))  # numbers of images, from 1
    parts = {}
    for split, numbers in zip(("train", "val", "test"), numbered, strict=True):
        files = [folder / "jpg" / f"image_{number:05d}.jpg" for number in numbers]
        absent = next((file for file in files if not file.is_file()), None)
        if absent or numbers.max() > len(labels):
            raise UserError(
                f"data flowers102: the set is incomplete, {absent or 'a label'} not found. "
                f"Remove {folder} and set download: true, or unpack the official archive again."
            )
        parts[split] = files, labels[numbers - 1] - 1
    return Listing(folder, parts, CLASSES)


def fingerprint(options: dict) -> str:
    folder = _folder(options)
    pictures = sorted((folder / "jpg").glob("image_*.jpg"))
    with remembering(len(pictures)):
        named = [(file, folder / file) for file in MATRICES] + [(identity(file.name, file), file) for file in pictures]
        return hash_files(named)
