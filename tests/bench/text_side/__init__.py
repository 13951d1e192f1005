"""How settings of the text side move the score on real prompts, without an image: `python -m tests.bench.text_side`."""
