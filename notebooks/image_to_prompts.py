# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Image to prompts
# Stable Diffusion images in, embeddings of their prompts out, offline. Inputs: the competition, the code dataset, and
# the weights dataset (or the output of the `prepare` notebook). Accelerator: GPU T4 x2. Internet: off.

# %%
import glob
import os
import sys

INPUT = os.environ.get("IMAGE_TO_PROMPTS_INPUT", "/kaggle/input")
MARKERS = glob.glob(f"{INPUT}/*/image-to-prompts.json") + glob.glob(f"{INPUT}/datasets/*/*/image-to-prompts.json")
if len(MARKERS) != 1:
    raise RuntimeError(
        f"expected one code dataset (image-to-prompts.json) under {INPUT}, found {MARKERS}. Add it as input"
    )
CODE = os.path.dirname(MARKERS[0])
sys.path.insert(0, CODE)
sys.dont_write_bytecode = True  # nothing is written into what is mounted
import kernel.notebook

if not kernel.notebook.__file__.startswith(CODE + os.sep):
    raise RuntimeError(f"kernel was imported from {kernel.notebook.__file__}, not from {CODE}. Restart the session")

# %% [markdown]
# First a valid submission: one constant row for every image. Whatever happens later, it stands.

# %%
session = kernel.notebook.Session(INPUT)

# %% [markdown]
# What Kaggle's image lacks, from wheels.

# %%
session.install_wheels()

# %% [markdown]
# The whole line, in a process of its own. Recipe `text` asks the prompt bank of the weights dataset; a dataset without
# one is for `baseline`.

# %%
session.run("text")

# %% [markdown]
# Score and pictures, where the prompts are known.

# %%
session.show()

# %% [markdown]
# What stands, and what went wrong.

# %%
session.finish()
