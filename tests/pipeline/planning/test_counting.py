import torch

from kernel.pipeline.planning.counting import Work, count


def test_operations_are_two_a_multiply_add_and_peak_is_what_lives_at_once():
    weight = torch.empty(4, 8, device="meta")
    given = torch.empty(2, 4, device="meta")

    def forward():
        product = given @ weight  # 2 x 8 floats: 64 bytes
        product = product + 1  # 128 while both live, then 64
        return product[:, :4] * 2  # a view costs nothing; 2 x 4 floats: 96 while both live

    assert count(forward, half=False) == Work(0, 2 * 2 * 4 * 8, 128)


def test_what_a_call_is_given_and_changes_in_place_is_not_counted():
    given = torch.empty(1000, device="meta")
    assert count(lambda: given.add_(1).mul_(2), half=False) == Work(0, 0, 0)


def test_products_are_told_apart_by_dtype_and_attention_counts_as_half():
    half, single = (torch.empty(1, 2, 2, device="meta", dtype=dtype) for dtype in (torch.float16, torch.float32))
    both = count(lambda: (half[0] @ half[0], single[0] @ single[0]), half=True)
    assert (both.half_operations, both.single_operations) == (16, 16)
    attention = count(lambda: torch.bmm(single, single), half=True)
    assert (attention.half_operations, attention.single_operations) == (16, 0)
    assert count(lambda: torch.bmm(single, single), half=False).single_operations == 16
