"""Prompts in the files that trainers read beside pictures, and what was in them before.

`asked.py` says what is asked, `captions.py` what a picture's caption is made of, `txt.py`, `jsonl.py` and `csv.py` each
know one kind of file, `tables.py` writes the latter two, `journal.py` keeps what a command that was killed had done,
and `writer.py` joins these.
"""
