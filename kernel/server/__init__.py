"""`serve`: prompts in a browser on this machine, and an HTTP API. It listens, and calls nobody.

`app.py` is what is answered, `guard.py` who is let in, `describing.py` the line of requests before the one worker
process (`worker.py`), in which the models stay loaded (`resident.py`). `serving.py` listens.
"""
