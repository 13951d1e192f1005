"""How tests/whole/test_readme.py executes each command of README and docs/, and which few it cannot."""

from dataclasses import dataclass
from typing import Any

KERNEL = ".venv/bin/python -m kernel "
PINNED = " --pins OUT/pins.json --out OUT/{} --scratch OUT/downloads"


@dataclass(frozen=True)
class Way:
    """How a command is executed: in which place, with what behind it, after which commands, and what it leaves.

    Places: `reader` is a folder of the reader's own, `project` the project beside Kaggle's server, `hub` the project
    beside the server of models, prompts or pairs, `root` the project itself, `browser` the same with a report for
    Chromium. `leaves` is a file in that folder, or in OUT, a folder of the test's.
    """

    place: str
    more: str = ""
    after: tuple[str, ...] = ()
    leaves: str = ""
    slow: bool = False
    code: int = 0


def reader(leaves: str = "", **others: Any) -> Way:
    return Way("reader", leaves=leaves, **others)


def slow(more: str, leaves: str = "") -> Way:
    return Way("root", more, leaves=leaves, slow=True)


PUSH = "publish push --wait"
CAPTIONERS = "publish weights --captioners git blip"
PAIRS = "publish dataset --pairs build/pairs"
TRAIN = "train PAIRS --weights build/weights --out ENCODER --tier blocks"
TORCHRUN = ".venv/bin/python -m torch.distributed.run "
BANK = "bank build/prompts.parquet --weights build/kaggle-weights --out build/prompt_bank"
WAYS = {
    KERNEL + "run IMAGES --weights build/weights --out RUN": reader("RUN-own/submission.csv"),
    KERNEL + "run IMAGES --out RUN --set num_beams=3 --set captions_per_image=3": reader("RUN-own/submission.csv"),
    KERNEL + "run IMAGES --out RUN --set modifiers.flavors=5 --set modifiers./home/me/words.txt=2": reader(
        "RUN-own/submission.csv"
    ),
    KERNEL + "check RUN/submission.csv IMAGES": reader(),
    KERNEL + "evaluate RUN/submission.csv prompts.csv --weights build/weights": reader(),
    KERNEL + "report RUN": reader("RUN/report.html"),
    KERNEL + "report RUN --prompts prompts.csv": reader("RUN/report.html"),
    KERNEL + "report RUN --pictures-beside": reader("RUN/report_pictures/000000.jpg"),
    KERNEL + "report RUN --images IMAGES --weights build/weights": reader("RUN/report.html"),
    KERNEL + "captioners": reader(),
    KERNEL + "run IMAGES --out RUN --set captioner=blip": reader("RUN-own/submission.csv"),
    KERNEL + "run IMAGES --out RUN --set captioner=blip2,blip": reader("RUN-own/submission.csv"),
    KERNEL + "plan --set captioner=blip2,coca": reader(),
    KERNEL + "describe IMAGES --captioner blip2,blip": reader(),
    KERNEL + "doctor": reader(),
    KERNEL + "doctor --deep --json": reader(),
    KERNEL + "explain IMAGE --weights build/weights": reader(),
    KERNEL + "plan --gpu T4x2 --images 16000": reader(),
    KERNEL + "describe build/demo/competition/images": reader(),
    KERNEL + "describe IMAGES": reader(),
    KERNEL + "describe IMAGE --mode best --without artists": reader(),
    KERNEL + "describe 'IMAGES/*.png' --mode classic --words /home/me/words.txt --json": reader(),
    KERNEL + "describe IMAGES --mode negative --top 8": reader(),
    KERNEL + "describe IMAGES --write txt": reader("IMAGES/a.txt"),
    KERNEL + "describe 'IMAGES/*.png' --write txt --existing overwrite": reader("IMAGES/a.txt"),
    KERNEL + "describe IMAGES --write txt --existing append --form tags --prefix sks --max-tokens 75": reader(
        "IMAGES/a.txt"
    ),
    KERNEL + "describe IMAGES --write jsonl --recursive --ban /home/me/words.txt": reader("IMAGES/metadata.jsonl"),
    KERNEL + "describe IMAGES --write csv --out captions.csv": reader("captions.csv"),
    KERNEL + "describe IMAGES --language ko": reader(),
    KERNEL + "describe IMAGE --language ko --mode best --json": reader(),
    KERNEL + BANK: reader("build/prompt_bank/bank.json"),
    KERNEL + "train PAIRS --weights build/weights --out ENCODER": reader("ENCODER/encoder.json", more=" --near 0.99"),
    KERNEL + "fit PAIRS --bank BANK --out FIT": reader(
        "BANK/fusion.json", after=("bank build/prompts.parquet --exclude PAIRS/prompts.csv --near 1.0 --out BANK",)
    ),
    KERNEL + "publish prompts --list": reader(),
    "python -m kernel --help": reader(),
    "python -m kernel COMMAND --help": reader(),
    KERNEL + "plan --train": reader(),
    KERNEL + "plan --train --weights build/kaggle-weights": reader(),
    KERNEL + "plan --bank-prompts 56000000 --machines 8xL4 --price 0.80": reader(),
    KERNEL + "plan --train --pairs 10600000 --machines 8xL4 --price 0.80": reader(),
    "python -m kernel plan --gpu ...": reader(),
    # miniature weights are not those whose words it knows, which it says
    "python -m kernel verify RUN": reader(code=1),
    "make plan": reader(),
    KERNEL + "publish init --user NAME": Way("project"),
    KERNEL + "publish init --user NAME --weights-from prepare": Way("project"),
    KERNEL + "publish init --user NAME --trained": Way("project"),
    KERNEL + PAIRS: Way("project", leaves="build/pairs-dataset/drawn-000.pairs"),
    KERNEL + "publish push --train --wait": Way("project", after=(PAIRS,), leaves="build/kaggle/train.json"),
    KERNEL + "publish push --prepare --wait": Way("project", leaves="build/kaggle/prepare.json"),
    KERNEL + "publish push --wait --pin": Way("project", after=(PUSH,), leaves="build/kaggle/push.json"),
    "make push": Way("project", leaves="build/kaggle/push.json"),
    "make submit": Way("project", after=(PUSH,), leaves="submissions.jsonl"),
    "make dataset": Way("project", leaves="build/dataset/manifest.json"),
    "make notebooks": Way("project", leaves="notebooks/prepare.ipynb"),
    "make wheels": Way("project"),
    "make rehearse": Way(
        "project", " --this-python --images 8 --variant visible --layout new --weights WEIGHTS",
        leaves="build/rehearsal/rehearsal.json", slow=True,
    ),
    ".venv/bin/kaggle kernels push -p .": Way("project"),
    KERNEL + "publish weights --pin": Way("hub", PINNED.format("weights"), leaves="OUT/pins.json"),
    "make weights": Way(
        "hub", PINNED.format("weights"), after=("publish weights --pin",), leaves="OUT/weights/manifest.json"
    ),
    KERNEL + CAPTIONERS + " --pin": Way("hub", PINNED.format("weights"), leaves="OUT/pins.json"),
    KERNEL + CAPTIONERS: Way(
        "hub", PINNED.format("weights"), after=(CAPTIONERS + " --pin",),
        leaves="OUT/weights/captioners/git/model.safetensors",
    ),
    KERNEL + "publish weights --bank build/prompt_bank": Way(
        "hub", PINNED.format("weights"),
        after=("publish weights --pin", "publish weights",
               "bank WEIGHTS/prior.txt --weights OUT/weights --out OUT/prompt_bank"),
        leaves="OUT/weights/prompt_bank/bank.json",
        slow=True,
    ),
    KERNEL + "publish prompts --pin": Way("hub", PINNED.format("prompts.parquet"), leaves="OUT/pins.json"),
    KERNEL + "publish prompts": Way(
        "hub", PINNED.format("prompts.parquet"), after=("publish prompts --pin",), leaves="OUT/prompts.parquet"
    ),
    KERNEL + "publish prompts --source sd-4.4M --pin": Way(
        "hub", PINNED.format("prompts.parquet"), leaves="OUT/pins.json"
    ),
    KERNEL + "publish prompts --mix sd-4.4M=0.5,coco=0.3,vizwiz=0.2": Way(
        "hub", PINNED.format("prompts.parquet"), after=("publish prompts --source sd-4.4M --pin",),
        leaves="OUT/prompts.parquet",
    ),
    KERNEL + "publish pairs sd-4.4M --limit 400000 --weights build/kaggle-weights --out PAIRS": Way(
        "hub", PINNED.format("PAIRS") + " --limit 1000 --weights WEIGHTS --device cpu", leaves="OUT/PAIRS/split.json",
        slow=True,
    ),
    "make docs": Way("root", " --docs OUT/docs"),
    "make miniature": slow(" --out OUT/weights", "OUT/weights/manifest.json"),
    "make figures": slow(" --pictures 8"),
    "make scale": slow(" --images 20 --out OUT", "OUT/scale.json"),
    "make deadlines": slow(" --images 4 --budgets 900 --out OUT", "OUT/deadlines.json"),
    "make truesize": slow(" --size tiny --images 2 --out OUT", "OUT/truesize.json"),
    "python -m tests.bench.truesize": slow(" --size tiny --images 2 --out OUT", "OUT/truesize.json"),
    "make bench": slow(" --small --rounds 1 --out OUT", "OUT/bench.json"),
    "make curves": slow(" --small --out OUT", "OUT/curves.json"),
    "python -m tests.bench.search": slow(" --prompts 200 400 --images 2 --dimensions 16 --out OUT", "OUT/search.json"),
    "python -m tests.bench.tried": slow(" --small --out OUT", "OUT/tried.md"),
    "make parity": slow(" --small --images 2 --best 1 --top 1 --out OUT"),
    "python -m tests.bench.parity --true-shape --best 1 --top 1": slow(" --small --images 2 --out OUT"),
    ".venv/bin/python -m kernel.miniature.training.train_clip": slow(
        " --steps 1 --pictures 64 --batch 8 --out OUT", "OUT/open_clip_model.safetensors"
    ),
    ".venv/bin/python -m kernel.miniature.training.train_captioner blip2": slow(
        " --steps 1 --pictures 64 --batch 8 --out OUT"
    ),
    ".venv/bin/python -m kernel.miniature.training.train_matching": slow(
        " --steps 1 --pictures 64 --batch 8 --out OUT", "OUT/model.safetensors"
    ),
    ".venv/bin/python -m kernel.miniature.training.train_captioner blip --steps 1800": slow(
        " --steps 1 --pictures 64 --batch 8 --out OUT"
    ),
    "make screenshots": Way(
        "browser", " --report OUT/report.html --images IMAGES --out OUT", leaves="OUT/serve.png"
    ),
    ".venv/bin/python -m tests.browser.opening build/endurance/run-16000/report.html": Way("browser"),
}  # fmt: skip
NOT_HERE = {
    "bash .ci/run": "it runs these tests",
    "make test": "it runs these tests; .ci/run runs it",
    "make test-slow": "it runs these tests; it runs every night",
    "make test-gpu": "it runs tests that need a GPU; .ci/run runs it",
    "make demo": ".ci/run runs it whole",
    "make fuzz": "it takes an hour; tests/fuzz/test_corpus.py tries what it starts from and what it found",
    "make lint": ".ci/run runs it",
    "make ablation": "tests/bench/test_ablation.py runs the same on 12 pictures",
    "make textside": "tests/bench/test_text_side.py runs the same on 4 prompts",
    "make textside PROMPTS=FILE": "tests/bench/test_text_side.py runs the same on 4 prompts",
    "make pairs": "it trains for an hour; tests/bench/test_pairs.py runs the same on 150 pairs",
    "make cluster": "it takes a quarter of an hour; tests/bench/test_cluster.py runs the same on 150 prompts",
    KERNEL + "bank PROMPTS --weights build/weights --out BANK --engine ray --address ADDRESS": (
        "it needs a cluster; tests/cluster/test_bank.py runs it on several"
    ),
    KERNEL + "describe IMAGES --weights build/weights --engine ray --address ADDRESS --scratch SCRATCH": (
        "it needs a cluster; tests/cluster/test_describe.py runs it on several"
    ),
    KERNEL + "run IMAGES --weights build/weights --out RUN --engine ray --address ADDRESS": (
        "it needs a cluster; tests/cluster/test_run.py runs it on several"
    ),
    KERNEL + "publish pairs sd-4.4M --out PAIRS --scratch SCRATCH --engine ray --address ADDRESS": (
        "it needs a cluster; tests/cluster/test_pairs.py runs it on several"
    ),
    KERNEL + TRAIN + " --engine ray --address ADDRESS --workers 1:8": (
        "it needs a cluster; tests/cluster/test_training.py runs it on several"
    ),
    TORCHRUN + "--nnodes 2 --node-rank 0 --master-addr HOST --nproc-per-node 1 -m kernel " + TRAIN: (
        "it needs two machines; tests/whole/test_training.py runs it on two"
    ),
    KERNEL + "bank s3://BUCKET/prompts.parquet --weights build/weights --out s3://BUCKET/bank": (
        "it needs a store; tests/whole/test_stores.py runs it with one"
    ),
    KERNEL + "train s3://BUCKET/PAIRS --weights build/weights --out s3://BUCKET/ENCODER": (
        "it needs a store; tests/whole/test_stores.py runs it with one"
    ),
    KERNEL + "serve": "it answers until it is ended; tests/server/test_serving.py runs it",
    KERNEL + "serve --host 0.0.0.0 --password-file FILE": (
        "it answers until it is ended; tests/server/test_serving.py runs it"
    ),
    "make real": "its pictures do not come with the project; tests/bench/test_real.py runs it on some, where they are",
    "make format": "it changes the project's files; the lines of make lint check what it would do",
    "make browser": "it installs a package of the system; .ci/run runs it",
    "make setup": "it installs 6 GB; every target of .ci/run does it first",
}
