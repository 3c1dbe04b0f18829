"""What lies around the networks: boxes from a map, order, crops, batches, decoding. Each against a second way of computing it."""

from __future__ import annotations

from itertools import groupby

import cv2
import numpy as np
import pyclipper
import pytest

from contracts.ocr import CROP_HEIGHT, OCR_RECOGNIZE
from vision import ocr_detect, ocr_recognize, preprocess
from vision.ocr_detect import Found

from .drawn import receipt


def drawn_map(*rectangles, size=(240, 400)):
    text_map = np.zeros(size, np.uint8)
    for rectangle in rectangles:
        cv2.fillPoly(text_map, [np.int32(np.round(cv2.boxPoints(rectangle)))], 230)
    return text_map


def by_polygons(text_map, growth):
    """Boxes the long way: each contour's rectangle offset as a polygon, and the smallest rectangle around that."""
    mask = cv2.dilate((text_map > 76).astype(np.uint8), np.ones((2, 2), np.uint8))
    found = []
    for contour in cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]:
        points = cv2.boxPoints(cv2.minAreaRect(contour))
        area, around = cv2.contourArea(points), cv2.arcLength(points, True)
        offset = pyclipper.PyclipperOffset()
        offset.AddPath(np.round(points * 64).astype(int).tolist(), pyclipper.JT_MITER, pyclipper.ET_CLOSEDPOLYGON)
        found.append(cv2.minAreaRect(np.float32(offset.Execute(area * growth / around * 64)[0]) / 64))
    return found


@pytest.mark.parametrize("angle", [0, 7, -13])
def test_boxes_are_those_of_offset_polygons(angle):
    text_map = drawn_map(((200, 60), (150, 12), angle), ((180, 170), (60, 16), angle))
    found = ocr_detect.boxes(text_map, 400, 240, 0.3, 0.5, 1.6)
    other = sorted(by_polygons(text_map, 1.6), key=lambda r: r[0][1])
    assert len(found) == len(other) == 2
    for quad, (centre, size, _) in zip(found.quads, other, strict=True):
        assert quad.mean(0) == pytest.approx(centre, abs=1)
        assert sorted(v[0] for v in ocr_detect.sizes(quad[None])) == pytest.approx(sorted(size), abs=1)


def test_boxes_are_in_pixels_of_the_picture_and_inside_it():
    text_map = drawn_map(((80, 40), (58, 16), 0), ((380, 230), (60, 18), 0))
    found = ocr_detect.boxes(text_map, 1600, 480, 0.3, 0.5, 1.6)
    assert found.quads[0].mean(0) == pytest.approx((4 * 80, 2 * 40), rel=0.05)
    assert (found.quads >= 0).all()
    assert (found.quads <= (1600, 480)).all()
    assert (found.scores > 0.8).all()


def test_the_print_itself_lies_inside_the_box_that_is_read():
    found = ocr_detect.boxes(drawn_map(((200, 60), (150, 12), 5), ((180, 170), (60, 16), 5)), 400, 240, 0.3, 0.5, 1.6)
    (wide, high), (inner_wide, inner_high) = ocr_detect.sizes(found.quads), ocr_detect.sizes(found.tight)
    np.testing.assert_allclose(found.tight.mean(1), found.quads.mean(1), atol=0.01)
    grown = high - 13  # of a core that dilation has made a pixel higher
    assert ((inner_high < high) & (inner_wide < wide)).all()
    assert (high - inner_high)[0] == pytest.approx(grown[0] * (1 - ocr_detect.TIGHT / 1.6), abs=0.6)


def test_specks_and_faint_marks_are_no_text():
    text_map = drawn_map(((200, 60), (1, 1), 0))
    text_map[150:165, 100:200] = 100  # above the map's threshold, below the box's
    assert len(ocr_detect.boxes(text_map, 400, 240, 0.3, 0.5, 1.6)) == 0
    assert len(ocr_detect.boxes(text_map, 400, 240, 0.3, 0.3, 1.6)) == 1


@pytest.mark.parametrize("degrees", [0, 10, -10])
def test_order_is_by_printed_row_then_left_to_right(degrees):
    """Two columns: each row's two pieces stay together although the page is skewed and rows of neighbours overlap in height."""
    cells = [(x, y, 90, 14) for y in range(40, 240, 30) for x in (60, 250)]
    turn = cv2.getRotationMatrix2D((150, 120), -degrees, 1)
    quads = []
    for x, y, w, h in cells:
        corners = np.array([[x, y, 1], [x + w, y, 1], [x + w, y + h, 1], [x, y + h, 1]], float)
        quads.append(corners @ turn.T)
    quads = np.array(quads, np.float32)
    shuffled = np.random.default_rng(3).permutation(len(quads))
    found = ocr_detect.in_order(Found(quads[shuffled], shuffled.astype(np.float32)))
    assert found.scores.tolist() == list(range(len(quads)))
    assert np.degrees(ocr_detect.skew(quads)) == pytest.approx(degrees, abs=0.5)


def rectangle(x, y, width, height):
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


def test_a_page_on_its_side_is_told_by_its_boxes():
    upright = np.array([rectangle(10, 30 * i, 120, 20) for i in range(4)] + [rectangle(200, 0, 12, 20)], np.float32)
    side = np.array([rectangle(30 * i, 10, 20, 120) for i in range(4)] + [rectangle(0, 200, 60, 20)], np.float32)
    assert not ocr_detect.sideways(Found(upright, np.ones(5)))
    assert ocr_detect.sideways(Found(side, np.ones(5)))


def test_a_lone_digit_is_not_text_that_runs_downwards():
    quads = np.array(
        [rectangle(10, 30 * i, 120, 20) for i in range(4)] + [rectangle(200, 0, 12, 21), rectangle(230, 0, 20, 150)], np.float32
    )
    assert ocr_detect.downwards(Found(quads, np.ones(6))).tolist() == [False] * 5 + [True]


@pytest.mark.parametrize("quarters", range(4))
def test_corners_on_a_turned_picture_come_back(quarters):
    picture = np.zeros((50, 80, 3), np.uint8)
    picture[10:14, 60:70] = 255
    turned = preprocess.turned(picture, quarters)
    ys, xs = np.nonzero(turned[..., 0])
    box = np.float32([[[xs.min(), ys.min()], [xs.max() + 1, ys.min()], [xs.max() + 1, ys.max() + 1], [xs.min(), ys.max() + 1]]])
    back = preprocess.turned_back(box, quarters, 80, 50)[0]
    assert (back.min(0).tolist(), back.max(0).tolist()) == ([60, 10], [70, 14])


@pytest.mark.parametrize(("height", "width"), [(1000, 450), (320, 960), (5000, 3000), (20, 700), (33, 8)])
def test_detection_gets_sizes_it_can_take_and_never_a_larger_picture(height, width):
    fitted = preprocess.fitted(np.zeros((height, width, 3), np.uint8), 960)
    assert all(side % 32 == 0 and 32 <= side <= 960 + 16 for side in fitted.shape[:2])
    assert all(new <= max(32, old + 16) for new, old in zip(fitted.shape, (height, width), strict=False))


def test_a_picture_of_a_fitting_size_is_taken_as_it_is():
    picture = np.zeros((960, 480, 3), np.uint8)
    assert preprocess.fitted(picture, 960) is picture


def test_a_crop_is_the_picture_inside_its_corners():
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (200, 300, 3)).astype(np.uint8), (0, 0), 4)
    quad = np.float32(rectangle(40, 60, 160, 30))
    crop = preprocess.crop(picture, quad, 2048)
    expected = cv2.resize(picture[60:90, 40:200], (256, CROP_HEIGHT), interpolation=cv2.INTER_LINEAR)
    assert crop.shape == expected.shape
    inner = np.abs(crop.astype(int) - expected)[4:-4, 4:-4]
    assert inner.mean() < 3  # the two place a pixel's centre half a pixel apart
    upside_down = preprocess.crop(picture, np.roll(quad, 2, axis=0), 2048)
    assert np.abs(upside_down[::-1, ::-1].astype(int) - crop)[4:-4, 4:-4].mean() < 3


def test_a_large_crop_keeps_thin_strokes():
    picture = np.full((400, 1200, 3), 255, np.uint8)
    picture[::8] = 0  # a line of one pixel in eight, 300 pixels high
    crop = preprocess.crop(picture, np.float32(rectangle(20, 40, 1100, 300)), 2048)
    assert crop[6:-6].mean() == pytest.approx(255 * 7 / 8, abs=4)
    assert crop[6:-6].std() < 40, "every stroke is averaged in, none is skipped and none stands out"


def test_a_very_long_text_is_squeezed():
    assert preprocess.crop(np.zeros((40, 3000, 3), np.uint8), np.float32(rectangle(0, 5, 2990, 10)), 2048).shape == (CROP_HEIGHT, 2048, 3)


def test_batches_hold_every_crop_once_padded_by_its_own_width():
    rng = np.random.default_rng(1)
    widths = [*rng.integers(8, 2049, 40), 8, 2048, 64, 65] + [100] * 30
    crops = [np.full((CROP_HEIGHT, w, 3), 200, np.uint8) for w in widths]
    found = ocr_recognize.batches(crops)
    assert sorted(m for members, _ in found for m in members) == list(range(len(crops)))
    for members, batch in found:
        assert batch.shape == (len(members), CROP_HEIGHT, ocr_recognize.padded_width(crops[members[0]].shape[1]), 3)
        assert 1 <= len(members) <= OCR_RECOGNIZE.max_batch_size
        assert len(members) == 1 or batch.shape[0] * batch.shape[2] <= ocr_recognize.BATCH_PIXELS
        for row, member in enumerate(members):
            assert (batch[row, :, : widths[member]] == 200).all()
            assert (batch[row, :, widths[member] :] == preprocess.PADDING).all()
    padded = [batch.shape[2] for _, batch in found]
    assert padded == sorted(padded, reverse=True)
    assert ocr_recognize.batches([]) == []


def by_groups(characters, probabilities, alphabet):
    """Greedy CTC the short way."""
    steps = zip(characters[:, 0].tolist(), probabilities[:, 0].tolist(), strict=True)
    groups = [(c, max(p for _, p in g)) for c, g in groupby(steps, key=lambda s: s[0])]
    return "".join(alphabet[c - 1] for c, _ in groups if c), [p for c, p in groups if c]


def test_decoding_is_that_of_groups():
    rng = np.random.default_rng(5)
    for _ in range(50):
        steps = int(rng.integers(1, 40))
        characters = np.stack([rng.permutation(4)[:3] for _ in range(steps)]).astype(np.int32)
        probabilities = np.sort(rng.dirichlet(np.ones(4), steps)[:, :3].astype(np.float32), axis=1)[:, ::-1]
        reading = ocr_recognize.decode(characters, probabilities, "abc")
        text, sure = by_groups(characters, probabilities, "abc")
        assert reading.text == text
        assert reading.characters == pytest.approx(sure, abs=1e-4)
        assert reading.confidence == pytest.approx(np.mean(sure) if sure else 0, abs=1e-3)
        assert len(reading.alternatives) == len(reading.text)


def test_alternatives_are_the_other_characters_of_the_surest_step():
    characters = np.int32([[0, 1, 2], [2, 3, 0], [2, 1, 0], [0, 1, 2], [2, 0, 1]])
    probabilities = np.float32([[0.9, 0.05, 0.05], [0.6, 0.4, 0.0], [0.7, 0.2, 0.1], [1, 0, 0], [0.995, 0.003, 0.002]])
    reading = ocr_recognize.decode(characters, probabilities, "058")
    assert reading.text == "55"
    assert reading.alternatives == ((("0", pytest.approx(0.2)),), ())


def test_contrast_is_raised_where_there_is_little():
    pale = receipt(paper=120, ink=95)
    assert preprocess.contrast_of(pale) < preprocess.CONTRAST_LOW
    raised = preprocess.stretched(pale)
    assert preprocess.contrast_of(raised) > 1.5 * preprocess.contrast_of(pale)
    assert raised.shape == pale.shape
    assert raised.dtype == np.uint8
