"""How far half precision may lie from float32.

A rounding to float16 is off by at most 2^-11 of the number, up or down as it comes. 100 of them one after the other,
more than a miniature's few blocks make, add up to sqrt(100) of these: half a hundredth.
"""

RELATIVE_ERROR = 100**0.5 * 2**-11
# of a unit row and the same with an error of that length across it: 1 - e^2 / 2
COSINE = 1 - RELATIVE_ERROR**2 / 2


def seen_by_a_random_row(width: int) -> float:
    """How much of an error of that length shows in the product with a random unit row: four times its spread."""
    return 4 * RELATIVE_ERROR / width**0.5
