"""The true prompts of images: prompts.csv."""

from pathlib import Path

from kernel.errors import UserError, first_line


def read_prompts(path: Path) -> dict[str, str]:
    """Id -> prompt from a `prompts.csv` (`imgId,prompt`). Raises UserError for anything else."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected prompts with the columns imgId,prompt") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: a folder; expected prompts with the columns imgId,prompt, a file") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a CSV table ({first_line(error)}); expected the columns imgId,prompt") from error
    if list(table.columns) != ["imgId", "prompt"]:
        raise UserError(f"{path}: columns {','.join(map(str, table.columns))}; expected exactly imgId,prompt")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first of too many values as row labels
        raise UserError(f"{path}: rows hold more than two values; put prompts that contain commas in double quotes")
    repeated = table["imgId"][table["imgId"].duplicated()]
    if len(repeated):
        raise UserError(
            f"{path}: {len(repeated)} ids are repeated, the first is {repeated.iloc[0]!r}; expected each once"
        )
    if table.empty:
        raise UserError(f"{path}: no prompts; expected one row an image")
    return dict(zip(table["imgId"], table["prompt"], strict=True))
