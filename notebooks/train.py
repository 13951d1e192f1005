# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train
# An image encoder that answers with the prompt's vector, trained on pairs of pictures and prompts, offline. Inputs: the
# code dataset, the weights dataset (or the output of the `prepare` notebook), a dataset of pairs, and this notebook's
# own earlier output where a training goes on. Accelerator: GPU T4 x2. Internet: off. Its output, added to the main
# notebook as an input, is what recipe `pairs` asks there.
#
# `TIER` is what is trained (`head`, `blocks`, `full`), `TOWER` of which tower: `clip`, the weights' own, or the name of
# an input that holds a model of timm. `SETTINGS` are those of `train --set`; these fit ViT-g-14 by estimate, and `plan
# --train` says what fits others.

# %%
import glob
import os
import sys

TIER = os.environ.get("IMAGE_TO_PROMPTS_TIER", "blocks")
TOWER = os.environ.get("IMAGE_TO_PROMPTS_TOWER", "clip")
SETTINGS = os.environ.get("IMAGE_TO_PROMPTS_SETTINGS", "accumulate=16 trained_layers=0.25").split()
INPUT = os.environ.get("IMAGE_TO_PROMPTS_INPUT", "/kaggle/input")
MARKERS = glob.glob(f"{INPUT}/*/image-to-prompts.json") + glob.glob(f"{INPUT}/datasets/*/*/image-to-prompts.json")
if len(MARKERS) != 1:
    raise RuntimeError(
        f"expected one code dataset (image-to-prompts.json) under {INPUT}, found {MARKERS}. Add it as input"
    )
sys.path.insert(0, os.path.dirname(MARKERS[0]))
sys.dont_write_bytecode = True  # nothing is written into what is mounted
from kernel.notebook.training import Training

training = Training(INPUT)

# %% [markdown]
# What Kaggle's image lacks, from wheels.

# %%
training.install_wheels()

# %% [markdown]
# One process for each GPU; it ends after 11 and a half hours at the latest, and the next version goes on.

# %%
training.train(TIER, TOWER, SETTINGS)

# %% [markdown]
# What stands, and whether Kaggle saves all of it.

# %%
training.finish()
