"""Prompts for people to read, in clip-interrogator's four modes, of many images at once and offline.

`describe.py` runs the stages, `terms.py` says which phrases take part, `modes.py` makes prompts of them, `chain.py` is
the greedy rule of the modes best and negative, `text_tower.py` what makes it quick.
"""
