# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Prepare
# Gets the weights on Kaggle itself, for people without an uplink: internet **on**, GPU on, the code dataset as input.
# Save and run all; then add this notebook's output to the main notebook as an input, instead of the weights dataset.
#
# `PROMPTS` is how many public prompts to build a prompt bank from, which recipe `text` asks; 0 for none, and then only
# recipe `baseline` runs. A million takes by estimate one to two hours more, and 3 GB. Cells that are run again go on.

# %%
import glob
import os
import sys

PROMPTS = int(os.environ.get("IMAGE_TO_PROMPTS_PROMPTS", "1000000"))
INPUT = os.environ.get("IMAGE_TO_PROMPTS_INPUT", "/kaggle/input")
MARKERS = glob.glob(f"{INPUT}/*/image-to-prompts.json") + glob.glob(f"{INPUT}/datasets/*/*/image-to-prompts.json")
if len(MARKERS) != 1:
    raise RuntimeError(
        f"expected one code dataset (image-to-prompts.json) under {INPUT}, found {MARKERS}. Add it as input"
    )
sys.path.insert(0, os.path.dirname(MARKERS[0]))
sys.dont_write_bytecode = True  # nothing is written into what is mounted
from pathlib import Path

from kernel.publish.prepare import Preparation

preparation = Preparation(Path.cwd(), Path(os.environ.get("IMAGE_TO_PROMPTS_SCRATCH", "/kaggle/tmp")), PROMPTS)

# %%
preparation.wheels()

# %% [markdown]
# The prompts come first: what is wrong with them shows in minutes, before the gigabytes.

# %%
preparation.prompts()

# %% [markdown]
# About 23 GB are downloaded, one file at a time; about 13 GB of results are left.

# %%
preparation.weights()

# %%
preparation.bank()

# %%
preparation.finish()
