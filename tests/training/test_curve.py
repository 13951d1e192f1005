from xml.etree import ElementTree

from kernel.training.curve import HEIGHT, WIDTH, curve_picture, curve_table

VALIDATIONS, LOSSES = {0: 0.5, 10: 0.7, 20: 0.6}, {10: 0.4, 20: 0.3}
SVG = "{http://www.w3.org/2000/svg}"


def test_the_table_has_a_row_a_validation_and_no_loss_before_the_first_step():
    assert curve_table(VALIDATIONS, LOSSES).splitlines() == [
        "step,validation,loss", "0,0.500000,", "10,0.700000,0.4", "20,0.600000,0.3"
    ]  # fmt: skip


def test_the_picture_has_both_lines_within_it_and_a_ring_at_the_best():
    root = ElementTree.fromstring(curve_picture(VALIDATIONS, LOSSES))
    lines = [[tuple(map(float, own.split(","))) for own in line.get("points").split()]
             for line in root.iter(f"{SVG}polyline")]  # fmt: skip
    assert [len(line) for line in lines] == [3, 2]
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for line in lines for x, y in line)
    (ring,) = root.iter(f"{SVG}circle")
    highest = min(lines[0], key=lambda place: place[1])
    assert (float(ring.get("cx")), float(ring.get("cy"))) == highest == lines[0][1]
    assert "best 0.7000 at step 10" in " ".join(own.text for own in root.iter(f"{SVG}text"))


def test_a_training_that_ended_before_its_first_step_has_a_picture_too():
    assert "best 0.5000 at step 0" in curve_picture({0: 0.5}, {})
