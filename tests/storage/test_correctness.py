import base64

import numpy as np
import pytest

from qprune.storage.correctness import classes_of, correct_of, pack_bits, pack_classes, unpack_classes


@pytest.mark.parametrize("classes", [1, 2, 10, 256, 257, 65_536])
@pytest.mark.parametrize("images", [0, 1, 7, 1000])
def test_classes_come_back(classes, images):
    numbers = np.random.default_rng(0).integers(0, classes, images)
    numbers[-1:] = classes - 1
    assert unpack_classes(pack_classes(numbers), images).tolist() == numbers.tolist()


def test_ten_thousand_images_of_ten_classes_take_little_space():
    assert len(pack_classes(np.random.default_rng(0).integers(0, 10, 10_000))) < 7000


def test_what_can_t_be_a_class_is_refused():
    for number in (-1, 65_536):
        with pytest.raises(ValueError, match=f"not {number}"):
            pack_classes(np.array([0, number]))
    with pytest.raises(ValueError, match="6 bytes are no classes of 4 images"):
        unpack_classes(pack_classes(np.array([1, 2, 3, 4, 5, 6])), 4)


def test_both_forms_say_which_images_are_right():
    labels, predicted = np.array([0, 300, 2, 1]), np.array([0, 300, 1, 1])
    new = {"labels": pack_classes(labels), "predicted": pack_classes(predicted), "images": 4}
    old = {"correct": pack_bits(labels == predicted), "images": 4}
    assert correct_of(new).tolist() == correct_of(old).tolist() == [True, True, False, True]
    assert classes_of(new)[1].tolist() == predicted.tolist() and classes_of(old) is None
    assert base64.b64decode(old["correct"]) == bytes([0b11010000])
    with pytest.raises(KeyError):
        correct_of({"images": 4})
