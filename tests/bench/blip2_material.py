"""For job `blip2`: a BLIP-2 of flan-t5-xl's true widths and vocabulary with few layers, and the bench's other models.

Few layers of each part, so that it fits memory and minutes: 0.45 G parameters, 1.8 GB in float32.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from kernel.models.captioners.blip2 import BLIP2, flan_t5
from kernel.models.captioners.captioner import Published
from kernel.models.weights_folder import MANIFEST, Weights, read_manifest, write_manifest
from kernel.pipeline.planning.models import COSTS, keep_costs
from tests.bench.material import Material, link_pictures
from tests.bench.truesize.sizes import SIZES, Sizes, published_clip
from tests.bench.truesize.weights import captioner_tensors, put_captioner


def few_layers() -> dict[str, Any]:
    """3 of EVA's 39, 2 of the Q-Former's 12, of which the first looks at the image, and 2 of 24 and 24 of flan-T5-xl's;
    widths, heads and vocabulary are the classes' own and flan_t5's."""
    language = flan_t5(2048, 5120, 32)
    text = {**language["text_config"], "num_layers": 2, "num_decoder_layers": 2}
    return {
        **language,
        "text_config": text,
        "vision_config": {"num_hidden_layers": 3},
        "qformer_config": {"num_hidden_layers": 2},
    }


FEW_LAYERS = Sizes("few layers", published_clip, Published("few layers of blip2", BLIP2.class_name, few_layers()))


def prepare_blip2(folder: Path, others: Material, small: bool = False) -> Material:
    """Makes what is not there yet: links to the pictures, models and words of `others` but for its captioner. `small`:
    a tiny one, for a test of the bench itself."""
    material = Material(folder)
    link_pictures(folder, others)
    if not (material.weights / MANIFEST).is_file():
        unfinished = folder / ".weights.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        left_out = shutil.ignore_patterns("captioners", COSTS, MANIFEST)
        shutil.copytree(others.weights, unfinished, copy_function=os.link, ignore=left_out)
        sizes = SIZES["tiny"] if small else FEW_LAYERS
        own = put_captioner(unfinished / "captioners" / "blip2", sizes, captioner_tensors(sizes, "float32"))
        models = read_manifest(others.weights / MANIFEST).models
        models = {name: model for name, model in models.items() if name != "blip"}
        models["blip2"] = {**own, "source": "random numbers", "revision": sizes.name}
        keep_costs(Weights(unfinished, models, ["blip2"]))
        write_manifest(unfinished, models, ["blip2"])
        unfinished.replace(material.weights)
    return material
