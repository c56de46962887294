"""Preprocessing inside an ONNX graph: pixels as Pillow's, to a level; what a graph can't say is refused."""

from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from qprune.data.preprocessing import RESIZES, Preprocessing, as_preprocess
from qprune.data.read_picture import resized_to
from qprune.deploy.commands import export_command
from qprune.deploy.embed import RESIZES as EMBEDDED
from qprune.deploy.embed import check_embeddable, embed
from qprune.registry.errors import UserError

SIZES = ((40, 30), (9, 7), (16, 61), (333, 500), (16, 16), (15, 100))  # width, height
WAYS = [{"resize": r, "filter": f} for r, f in product(RESIZES, EMBEDDED)]
WAYS += [
    {"antialias": False},
    {"antialias": False, "resize": "squash"},
    {"resize_to": 21},
    {"resize_to": 20, "resize": "squash"},
]


def across_then_down(pixels: np.ndarray, how: Preprocessing) -> np.ndarray:
    """uint8 [height, width, 3] by Pillow, one direction after the other: Pillow 13 itself goes down first in some pictures."""
    height, width, to = *pixels.shape[:2], how.resize_to
    scale = to / min(height, width)
    size = (to, to) if how.resize == "squash" else (max(to, int(width * scale)), max(to, int(height * scale)))
    across = resized_to(Image.fromarray(pixels), (size[0], height), how.filter, how.antialias)
    if how.antialias:
        return np.asarray(resized_to(across, size, how.filter, how.antialias))
    return np.asarray(resized_to(Image.fromarray(pixels), size, how.filter, how.antialias))


def cut(pixels: np.ndarray, how: Preprocessing) -> np.ndarray:
    """[height, width, 3] -> float [3, size, size]: the centre."""
    top, left = (round((side - how.height) / 2) for side in pixels.shape[:2])
    return pixels[top : top + how.height, left : left + how.width].transpose(2, 0, 1).astype(float)


@pytest.mark.parametrize("options", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_the_pixels_are_those_of_the_files_up_to_ties(tmp_path, options):
    how = Preprocessing.of_pictures(16, as_preprocess(options))
    images, logits = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3, 16, 16]) for n in ("images", "logits")
    )
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["logits"])], "network", [images], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(embed(model, how), tmp_path / "file.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "file.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "file.onnx", providers=["CPUExecutionProvider"])
    random, differ = np.random.RandomState(0), []
    for width, height in SIZES:
        pixels = random.randint(0, 256, (2, height, width, 3), np.uint8)
        expected = [cut(across_then_down(picture, how), how) for picture in pixels]
        (found,) = session.run(None, {"pictures": pixels})
        assert found.dtype == np.float32
        differ.append(np.abs(found * 255 - np.stack(expected)))
        assert differ[-1].max() <= 1.01, (width, height)
    assert (np.stack(differ) > 0.5).mean() < 0.03


@pytest.mark.parametrize("filter", ["area", "lanczos", "hamming", "box"])
def test_a_filter_that_onnx_cannot_say_is_refused_with_the_remedy(filter):
    how = Preprocessing.of_pictures(16, as_preprocess({"filter": filter}))
    with pytest.raises(
        UserError, match=rf"ONNX can't say the filter {filter}; train with preprocess: .*bicubic, nearest"
    ):
        check_embeddable(how, "imagefolder")


def test_data_that_are_no_pictures_and_other_formats_are_refused(resumable):
    results, cell = resumable / "results" / "tiny", "vgg_tiny-digits-taylor-fp32-r0.50-s0"
    with pytest.raises(UserError, match="digits isn't made of picture files.*export without it, and divide by 255"):
        export_command(results, cell, "onnx", embed_preprocessing=True)
    with pytest.raises(UserError, match="--embed-preprocessing is there for --format onnx, not for torch"):
        export_command(results, cell, "torch", embed_preprocessing=True)
    assert not (results / "exports").exists()
