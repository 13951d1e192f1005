"""How settings of the text side move the score on real prompts, without any image: `python -m kernel.text_side`."""
